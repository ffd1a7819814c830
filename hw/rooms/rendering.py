"""What the two microphones of a scene hear: room responses by image sources (Allen & Berkley 1979)."""

import importlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from edge import HOP_SAMPLES, RATE_HZ, command_for
from edge.dsp.spectrum import Doubles, Floats
from hw.rooms.scenes import (
    AROUND,
    AT_THE_NOISE,
    CHANGE_S,
    CUP,
    FAR_SIDE,
    HEAD_SHADOW_DB,
    LEAD_S,
    MOUTH,
    NEW_PLACE,
    NOISE,
    ROOM_M,
    RT60_S,
    SELF_NOISE_DBFS,
    SNR_DB,
    SPEECH_DBFS,
    SWAY_M,
    SWAY_S,
    SWAY_STEP_M,
    TAIL_S,
    VOICE,
    BadRequest,
    Point,
    Scene,
    Sound,
)
from hw.rooms.sources import noise, speech

PACKAGES = ("pyroomacoustics", "pesq", "pystoi")


def check_packages() -> None:
    """Raises BadRequest with the command that installs what is missing."""
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise BadRequest(f"the package {name} is missing: {command_for('simulate')}") from None


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


def noise_at_microphones(scene: Scene, microphones: Sequence[Point], samples: int, seed: int) -> Doubles:
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
    """Both microphones of a scene, and the speech alone at the voice microphone."""
    samples = int(seconds * RATE_HZ) // HOP_SAMPLES * HOP_SAMPLES
    lead = 0 if scene.event == "talk" else int(LEAD_S * RATE_HZ)
    microphones = [VOICE, AT_THE_NOISE if scene.reference == "machine" else CUP]
    tail = int(TAIL_S * RATE_HZ) if scene.event == "talk" else 0
    utterance = np.concatenate([np.zeros(lead), speech(samples - lead - tail, scene.event == "talk"), np.zeros(tail)])
    spoken = from_place(utterance, MOUTH, microphones)
    spoken[1] *= 10 ** (-HEAD_SHADOW_DB / 20)
    noisy = noise_at_microphones(scene, microphones, samples, seed)
    if scene.reference == "elsewhere":
        noisy[1] = noise_at_microphones(scene, microphones, samples, seed + 100)[1]
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


def save_sounds(sounds: dict[str, Floats], folder: Path) -> None:
    """Each as a WAV file of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in sounds.items():
        soundfile.write(folder / f"{name.replace(' ', '-')}.wav", samples, RATE_HZ, "PCM_16")
