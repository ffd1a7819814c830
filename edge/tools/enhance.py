"""Files through the live chain: what `quietbox enhance` writes is what the box would have played.

A file of any rate and any number of channels is mixed to mono, brought to 16 kHz by the live converter, walked hop by
hop through the chain and brought back to its own rate. The known delay is cut off the front, so that the output lines
up with the input and has its length. One channel may be the reference microphone's instead (``edge.dsp.reference``).

No sample that is written is above ``limiter.peak_dbfs``. Lossy codecs (Ogg Vorbis, Opus, MP3) are given such samples
and decode to slightly other ones, which may be above it.
"""

import os
import stat
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile

from edge import HOP_SAMPLES, RATE_HZ, UserError
from edge.chain import Chain
from edge.config import Config, beside_reference
from edge.devices.sample_format import Encoder
from edge.dsp.peak import PeakLimiter
from edge.dsp.resample import Resampler
from edge.dsp.spectrum import Floats
from edge.files import atomic
from edge.health import dbfs, quieter_db

BLOCK_FRAMES = 16_384
LOUDEST = 100.0
"""Float files may hold any number; what is further than 40 dB above full scale is cut there."""
RATES_HZ = (4_000, 192_000)
TARGETS = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64"))
"""What we write: containers that keep rate and channels as given."""
SOURCES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) | {".aif", ".oga", ".opus"}


class BadSound(UserError):
    """A file that cannot be enhanced; the text is one line naming it and why."""


@dataclass(frozen=True)
class Enhanced:
    """What happened to one file."""

    source: str
    target: str
    seconds: float
    rate_hz: int
    level_in_dbfs: float
    level_out_dbfs: float
    noise_removed_db: float | None
    """How much quieter the pauses became; None where nobody paused."""
    speech_share: float
    """Share of the time in which somebody speaks."""
    unsound_samples: int
    """NaN and infinite samples, which became silence."""
    real_time_factor: float
    """Processing time over sound time; below 1 is faster than real time."""
    reference: str
    """What the reference's canceller did at the end: adapting, frozen, or why it was off; empty where there is none."""
    reference_removed_db: float
    """How much quieter it alone made the last second of pauses."""


class Stream:
    """The chain on a stream of any rate: ``push`` samples, get those that are ready, late by ``delay_samples``.

    With ``[reference] channel`` set it takes two channels, (samples, 2): the voice and the reference; else one.
    What comes out holds ``limiter.peak_dbfs`` at every rate.
    """

    def __init__(self, config: Config, rate_hz: int) -> None:
        # In a file nothing that is played is heard again.
        no_loop = replace(config, antinoise=replace(config.antinoise, on=False), howl=replace(config.howl, on=False))
        self.chain = Chain(no_loop)
        self.channels = 2 if self.chain.reference else 1
        self._in = Resampler(rate_hz, RATE_HZ, BLOCK_FRAMES)
        self._other_in = Resampler(rate_hz, RATE_HZ, BLOCK_FRAMES) if self.chain.reference else None
        self._out = Resampler(RATE_HZ, rate_hz, HOP_SAMPLES)
        self.peak_dbfs = peak_dbfs = config.limiter.peak_dbfs
        self._peak = None if self._out.untouched else PeakLimiter(rate_hz, self._out.max_out, peak_dbfs)
        self._waiting = np.zeros((0, self.channels), np.float32)
        delay_ms = self._in.delay_ms + 1000 * self.chain.delay_samples / RATE_HZ + self._out.delay_ms
        self.delay_samples = round(delay_ms * rate_hz / 1000) + (self._peak.delay_samples if self._peak else 0)
        self.pauses_in = self.pauses_out = 0.0
        """Sum of the mean squares of the hops without speech, before and after."""
        self.hops = self.spoken = self.pauses = 0
        """Hops in all, with speech, and without it as far as they are fit for statistics."""
        self.padding = False
        """Whether what is pushed is no sound any more, and not to be counted."""

    @property
    def noise_removed_db(self) -> float | None:
        """How much quieter the pauses became so far; None where nobody paused."""
        return quieter_db(self.pauses_in, self.pauses_out, self.pauses)

    def push(self, samples: Floats) -> Floats:
        """float32, any number of samples in; what has become ready out, one channel."""
        lanes = samples.reshape(len(samples), self.channels)
        pieces = [np.zeros(0, np.float32)]
        for start in range(0, len(lanes), BLOCK_FRAMES):
            block = lanes[start : start + BLOCK_FRAMES]
            ready = [self._in.process(block[:, 0])]
            if self._other_in:
                ready.append(self._other_in.process(block[:, 1]))
            self._waiting = np.concatenate([self._waiting, np.stack(ready, 1)])
            whole = len(self._waiting) // HOP_SAMPLES * HOP_SAMPLES
            for at in range(0, whole, HOP_SAMPLES):
                ready_hop = self._out.process(self._hop(self._waiting[at : at + HOP_SAMPLES]))
                pieces.append((self._peak.process(ready_hop) if self._peak else ready_hop).copy())
            self._waiting = self._waiting[whole:]
        return np.concatenate(pieces)

    def _hop(self, lanes: Floats) -> Floats:
        hop = np.ascontiguousarray(lanes[:, 0])
        self.chain.process(hop, np.ascontiguousarray(lanes[:, 1]) if self._other_in else None)
        if self.padding:
            return hop
        self.hops += 1
        if self.chain.voice.speaking:
            self.spoken += 1
        elif self.chain.counts:
            self.pauses += 1
            self.pauses_in += self.chain.power_in
            self.pauses_out += self.chain.power_clean
        return hop


def aligned(stream: Stream, blocks: Iterable[Floats]) -> Iterator[Floats]:
    """The stream's output without its delay: in all as many samples as ``blocks`` hold, each in its place."""
    skip, owed = stream.delay_samples, 0

    def cut(ready: Floats) -> Floats:
        nonlocal skip, owed
        dropped = min(skip, len(ready))
        skip -= dropped
        kept = ready[dropped : dropped + owed]
        owed -= len(kept)
        return kept

    for block in blocks:
        owed += len(block)
        yield cut(stream.push(block))
    stream.padding = True
    while owed:
        yield cut(stream.push(np.zeros((BLOCK_FRAMES, stream.channels), np.float32)))


def enhance_samples(samples: Floats, config: Config, rate_hz: int = RATE_HZ) -> Floats:
    """float32, (samples,) or with a reference (samples, 2) in; enhanced (samples,) out, lined up with the input."""
    return np.concatenate([*aligned(Stream(config, rate_hz), [samples])])


def enhance_file(
    source: Path,
    target: Path,
    config: Config,
    *,
    channel: int = 0,
    reference: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Enhanced:
    """Write ``target`` (format by its suffix, 16 bit); raises BadSound, and then leaves nothing behind and ``target``
    as it was, as does any other exception. ``source`` is never written to.

    ``channel``: 0 mixes all channels, 1 takes the first, and so on. ``reference``: which channel is the reference
    microphone's, 0 none; beside one, ``channel`` 0 is the first other. ``progress(done, total)`` is told frames.
    """
    began = time.perf_counter()
    config = replace(config, reference=replace(config.reference, channel=reference))
    if reference and not channel:
        channel = beside_reference(reference)
    if atomic.same(source, target):
        raise _own_result(source)
    if target.exists() and not target.is_file():
        raise BadSound(f"{target}: cannot be written: is not a plain file")
    try:
        with _opened(source) as sound:
            _check_channels(source, sound.channels, channel, reference)
            rate_hz = sound.samplerate
            stream = Stream(config, rate_hz)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic.part_beside(target) as (descriptor, part):
                chosen = [channel, reference] if reference else [channel]
                totals = _walk(sound, (descriptor, target.suffix.lower()), stream, chosen, progress)
                if not totals.frames:
                    raise BadSound(f"{source}: holds no samples")
                _check_whole(part, target, totals.frames)
    except OSError as error:
        raise BadSound(f"{target}: cannot be written: {error.strerror}") from None
    seconds = totals.frames / rate_hz
    return Enhanced(
        source=str(source),
        target=str(target),
        seconds=round(seconds, 3),
        rate_hz=rate_hz,
        level_in_dbfs=dbfs(totals.energy_in / totals.frames),
        level_out_dbfs=dbfs(totals.energy_out / totals.frames),
        noise_removed_db=stream.noise_removed_db,
        speech_share=round(stream.spoken / max(stream.hops, 1), 3),
        unsound_samples=totals.unsound,
        real_time_factor=round((time.perf_counter() - began) / seconds, 4),
        reference=stream.chain.reference.state if stream.chain.reference else "",
        reference_removed_db=round(stream.chain.reference.attenuation_db, 1) if stream.chain.reference else 0.0,
    )


def _check_channels(source: Path, channels: int, channel: int, reference: int) -> None:
    """Raises BadSound if the file has not what was asked for."""
    if reference and reference == channel:
        raise BadSound(f"{source}: channel {channel} cannot be both voice and reference")
    if reference and channels == 1:
        raise BadSound(f"{source}: has one channel, so there is no reference in it; leave --reference out")
    if (wanted := max(channel, reference)) > channels:
        raise BadSound(f"{source}: has {channels} channels, none is number {wanted}")


def find_sounds(inputs: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """Pair every sound named, or lying in a folder named, with where it goes; raises BadSound.

    One file goes to ``output`` as it is named; several, or a folder, keep their names below the folder ``output``.
    """
    single = len(inputs) == 1 and not inputs[0].is_dir()
    if single and not output.is_dir() and output.suffix:
        if output.suffix.lower() not in TARGETS:
            formats = " ".join(sorted(TARGETS))
            raise BadSound(f"{output}: {output.suffix} is not among the formats written here: {formats}")
        pairs = [(inputs[0], output)]
    elif output.exists() and not output.is_dir():
        raise BadSound(f"{output}: cannot be a folder, which several inputs (or a folder of them) need: it is a file")
    else:
        pairs = [(source, output / name) for entry in inputs for source, name in _sounds_of(entry, output)]
    _check_targets(pairs, output)
    return pairs


def _check_targets(pairs: list[tuple[Path, Path]], output: Path) -> None:
    """Raises BadSound if a result would come to lie over an input, by whatever link or spelling, or over another."""
    inputs = {_identity(source): source for source, _ in pairs}
    taken: dict[tuple[object, ...], Path] = {}
    folded: set[str] = set()
    for source, target in pairs:
        if atomic.same(target, source):
            raise _own_result(source)
        if (found := _identity(target)) != (0, 0) and found in inputs:
            raise BadSound(f"{target}: is the input {inputs[found]}, which the result of {source} would overwrite")
        place = atomic.place_of(target)
        if place in taken:
            raise BadSound(f"{source} and {taken[place]} would both become {target}")
        taken[place] = source
        folded.add(_folded(target))
    if len(folded) < len(pairs) and not _tells_case(output):
        twins = sorted((_folded(target), str(target)) for _, target in pairs)
        one, other = next((a[1], b[1]) for a, b in pairwise(twins) if a[0] == b[0])
        raise BadSound(f"{one} and {other} would be one file: names there differ only in case")


def _own_result(source: Path) -> BadSound:
    return BadSound(f"{source}: would be overwritten by its own result; name another place with -o")


def _identity(path: Path) -> tuple[int, int]:
    """Device and inode, by which two names of one file are known; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _folded(path: Path) -> str:
    """As a file system compares names that does not tell case or composed letters."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _tells_case(folder: Path) -> bool:
    """Whether names that differ only in case are two files below ``folder``: FAT and a Mac's disk do not."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".quietbox-") as probe:
            made = Path(probe.name)
            return not made.with_name(made.name.swapcase()).exists()
    except OSError:
        return True  # nothing can be written there, which is said later


def _sounds_of(entry: Path, output: Path) -> list[tuple[Path, Path]]:
    """(source, its name below the output folder) for one input; an output folder inside the input is left out."""
    if not entry.is_dir():
        return [(entry, _target_name(Path(entry.name)))]
    found = sorted(path for path in entry.rglob("*") if path.suffix.lower() in SOURCES and path.is_file())
    if not atomic.same(entry, output):
        found = [path for path in found if not any(atomic.same(folder, output) for folder in path.parents)]
    if not found:
        raise BadSound(f"{entry}: no sound files in this folder")
    return [(path, _target_name(path.relative_to(entry))) for path in found]


def _target_name(name: Path) -> Path:
    return name if name.suffix.lower() in TARGETS else name.with_suffix(".wav")


@dataclass
class _Totals:
    frames: int = 0
    energy_in: float = 0.0
    energy_out: float = 0.0
    unsound: int = 0


def _walk(
    sound: soundfile.SoundFile,
    target: tuple[int, str],
    stream: Stream,
    chosen: list[int],
    progress: Callable[[int, int], None] | None,
) -> _Totals:
    """Everything between the two files, block by block; of the chosen channels the first is the voice, 0 the mean.

    ``target``: descriptor of an empty file and the suffix that names its format. Raises BadSound, OSError.
    """
    lanes = [number - 1 for number in chosen]
    totals = _Totals()
    encoder = Encoder("S16_LE", 1, BLOCK_FRAMES, stream.peak_dbfs)

    def blocks() -> Iterator[Floats]:
        while len(frames := _read(sound)):
            unsound = ~np.isfinite(frames)
            totals.unsound += int(unsound.sum())
            frames[unsound] = 0
            np.clip(frames, -LOUDEST, LOUDEST, out=frames)
            block = np.ascontiguousarray(frames[:, lanes] if chosen[0] else frames.mean(axis=1)[:, None])
            totals.frames += len(block)
            totals.energy_in += _energy(block[:, 0])
            if progress:
                progress(totals.frames, sound.frames)
            yield block

    descriptor, suffix = target
    try:
        with _created(descriptor, suffix, sound.samplerate) as out:
            for block in aligned(stream, blocks()):
                totals.energy_out += _energy(block)
                for start in range(0, len(block), BLOCK_FRAMES):
                    out.write(np.frombuffer(encoder.encode(block[start : start + BLOCK_FRAMES]), np.int16))
    except soundfile.LibsndfileError as error:
        # libsndfile does not say why it cannot write; the system does, with an OSError.
        os.pwrite(descriptor, bytes(BLOCK_FRAMES), os.fstat(descriptor).st_size)
        raise OSError(0, _one_line(error)) from None
    return totals


def _check_whole(part: Path, target: Path, frames: int) -> None:
    """libsndfile 1.2 loses the end of an Opus file on a full disk without an error. Raises BadSound."""
    if target.suffix.lower() in (".ogg", ".oga", ".opus") and soundfile.info(os.fsencode(part)).frames < frames:
        raise BadSound(f"{target}: cannot be written: the disk may be full")


def _read(sound: soundfile.SoundFile) -> Floats:
    """The next block, (frames, channels)."""
    try:
        frames: Floats = sound.read(BLOCK_FRAMES, np.float32, always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise BadSound(f"{os.fsdecode(sound.name)}: is broken: {_one_line(error)}") from None
    return frames


def _opened(source: Path) -> soundfile.SoundFile:
    try:
        mode = source.stat().st_mode
    except OSError as error:
        raise BadSound(f"{source}: cannot be read: {error.strerror}") from None
    # A pipe that is open already (/dev/stdin) has a writer, or ends; opening a FIFO waits for one, perhaps for ever.
    if stat.S_ISFIFO(mode) and not os.path.realpath(source).startswith("/proc/"):
        raise BadSound(f"{source}: is a FIFO, to which nobody may ever write; name /dev/stdin and redirect it (< FIFO)")
    try:
        sound = soundfile.SoundFile(os.fsencode(source))  # names need not be UTF-8
    except (soundfile.LibsndfileError, TypeError, ValueError):
        kind = "is a folder" if source.is_dir() else "is not a sound file that libsndfile reads, or it is broken"
        raise BadSound(f"{source}: {kind}") from None
    if not RATES_HZ[0] <= sound.samplerate <= RATES_HZ[1]:
        sound.close()
        raise BadSound(f"{source}: a rate of {sound.samplerate} Hz is outside {RATES_HZ[0]} to {RATES_HZ[1]} Hz")
    return sound


def _created(descriptor: int, suffix: str, rate_hz: int) -> soundfile.SoundFile:
    """16-bit samples where the container can hold them, else its own codec."""
    container = {".oga": "OGG", ".opus": "OGG", ".aif": "AIFF"}.get(suffix, suffix[1:].upper())
    codec = "OPUS" if suffix == ".opus" else None
    if codec is None and soundfile.check_format(container, "PCM_16"):
        codec = "PCM_16"
    try:
        return soundfile.SoundFile(descriptor, "w", rate_hz, 1, codec, format=container, closefd=False)
    except (ValueError, soundfile.LibsndfileError):
        raise BadSound(f"{suffix} cannot hold mono sound at {rate_hz} Hz; try .wav or .flac") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "error_string", error)).split())


def _energy(block: Floats) -> float:
    """In double precision: a float file may hold any number."""
    wide = block.astype(np.float64)
    return float(np.dot(wide, wide))
