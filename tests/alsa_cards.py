"""Cards of any rates, channel counts and formats behind real libasound: ``pcm_card.c``, compiled once a run."""

import ctypes.util
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hw.virtual.rigs import ExactRig


@cache
def _build_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="quietbox-plugin-")


@cache
def compiled(name: str) -> Path:
    """An ALSA plugin of this folder, ``name`` without ``.c``."""
    compiler = shutil.which("cc")
    assert compiler and ctypes.util.find_library("asound"), "apt-get install gcc libasound2-dev"
    made = Path(_build_folder().name) / f"{name}.so"
    source = Path(__file__).parent / f"{name}.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-DPIC", "-o", str(made), str(source), "-lasound"], check=True)
    return made


class RealCards(ExactRig):
    """A rig whose further devices ``add`` defines."""

    def _start(self) -> str:
        return f'{super()._start()}pcm_type.quietbox_card {{ lib "{compiled("pcm_card")}" }}\n'

    def add(self, name: str, **keys: str | int) -> str:
        """A device with the keys of ``pcm_card.c``; what it plays, ``heard`` reads. Returns its name."""
        words = {"file": str(self.folder / f"{name}.raw"), **keys}
        body = " ".join(
            f'{key} "{value}"' if isinstance(value, str) else f"{key} {value}" for key, value in words.items()
        )
        with (self.folder / "asound.conf").open("a") as conf:
            conf.write(f"pcm.{name} {{ type quietbox_card {body} }}\n")
        return name

    def heard(self, name: str, channels: int) -> NDArray[np.int16]:
        """int16 (frames, channels): everything a device has played since it was opened."""
        raw = np.frombuffer((self.folder / f"{name}.raw").read_bytes(), "<i2")
        return raw[: len(raw) // channels * channels].reshape(-1, channels)
