"""The board's USB port as a microphone for a PC, up or down, as set: ``hw.board.gadget`` as a command.

    python -m edge.tools.usb_microphone up|down|status [--config FILE] [--root DIR]

``up`` (as root; ``quietbox-gadget.service`` runs it at boot) creates the gadget if the settings have
``[cable] usb = true``, else does nothing; with ``usb_orders = true`` a serial port for orders beside it. ``down``
removes it.
"""

import argparse
import sys
from pathlib import Path

from edge import UserError, config_file
from edge.console import run_main
from hw.board.gadget import Gadget


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done (or nothing to do), 1 it cannot be done, or ``status`` finds it down."""
    parser = argparse.ArgumentParser(
        prog="python -m edge.tools.usb_microphone", description="The box as a USB microphone for a PC."
    )
    parser.add_argument("order", choices=("up", "down", "status"))
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"settings (default: {config_file.SYSTEM_FILE})")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR", help="a folder to use instead of /")
    options = parser.parse_args(arguments)
    gadget = Gadget(options.root)
    try:
        if options.order == "up":
            cable = config_file.find(options.config).cable
            if not cable.usb:
                print("USB microphone: not wanted ([cable] usb = false)")
                return 0
            print(f"USB microphone: {gadget.up(serial=cable.usb_orders)}")
        elif options.order == "down":
            print(f"USB microphone: {gadget.down()}")
        else:
            print(f"USB microphone: {gadget.status()}")
            return 0 if gadget.bound_to else 1
        return 0
    except UserError as error:
        print(f"USB microphone: {error}", file=sys.stderr)
    except OSError as error:
        print(f"USB microphone: {error.filename}: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run_main(main, "USB microphone")
