"""Cards that grant few or long periods: longer ones are asked for before a short buffer is accepted, and what waits
for a period waits as long as that takes.

An ALSA buffer holds what is beyond the period in progress. Of two periods of 10 ms that is 10 ms, less than a late hop.
"""

import math
from dataclasses import replace

from edge.devices.pcm import DeviceError, Direction, OpenPcm, Pcm, StreamParams

STALL_MS = 250.0
"""A card with short periods that moves nothing for so long has stalled."""
STALL_PERIODS = 3
"""With long ones: a period in progress, one that is late, and some reserve."""
MOST_STALL_MS = 4000.0
"""The service's watchdog ends it after 5 s without progress (WatchdogSec in quietbox.service)."""


def period_ms(params: StreamParams) -> float:
    return 1000 * params.period_frames / params.rate_hz


def stall_ms(params: StreamParams) -> float:
    """How long a card with these parameters may move nothing; 8192 frames at 16 kHz alone are half a second."""
    return min(max(STALL_MS, STALL_PERIODS * period_ms(params)), MOST_STALL_MS)


def room_ms(params: StreamParams) -> float:
    """What the buffer holds beyond the period in progress."""
    return 1000 * (params.buffer_frames - params.period_frames) / params.rate_hz


def with_room(open_device: OpenPcm, device: str, direction: Direction, pcm: Pcm, needed_ms: float) -> Pcm:
    """``pcm``, or the device opened again with longer periods if fewer than requested were granted, so that its buffer
    holds ``needed_ms`` beyond one period; with the parameters of ``pcm`` where asking again brings nothing. Raises
    DeviceError if another process takes the device meanwhile.
    """
    first = pcm.granted
    if room_ms(first) >= needed_ms:
        return pcm
    periods = max(2, first.periods)
    longer = replace(first, period_frames=math.ceil(needed_ms * first.rate_hz / 1000 / (periods - 1)), periods=periods)
    if first.periods > 1 and longer.period_frames <= first.period_frames:
        return pcm
    pcm.close()
    try:
        again = open_device(device, direction, longer)
    except DeviceError:
        return open_device(device, direction, first)
    if again.granted.same_samples(first) and room_ms(again.granted) > room_ms(first):
        return again
    again.close()
    return open_device(device, direction, first)
