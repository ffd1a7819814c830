"""One engine alone on a sound file: no high-pass, gate or limiter around it.

    .venv/bin/python docs/examples/clean_file.py tests/sounds/noisy/rain_en_5dB.flac cleaned.wav [ENGINE]

ENGINE is "auto" or one of the names that `python -m edge.engines` lists. `quietbox enhance` does the same with the
whole signal path, for any sample rate and any number of files.
"""

import sys

import numpy as np
import soundfile

from edge import HOP_SAMPLES, RATE_HZ
from edge.config import Config
from edge.engines import AUTO, BY_NAME
from edge.suppress import BadModel, open_engine


def main(source: str, target: str, name: str = "auto") -> None:
    sound, rate_hz = soundfile.read(source, dtype="float32")
    if rate_hz != RATE_HZ or sound.ndim > 1:
        sys.exit(f"{source}: {rate_hz} Hz, {sound.shape}; engines take 16 kHz mono, `quietbox enhance` takes all")
    if name not in (AUTO, *BY_NAME):
        sys.exit(f"there is no engine {name!r}; there are {', '.join((AUTO, *BY_NAME))}")
    # noise goes down by at most limit_db; required: no other engine instead, but one line that says what is missing
    try:
        engine = open_engine(name, Config().suppress.limit_db, required=name != AUTO)
    except BadModel as refusal:
        sys.exit(str(refusal))
    padded = np.append(sound, np.zeros(-len(sound) % HOP_SAMPLES + engine.delay_samples, np.float32))
    padded = padded[: len(padded) // HOP_SAMPLES * HOP_SAMPLES]
    speech = [engine.process(hop) for hop in padded.reshape(-1, HOP_SAMPLES)]  # in place
    soundfile.write(target, padded[engine.delay_samples :], RATE_HZ)
    delay_ms = 1000 * engine.delay_samples / RATE_HZ
    print(f"{target}: {engine.name}, delay {delay_ms:g} ms removed, speech in {np.mean(np.array(speech) > 0.5):.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
