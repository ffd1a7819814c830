"""What a sample rate lets through: the pass-band of a conversion, and what a device's rate takes from speech."""

from edge import RATE_HZ


def band_edges_hz(rate_in_hz: int, rate_out_hz: int) -> tuple[float, float]:
    """(pass-band's end, stop-band's start): 7 and 8 kHz wherever the lower of the two rates is 16 kHz.

    The stop-band starts at half the lower rate, so nothing at all folds or mirrors into the band. Below 16 kHz the
    transition stays 1 kHz wide, which keeps the delay; above, it widens with the rate.
    """
    lower = min(rate_in_hz, rate_out_hz)
    return lower / 2 - max(1000.0, lower / 16), lower / 2


def lost_band(rate_hz: int) -> str:
    """What a device at ``rate_hz`` cannot carry of the 8 kHz between the converters, in words; empty if nothing."""
    pass_hz, stop_hz = band_edges_hz(rate_hz, RATE_HZ)
    if rate_hz >= RATE_HZ:
        return ""
    return (
        f"{rate_hz / 1000:g} kHz sampling: nothing above {stop_hz / 1000:g} kHz passes, unattenuated to "
        f"{pass_hz / 1000:g} kHz"
    )
