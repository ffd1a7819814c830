"""Inside the machine: what the box plays, against what ``quietbox enhance`` makes of the same sound."""

import contextlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import proving
import soundfile
import stage
from numpy.polynomial import Polynomial
from proving import PAIR, SHARE, check, pair, xruns
from scipy.ndimage import median_filter
from scipy.signal import correlate, resample_poly
from stage import CABLE, JACK, LAG_S, SETTINGS, call, state, status, wait_for

from edge import RATE_HZ
from edge.dsp.spectrum import Floats
from hw.prove.demo import judge
from models.measures import si_sdr_db


def enhanced() -> str:
    """noisy speech into the microphone comes out enhanced, as from `quietbox enhance`"""
    (live,), alike = heard_at(JACK)
    return check(live.good, f"{live.words}; {status()['engine']}, {alike}")


def cable() -> str:
    """clean microphone for other programs: one records the virtual cable while the jack plays, then goes away"""
    with stage.settings(SETTINGS.read_text() + '\n[cable]\ndevice = "Cable"\n'):
        time.sleep(2)
        wait_for(lambda: state() == "running", 60)
        time.sleep(5)
        (jack, clean), alike = heard_at(JACK, CABLE)
        (after,), later = heard_at(JACK)
    return check(
        jack.good and clean.good and after.good,
        f"jack: {jack.words}; cable: {clean.words}; {alike}; with nobody at the cable the jack: {after.words}; {later}",
    )


def cable_only() -> str:
    """the cable instead of the jack"""
    text = re.sub(r"(?ms)^\[playback\].*?(?=^\[|\Z)", "", SETTINGS.read_text())
    with stage.settings(text + '\n[playback]\ndevice = "off"\n[cable]\ndevice = "Cable"\n'):
        time.sleep(2)
        wait_for(lambda: state() == "running", 60)
        time.sleep(5)
        (live,), alike = heard_at(CABLE)
        silent = not (Path("/proc/asound") / JACK / "pcm0p/sub0/hw_params").read_text().startswith("access")
    return check(live.good and silent, f"{live.words}; {alike}; the jack is {'left alone' if silent else 'open'}")


def gadget() -> str:
    """the USB microphone: taken by the kernel, seen by the PC's driver at its other end, reported while nobody reads it

    The controller (dummy_hcd) is both ends of one cable and carries no audio transfers, so nothing can be recorded.
    """
    with stage.settings(SETTINGS.read_text() + "\n[cable]\nusb = true\n"):
        call("systemctl", "restart", "quietbox-gadget.service")
        try:
            wait_for(lambda: state() == "running", 60)
            wait_for(lambda: "quietbox" in Path("/proc/asound/cards").read_text().lower(), 20)
            port = call("/opt/quietbox/current/bin/python", "-m", "edge.tools.usb_microphone", "status")
            cards = re.findall(r"^ *(\d+) \[(\w+) *\]: (.*)$", Path("/proc/asound/cards").read_text(), re.M)
            number, _, name = next(card for card in cards if "USB-Audio" in card[2])
            offer = Path(f"/proc/asound/card{number}/stream0").read_text()
            wait_for(lambda: status().get("cable_state") in ("playing", "unread"), 20)
            report = status()
        finally:
            call("systemctl", "stop", "quietbox-gadget.service")
    left = [*Path("/sys/kernel/config/usb_gadget").iterdir()]
    capture = offer[offer.find("Capture:") :]
    wanted = ("Format: S16_LE", "Channels: 1", "Rates: 48000")
    return check(
        "configured" in port and "Capture:" in offer and all(word in capture for word in wanted) and not left,
        f"{port}; the PC's driver made of it {name!r}: {', '.join(wanted)}; the box reports its cable as "
        f"{report['cable_state']!r} and is {report['state']}; removed without a trace",
    )


@dataclass(frozen=True)
class Verdict:
    """What came out at one place, against what `quietbox enhance` makes of the same sound."""

    good: bool
    words: str


def heard_at(*cards: str) -> tuple[list[Verdict], str]:
    """Play noisy speech into the microphone and listen at these cards; and what was lost on the way, in words."""
    clean, noisy = pair()
    call("quietbox", "enhance", str(SHARE / "sounds" / "noisy" / f"{PAIR}.flac"), "-o", "/run/file.wav")
    from_file = soundfile.read("/run/file.wav", dtype="float32")[0]
    with contextlib.ExitStack() as stack:
        recorders = [stack.enter_context(stage.Recorder(card)) for card in cards]
        time.sleep(5)  # the machine has to calm down: its clock stumbles when programs start
        begins, before = [recorder.now() for recorder in recorders], xruns()
        time.sleep(proving.speaker.play(noisy) + 1 + LAG_S)
        sounds = [recorder.since(begin) for recorder, begin in zip(recorders, begins, strict=True)]
        lost = [now - then for now, then in zip(xruns(), before, strict=True)]
    found = []
    for card, heard in zip(cards, sounds, strict=True):
        soundfile.write(SHARE / f"heard-{card}.wav", heard, RATE_HZ)
        live = lined_up(heard, from_file)
        file, box = judge(clean, noisy, from_file), judge(clean, noisy, live)
        good = abs(box.si_sdr_after_db - file.si_sdr_after_db) < 1 and box.noise_removed_db > file.noise_removed_db - 3
        words = (
            f"SI-SDR {box.si_sdr_before_db:.1f} -> {box.si_sdr_after_db:.1f} dB (file {file.si_sdr_after_db:.1f}), "
            f"noise removed {box.noise_removed_db:.1f} dB (file {file.noise_removed_db:.1f}), "
            f"against the file {si_sdr_db(from_file, live):.1f} dB"
        )
        found.append(Verdict(good, words))
    return found, f"xruns {lost[0]} in {lost[1]} out, {lost[2]} hops dropped"


def lined_up(heard: Floats, wanted: Floats) -> Floats:
    """The part of ``heard`` that lies on ``wanted``, stretched as it takes.

    The box follows the jack's clock: after a start it steers by some hundred ppm until its queue stands right, and
    SI-SDR does not forgive the half sample that this is in every 100 ms.
    """
    start = int(correlate(heard, wanted, "full", "fft").argmax()) - (len(wanted) - 1)
    check(0 <= start <= len(heard) - len(wanted), "what was played is not in the recording")
    fine, slack, block = 8, RATE_HZ // 50, RATE_HZ // 10
    finely = resample_poly(np.pad(heard, slack)[start : start + len(wanted) + 2 * slack], fine, 1)
    centres, lags = [], []
    for begin in range(0, len(wanted) - block, block // 2):
        target = wanted[begin : begin + block]
        sparse = np.zeros(fine * block, np.float32)
        sparse[::fine] = target
        nearby = finely[fine * begin : fine * (begin + block + 2 * slack)]
        lag = int(correlate(nearby, sparse, "valid", "fft").argmax())
        found = nearby[lag : lag + fine * block : fine]
        if np.dot(found, target) > 0.98 * np.linalg.norm(found) * np.linalg.norm(target) > 0:
            centres.append(begin + block / 2)
            lags.append(lag)
    check(len(lags) > 10, "what was played is hardly like what the file became")
    at, lag_there = np.array(centres), np.array(lags)
    drift = Polynomial.fit(at, median_filter(lag_there, 9, mode="mirror"), 4)
    sound = np.abs(drift(at) - lag_there) < 4 * fine  # a vowel is like itself a period later
    drift = Polynomial.fit(at[sound], lag_there[sound], 6)  # steering is slow
    samples = np.arange(len(wanted))
    places = fine * samples + drift(samples)
    return np.interp(places, np.arange(len(finely)), finely).astype(np.float32)
