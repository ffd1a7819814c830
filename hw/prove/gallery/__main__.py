"""`python -m hw.prove.gallery`: make the sounds, measure them, draw them, write the pages."""

import argparse
import io
import json
import time
from pathlib import Path

import numpy as np
import soundfile

from edge import RATE_HZ, UserError, version
from edge.config import Config
from edge.console import run_main
from edge.dsp.spectrum import Floats
from edge.files import atomic
from edge.tools.sounds.stream import Stream, aligned
from edge.tools.tables import show
from hw.prove import spectrogram
from hw.prove.demo import SOUNDS, judge
from hw.prove.gallery import pages
from hw.prove.gallery.recordings import RECORDINGS, SECONDS, Recording
from models.command import need
from models.measures import pesq_wb, stoi

GALLERY = Path(__file__).parents[3] / "docs" / "gallery"
COMPRESSION = 0.9
"""Of Ogg Vorbis, 0 best to 1 smallest: about 31 kbit/s here."""


def enhanced(noisy: Floats) -> tuple[Floats, str]:
    """What `quietbox enhance` makes of it with shipped settings, and the engine that did. Raises UserError where the
    engine failed and another took over."""
    stream = Stream(Config(), RATE_HZ)
    output = np.concatenate([*aligned(stream, [noisy])])
    if stream.degraded:
        raise UserError(f"the engine failed while processing: {stream.degraded}; correct that, and run this again")
    return output, stream.chain.engine.name


def measured(clean: Floats, noisy: Floats, output: Floats) -> dict[str, float]:
    """The figures of one recording; sounds of one length, lined up. SI-SDR and level as ``demo.judge`` has them."""
    outcome = judge(clean, noisy, output)
    noise = noisy.astype(float) - clean
    values = {
        "snr_db": (10 * np.log10(np.mean(clean.astype(float) ** 2) / np.mean(noise**2)), 1),
        "pesq_noisy": (pesq_wb(clean, noisy), 2),
        "pesq_output": (pesq_wb(clean, output), 2),
        "stoi_noisy": (stoi(clean, noisy), 3),
        "stoi_output": (stoi(clean, output), 3),
        "si_sdr_improvement_db": (outcome.si_sdr_after_db - outcome.si_sdr_before_db, 1),
        "noise_removed_db": (outcome.noise_removed_db, 1),
        "voice_kept_db": (outcome.speech_kept_db, 1),
    }
    return {name: round(float(value), digits) for name, (value, digits) in values.items()}


def shown(recording: Recording, folder: Path) -> tuple[pages.Found, str]:
    """Make one recording's files in ``folder``; its row for figures.json, and the engine."""
    clean, noisy = recording.sounds()
    output, engine = enhanced(noisy)
    figures = measured(clean, noisy, output)
    row = {"name": recording.name, "noise": recording.noise, "voice": recording.voice, **figures}
    sounds = dict(zip(pages.KINDS, (clean, noisy, output), strict=True))
    for kind, sound in sounds.items():
        keep_sound(folder / f"{recording.name}_{kind}.ogg", sound)
    spectrogram.draw(folder / f"{recording.name}.png", sounds, pages.caption(row))
    return row, engine


def keep_sound(path: Path, sound: Floats) -> None:
    """Write it as Ogg Vorbis. A file that decodes to the same stays as it is: every stream gets a random number, which
    would change the file and not the sound."""
    coded = io.BytesIO()
    soundfile.write(coded, sound, RATE_HZ, format="OGG", subtype="VORBIS", compression_level=COMPRESSION)
    if path.exists() and np.array_equal(decoded(path.read_bytes()), decoded(coded.getvalue())):
        return
    atomic.write(path, coded.getvalue())


def decoded(data: bytes) -> Floats:
    """Samples of a sound file in memory; none if it is not one."""
    try:
        sound: Floats = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    except soundfile.LibsndfileError:
        return np.zeros(0, np.float32)
    return sound


def commit() -> str:
    """As `quietbox --version` has it; "unknown" outside a repository."""
    _, _, found = version.version().partition("(commit ")
    return found.rstrip(")") or "unknown"


def make(folder: Path) -> pages.Found:
    """The whole gallery; raises UserError, OSError."""
    if not SOUNDS.is_dir():
        raise UserError(f"{SOUNDS} is missing: check out the whole project, this needs its test recordings")
    made_at = commit()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for recording in RECORDINGS:
        row, engine = shown(recording, folder)
        rows.append(row)
    found = {
        "command": "python -m hw.prove.gallery",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": made_at,
        "engine": engine,
        "seconds": SECONDS,
        "recordings": rows,
    }
    atomic.write(folder / "figures.json", (json.dumps(found, indent=1) + "\n").encode())
    atomic.write(folder / "README.md", pages.readme(found).encode())
    atomic.write(folder / "index.html", pages.index(found, folder).encode())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hw.prove.gallery", description="Make docs/gallery: sounds before and after, pictures, figures."
    )
    parser.add_argument("--out", type=Path, default=GALLERY, help="folder for the gallery (docs/gallery)")
    options = parser.parse_args()
    need("evaluate", "pesq", "pystoi")
    need("pictures", "matplotlib")
    found = make(options.out)
    show(pages.table(found))
    print(f"{options.out}/index.html and {options.out}/README.md")
    return 0


if __name__ == "__main__":
    run_main(main, "gallery")
