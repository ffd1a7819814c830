"""Sound that libsndfile does not read (m4a, WebM, 3gp, WMA, films ...), decoded by FFmpeg in a process of its own.

The process is the program ffmpeg or, where there is none, PyAV (``edge.tools.sounds.pyav_decoder``). It gets the open
file, never its name, may open nothing else but files (no network protocol, no playlist that leads elsewhere), and
writes an AU stream (big-endian 32-bit float samples) to a pipe, so that memory stays bounded whatever the file says.
"""

import contextlib
import importlib.util
import os
import re
import resource
import selectors
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from edge.console import printable
from edge.dsp.spectrum import Floats
from edge.tools.sounds.sound_files import BLOCK_FRAMES, RATES_HZ
from edge.tools.sounds.sound_kinds import BadSound, NoSound

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,aac,amr,amrnb,amrwb,ac3,eac3,dts,ape,wv,tta,tak,mpc,mpc8,dsf,iff,rm,"
    "flv,avi,mpegts,mpeg,ogg,wav,w64,caf,aiff,flac,mp3,qcp"
)
"""FFmpeg's names of the demuxers allowed: those that hold the sound themselves, so no playlists."""
STALL_S = 60.0
"""Reading a film's index from a slow card takes seconds; a decoder that gives nothing for so long hangs."""
MOST_S = 100 * 3600.0
"""Longest sound: a file of a few MB can say that it holds years."""
MOST_MEMORY = 4 << 30
"""Bytes of address space of the decoder; it takes 0.3 GB."""
MOST_CHANNELS = 64
MOST_LOG = 16_384
AU_HEADER = struct.Struct(">4s5I")
"""Magic, offset of the samples, their size (unknown), encoding, rate in Hz, channels."""
AU_FLOAT = 6
"""Encoding of big-endian 32-bit floats."""
END_S = 5.0
IN_WORDS = {"moov atom not found": "its index is missing, so the recording was not finished or the file is cut"}
"""What decoders report that says little to others."""
SHORTER_S, SHORTER_SHARE = 2.0, 0.05
"""The length in the header is that of the longest stream, roughly; a file that lacks more is cut."""


class Foreign:
    """A context manager with the interface of ``edge.tools.sounds.sound_input.SoundInput``; it cannot be rewound.

    Raises BadSound where there is no decoder, naming the fix, and where it finds no sound.
    """

    codec = "decoded"
    can_rewind = False
    sure_frames = 0

    def __init__(self, source: Path) -> None:
        self.source = source
        self.decoder, command = _decoder(source)
        self._process = _Process(command, source)
        self._read = 0
        try:
            header = self._receive(AU_HEADER.size)
            if len(header) < AU_HEADER.size:
                raise self._no_sound()
            magic, offset, _, encoding, self.rate_hz, self.channels = AU_HEADER.unpack(header)
            if magic != b".snd" or encoding != AU_FLOAT or not AU_HEADER.size <= offset < MOST_LOG:
                raise BadSound(f"{source}: {self.decoder} gave something else than the sound asked for")
            if not RATES_HZ[0] <= self.rate_hz <= RATES_HZ[1]:
                raise BadSound(f"{source}: a rate of {self.rate_hz} Hz is outside {RATES_HZ[0]} to {RATES_HZ[1]} Hz")
            if not 1 <= self.channels <= MOST_CHANNELS:
                raise BadSound(f"{source}: has {self.channels} channels; 1 to {MOST_CHANNELS} can be read")
            self._receive(offset - AU_HEADER.size)
        except BaseException:
            self._process.end()
            raise
        self.frames = self.known_frames = round(_duration_s(self._process.log) * self.rate_hz)
        """About how many there are; 0 where the file does not say."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._process.end()

    def rewind(self) -> None:
        """Never: see ``can_rewind``."""
        raise BadSound(f"{self.source}: {self.decoder} reads it only once")

    def blocks(self) -> Iterator[Floats]:
        """float32 (frames, channels), each at most ``BLOCK_FRAMES``. Raises BadSound."""
        frame_bytes = 4 * self.channels
        while data := self._receive(BLOCK_FRAMES * frame_bytes):
            whole = len(data) // frame_bytes
            self._read += whole
            if self._read > MOST_S * self.rate_hz:
                raise BadSound(f"{self.source}: holds more than {MOST_S / 3600:.0f} h of sound")
            yield np.frombuffer(data, ">f4", whole * self.channels).astype(np.float32).reshape(whole, self.channels)
        if status := self._process.end():
            raise BadSound(f"{self.source}: is broken: {_first_error(self._process.log) or _ended(status)}")
        if not self._read:
            raise self._no_sound()

    @property
    def notes(self) -> list[str]:
        """What decoded it, and what is wrong with the file, once ``blocks`` has come to its end."""
        notes = [f"decoded by {self.decoder}"]
        missing = self.frames - self._read
        if missing > max(SHORTER_S * self.rate_hz, SHORTER_SHARE * self.frames):
            read_s, all_s = self._read / self.rate_hz, self.frames / self.rate_hz
            notes.append(f"cut: {read_s:.1f} s of the {all_s:.1f} s in its header can be read")
        elif error := _first_error(self._process.log):
            notes.append(f"the decoder reports damage: {error}")
        return notes

    def _receive(self, size: int) -> bytes:
        try:
            return self._process.read(size)
        except TimeoutError:
            self._process.end()
            raise BadSound(f"{self.source}: {self.decoder} gave no sound for {STALL_S:g} s and was ended") from None

    def _no_sound(self) -> BadSound:
        status = self._process.end()
        if "does not contain any stream" in self._process.log:
            return NoSound(f"{self.source}: holds no sound")
        why = _first_error(self._process.log) or _ended(status)
        return BadSound(f"{self.source}: is not a sound that {self.decoder} reads, or it is broken: {why}")


def _decoder(source: Path) -> tuple[str, list[str]]:
    """What decodes here, and its command up to the file's descriptor. Raises BadSound where nothing does."""
    if program := shutil.which("ffmpeg"):
        options = "-nostdin -hide_banner -nostats -loglevel level+info -threads 1 -protocol_whitelist file,pipe"
        return "ffmpeg", [os.path.abspath(program), *options.split(), "-format_whitelist", CONTAINERS]
    if (package := importlib.util.find_spec("av")) and package.origin:  # without, it is any folder of that name
        return "PyAV", [sys.executable, "-P", "-m", "edge.tools.sounds.pyav_decoder", CONTAINERS]
    raise BadSound(
        f"{source}: is in a format that needs FFmpeg: `apt install ffmpeg`, or `{sys.executable} -m pip install av`"
    )


class _Process:
    """A decoder at work: its samples by ``read``, the first of what it reports in ``log``."""

    def __init__(self, command: list[str], source: Path) -> None:
        """Raises BadSound where it cannot be started."""
        self.log = ""
        self._status: int | None = None
        try:
            file = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._child = subprocess.Popen(
                    [*command, *_input(command, file)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=[file],
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for us, who end it
                )
            finally:
                os.close(file)
        except OSError as error:
            raise BadSound(f"{source}: {command[0]} cannot be started: {error.strerror}") from None
        with contextlib.suppress(OSError, ValueError, OverflowError):
            resource.prlimit(self._child.pid, resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        assert self._child.stdout and self._child.stderr
        self._samples, self._reports = self._child.stdout.fileno(), self._child.stderr.fileno()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._samples, selectors.EVENT_READ)
        self._selector.register(self._reports, selectors.EVENT_READ)

    def read(self, size: int) -> bytes:
        """So many bytes, fewer at the end. Raises TimeoutError if none come for ``STALL_S``."""
        got = bytearray()
        until_s = time.monotonic() + STALL_S
        while len(got) < size and self._samples in self._selector.get_map():
            ready = self._selector.select(max(0.0, until_s - time.monotonic()))
            for key, _ in ready:
                data = os.read(key.fd, min(size - len(got), 65_536) if key.fd == self._samples else 4096)
                if not data:
                    self._selector.unregister(key.fd)
                elif key.fd == self._reports:
                    self._keep(data)
                else:
                    got += data
                    until_s = time.monotonic() + STALL_S
            if time.monotonic() >= until_s:
                raise TimeoutError
        return bytes(got)

    def end(self) -> int:
        """Its exit status, as soon as it has ended or been ended; what it has still to report is kept."""
        if self._status is None:
            assert self._child.stdout and self._child.stderr
            if self._samples in self._selector.get_map():  # it has not come to its end
                self._selector.unregister(self._samples)
                self._child.kill()
            until_s = time.monotonic() + END_S
            while self._selector.get_map() and time.monotonic() < until_s:
                for key, _ in self._selector.select(END_S):
                    if data := os.read(key.fd, 4096):
                        self._keep(data)
                    else:
                        self._selector.unregister(key.fd)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(max(0.0, until_s - time.monotonic()))
            self._child.kill()
            self._status = self._child.wait()
            self._selector.close()
            self._child.stdout.close()
            self._child.stderr.close()
        return self._status

    def _keep(self, data: bytes) -> None:
        self.log += data[: max(0, MOST_LOG - len(self.log))].decode(errors="replace")


def _environment() -> dict[str, str]:
    """Ours, so that PyAV's process finds this package, less what makes ffmpeg write a file."""
    paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {name: value for name, value in os.environ.items() if name != "FFREPORT"}
    return {**ours, "PYTHONPATH": os.pathsep.join(paths)}


def _input(command: list[str], file: int) -> list[str]:
    """What follows the options: the file by its descriptor, so that no name of it can be taken for something else."""
    if command[0] == sys.executable:
        return [str(file)]
    return [*f"-i file:/dev/fd/{file} -vn -sn -dn -c:a pcm_f32be -f au pipe:1".split()]


def _duration_s(log: str) -> float:
    """As the decoder reports it before the first sample; 0 where it does not know."""
    found = re.search(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", log)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else 0.0


def _first_error(log: str) -> str:
    """In one line, without what only the decoder's developers need."""
    for line in log.splitlines():
        if "[error]" in line or "[fatal]" in line:
            text = re.sub(r"\[[^\]]*\] *|file:/dev/fd/\d+: |Error opening input: ", "", line).strip()
            return IN_WORDS.get(text, printable(text)[:120])
    return ""


def _ended(status: int) -> str:
    return f"the decoder was ended by signal {-status}" if status < 0 else f"the decoder ended with status {status}"
