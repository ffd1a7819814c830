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
import subprocess
import sys
from pathlib import Path

import numpy as np

from edge import UserError
from edge.console import run_main
from edge.files import atomic
from hw.virtual.players import Samples
from hw.virtual.rigs import ExactRig, NoVirtualSound, PacedRig


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
