"""The evaluated set: every recording with its clean half, drawn anew from recordings of tests/sounds and from seeds."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge import HOP_SAMPLES, RATE_HZ
from edge.dsp.spectrum import Doubles, Floats
from models.command import BadRequest
from models.measures import spoken
from quant.edges.signals import music, pink, whispered, white
from quant.edges.voices import BEGINNINGS, VOICES, Voice, buzzes, sung, word
from quant.evaluate.sounds import read_sound, sounds_in

SOUNDS = Path(__file__).parents[2] / "tests" / "sounds" / "clean"
"""The real voices, three talkers."""
LEVEL_DBFS = -26.0
"""Active level of speech (ITU-T P.56's usual one)."""
PAUSES_S = (1, 2, 5)
PIECE_S = 0.8
"""How long the pieces of a real voice are."""
PIECES = 3
NO_NOISE_DB = 120.0
"""Of the kind with digital silence between the words."""
CLEAR_DB = 20
"""From this SNR on a loss of level cannot be noise that was rightly removed."""
ONSET_DB = 25
"""A word begins where a hop first comes so near to the loudest of its first half second."""


@dataclass(frozen=True)
class Case:
    """One recording; float32, 16 kHz, of one length."""

    kind: str
    name: str
    snr_db: float
    clean: Floats
    noisy: Floats
    onsets: tuple[int, ...]
    """Samples at which a word or a note begins after a pause."""


Talkers = dict[str, list[Doubles]]
"""Pieces of real voices by name."""
Spaced = tuple[Doubles, tuple[int, ...]]
"""Pieces with pauses between them, and where each begins."""


def cases(voices: Path = SOUNDS, kinds: Sequence[str] = ()) -> Iterator[Case]:
    """The set, or some ``kinds`` of it; the same at every call. Raises BadRequest.

    ``voices``: folder of clean recordings, one talker a file.
    """
    talkers = talkers_in(voices)
    for kind in kinds or KINDS:
        yield from KINDS[kind](kind, talkers)


def talkers_in(voices: Path) -> Talkers:
    """The pieces of each recording that has enough of them; raises BadRequest."""
    real = {Path(name).stem: pieces_of(read_sound(voices / name).astype(float)) for name in sorted(sounds_in(voices))}
    if talkers := {name: pieces for name, pieces in real.items() if pieces}:
        return talkers
    raise BadRequest(f"{voices}: no recording in it holds {PIECES} words after pauses; give clean speech with pauses")


def real_onsets(kind: str, talkers: Talkers) -> Iterator[Case]:
    for seed, (snr_db, name) in enumerate(itertools.product((20, 40, 60), talkers)):
        yield in_noise(kind, f"{name} {snr_db} dB", apart(talkers[name]), snr_db, seed)


def synthetic_onsets(kind: str, talkers: Talkers) -> Iterator[Case]:
    said = synthetic_words()
    for seed, (snr_db, name) in enumerate(itertools.product((20, 40, 60), said)):
        yield in_noise(kind, f"{name} {snr_db} dB", said[name], snr_db, 100 + seed)


def silent_onsets(kind: str, talkers: Talkers) -> Iterator[Case]:
    """What a headset with a noise gate or a mute key sends: digital silence between the words."""
    for name, spaced in [*((name, apart(pieces)) for name, pieces in talkers.items()), *synthetic_words().items()]:
        yield mixed(kind, name, spaced, NO_NOISE_DB, np.zeros(len(spaced[0])))


def whispers(kind: str, talkers: Talkers) -> Iterator[Case]:
    for seed, (snr_db, name) in enumerate(itertools.product((10, 20, 30), talkers)):
        soft = [whispered(piece, 200 + seed + 1000 * index) for index, piece in enumerate(talkers[name])]
        yield in_noise(kind, f"{name} {snr_db} dB", apart(soft, (1, 0.5, 0.5)), snr_db, 200 + seed)


def all_songs(kind: str, talkers: Talkers) -> Iterator[Case]:
    sungs = {f"{voice.name} {name}": song for voice in VOICES for name, song in songs(voice).items()}
    for seed, (snr_db, name) in enumerate(itertools.product((20, 40), sungs)):
        yield in_noise(kind, f"{name} {snr_db} dB", apart([sungs[name]], (1,)), snr_db, 300 + seed)


def quiet_talkers(kind: str, talkers: Talkers) -> Iterator[Case]:
    for seed, (level_dbfs, name) in enumerate(itertools.product((-35, -40, -45), talkers)):
        spaced = apart(talkers[name])
        yield in_noise(kind, f"{name} {level_dbfs} dBFS", spaced, CLEAR_DB, 400 + seed, level_dbfs)


def over_music(kind: str, talkers: Talkers) -> Iterator[Case]:
    for seed, (snr_db, name) in enumerate(itertools.product((0, 5, 10), talkers)):
        spaced = apart(talkers[name], (1, 0.3, 0.3))
        yield mixed(kind, f"{name} {snr_db} dB", spaced, snr_db, music(len(spaced[0]), 500 + seed))


KINDS: dict[str, Callable[[str, Talkers], Iterator[Case]]] = {
    "onset": real_onsets,
    "synthetic onset": synthetic_onsets,
    "onset from silence": silent_onsets,
    "whisper": whispers,
    "song": all_songs,
    "quiet": quiet_talkers,
    "music": over_music,
}
"""Every kind: noise of 20 to 60 dB SNR before words of real and of synthetic voices, none at all, and so on."""


def synthetic_words() -> dict[str, Spaced]:
    """Every beginning by every voice, two or three to a recording."""
    said: dict[str, Spaced] = {}
    for voice, some in itertools.product(VOICES, (BEGINNINGS[:3], BEGINNINGS[3:5], BEGINNINGS[5:])):
        said[f"{voice.name} {' '.join(some)}"] = apart(words(voice, some, 7), PAUSES_S[-len(some) :])
    buzz = buzzes(0.3)
    return said | {f"buzz {index // 3}": apart(buzz[index : index + 3]) for index in range(0, len(buzz), 3)}


def pieces_of(recording: Doubles) -> list[Doubles]:
    """The first ``PIECES`` stretches of ``PIECE_S`` that begin after 50 ms of silence; none if there are fewer."""
    hops = spoken(recording.astype(np.float32))
    quiet = round(0.05 * RATE_HZ / HOP_SAMPLES)
    found: list[Doubles] = []
    after = quiet
    while len(found) < PIECES:
        starts = [hop for hop in np.flatnonzero(hops[after:]) + after if not hops[hop - quiet : hop].any()]
        if not starts or (starts[0] * HOP_SAMPLES + PIECE_S * RATE_HZ) > len(recording):
            return []
        begin = int(starts[0]) * HOP_SAMPLES - RATE_HZ // 100
        piece = recording[begin : begin + round(PIECE_S * RATE_HZ)].copy()
        fade = RATE_HZ // 100
        piece[:fade] *= np.linspace(0, 1, fade)
        piece[-4 * fade :] *= np.linspace(1, 0, 4 * fade)
        found.append(piece)
        after = int(starts[0]) + len(piece) // HOP_SAMPLES
    return found


def words(voice: Voice, beginnings: Sequence[str], seed: int) -> list[Doubles]:
    """A word of two vowels for each."""
    rng = np.random.default_rng(seed)
    return [word(voice, each, "".join(rng.choice([*"aeiou"], 2)), 0.5, rng) for each in beginnings]


def songs(voice: Voice) -> dict[str, Doubles]:
    """A held note, one with vibrato, and a phrase."""
    return {
        "held": sung(voice, [0], "a", 2.5, 0),
        "vibrato": sung(voice, [5], "o", 2.5, 1),
        "phrase": sung(voice, [0, 4, 7, 5, 0], "aeoua", 3.5, 0.6),
    }


def apart(pieces: Sequence[Doubles], pauses_s: Sequence[float] = PAUSES_S) -> Spaced:
    """Each piece at equal active level after a pause, and 0.3 s of silence."""
    parts: list[Doubles] = []
    begins, at = [], 0
    for piece, pause_s in zip(pieces, pauses_s, strict=False):
        silence = np.zeros(round(pause_s * RATE_HZ))
        parts += [silence, piece / active_level(piece)]
        begins.append(at + len(silence) + onset_of(piece))
        at += len(silence) + len(piece)
    return np.concatenate([*parts, np.zeros(round(0.3 * RATE_HZ))]), tuple(begins)


def hop_powers(wave: Doubles) -> Doubles:
    """Mean square of every whole hop."""
    whole: NDArray[np.float64] = np.square(wave[: len(wave) // HOP_SAMPLES * HOP_SAMPLES])
    return whole.reshape(-1, HOP_SAMPLES).mean(axis=1)


def active_level(wave: Doubles) -> float:
    """Root mean square of the hops within 30 dB of the loudest."""
    powers = hop_powers(wave)
    return float(np.sqrt(np.mean(powers[powers > powers.max() * 1e-3])))


def onset_of(piece: Doubles) -> int:
    """The sample at which it begins to be heard."""
    powers = hop_powers(piece[: RATE_HZ // 2])
    return int(np.argmax(powers >= powers.max() * 10 ** (-ONSET_DB / 10))) * HOP_SAMPLES


def in_noise(kind: str, name: str, spaced: Spaced, snr_db: float, seed: int, level_dbfs: float = LEVEL_DBFS) -> Case:
    """Pink and white noise take turns."""
    noise = (pink if seed % 2 else white)(len(spaced[0]), seed)
    return mixed(kind, f"{name}, {'pink' if seed % 2 else 'white'}", spaced, snr_db, noise, level_dbfs)


def mixed(kind: str, name: str, spaced: Spaced, snr_db: float, noise: Doubles, level_dbfs: float = LEVEL_DBFS) -> Case:
    """``snr_db``: active level of the voice against the noise of power one."""
    clean = 10 ** (level_dbfs / 20) * spaced[0]
    noisy = clean + 10 ** ((level_dbfs - snr_db) / 20) * noise
    return Case(kind, name, snr_db, clean.astype(np.float32), noisy.astype(np.float32), spaced[1])
