"""The LED's fault pattern for some seconds, before the service takes the LED: the settings on the card were refused.

python -m hw.image.blink
"""

import time

from edge import UserError, config, config_file
from edge.console import run_main
from hw.board.led import LedPattern
from hw.board.panel import Panel
from hw.image.settings import OUT
from hw.image.versions import warn

BLINK_S = 6.0


def blink(settings: config.PanelConfig, seconds: float = BLINK_S) -> None:
    """Without a panel there is the journal only."""
    panel = Panel(settings, lambda: LedPattern.FAST, lambda: None, lambda: None, warn)
    panel.start()
    time.sleep(seconds)
    panel.stop()


def pins() -> config.PanelConfig:
    """As the settings say that the box starts with; the usual ones if there are none."""
    try:
        return config_file.load(OUT).panel
    except UserError:
        return config.PanelConfig()


if __name__ == "__main__":
    run_main(lambda: blink(pins()), "blink")
