"""The LED's fault pattern for some seconds, before the service takes the LED: the settings on the card were refused.

python -m hw.image.blink
"""

import time

from edge import config
from hw.image.settings import OUT
from hw.image.versions import warn
from hw.panel import Look, Panel

BLINK_S = 6.0


def blink(settings: config.PanelConfig, seconds: float = BLINK_S) -> None:
    """Without a panel the journal alone tells."""
    panel = Panel(settings, lambda: Look.FAST, lambda: None, lambda: None, warn)
    panel.start()
    time.sleep(seconds)
    panel.stop()


if __name__ == "__main__":
    blink(config.load(OUT).panel)
