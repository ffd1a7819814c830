"""Inside the machine: one function a proof. Run by the product's own Python as root, one line of JSON a result.

    /opt/quietbox/current/bin/python /share/proofs.py NAME...

A proof returns what it measured in words, or raises ``Failed`` with them. The proofs lie in the files beside this one.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import proving
import stage
from proofs_boot import boots, no_microphone, read_only
from proofs_faults import (
    bad_model,
    bad_settings,
    busy_card,
    full_disk,
    jack_unplugged,
    killed,
    microphone_unplugged,
    watchdog,
)
from proofs_install import cut_off, uninstalled, upgraded, way_back
from proofs_long import drift, load, stalled, upkeep
from proofs_panel import button, doctor, journal_fields, led_follows, orders, security
from proofs_sound import cable, cable_only, enhanced, gadget
from proving import SHARE, Failed

from edge.console import run_main

RESULTS = SHARE / "results.jsonl"


@dataclass(frozen=True)
class Result:
    name: str
    passed: bool
    words: str
    seconds: float


PROOFS: dict[str, Callable[[], str]] = {
    proof.__name__: proof
    for proof in (
        boots,
        security,
        enhanced,
        cable,
        cable_only,
        gadget,
        led_follows,
        button,
        orders,
        journal_fields,
        microphone_unplugged,
        jack_unplugged,
        watchdog,
        killed,
        bad_model,
        bad_settings,
        busy_card,
        full_disk,
        doctor,
        no_microphone,
        read_only,
        drift,
        stalled,
        load,
        way_back,
        cut_off,
        upgraded,
        uninstalled,
        upkeep,
    )
}


def main() -> None:
    proving.speaker, proving.led = stage.Speaker(), stage.Led()
    for name in sys.argv[1:]:
        began = time.monotonic()
        try:
            if name not in ("boots", "no_microphone", "read_only"):
                stage.settled()
                time.sleep(1)
            words, passed = PROOFS[name](), True
        except Failed as failed:
            words, passed = str(failed), False
        except Exception as error:
            words, passed = f"{type(error).__name__}: {error}", False
        with RESULTS.open("a") as out:
            print(json.dumps(asdict(Result(name, passed, words, round(time.monotonic() - began, 1)))), file=out)


if __name__ == "__main__":
    run_main(main, "proofs")
