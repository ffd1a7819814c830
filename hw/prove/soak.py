"""Half an hour of live duplex on user-space ALSA with every core kept busy: does the box miss a beat?

    python -m hw.prove.soak --minutes 30

Noise goes into the microphone, the box cleans it in real time with SCHED_FIFO if it may, and as many busy loops as
there are cores compete with it. Prints one table; the exit status is 1 if a single xrun happened or hop was dropped.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from edge import RATE_HZ
from edge.console import run_main
from edge.tools.tables import show
from hw.prove.demo import quietbox, settings_file, wait_until_running
from hw.virtual.rigs import NoVirtualSound, PacedRig

LOOP_S = 20


def soak(minutes: float, burners: int) -> dict[str, Any]:
    """Run and return what the box says of itself at the end."""
    noise = np.round(1500 * np.random.default_rng(0).standard_normal(LOOP_S * RATE_HZ)).astype(np.int16)
    sound = np.tile(noise, int(60 * minutes / LOOP_S) + 2)
    load = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(burners)]
    with tempfile.TemporaryDirectory() as name, PacedRig(RATE_HZ) as rig:
        folder = Path(name)
        box = quietbox(folder, "run", "--config", settings_file(folder, rig.mic, rig.spk, "own"))
        try:
            wait_until_running(folder, box)
            rig.play(sound)
            for process in load:
                process.start()
            over = time.monotonic() + 60 * minutes
            while time.monotonic() < over and box.poll() is None:
                time.sleep(0.5)
            output, _ = quietbox(folder, "status", "--json").communicate()
        finally:
            for process in load:
                if process.is_alive():
                    process.kill()
            box.terminate()
            box.wait(5)
    status: dict[str, Any] = json.loads(output)
    return status


def _burn() -> None:
    while True:
        sum(range(10_000))


def main() -> int:
    parser = argparse.ArgumentParser(description="Live duplex under full CPU load.")
    parser.add_argument("--minutes", type=float, default=30.0, help="duration in seconds (30)")
    parser.add_argument("--burners", type=int, default=os.cpu_count() or 1, help="busy loops (one a core)")
    options = parser.parse_args()
    try:
        status = soak(options.minutes, options.burners)
    except NoVirtualSound as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    made = Table(title=f"{status['seconds'] / 60:.1f} minutes live, {options.burners} busy loops", title_justify="left")
    made.add_column("figure")
    made.add_column("value", justify="right")
    for name in (
        "xruns_in",
        "xruns_out",
        "late_hops",
        "hop_p50_us",
        "hop_p99_us",
        "hop_max_us",
        "queue_ms",
        "drift_ppm",
        "engine",
    ):
        made.add_row(name, str(status[name]))
    made.add_row("real-time priority", status["realtime"])
    show(made)
    return 1 if status["xruns_in"] + status["xruns_out"] + status["dropped_hops"] else 0


if __name__ == "__main__":
    run_main(main, "soak")
