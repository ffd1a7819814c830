"""The secondary path, from the output to the microphone at the ear, as `quietbox calibrate` measures it."""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge import HOP_SAMPLES, RATE_HZ, UserError, files
from edge.dsp.spectrum import Floats
from edge.files import atomic
from edge.files.arrays import read_npz

LONGEST_RESPONSE_SAMPLES = RATE_HZ
MOST_FILE_BYTES = 1 << 20
"""Of a stored path: the longest has 64 KiB."""


class BadPath(UserError):
    """No calibration, or none that can be used."""


@dataclass(frozen=True)
class SecondaryPath:
    """From the samples handed to the output to the samples the microphone gives: float32, one a sample from 0 on."""

    response: Floats
    gain_db: float
    """``capture.gain_db`` while it was measured."""
    signal_to_noise_db: float

    @property
    def delay_samples(self) -> int:
        """When the response is strongest."""
        return int(np.abs(self.response).argmax())

    def save(self, file: Path) -> None:
        """Whole or not at all; raises OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(
            content,
            response=self.response,
            gain_db=self.gain_db,
            signal_to_noise_db=self.signal_to_noise_db,
            rate_hz=RATE_HZ,
        )
        atomic.write(file, content.getvalue())

    @classmethod
    def load(cls, file: Path) -> "SecondaryPath":
        """Raises BadPath."""
        again = "run `quietbox calibrate`"
        try:
            stored = read_npz(files.read_bounded(file, MOST_FILE_BYTES), MOST_FILE_BYTES)
            response = np.asarray(stored["response"], np.float32)
            gain_db, ratio_db = float(stored["gain_db"]), float(stored["signal_to_noise_db"])
            rate_hz = int(stored["rate_hz"])
        except FileNotFoundError:
            raise BadPath(f"{file}: there is no calibration; {again}") from None
        except files.BadFile as error:
            raise BadPath(f"{error}; {again}") from None
        except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds over a broken archive
            raise BadPath(f"{file}: this is not a calibration ({type(error).__name__}); {again}") from None
        fits = response.ndim == 1 and HOP_SAMPLES < len(response) <= LONGEST_RESPONSE_SAMPLES and rate_hz == RATE_HZ
        if not fits or not np.isfinite(response).all() or not response.any() or not math.isfinite(gain_db):
            raise BadPath(f"{file}: this calibration cannot be used; {again}")
        return cls(response, gain_db, ratio_db)
