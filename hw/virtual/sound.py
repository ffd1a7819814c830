"""Real ALSA without a sound card: a microphone ``mic`` and an output ``spk`` in user space, in two kinds.

``ExactRig``: ALSA's file plugin. What is fed into a FIFO is what ``mic`` hears, what ``spk`` plays lands in a file,
sample for sample. There is no clock: the feeder sets the pace, or there is none and a minute takes a second.

``PacedRig``: a JACK server on its dummy driver with the loopback driver, and ALSA's jack plugin. A real clock paces
both sides; ``feed`` leads to ``mic`` and ``spk`` to ``rec``, so somebody outside plays and records. Not bit-exact.

Both set ALSA_CONFIG_PATH while they are entered; alsa-lib looks at it whenever a device is opened, so it holds for this
process and for those it starts.

    python -m hw.virtual.sound exact --play noisy.wav --record out.wav -- quietbox run --seconds 10
    python -m hw.virtual.sound paced --rate 16000 --play noisy.wav --record out.wav -- quietbox run --seconds 10
"""

import argparse
import ctypes.util
import fcntl
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge import UserError
from edge.console import run_main
from edge.files import atomic

Samples = NDArray[np.int16]

EXACT_CONF = """</usr/share/alsa/alsa.conf>
pcm.mic {{ type file slave.pcm "null" infile "{folder}/mic.fifo" file "/dev/null" format "raw"
  hint {{ show on description "virtual microphone, fed through a FIFO" }} }}
pcm.spk {{ type file slave.pcm "null" file "{folder}/spk.raw" format "raw"
  hint {{ show on description "virtual output, written to a file" }} }}
"""

# lfloat: JACK speaks floats only. It converts the format and nothing else, so a wrong rate is refused as on a card.
PACED_CONF = """</usr/share/alsa/alsa.conf>
pcm.quietbox_feed {{ type jack playback_ports {{ 0 loopback:playback_1 }} }}
pcm.quietbox_mic {{ type jack capture_ports {{ 0 loopback:capture_1 }} }}
pcm.quietbox_spk {{ type jack playback_ports {{ 0 loopback:playback_2 }} }}
pcm.quietbox_rec {{ type jack capture_ports {{ 0 loopback:capture_2 }} }}
pcm.feed {{ type lfloat slave {{ pcm "quietbox_feed" format FLOAT_LE }} }}
pcm.mic {{ type lfloat slave {{ pcm "quietbox_mic" format FLOAT_LE }}
  hint {{ show on description "virtual microphone, paced by JACK" }} }}
pcm.spk {{ type lfloat slave {{ pcm "quietbox_spk" format FLOAT_LE }}
  hint {{ show on description "virtual output, paced by JACK" }} }}
pcm.rec {{ type lfloat slave {{ pcm "quietbox_rec" format FLOAT_LE }} }}
"""

ATOMIC_BYTES = 4096
"""PIPE_BUF: a write of so much or less goes into a FIFO whole, so no read ends within a frame or a hop."""
START_S = 10.0
PEER_PERIODS = 32
"""Whoever plays and records around the box has a long buffer: what is tested is the box."""
RT_PRIORITY = 60
JACK_NO_START, JACK_SERVER_NAME = 1, 4
"""JackOptions of jack/types.h."""
SHM = Path("/dev/shm")
REGISTRY = SHM / "jack-shm-registry"
"""Where jackd lists the servers of this machine."""
BANNER = ("jackdmp", "Copyright", "This is free", "under certain")
"""What jackd always says."""


class NoVirtualSound(Exception):
    """Something this kind of rig needs is missing; the text names the package."""


class FullList(NoVirtualSound):
    """jackd's list of servers has no room."""


def forget_killed_servers(registry: Path = REGISTRY, processes: Path = Path("/proc")) -> bool:
    """Remove jackd's list if no jackd lives that could stand in it; whether that was done."""
    for name in processes.glob("[0-9]*/comm"):
        try:
            if name.read_text().startswith("jackd"):
                return False
        except OSError:  # ended meanwhile
            continue
    try:
        registry.unlink()
    except OSError:
        return False
    return True


class Rig:
    """What both kinds share: a folder of their own, the environment, an end that leaves nothing behind."""

    mic = "mic"
    spk = "spk"

    def __init__(self) -> None:
        self.folder = Path()
        self.environment: dict[str, str] = {}
        """Variables that make a process see ``mic`` and ``spk``."""
        self._before: dict[str, str | None] = {}
        self._helpers: list[_Helper] = []

    def __enter__(self) -> Self:
        if not Path("/usr/share/alsa/alsa.conf").exists():
            raise NoVirtualSound("ALSA's own settings are missing: apt install libasound2-data")
        self.folder = Path(tempfile.mkdtemp(prefix="quietbox-sound-"))
        try:
            conf = self.folder / "asound.conf"
            conf.write_text(self._start())
            self.environment["ALSA_CONFIG_PATH"] = str(conf)
            for name, value in self.environment.items():
                self._before[name] = os.environ.get(name)
                os.environ[name] = value
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything and remove the folder; harmless twice."""
        for helper in self._helpers:
            helper.stop()
        self._helpers.clear()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()
        self._end()
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> str:
        """Bring up what is needed; returns the ALSA configuration."""
        raise AssertionError("a Rig is an ExactRig or a PacedRig")

    def _end(self) -> None:
        """Take down what ``_start`` brought up."""


class _Helper(threading.Thread):
    """A thread that can be told to stop, and whose failure is not lost."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ending = threading.Event()
        self.done = threading.Event()
        """Set when everything was played or recorded."""
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.error = error
        finally:
            self.done.set()

    def work(self) -> None:
        raise AssertionError("a helper plays or records")

    def stop(self) -> None:
        self.ending.set()
        self.join(5)


class ExactRig(Rig):
    """``mic`` hears exactly what ``feed`` is given, ``spk`` writes exactly what it is given. No clock."""

    _fifo: int | None = None

    def _start(self) -> str:
        os.mkfifo(self.folder / "mic.fifo")
        # Held open for reading and writing: opening ``mic`` must not wait for a feeder (pyalsaaudio waits with the
        # interpreter locked, so a feeder in this process would never come), nor a feeder for it.
        self._fifo = os.open(self.folder / "mic.fifo", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        return EXACT_CONF.format(folder=self.folder)

    def _end(self) -> None:
        if self._fifo is not None:
            os.close(self._fifo)
            self._fifo = None

    def feed(self, samples: NDArray[Any], rate_hz: int = 16_000, *, paced: bool = False) -> "Feeder":
        """Give ``mic`` these samples, (n,) or (n, channels) of the type it is opened with (int16, int32), as soon as it
        is opened: in real time if ``paced``, else as fast as they are taken. After the last one comes silence without
        end, because at the end of a file ALSA plays its last buffer again and again.
        """
        assert self._fifo is not None, "enter the rig first"
        feeder = Feeder(os.dup(self._fifo), samples, rate_hz, paced)
        self._helpers.append(feeder)
        feeder.start()
        return feeder

    def played(self, dtype: Any = np.int16) -> NDArray[Any]:
        """Everything ``spk`` has been given so far. ALSA holds back the last buffer until the device is closed."""
        path = self.folder / "spk.raw"
        width = np.dtype(dtype).itemsize
        data = path.read_bytes() if path.exists() else b""
        return np.frombuffer(data[: len(data) // width * width], dtype)


class Feeder(_Helper):
    """Writes samples into a FIFO."""

    def __init__(self, pipe: int, samples: NDArray[Any], rate_hz: int, paced: bool) -> None:
        super().__init__()
        self._pipe, self._rate_hz, self._paced = pipe, rate_hz, paced
        if paced:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, ATOMIC_BYTES)
        self._frame_bytes = samples.itemsize * (samples.shape[1] if samples.ndim == 2 else 1)
        self._data = memoryview(samples.tobytes())
        # A hop of 5 ms many times over: reads of whole hops then never meet a torn one.
        hop_bytes = self._frame_bytes * max(1, rate_hz // 200)
        self._chunk = hop_bytes * (1 if paced else max(1, ATOMIC_BYTES // hop_bytes))

    def work(self) -> None:
        try:
            began_s, sent = time.monotonic(), 0
            for start in itertools.count(0, self._chunk):
                part = self._data[start : start + self._chunk]
                if not part:
                    self.done.set()
                    part = memoryview(bytes(self._chunk))
                if self.ending.is_set() or not self._write(part):
                    return
                sent += len(part) // self._frame_bytes
                if self._paced:
                    self.ending.wait(max(0.0, began_s + sent / self._rate_hz - time.monotonic()))
        finally:
            os.close(self._pipe)

    def _write(self, part: memoryview) -> bool:
        """True once written; False if we are to end."""
        while part:
            select.select([], [self._pipe], [], 0.1)
            if self.ending.is_set():
                return False
            try:
                part = part[os.write(self._pipe, part) :]
            except BlockingIOError:
                continue
        return True


class PacedRig(Rig):
    """``feed`` -> ``mic`` and ``spk`` -> ``rec`` at a real clock of ``rate_hz`` in steps of ``period`` frames."""

    _numbers = itertools.count()

    def __init__(self, rate_hz: int = 16_000, period: int | None = None) -> None:
        super().__init__()
        self.rate_hz = rate_hz
        self.period = period or (128 if rate_hz <= 16_000 else 256)
        self.server = f"quietbox-{os.getpid()}-{next(self._numbers)}"
        self._jackd: subprocess.Popen[bytes] | None = None

    def _start(self) -> str:
        self._check()
        self.environment |= {
            "JACK_DEFAULT_SERVER": self.server,
            "JACK_NO_START_SERVER": "1",
            "JACK_NO_AUDIO_RESERVATION": "1",
        }
        try:
            self._launch()
        except FullList:
            if not forget_killed_servers():
                raise
            self._launch()
        return PACED_CONF.format()

    def _launch(self) -> None:
        log = (self.folder / "jackd.log").open("wb")
        self._jackd = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | self.environment
        )
        log.close()
        self._wait_until_up()

    @staticmethod
    def _check() -> None:
        """Name the package that is missing, if one is."""
        if not shutil.which("jackd"):
            raise NoVirtualSound("jackd is missing: apt install jackd2")
        library = ctypes.util.find_library("asound") or "libasound.so.2"
        folders = [*Path("/usr/lib").glob("*/alsa-lib"), Path("/usr/lib/alsa-lib"), Path("/usr/lib64/alsa-lib")]
        if not any((folder / "libasound_module_pcm_jack.so").exists() for folder in folders):
            raise NoVirtualSound(f"{library} has no jack plugin: apt install libasound2-plugins")

    def _command(self) -> list[str]:
        jackd = ["jackd", "-n", self.server, "-p", "32", "-m", "-L", "2"]
        jackd[1:1] = ["-R", "-P", str(RT_PRIORITY)] if _may_hurry() else ["-r"]
        jackd += ["-d", "dummy", "-r", str(self.rate_hz), "-p", str(self.period), "-C", "1", "-P", "1"]
        # A server must not outlive us, however we die.
        tether = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        return tether + jackd

    def _wait_until_up(self) -> None:
        """Until the loopback ports can be opened."""
        assert self._jackd is not None
        over_s = time.monotonic() + START_S
        while time.monotonic() < over_s:
            if self._jackd.poll() is not None:
                break
            if next(SHM.glob(f"jack_{self.server}_*"), None) and _answers(self.server, self.environment):
                return
            time.sleep(0.05)
        text = (self.folder / "jackd.log").read_text(errors="replace").strip().splitlines()
        said = [line for line in text if not line.startswith(BANNER)]
        if any("Too many servers" in line for line in said):
            # Killed ones stay in its list as long as their process number is somebody's.
            raise FullList(f"jackd does not start: its list is full of servers that were killed; rm {REGISTRY}")
        raise NoVirtualSound(f"jackd does not start: {said[-1] if said else 'it printed nothing'}")

    def _end(self) -> None:
        if self._jackd is None:
            return
        self._jackd.send_signal(signal.SIGTERM)
        try:
            self._jackd.wait(3)
        except subprocess.TimeoutExpired:
            self._jackd.kill()
            self._jackd.wait()
        for left in SHM.glob(f"jack*_{self.server}_*"):  # what a killed server could not clear away
            left.unlink(missing_ok=True)
        self._jackd = None

    def play(self, samples: Samples) -> "Player":
        """Play int16 mono at ``rate_hz`` into ``feed``, which ``mic`` hears; silence follows."""
        return self._begin(Player("feed", self.rate_hz, self.period, samples))

    def record(self, seconds: float) -> "Recorder":
        """Record what ``spk`` plays; ``samples`` holds it as it comes."""
        return self._begin(Recorder("rec", self.rate_hz, self.period, seconds))

    def _begin(self, helper: "_HelperT") -> "_HelperT":
        self._helpers.append(helper)
        helper.start()
        helper.ready.wait(START_S)
        if not helper.ready.is_set() or helper.error:
            raise NoVirtualSound(f"ALSA's jack plugin does not open: {helper.error or 'no answer'}")
        return helper


class _Paced(_Helper):
    """A blocking ALSA device in a thread; ``ready`` once it is open (or has failed)."""

    def __init__(self, device: str, rate_hz: int, period: int) -> None:
        super().__init__()
        self.ready = threading.Event()
        self.xruns = 0
        self._device, self._rate_hz, self._period = device, rate_hz, period

    def run(self) -> None:
        super().run()
        self.ready.set()

    def _open(self, capture: bool) -> Any:
        import alsaaudio

        pcm = alsaaudio.PCM(
            type=alsaaudio.PCM_CAPTURE if capture else alsaaudio.PCM_PLAYBACK,
            device=self._device,
            rate=self._rate_hz,
            channels=1,
            format=alsaaudio.PCM_FORMAT_S16_LE,
            periodsize=self._period,
            periods=PEER_PERIODS,
        )
        self.ready.set()
        return pcm


class Player(_Paced):
    """Plays samples, then silence until stopped, so that the microphone never runs dry."""

    def __init__(self, device: str, rate_hz: int, period: int, samples: Samples) -> None:
        super().__init__(device, rate_hz, period)
        self._samples = np.ascontiguousarray(samples, np.int16)

    def work(self) -> None:
        pcm = self._open(capture=False)
        block = self._period * PEER_PERIODS // 2
        for start in itertools.count(0, block):
            part = np.zeros(block, np.int16)
            rest = self._samples[start : start + block]
            part[: len(rest)] = rest
            if len(rest) == 0:
                self.done.set()
            if self.ending.is_set():
                break
            while pcm.write(part.tobytes()) < 0:
                self.xruns += 1
        pcm.drop()
        pcm.close()


class Recorder(_Paced):
    """Records a given time, or until stopped."""

    def __init__(self, device: str, rate_hz: int, period: int, seconds: float) -> None:
        super().__init__(device, rate_hz, period)
        self._frames = round(seconds * rate_hz)
        self._parts: list[bytes] = []

    @property
    def samples(self) -> Samples:
        """int16 mono, what came so far."""
        return np.frombuffer(b"".join(self._parts), np.int16)[: self._frames]

    def work(self) -> None:
        pcm = self._open(capture=True)
        got = 0
        while got < self._frames and not self.ending.is_set():
            frames, data = pcm.read()
            if frames < 0:
                self.xruns += 1
                continue
            self._parts.append(data)
            got += frames
        pcm.close()


_HelperT = TypeVar("_HelperT", bound=_Paced)


def _may_hurry() -> bool:
    """Whether SCHED_FIFO is granted here."""
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(RT_PRIORITY))
        os.sched_setscheduler(0, *before)
    except OSError:
        return False
    return True


def _answers(server: str, environment: dict[str, str]) -> bool:
    """Whether a client can see the loopback ports. In a process of its own: libjack prints, and keeps threads."""
    code = (
        "import ctypes,sys;j=ctypes.CDLL('libjack.so.0');j.jack_client_open.restype=ctypes.c_void_p;"
        "j.jack_port_by_name.restype=ctypes.c_void_p;"
        f"c=j.jack_client_open(b'quietbox-look',{JACK_NO_START | JACK_SERVER_NAME},None,{server.encode()!r});"
        "sys.exit(0 if c and j.jack_port_by_name(ctypes.c_void_p(c),b'loopback:playback_2') else 1)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=START_S,
    )
    return done.returncode == 0


# The command line.


def main(arguments: list[str] | None = None) -> int:
    """Run a command on one of the rigs, playing a sound file to it and recording what it plays."""
    parser = argparse.ArgumentParser(prog="python -m hw.virtual.sound", description="Real ALSA without a sound card.")
    parser.add_argument("kind", choices=("exact", "paced"))
    parser.add_argument(
        "--play", type=Path, metavar="FILE", help="what the microphone hears (16 kHz mono unless --rate)"
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="where to write what the output played")
    parser.add_argument("--rate", type=int, default=16_000, help="Hz (default 16000)")
    parser.add_argument("--real-time", action="store_true", help="exact: feed at the pace of a real microphone")
    parser.add_argument("command", nargs="+", help="after --: what to run; its devices are called mic and spk")
    options = parser.parse_args(arguments)
    try:
        if options.record:
            atomic.refuse_overwriting(options.record, [options.play], "--record")
        samples = _load(options.play, options.rate) if options.play else np.zeros(0, np.int16)
        return _run_on_rig(options, samples)
    except (NoVirtualSound, UserError, OSError) as error:
        print(f"virtual sound: {error}", file=sys.stderr)
        return 2


def _run_on_rig(options: argparse.Namespace, samples: Samples) -> int:
    if options.kind == "exact":
        with ExactRig() as exact:
            exact.feed(samples, options.rate, paced=options.real_time)
            code = subprocess.run(options.command, check=False).returncode
            heard = exact.played()
    else:
        with PacedRig(options.rate) as paced:
            paced.play(samples)
            recorder = paced.record(24 * 3600)
            code = subprocess.run(options.command, check=False).returncode
            heard = recorder.samples
    if options.record:
        import soundfile

        soundfile.write(options.record, heard, options.rate, subtype="PCM_16")
    return code


def _load(path: Path, rate_hz: int) -> Samples:
    """int16 mono of a sound file that has this rate already."""
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise NoVirtualSound(f"{path} is not a sound file: {error}") from None
    if rate != rate_hz:
        raise NoVirtualSound(f"{path} has {rate} Hz; give --rate {rate} or a file with {rate_hz} Hz")
    return np.ascontiguousarray(samples[:, 0])


if __name__ == "__main__":
    run_main(main, "virtual sound")
