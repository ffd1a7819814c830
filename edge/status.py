"""What the box reports of itself, by the names of the journal's fields: for the status file and the statistics."""

import os
import resource
import time
from typing import Any

from edge import HOP_MS
from edge.box import Box
from edge.chain import Chain
from edge.config import Config
from edge.devices.cable import Cable, CableState
from edge.health import Counters, summary
from hw.board import boards


def of(box: Box, throttling: str) -> dict[str, Any]:
    """Everything `quietbox status` shows, counted since the start; a figure is None until something was measured.

    ``throttling`` is what the board reported last, in words.
    """
    figures = summary(box.health.totals)
    if box.health.totals.hops * HOP_MS <= box.config.capture.mute_ms:
        figures["level_in_dbfs"] = None  # the silence after a start is the box's own, not the microphone's
    return {
        "pid": os.getpid(),
        "state": box.state.value,
        "engine": box.chain.working,
        "microphone": box.capture.granted if box.playing else box.config.capture.device,
        "output": box.playback.granted if box.playing else box.config.output,
        "mixer": box.mixer.words,
        "realtime": realtime(box),
        "speaking": bool(box.chain.voice.speaking),
        **figures,
        "hop_max_us": round(box.health.longest_us) if box.health.totals.hops else None,
        **counts(box),
        **moment(box),
        "mains_hz": box.chain.feedforward.mains_hz,
        "throttling": throttling,
    }


def realtime(box: Box) -> str:
    """The scheduling class of the audio thread."""
    return "SCHED_FIFO" if box.has_realtime_priority else "no"


class Mark:
    """All counters at one moment."""

    def __init__(self, totals: Counters, counts: dict[str, int], cpu_s: float, at_s: float) -> None:
        self.totals, self.counts, self.cpu_s, self.at_s = totals, counts, cpu_s, at_s

    @classmethod
    def of(cls, box: Box) -> "Mark":
        return cls(box.health.totals.copy(), counts(box), time.process_time(), time.monotonic())

    def since(self, before: "Mark") -> dict[str, Any]:
        """The figures of the time between; without sound there is neither level nor speech."""
        figures = summary(self.totals.since(before.totals))
        if not figures["seconds"]:
            figures = {"seconds": 0.0}
        # New settings may have brought new devices, which count from 0.
        added = {name: count - before.counts.get(name, 0) for name, count in self.counts.items()}
        added = {name: self.counts[name] if more < 0 else more for name, more in added.items()}
        share = (self.cpu_s - before.cpu_s) / max(self.at_s - before.at_s, 1e-3)
        return {**figures, **added, "cpu_share": round(share, 3)}


def counts(box: Box) -> dict[str, int]:
    """What devices and stages count themselves; a stage that is not there counts nothing."""
    found = {
        "xruns_in": box.capture.xruns,
        "xruns_out": box.playback.xruns,
        "dropped_hops": box.playback.dropped,
        "clips": box.capture.clips,
    }
    if box.chain.reference:
        found["reference_resets"] = box.chain.reference.resets
    if box.chain.howl:
        found["howl_events"] = box.chain.howl.events
    return found


def moment(box: Box) -> dict[str, Any]:
    """Present values; None until sound has moved that could show them."""
    heard = box.health.totals.hops > 0
    return {
        **_volume(box.config),
        "queue_ms": round(box.playback.queue_ms, 1) if heard else None,
        "drift_ppm": round(box.playback.drift_ppm, 1) if heard else None,
        "latency_ms": round(latency_ms(box), 1) if heard else None,
        **_adaptive_stages(box.chain),
        **box.chain.engine.counters(),
        **_cable(box.cable),
        "temperature_c": boards.temperature_c(),
        "memory_mb": round(_memory_mb(), 1),
    }


def _volume(config: Config) -> dict[str, Any]:
    """Nothing where only a cable is played to."""
    return {"volume_db": config.playback.volume_db} if config.has_headphones else {}


def _adaptive_stages(chain: Chain) -> dict[str, Any]:
    """Present state of the adaptive stages; nothing of those that are not there."""
    found: dict[str, Any] = {}
    if chain.reference:
        found["reference_db"] = round(chain.reference.attenuation_db, 1)
        found["reference_state"] = chain.reference.state
    if chain.antinoise:
        found["antinoise_tones_hz"] = " ".join(f"{tone_hz:.1f}" for tone_hz in chain.antinoise.tones_hz)
        found["antinoise_db"] = round(chain.antinoise.attenuation_db, 1)
    if chain.howl:
        found["howl_drop_db"] = round(chain.howl.gain_drop_db, 1)
    return found


def _cable(cable: Cable) -> dict[str, Any]:
    """State and counters of the cable since the start; nothing where there is none."""
    if cable.state is CableState.OFF:
        return {}
    return {
        "cable_state": cable.state.value,
        "cable_xruns": cable.xruns,
        "cable_dropped": cable.dropped,
        "cable_failures": cable.failures,
        "cable_queue_ms": round(cable.queue_ms, 1),
        "cable_drift_ppm": round(cable.drift_ppm, 1),
    }


def _memory_mb() -> float:
    """Resident memory of this process, MB."""
    with open("/proc/self/statm", encoding="ascii") as pages:
        return int(pages.read().split()[1]) * resource.getpagesize() / 1e6


def in_words(figures: dict[str, Any]) -> str:
    """The figures of a time with sound, as one line."""
    removed_db = figures["noise_removed_db"]
    removed = "noise removed not measured" if removed_db is None else f"noise removed {removed_db:g} dB"
    return (
        f"{figures['seconds']:g} s, in {figures['level_in_dbfs']:g} dBFS, "
        f"out {figures['level_out_dbfs']:g} dBFS, {removed}, "
        f"speech {figures['speech_share']:.0%}, "
        f"hop p50 {figures['hop_p50_us']:g} p99 {figures['hop_p99_us']:g} max {figures['hop_max_us']:g} us, "
        f"late {figures['late_hops']}, xruns {figures['xruns_in']} in {figures['xruns_out']} out, "
        f"dropped {figures['dropped_hops']}, "
        f"queue {figures['queue_ms']:.1f} ms, drift {figures['drift_ppm']:+.0f} ppm"
    )


def latency_ms(box: Box) -> float:
    """Microphone to jack, calculated: capture, chain, playback."""
    return box.capture.latency_ms + box.chain.latency_ms + box.playback.latency_ms
