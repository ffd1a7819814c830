"""Files through the live chain: what `quietbox enhance` writes is what the box would have played.

A file of any rate and any number of channels is mixed to mono, converted to 16 kHz by the live converter, processed
hop by hop by the chain and converted back to its own rate. The known delay is removed at the front, so that the output
lines up with the input and has its length. One channel may be the reference microphone's instead
(``edge.dsp.reference``).

No sample that is written is above ``limiter.peak_dbfs``. Lossy codecs (Ogg Vorbis, Opus, MP3) are given such samples
and decode to slightly other ones, which may be above it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge import RATE_HZ
from edge.config import Config, beside_reference
from edge.devices.sample_format import Encoder
from edge.dsp.spectrum import Floats
from edge.files import atomic
from edge.health import dbfs
from edge.suppress.engine import Engine
from edge.tools.sounds.sound_files import BLOCK_FRAMES
from edge.tools.sounds.sound_kinds import BadSound
from edge.tools.sounds.sound_opening import open_sound
from edge.tools.sounds.sound_output import SoundOutput, check_room, check_whole
from edge.tools.sounds.sound_reader import SoundReader, energy
from edge.tools.sounds.sound_targets import own_result, writable
from edge.tools.sounds.stream import Stream, aligned


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
    channels: int
    """Channels of the source."""
    mixed_s: dict[str, float]
    """Seconds of the voice that were made of which channels, counted from 1: {"all": 57.0, "2": 3.0}."""
    invalid_samples: int
    """NaN and infinite samples, which became silence."""
    notes: list[str]
    """What had to be done to the sound that a user should know, one phrase each; usually none."""
    real_time_factor: float
    """Processing time over sound time; below 1 is faster than real time."""
    reference: str
    """What the reference's canceller did at the end: adapting, frozen, or why it was off; empty where there is none."""
    reference_removed_db: float
    """How much quieter it alone made the last second of pauses."""
    engine: str
    """What suppressed the noise, as in the settings; where it failed, what took over."""
    degraded: str
    """What failed inside the engine and from when on, in words; empty where nothing did."""


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
    engine: Engine | None = None,
    token: str = "",
) -> Enhanced:
    """Write ``target`` (format by its suffix, 16 bit); raises BadSound, and then leaves nothing behind and ``target``
    as it was, as does any other exception. ``source`` is never written to. Where ``target`` is a symbolic link, what it
    leads to is written.

    ``channel``: 0 mixes all channels, 1 takes the first, and so on. ``reference``: which channel is the reference
    microphone's, 0 none; beside one, ``channel`` 0 is the first other. ``progress(done, total)`` gets frames.
    ``engine``: an open one, which is used instead of the one that ``config`` names and is restarted before; it may go
    from file to file, and each comes out as if it were the only one. ``token``: names the file in the making
    (``atomic.part_of``).
    """
    began = time.perf_counter()
    config = replace(config, reference=replace(config.reference, channel=reference))
    if reference and not channel:
        channel = beside_reference(reference)
    if atomic.same(source, target):
        raise own_result(source)
    written = writable(target)
    try:
        with open_sound(source) as sound:
            _check_channels(source, sound.channels, channel, reference)
            stream = Stream(config, sound.rate_hz, engine)
            written.parent.mkdir(parents=True, exist_ok=True)
            check_room(target, written.parent, sound.sure_frames)
            with atomic.part_beside(written, token) as (descriptor, part):
                chosen = [channel, reference] if reference else [channel]
                reader = SoundReader(sound, chosen)
                energy_out = _process(reader, (descriptor, target.suffix.lower()), stream, progress)
                if not reader.frames:
                    fix = "" if sound.can_rewind else " by its header; save the pipe to a file and name that"
                    raise BadSound(f"{source}: holds no samples{fix}")
                check_whole(part, target, reader.frames)
    except OSError as error:
        raise BadSound(f"{target}: cannot be written: {error.strerror}") from None
    return _summary((source, target), reader, energy_out, stream, time.perf_counter() - began)


def _summary(
    paths: tuple[Path, Path], reader: SoundReader, energy_out: float, stream: Stream, processing_s: float
) -> Enhanced:
    seconds, reference = reader.frames / reader.rate_hz, stream.chain.reference
    return Enhanced(
        source=str(paths[0]),
        target=str(paths[1]),
        seconds=round(seconds, 3),
        rate_hz=reader.rate_hz,
        level_in_dbfs=dbfs(reader.energy / reader.frames),
        level_out_dbfs=dbfs(energy_out / reader.frames),
        noise_removed_db=stream.noise_removed_db,
        speech_share=round(stream.spoken / max(stream.hops, 1), 3),
        channels=reader.channels,
        mixed_s=reader.mixed_s,
        invalid_samples=reader.invalid,
        notes=reader.notes,
        real_time_factor=round(processing_s / seconds, 4),
        reference=reference.state if reference else "",
        reference_removed_db=round(reference.attenuation_db, 1) if reference else 0.0,
        engine=stream.chain.engine.name,
        degraded=stream.degraded,
    )


def _check_channels(source: Path, channels: int, channel: int, reference: int) -> None:
    """Raises BadSound if the file has not what was asked for."""
    if reference and reference == channel:
        raise BadSound(f"{source}: channel {channel} cannot be both voice and reference")
    if reference and channels == 1:
        raise BadSound(f"{source}: has one channel, so there is no reference in it; leave --reference out")
    if (wanted := max(channel, reference)) > channels:
        raise BadSound(f"{source}: has {channels} channels, none is number {wanted}")


def _process(
    reader: SoundReader,
    target: tuple[int, str],
    stream: Stream,
    progress: Callable[[int, int], None] | None,
) -> float:
    """Process one file into the other, block by block; returns the sum of the squares of the output.

    ``target``: descriptor of an empty file and the suffix that names its format. Raises BadSound, OSError.
    """
    energy_out = 0.0
    encoder = Encoder("S16_LE", 1, BLOCK_FRAMES, stream.peak_dbfs)
    descriptor, suffix = target
    with SoundOutput(descriptor, suffix, reader.rate_hz, reader.known_frames) as out:
        for block in aligned(stream, reader.blocks(progress)):
            energy_out += energy(block)
            for start in range(0, len(block), BLOCK_FRAMES):
                out.write(np.frombuffer(encoder.encode(block[start : start + BLOCK_FRAMES]), np.int16))
    return energy_out
