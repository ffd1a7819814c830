"""Decodes a file's sound by PyAV: descriptor in, an AU stream of 32-bit floats on standard output.

A program of its own, run by ``edge.tools.sounds.foreign_decoder`` with the same contract as ffmpeg: damage in a file,
or in the libraries that read it, ends this process and no other.

    python -P -m edge.tools.sounds.pyav_decoder CONTAINERS DESCRIPTOR
"""

import sys

import av
from av.audio.frame import AudioFrame
from av.container import InputContainer

from edge.console import run_main

MOST_REPORTS = 5


def log(level: str, text: object) -> None:
    """A line as ffmpeg writes it with ``-loglevel level+info``."""
    print(f"[{level}] {' '.join(str(text).split())}", file=sys.stderr, flush=True)


def log_duration(duration_us: int | None) -> None:
    if duration_us and duration_us > 0:
        minutes, seconds = divmod(duration_us / 1e6, 60)
        log("info", f"Duration: {int(minutes // 60):02d}:{int(minutes % 60):02d}:{seconds:05.2f}")


def opened(containers: str, descriptor: int) -> InputContainer:
    """Raises OSError, FFmpegError, after a line with what the library says about it."""
    options = {"protocol_whitelist": "file", "format_whitelist": containers}
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as reports:
        try:
            return av.open(f"file:/dev/fd/{descriptor}", options=options, metadata_errors="replace")
        except (av.error.FFmpegError, OSError):
            for _, _, text in reports[:MOST_REPORTS]:
                log("error", text)
            raise
        finally:
            av.logging.set_level(None)


def decode(containers: str, descriptor: int) -> int:
    """Exit status: 0 where there was sound."""
    with opened(containers, descriptor) as source:
        sound = source.streams.best("audio")
        if sound is None:
            log("error", "does not contain any stream of sound")
            return 1
        log_duration(source.duration)
        out = resampler = writer = None
        for packet in source.demux(sound):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError as error:
                log("error", error.strerror)
                continue
            for frame in frames:
                assert isinstance(frame, AudioFrame)
                if out is None or writer is None or resampler is None:
                    out = av.open("pipe:1", "w", format="au")
                    writer = out.add_stream("pcm_f32be", rate=frame.sample_rate, layout=frame.layout.name)
                    resampler = av.AudioResampler(format="flt", layout=frame.layout.name, rate=frame.sample_rate)
                for ready in resampler.resample(frame):
                    ready.pts = None
                    out.mux(writer.encode(ready))
        if out is None:
            log("error", "no packet of it can be decoded")
            return 1
        out.close()
    return 0


def main() -> int:
    """Returns the exit status; what is wrong is the last line on standard error."""
    try:
        return decode(sys.argv[1], int(sys.argv[2]))
    except (av.error.FFmpegError, OSError) as error:
        log("error", error.strerror)
        return 1


if __name__ == "__main__":
    run_main(main, "pyav_decoder")
