"""Two microphones in a simulated room: what each path of the box removes, alone and together, and what speech is left.

    python -m hw.rooms.acoustics [--quick] [--scene NAME ...] [--json FILE] [--out DIR]

Somebody wears a headset in a furnished office (image sources by pyroomacoustics; Allen & Berkley 1979). The voice
microphone sits at the mouth, the reference microphone on the outside of the ear cup; a machine, a window or a crowd
is an arm's length away. Every scene goes through ``edge.chain`` four times: high-pass only, with the reference
microphone (feedforward), with the network (feedback), with both. Attenuation is taken in the pauses of the speech
against the voice microphone, speech quality against the speech alone through the same chain with nothing switched on.

Speech and one noise are the recordings of tests/sounds; the shipped network has met both in training, so the figures
compare the paths and say little about the network on unknown voices.
The exit status is 1 if both paths together are not better than either alone on a noise that the reference hears, or
anywhere worse than the network alone.
"""

import argparse
import importlib
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge import HOP_SAMPLES, RATE_HZ, UserError, command_for
from edge.chain import Chain
from edge.config import AntinoiseConfig, Config, ReferenceConfig
from edge.console import run_main
from edge.dsp.antinoise import AntiNoise
from edge.dsp.secondary_path import SecondaryPath
from edge.dsp.spectrum import Floats
from models.measures import pauses, pesq_wb, si_sdr_db, stoi

Doubles = NDArray[np.float64]
Point = tuple[float, float, float]

SOUNDS = Path(__file__).parents[2] / "tests" / "sounds"
PACKAGES = ("pyroomacoustics", "pesq", "pystoi")

# --- the place, metres -----------------------------------------------------------------------------------------------

ROOM_M: Point = (5.0, 4.0, 2.7)
RT60_S = 0.25
"""Carpet, shelves, curtains."""
MOUTH: Point = (2.5, 2.0, 1.2)
VOICE: Point = (2.53, 2.02, 1.19)
"""The voice microphone on its boom, 4 cm from the lips."""
CUP: Point = (2.40, 2.12, 1.27)
"""The reference microphone on the cup, 17 cm from the lips."""
NOISE: Point = (2.2, 2.8, 1.2)
"""0.9 m from the mouth, on the side of the reference, which hears it 0.5 ms earlier than the voice microphone."""
AT_THE_NOISE: Point = (2.25, 2.66, 1.2)
"""A reference microphone on a wire, 15 cm from the noise."""
NEW_PLACE: Point = (1.9, 2.6, 1.3)
"""Where the noise comes from after the change: 37 cm away."""
FAR_SIDE: Point = (2.9, 1.2, 1.2)
"""The voice microphone hears this one first."""
EAR: Point = (2.42, 2.08, 1.27)
LOUDSPEAKER: Point = (2.41, 2.10, 1.27)
"""In the cup, 2 cm from the ear's microphone. The cup itself keeps nothing out here: what is told is the box's part."""
LOOP_S = 0.045
"""From a sample of the ear's microphone to the answer's first sample there: hops, limiter, the buffers of two cards."""
AROUND = 12
"""Independent sources on a circle of 1.7 m around the head: nearly a diffuse field."""
SWAY_M, SWAY_S, SWAY_STEP_M = 0.1, 10.0, 0.006
"""The moving talker: head and headset go this far to either side, to and fro in this time, in steps below a quarter
of the shortest wave."""
HEAD_SHADOW_DB = 4.0
"""Mouths speak forwards and the head is in between: off the speech at the cup, beside what distance does."""

# --- levels and times ------------------------------------------------------------------------------------------------

SPEECH_DBFS = -26.0
SNR_DB = 5.0
"""Speech against noise at the voice microphone, both as mean power."""
SELF_NOISE_DBFS = -80.0
"""Of each microphone, white and its own."""
LEAD_S, LENGTH_S, QUICK_S = 3.0, 20.0, 8.0
"""Noise alone at first; the whole scene; a scene of --quick."""
CHANGE_S = 10.0
TAIL_S = 1.0
"""Where speech has no pauses, the attenuation is taken in the noise after it."""
WORSE_PESQ = 0.02
EAR_NOISES, STEADY_NOISES = ("fan", "engine", "traffic", "white"), ("fan",)
STEADY_DB, LOUDER_DB = 10.0, 0.1
BANDS_HZ = {"all": (0, 8001), "<250": (0, 250), "250-1k": (250, 1000), "1-4k": (1000, 4000), "4-8k": (4000, 8001)}
QUIETEST_BAND_DBFS = -68.0
"""A band with less noise holds mostly the microphone's own, which no reference can know."""
BEST_TAPS = round(ReferenceConfig().path_ms * RATE_HZ / 1000)


class BadRequest(UserError):
    """Something the user can mend; the text is one line."""


@dataclass(frozen=True)
class Scene:
    """What sounds, where, and what happens meanwhile."""

    name: str
    noise: str
    text: str
    event: str = ""
    reference: str = "cup"
    correlated: bool = True
    """Whether the reference hears the noise so that both paths must beat either."""


SCENES = (
    Scene("white", "white", "random numbers"),
    Scene("engine", "engine", "92 Hz and harmonics, slowly wandering, over a rush"),
    Scene("traffic", "traffic", "falling from 300 Hz on, cars coming and going"),
    Scene("babble", "babble", "eight voices from one place"),
    Scene("brook", "brook", "running water, a recording"),
    Scene("at the machine", "engine", "the reference on a wire, 15 cm from the engine", reference="machine"),
    Scene("moving talker", "engine", "the head sways 10 cm to either side in 10 s", event="moving"),
    Scene("path change", "engine", "the engine is 37 cm elsewhere after 10 s", event="change"),
    Scene("double talk", "engine", "speech without pauses, from the first moment on", event="talk"),
    Scene("one talker", "talker", "a single competing voice"),
    Scene("far side", "engine", "the voice microphone hears the engine first", event="far", correlated=False),
    Scene("diffuse", "traffic", "twelve independent sources all around", event="around", correlated=False),
    Scene("elsewhere", "engine", "the reference hears another engine", reference="elsewhere", correlated=False),
    Scene("swapped", "engine", "the two microphones swapped", reference="swapped", correlated=False),
    Scene("dead", "engine", "the reference is silent", reference="dead", correlated=False),
    Scene("none", "engine", "no reference signal", reference="none", correlated=False),
)
QUICK = ("engine", "babble", "elsewhere", "none")


@dataclass(frozen=True)
class Sound:
    """float32 of one length, ±1.0. ``voice`` is ``clean`` and noise; ``reference`` the other microphone."""

    voice: Floats
    clean: Floats
    reference: Floats | None
    lead_samples: int
    speech_at_reference_db: float
    """Against the speech at the voice microphone."""
    noise_at_reference_db: float


@dataclass(frozen=True)
class Mode:
    """Which of the two paths work."""

    name: str
    feedforward: bool
    feedback: bool


MODES = (
    Mode("high-pass", False, False),
    Mode("feedforward", True, False),
    Mode("network", False, True),
    Mode("both", True, True),
)


@dataclass(frozen=True)
class Found:
    """What one mode made of one scene."""

    attenuation_db: dict[str, float]
    """By band, in the pauses; NaN where the voice microphone hears hardly any noise."""
    pesq: float
    stoi: float
    si_sdr_db: float
    state: str
    """What the canceller said of itself at the end."""
    resets: int
    course_db: list[float]
    """Second by second: noise in, against everything that is not the speech."""


# --- sounds ----------------------------------------------------------------------------------------------------------


@cache
def recording(part: str, name: str) -> Doubles:
    """One of tests/sounds, 16 kHz mono."""
    file = SOUNDS / part / f"{name}.flac"
    try:
        return soundfile.read(file)[0]
    except (OSError, soundfile.SoundFileError):
        raise BadRequest(f"{file} cannot be read; run this from a checkout, which has the recordings") from None


def speech(samples: int, pauseless: bool) -> Doubles:
    """An English and an Italian speaker in turn; without their pauses if asked for."""
    said = np.concatenate([recording("clean", "rain_en_5dB"), recording("clean", "brook_it_0dB")])
    if pauseless:
        said = said[~pauses(said.astype(np.float32), 35)]
    return looped(said, samples)


def looped(sound: Doubles, samples: int, at: int = 0) -> Doubles:
    """``samples`` of a sound that goes round and round."""
    return np.take(sound, np.arange(at, at + samples), mode="wrap")


def shaped(samples: int, rng: np.random.Generator, gains: Any) -> Doubles:
    """Random numbers with a spectrum: ``gains`` of the frequency in Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    return np.fft.irfft(spectrum * gains(np.fft.rfftfreq(samples, 1 / RATE_HZ)), samples)


def wandering(samples: int, rng: np.random.Generator, fastest_s: float) -> Doubles:
    """A slow random curve of power one, around nought."""
    fastest_hz = max(1 / fastest_s, 1.5 * RATE_HZ / samples)
    curve = shaped(samples, rng, lambda hz: (hz > 0) & (hz < fastest_hz))
    return curve / curve.std()


def noise(kind: str, samples: int, seed: int) -> Doubles:
    """One source of noise, power one, another one for another seed."""
    rng = np.random.default_rng([seed, 2718])
    if kind == "white":
        made = rng.standard_normal(samples)
    elif kind == "engine":
        turn = 2 * np.pi * np.cumsum(92 * (1 + 0.003 * wandering(samples, rng, 2.0))) / RATE_HZ
        tones = sum(np.sin(k * turn + rng.uniform(0, 6.28)) / k**0.5 for k in range(1, 13))
        rush = shaped(samples, rng, lambda hz: 1 / np.sqrt(1 + hz / 200))
        made = tones / np.std(tones) + rush / rush.std()
    elif kind == "fan":
        turn = 2 * np.pi * np.cumsum(118 * (1 + 5e-5 * wandering(samples, rng, 2.0))) / RATE_HZ
        tones = sum(np.sin(k * turn + rng.uniform(0, 6.28)) / k**0.5 for k in range(1, 4))
        rush = shaped(samples, rng, lambda hz: 1 / np.sqrt(1 + hz / 200))
        made = tones / np.std(tones) + 0.5 * rush / rush.std()
    elif kind == "traffic":
        rumble = shaped(samples, rng, lambda hz: 1 / (1 + (hz / 300) ** 2))
        made = rumble * 10 ** (4 * wandering(samples, rng, 3.0) / 20)
    elif kind == "babble":
        voices = [recording("clean", name) for name in ("tavern_fr_10dB", "brook_it_0dB", "rain_en_5dB")]
        made = np.zeros(samples)
        for number in range(8):
            voice = voices[number % 3]
            speed = rng.uniform(0.85, 1.2)
            place = (np.arange(samples) * speed + rng.uniform(0, len(voice))) % (len(voice) - 1)
            made += 10 ** rng.uniform(-0.25, 0) * np.interp(place, np.arange(len(voice)), voice)
    elif kind == "talker":
        made = looped(recording("clean", "tavern_fr_10dB"), samples, int(rng.integers(RATE_HZ)))
    else:
        water = recording("noisy", "brook_it_0dB") - recording("clean", "brook_it_0dB")
        made = looped(water, samples, int(rng.integers(len(water))))
    return made / made.std()


# --- rooms -----------------------------------------------------------------------------------------------------------


def paths(sources: Sequence[Point], microphones: Sequence[Point]) -> list[list[Doubles]]:
    """Room responses ``[source][microphone]``; all begin at the same moment."""
    room_acoustics = importlib.import_module("pyroomacoustics")  # it has no type information
    absorption, order = room_acoustics.inverse_sabine(RT60_S, ROOM_M)
    room = room_acoustics.ShoeBox(
        ROOM_M, fs=RATE_HZ, materials=room_acoustics.Material(absorption), max_order=min(order, 17)
    )
    for source in sources:
        room.add_source(source)
    room.add_microphone_array(np.array(microphones).T)
    room.compute_rir()
    return [[heard[number] for heard in room.rir] for number in range(len(sources))]


def through(sound: Doubles, response: Doubles) -> Doubles:
    """Convolution, cut to the length of the sound."""
    from scipy.signal import oaconvolve

    return oaconvolve(sound, response)[: len(sound)]


def from_place(sound: Doubles, place: Point, microphones: Sequence[Point]) -> Doubles:
    """(microphones, samples): one source that stays where it is."""
    return np.array([through(sound, response) for response in paths([place], microphones)[0]])


def heard_noise(scene: Scene, microphones: Sequence[Point], samples: int, seed: int) -> Doubles:
    """(microphones, samples): the noise of a scene at the voice microphone and at the reference."""
    sound = noise(scene.noise, samples, seed)
    time_s = np.arange(samples) / RATE_HZ
    if scene.event == "moving":
        # what moves is the head; steps of a few millimetres, cross-faded
        offset_m = SWAY_M * np.sin(2 * np.pi * time_s / SWAY_S)
        steps = round(SWAY_M / SWAY_STEP_M) + 1
        places = [step * SWAY_STEP_M for step in range(-steps, steps + 1)]
        everywhere = [(x + moved, y, z) for moved in places for x, y, z in microphones]
        heard = np.zeros((len(microphones), samples))
        for number, response in enumerate(paths([NOISE], everywhere)[0]):
            near = np.clip(1 - np.abs(offset_m - places[number // len(microphones)]) / SWAY_STEP_M, 0, 1)
            heard[number % len(microphones)] += near * through(sound, response)
        return heard
    if scene.event == "change":
        share = np.clip((time_s - CHANGE_S) / 0.01, 0, 1)
        before, after = (from_place(sound, place, microphones) for place in (NOISE, NEW_PLACE))
        return (1 - share) * before + share * after
    if scene.event == "around":
        heard = np.zeros((len(microphones), samples))
        for number in range(AROUND):
            angle = 2 * math.pi * (number + 0.5) / AROUND
            place = (MOUTH[0] + 1.7 * math.cos(angle), MOUTH[1] + 1.7 * math.sin(angle), 0.8 + 0.1 * number)
            heard += from_place(noise(scene.noise, samples, seed + number), place, microphones)
        return heard
    return from_place(sound, FAR_SIDE if scene.event == "far" else NOISE, microphones)


def render(scene: Scene, seconds: float, seed: int = 0, snr_db: float = SNR_DB) -> Sound:
    """Let a scene sound: both microphones, and the speech alone at the voice microphone."""
    samples = int(seconds * RATE_HZ) // HOP_SAMPLES * HOP_SAMPLES
    lead = 0 if scene.event == "talk" else int(LEAD_S * RATE_HZ)
    microphones = [VOICE, AT_THE_NOISE if scene.reference == "machine" else CUP]
    tail = int(TAIL_S * RATE_HZ) if scene.event == "talk" else 0
    said = np.concatenate([np.zeros(lead), speech(samples - lead - tail, scene.event == "talk"), np.zeros(tail)])
    spoken = from_place(said, MOUTH, microphones)
    spoken[1] *= 10 ** (-HEAD_SHADOW_DB / 20)
    noisy = heard_noise(scene, microphones, samples, seed)
    if scene.reference == "elsewhere":
        noisy[1] = heard_noise(scene, microphones, samples, seed + 100)[1]
        spoken[1] = 0

    spoken *= 10 ** (SPEECH_DBFS / 20) / spoken[0, lead:].std()
    noisy *= 10 ** ((SPEECH_DBFS - snr_db) / 20) / noisy[0].std()
    own = 10 ** (SELF_NOISE_DBFS / 20) * np.random.default_rng([seed, 3141]).standard_normal((2, samples))
    voice, other = (spoken + noisy + own).astype(np.float32)
    clean = spoken[0].astype(np.float32)
    levels = [20 * math.log10(max(x[1].std(), 1e-9) / x[0].std()) for x in (spoken, noisy)]
    if scene.reference == "swapped":
        voice, other, clean = other, voice, spoken[1].astype(np.float32)
        levels = [-level for level in levels]
    reference: Floats | None = other
    if scene.reference == "dead":
        reference = np.zeros(samples, np.float32)
    elif scene.reference == "none":
        reference = None
    return Sound(voice, clean, reference, lead, *levels)


# --- the box ---------------------------------------------------------------------------------------------------------


def settings(mode: Mode, engine: str) -> Config:
    """As shipped, but without the gate, which would turn pauses down in every mode alike."""
    shipped = Config()
    return replace(
        shipped,
        suppress=replace(shipped.suppress, engine=engine if mode.feedback else "off"),
        gate=replace(shipped.gate, on=False),
        reference=replace(shipped.reference, channel=2 if mode.feedforward else 0),
    )


def processed(chain: Chain, voice: Floats, reference: Floats | None) -> Floats:
    """Hop by hop through the chain, its delay taken out."""
    walked = np.concatenate([voice, np.zeros(-(-chain.delay_samples // HOP_SAMPLES) * HOP_SAMPLES, np.float32)])
    other = np.zeros_like(walked)
    if reference is not None:
        other[: len(reference)] = reference
    for at in range(0, len(walked), HOP_SAMPLES):
        now = slice(at, at + HOP_SAMPLES)
        chain.process(walked[now], other[now] if reference is not None else None)
    return walked[chain.delay_samples :][: len(voice)]


def explore(scene: Scene, seconds: float, engine: str, out: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """All modes of one scene, as plain data."""
    sound = render(scene, seconds, seed)
    plain = processed(Chain(settings(MODES[0], engine)), sound.clean, None)
    found, made = {}, {"voice": sound.voice, "speech alone": sound.clean}
    if sound.reference is not None:
        made["reference"] = sound.reference
    for mode in MODES:
        chain = Chain(settings(mode, engine))
        made[mode.name] = output = processed(chain, sound.voice, sound.reference)
        found[mode.name] = asdict(judge(sound, plain, output, chain))
    if out is not None:
        keep(made, out / scene.name.replace(" ", "-"))
    possible = None
    if scene.event not in ("moving", "change") and sound.reference is not None and sound.reference.any():
        left = sound.voice - best_prediction(sound.voice - sound.clean, sound.reference)
        possible = attenuation_db(sound, left)
    return {
        "scene": asdict(scene),
        "speech_at_reference_db": sound.speech_at_reference_db,
        "noise_at_reference_db": sound.noise_at_reference_db,
        "possible_db": possible,
        "modes": found,
    }


def keep(sounds: dict[str, Floats], folder: Path) -> None:
    """Each as a WAV file of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name.replace(' ', '-')}.wav", samples, RATE_HZ, "PCM_16")


# --- measures --------------------------------------------------------------------------------------------------------


def judge(sound: Sound, plain: Floats, output: Floats, chain: Chain) -> Found:
    """``plain``: the speech alone through the chain with nothing switched on."""
    begin = sound.lead_samples
    clean, heard = plain[begin:], output[begin:]
    return Found(
        attenuation_db(sound, output),
        pesq_wb(clean, heard),
        stoi(clean, heard),
        si_sdr_db(clean, heard),
        chain.reference.state if chain.reference else "",
        chain.reference.resets if chain.reference else 0,
        [
            _ratio_db(sound.voice[at:to] - sound.clean[at:to], output[at:to] - plain[at:to])
            for at, to in ((at, at + RATE_HZ) for at in range(0, len(output) - RATE_HZ + 1, RATE_HZ))
        ],
    )


def attenuation_db(sound: Sound, output: Floats) -> dict[str, float]:
    """By band, the power at the voice microphone over that of the output, where nobody speaks (after the lead)."""
    quiet = pauses(sound.clean)
    quiet[: sound.lead_samples] = False
    before, after = quiet_power(sound.voice, quiet), quiet_power(output, quiet)
    hz = np.fft.rfftfreq(_FRAME, 1 / RATE_HZ)
    found = {}
    for name, (low, high) in BANDS_HZ.items():
        band = (hz >= low) & (hz < high)
        power_in, power_out = float(before[band].sum()), float(after[band].sum())
        loud = power_in > 10 ** (QUIETEST_BAND_DBFS / 10)
        found[name] = 10 * math.log10(power_in / max(power_out, 1e-20)) if loud else math.nan
    return found


_FRAME = 640
"""40 ms: 25 Hz wide, and no longer than the shortest pause that ``pauses`` finds."""


def quiet_power(sound: Floats, quiet: NDArray[np.bool_]) -> Doubles:
    """float64, 321 bins: mean power of the frames that lie in ``quiet`` as a whole; their sum is the mean square."""
    window = np.hanning(_FRAME)
    chosen = sliding_window_view(quiet, _FRAME)[:: _FRAME // 2].all(axis=1)
    frames = sliding_window_view(sound, _FRAME)[:: _FRAME // 2][chosen] * window
    power = np.square(np.abs(np.fft.rfft(frames, axis=1))).sum(axis=0)
    return 2 * power / (max(int(chosen.sum()), 1) * _FRAME * float(window @ window))


def best_prediction(noise_at_voice: Floats, reference: Floats) -> Floats:
    """The reference through the best causal filter that never changes, as long as the canceller's may be.

    Least squares on the noise alone while nobody speaks and the noise under the speech, which no box can know: how
    much the reference could give at all. Wiener-Hopf equations in Levinson's way.
    """
    from scipy.linalg import solve_toeplitz

    size = 1 << (2 * len(reference) - 1).bit_length()
    heard, wanted = np.fft.rfft(reference, size), np.fft.rfft(noise_at_voice, size)
    own = np.fft.irfft(np.abs(heard) ** 2, size)[:BEST_TAPS]
    cross = np.fft.irfft(wanted * np.conj(heard), size)[:BEST_TAPS]
    own[0] *= 1 + 1e-5
    return through(reference.astype(np.float64), solve_toeplitz(own, cross)).astype(np.float32)


def _ratio_db(before: Floats, after: Floats) -> float:
    return 10 * math.log10((float(before @ before) + 1e-12) / (float(after @ after) + 1e-12))


# --- anti-noise in the ear -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ear:
    """What anti-noise did to one noise at the ear."""

    noise: str
    tones_db: dict[str, float]
    """By Hz, how much quieter each tone that was answered became, within 4 Hz of it."""
    all_db: float
    """All of the noise up to 8 kHz."""
    broadband_possible_db: float
    """The most that any filter could take off with what the reference knew ``LOOP_S`` before."""


def loudspeaker_path() -> Doubles:
    """From the samples handed to the output to those of the ear's microphone: the loop's delay, then the cup.

    Its gain is made 1 on average from 40 to 500 Hz.
    """
    ((response,),) = paths([LOUDSPEAKER], [EAR])
    response = response[: RATE_HZ // 10]
    gain = np.abs(np.fft.rfft(response, RATE_HZ))[40:500].mean()
    return np.concatenate([np.zeros(round(LOOP_S * RATE_HZ)), response / gain])


def in_the_ear(kind: str, seconds: float, seed: int = 0, out: Path | None = None) -> Ear:
    """``AntiNoise`` in a closed circle: what it plays is heard ``LOOP_S`` later by the microphone it listens to.

    Nothing else is played; the first half of the time is for finding and learning, the second is measured.
    """
    samples = int(seconds * RATE_HZ) // HOP_SAMPLES * HOP_SAMPLES
    alone, reference = from_place(noise(kind, samples, seed), NOISE, [EAR, CUP])
    loud = 10 ** ((SPEECH_DBFS - SNR_DB) / 20) / alone.std()
    alone, reference = alone * loud, reference * loud
    alone += 10 ** (SELF_NOISE_DBFS / 20) * np.random.default_rng([seed, 3141]).standard_normal(samples)
    way = loudspeaker_path()
    antinoise = AntiNoise(SecondaryPath(way.astype(np.float32), 0.0, 40.0), AntinoiseConfig())
    heard = np.concatenate([alone, np.zeros(len(way) + HOP_SAMPLES)])
    for at in range(0, samples, HOP_SAMPLES):
        antinoise.hear(heard[at : at + HOP_SAMPLES].astype(np.float32))
        played = np.zeros(HOP_SAMPLES, np.float32)
        antinoise.process(played)
        if played.any():
            heard[at : at + HOP_SAMPLES + len(way) - 1] += np.convolve(played, way)
    if out is not None:
        keep(
            {"without": alone.astype(np.float32), "with": heard[:samples].astype(np.float32)},
            out / f"in-the-ear-{kind}",
        )
    late = slice(samples // 2, samples)
    late_s = (samples - samples // 2) / RATE_HZ
    powers = [np.abs(np.fft.rfft(sound[late] * np.hanning(samples - samples // 2))) ** 2 for sound in (alone, heard)]

    def quieter_db(low_hz: float, high_hz: float) -> float:
        before, after = (power[round(low_hz * late_s) : round(high_hz * late_s)].sum() for power in powers)
        return 10 * math.log10(before / after)

    known = np.concatenate([np.zeros(round(LOOP_S * RATE_HZ)), reference])[:samples].astype(np.float32)
    left = alone - best_prediction(alone.astype(np.float32), known)
    return Ear(
        kind,
        {f"{hz:.1f}": quieter_db(hz - 4, hz + 4) for hz in sorted(antinoise.tones_hz)},
        quieter_db(0, RATE_HZ / 2),
        10 * math.log10(float(alone @ alone) / float(left @ left)),
    )


def ear_table(ears: Sequence[Ear]) -> Table:
    """One row a noise."""
    title = f"Anti-noise at the ear, {1000 * LOOP_S:.0f} ms behind (dB quieter)"
    made = Table(title=title, title_justify="left")
    for name in ("noise", "cancelled tones", "all of it", "upper bound of any filter with this delay"):
        made.add_column(name, justify="right" if name == "all of it" else "left")
    for ear in ears:
        tones = ", ".join(f"{hz} Hz: {db:.1f}" for hz, db in ear.tones_db.items())
        made.add_row(ear.noise, tones or "none", f"{ear.all_db:.1f}", f"{ear.broadband_possible_db:.1f}")
    return made


# --- verdicts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """One gate on one scene."""

    scene: str
    gate: str
    passed: bool
    figures: str


def verdicts(found: dict[str, Any]) -> list[Verdict]:
    """The gates of one explored scene."""
    scene, modes = found["scene"]["name"], found["modes"]
    both, network, feedforward = modes["both"], modes["network"], modes["feedforward"]
    made = []
    if found["scene"]["correlated"]:
        for name, value, digits in (
            ("attenuation", lambda mode: mode["attenuation_db"]["all"], 1),
            ("PESQ", lambda mode: mode["pesq"], 2),
        ):
            together, alone = value(both), [value(feedforward), value(network)]
            said = f"{together:.{digits}f} against {alone[0]:.{digits}f} and {alone[1]:.{digits}f}"
            made.append(Verdict(scene, f"both exceed either alone: {name}", together > max(alone), said))
    least = network["pesq"] - WORSE_PESQ
    said = f"{both['pesq']:.3f} against {network['pesq']:.3f}"
    made.append(Verdict(scene, f"PESQ not {WORSE_PESQ} below the network", both["pesq"] >= least, said))
    return made


def ear_verdicts(ear: Ear) -> list[Verdict]:
    """Steady tones become quieter, and nothing becomes louder."""
    place = f"at the ear, {ear.noise}"
    made = [Verdict(place, "not louder", ear.all_db > -LOUDER_DB, f"{ear.all_db:.2f} dB quieter")]
    if ear.noise in STEADY_NOISES:
        least = min(ear.tones_db.values(), default=0.0)
        said = f"{least:.1f} dB of {len(ear.tones_db)} tones"
        made.append(Verdict(place, f"every steady tone {STEADY_DB:.0f} dB quieter", least >= STEADY_DB, said))
    return made


def recovery_s(course_db: Sequence[float]) -> float:
    """Whole seconds after the change until the attenuation is within 3 dB of the 3 s before it; or infinite."""
    change = int(CHANGE_S)
    before = float(np.mean(course_db[change - 3 : change]))
    back = [second for second, db in enumerate(course_db[change:]) if db >= before - 3]
    return back[0] if back else math.inf


# --- the command -----------------------------------------------------------------------------------------------------


def table(all_found: Sequence[dict[str, Any]]) -> Table:
    """One block of rows a scene."""
    made = Table(title="Attenuation in speech pauses (dB, by Hz) and quality of the speech", title_justify="left")
    for name in ("scene", "paths", *BANDS_HZ, "PESQ", "STOI", "SI-SDR", "reference"):
        made.add_column(name, justify="left" if name in ("scene", "paths", "reference") else "right")
    for found in all_found:
        scene = found["scene"]["name"]
        for name, mode in found["modes"].items():
            bands = [_number(db, 1) for db in mode["attenuation_db"].values()]
            state = mode["state"] + (f", {mode['resets']} resets" if mode["resets"] else "")
            quality = (_number(mode[key], digits) for key, digits in (("pesq", 2), ("stoi", 3), ("si_sdr_db", 1)))
            made.add_row(scene, name, *bands, *quality, state)
            scene = ""
        if found["possible_db"]:
            made.add_row("", "(possible)", *(_number(db, 1) for db in found["possible_db"].values()), "", "", "", "")
        made.add_section()
    return made


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _writable(value: Any) -> Any:
    """The same with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _writable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_writable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def run_scenes(
    scenes: Sequence[Scene], ears: Sequence[str], seconds: float, engine: str, out: Path | None, seed: int, jobs: int
) -> tuple[list[dict[str, Any]], list[Ear]]:
    """Explore scenes, and noises in the ear, in ``jobs`` processes of one thread each."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    done = []
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        begun = time.monotonic()
        waiting = [pool.submit(explore, scene, seconds, engine, out, seed) for scene in scenes]
        in_ears = [pool.submit(in_the_ear, kind, seconds, seed, out) for kind in ears]
        for scene, result in zip(scenes, waiting, strict=True):
            done.append(result.result())
            print(f"{time.monotonic() - begun:4.0f} s  {scene.name}: {scene.text}", file=sys.stderr)
        return done, [ear.result() for ear in in_ears]


def check_packages() -> None:
    """Raises BadRequest with the command that brings what is missing."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise BadRequest(f"the package {name} is missing: {command_for('simulate')}") from None


def chosen(names: Sequence[str], quick: bool) -> list[Scene]:
    """The scenes by name; raises BadRequest."""
    known = {scene.name: scene for scene in SCENES}
    for name in names:
        if name not in known:
            raise BadRequest(f"no scene is called {name!r}; known: {', '.join(known)}")
    return [known[name] for name in (names or (QUICK if quick else known))]


def main(arguments: list[str] | None = None) -> int:
    """0; 1 if a gate fails; 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(
        "python -m hw.rooms.acoustics", description="Noise reduction of one and two microphones in a simulated room."
    )
    parser.add_argument("--scene", action="append", default=[], metavar="NAME", help="only this scene; may be repeated")
    parser.add_argument("--quick", action="store_true", help=f"four scenes of {QUICK_S:.0f} s")
    parser.add_argument("--engine", choices=("network", "rnn", "dsp"), default="network", help="the feedback path")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the sounds, one subfolder a scene")
    parser.add_argument("--seed", type=int, default=0, help="random seed (0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    wanted = parser.parse_args(arguments)
    try:
        check_packages()
        scenes = chosen(wanted.scene, wanted.quick)
        if wanted.seed < 0 or wanted.jobs < 1:
            raise BadRequest("--seed counts from 0, --jobs from 1")
        if wanted.json and not wanted.json.parent.is_dir():
            raise BadRequest(f"--json: there is no folder {wanted.json.parent}")
        seconds = QUICK_S if wanted.quick else LENGTH_S
        noises = () if wanted.quick or wanted.scene else EAR_NOISES
        all_found, ears = run_scenes(scenes, noises, seconds, wanted.engine, wanted.out, wanted.seed, wanted.jobs)
        judged = [verdict for found in all_found for verdict in verdicts(found)]
        judged += [verdict for ear in ears for verdict in ear_verdicts(ear)]
        if wanted.json:
            figures = {"scenes": all_found, "ears": [*map(asdict, ears)], "verdicts": [*map(asdict, judged)]}
            wanted.json.write_text(json.dumps(_writable(figures), indent=1) + "\n")
    except (UserError, OSError) as reason:
        print(f"acoustics: {reason}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table(all_found))
    if ears:
        console.print(ear_table(ears))
    for found in all_found:
        print(story(found))
    for verdict in judged:
        print(f"{'ok  ' if verdict.passed else 'FAIL'}  {verdict.scene}: {verdict.gate} ({verdict.figures})")
    return 0 if all(verdict.passed for verdict in judged) else 1


def story(found: dict[str, Any]) -> str:
    """One line beside the table."""
    scene = found["scene"]
    line = f"{scene['name']}: {scene['text']}; at the reference {found['noise_at_reference_db']:+.1f} dB of noise"
    if found["speech_at_reference_db"] > -60:
        line += f" and {found['speech_at_reference_db']:+.1f} dB of speech"
    course = found["modes"]["feedforward"]["course_db"]
    if scene["event"] == "talk":
        line += f"; feedforward removes {np.mean(course[1 : -math.ceil(TAIL_S)]):.1f} dB of the noise during speech"
    if scene["event"] == "change" and len(course) > CHANGE_S + 1:
        change = int(CHANGE_S)
        before = float(np.mean(course[change - 3 : change]))
        line += f"; feedforward {before:.1f} dB before the change, {course[change]:.1f} dB in the second after it, "
        line += f"back within 3 dB after {recovery_s(course):.0f} s"
    return line


if __name__ == "__main__":
    run_main(main, "acoustics")
