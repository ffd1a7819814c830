"""Two kinds of virtual sound card in user space, ``mic`` and ``spk``; ``hw.virtual.sound`` describes them."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hw.virtual.players import Feeder, Helper, PacedHelper, Player, Recorder, Samples

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

START_S = 10.0
RT_PRIORITY = 60
JACK_NO_START, JACK_SERVER_NAME = 1, 4
"""JackOptions of jack/types.h."""
SHM = Path("/dev/shm")
REGISTRY = SHM / "jack-shm-registry"
"""Where jackd lists the servers of this machine."""
BANNER = ("jackdmp", "Copyright", "This is free", "under certain")
"""What jackd always prints."""


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


_HelperT = TypeVar("_HelperT", bound=PacedHelper)


class Rig:
    """What both kinds share: a folder of their own, the environment, an end that leaves nothing behind."""

    mic = "mic"
    spk = "spk"

    def __init__(self) -> None:
        self.folder = Path()
        self.environment: dict[str, str] = {}
        """Variables that make a process see ``mic`` and ``spk``."""
        self._before: dict[str, str | None] = {}
        self._helpers: list[Helper] = []

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

    def feed(self, samples: NDArray[Any], rate_hz: int = 16_000, *, paced: bool = False) -> Feeder:
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
        """Name every package that is missing."""
        folders = [*Path("/usr/lib").glob("*/alsa-lib"), Path("/usr/lib/alsa-lib"), Path("/usr/lib64/alsa-lib")]
        missing = {} if shutil.which("jackd") else {"jackd": "jackd2"}
        if not any((folder / "libasound_module_pcm_jack.so").exists() for folder in folders):
            missing["ALSA's jack plugin"] = "libasound2-plugins"
        if missing:
            raise NoVirtualSound(f"missing: {' and '.join(missing)}; apt install {' '.join(missing.values())}")

    def _command(self) -> list[str]:
        jackd = ["jackd", "-n", self.server, "-p", "32", "-m", "-L", "2"]
        jackd[1:1] = ["-R", "-P", str(RT_PRIORITY)] if _may_be_realtime() else ["-r"]
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
        printed = [line for line in text if not line.startswith(BANNER)]
        if any("Too many servers" in line for line in printed):
            # Killed ones stay in its list as long as their process number is somebody's.
            raise FullList(f"jackd does not start: its list is full of servers that were killed; rm {REGISTRY}")
        raise NoVirtualSound(f"jackd does not start: {printed[-1] if printed else 'it printed nothing'}")

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

    def play(self, samples: Samples) -> Player:
        """Play int16 mono at ``rate_hz`` into ``feed``, which ``mic`` hears; silence follows."""
        return self._begin(Player("feed", self.rate_hz, self.period, samples))

    def record(self, seconds: float) -> Recorder:
        """Record what ``spk`` plays; ``samples`` holds it as it comes."""
        return self._begin(Recorder("rec", self.rate_hz, self.period, seconds))

    def _begin(self, helper: _HelperT) -> _HelperT:
        self._helpers.append(helper)
        helper.start()
        helper.ready.wait(START_S)
        if not helper.ready.is_set() or helper.error:
            raise NoVirtualSound(f"ALSA's jack plugin does not open: {helper.error or 'no answer'}")
        return helper


def _may_be_realtime() -> bool:
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
