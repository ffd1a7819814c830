"""The sections of the settings: one frozen dataclass per stage, each key with its unit, range and meaning.

``edge.config`` puts them together.
"""

from dataclasses import dataclass, field
from typing import Any

from edge import engines
from edge.engines import Family

OURS = engines.names(Family.OURS)


def key(
    default: Any, text: str, *, unit: str = "", low: float = 0, high: float = 0, choices: tuple[Any, ...] = ()
) -> Any:
    """One documented setting: numbers lie in low..high; ``choices`` are further values, or the only ones."""
    return field(default=default, metadata={"text": text, "unit": unit, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class CaptureConfig:
    """The microphone."""

    device: str = key(
        "auto",
        "card id, or id,device, as `quietbox devices` lists it, or any ALSA PCM name; auto: the best match",
    )
    channel: int | str = key(
        "auto", "channel of the microphone; auto: the one with a signal", low=1, high=32, choices=("auto", "mean")
    )
    gain_db: float = key(0.0, "fixed microphone gain; MEMS microphones need 20 to 30", unit="dB", low=-20, high=60)
    mute_ms: float = key(400.0, "muted at the start while the microphone's bias settles", unit="ms", low=0, high=5000)
    fade_ms: float = key(100.0, "fade-in after that", unit="ms", low=0, high=5000)
    period_ms: float = key(5.0, "period: the card delivers sound this often", unit="ms", low=1, high=50)
    periods: int = key(
        8, "periods in the card's buffer; more tolerate longer scheduling delays and add no latency", low=2, high=64
    )


@dataclass(frozen=True)
class FeedforwardConfig:
    """Feedforward stages: high-pass filter and mains hum canceller."""

    highpass_hz: float = key(1.0, "2nd-order Butterworth high-pass; 0: off", unit="Hz", low=1, high=400, choices=(0,))
    mains: str = key("auto", "mains hum to cancel", choices=("auto", "50", "60", "off"))


@dataclass(frozen=True)
class ReferenceConfig:
    """A second microphone that picks up noise and little voice, on another channel of the same card."""

    channel: int = key(0, "channel of the reference microphone, from 1; 0: none", low=1, high=32, choices=(0,))
    path_ms: float = key(
        64.0,
        "length of the adaptive filter: the longest path of noise to the voice microphone, echoes included",
        unit="ms",
        low=5,
        high=64,
    )


@dataclass(frozen=True)
class SuppressConfig:
    """The noise suppressor."""

    engine: str = key(
        "auto",
        f"auto: the first of {', '.join(OURS[:-1])} and {OURS[-1]} that works here; "
        f"from {engines.names(Family.THIRD_PARTY)[0]} on: third-party engines",
        choices=engines.CHOICES,
    )
    model: str = key(
        "quietbox",
        "a shipped network, or the path of a folder with your own; for another engine the path of its files",
    )
    limit_db: float = key(
        30.0, "maximum attenuation of noise; the one value to adjust by ear", unit="dB", low=0, high=100
    )
    sleep_s: float = key(
        2.0,
        "shipped networks stop computing after this long without speech and resume within a hop; 0: never",
        unit="s",
        low=0.5,
        high=600,
        choices=(0,),
    )


@dataclass(frozen=True)
class WindowConfig:
    """For engine = "window" with a mask network of your own (shipped networks contain their own sizes)."""

    window_ms: float = key(200.0, "time span of the network's input", unit="ms", low=10, high=2000)
    fft_samples: int = key(512, "FFT length; the network has half as many frequency bins, plus one", low=64, high=4096)
    hop_samples: int = key(128, "hop between frames, at 16 kHz", low=16, high=2048)
    taper: str = key("hann", "window function of a frame", choices=("hann", "sqrt-hann", "hamming"))
    logarithm: str = key("ln", "of the magnitudes; db is 20 log10", choices=("ln", "log10", "db"))
    log_floor: float = key(1e-3, "added to every magnitude before the logarithm; 1 makes ln a log1p", low=1e-9, high=10)
    step_frames: int = key(2, "frames by which the network's input advances", low=1, high=200)
    wait_frames: int | str = key(
        "all",
        "look-ahead: frames that a frame waits, to be part of more windows; each adds a hop of latency",
        low=0,
        high=500,
        choices=("all",),
    )
    floor_db: float = key(60.0, "spectral floor: no bin is turned down further", unit="dB", low=0, high=120)
    input_gain_db: float = key(0.0, "before the network", unit="dB", low=-40, high=40)
    output_gain_db: float = key(0.0, "after it", unit="dB", low=-40, high=40)


@dataclass(frozen=True)
class VoiceConfig:
    """Voice activity detection."""

    on: float = key(0.6, "speech begins above this probability", low=0, high=1)
    off: float = key(0.4, "speech ends below this probability", low=0, high=1)
    hold_ms: float = key(750.0, "hold time of the decision", unit="ms", low=0, high=5000)


@dataclass(frozen=True)
class GateConfig:
    """The soft gate: attenuates residual noise in pauses."""

    on: bool = key(True, "enables the gate")
    floor_dbfs: float = key(-70.0, "fully closed below this level", unit="dBFS", low=-120, high=0)
    ceiling_dbfs: float = key(-48.0, "fully open above this level", unit="dBFS", low=-120, high=0)
    hold_ms: float = key(800.0, "hold time after speech", unit="ms", low=0, high=5000)
    depth_db: float = key(30.0, "attenuation when fully closed", unit="dB", low=0, high=80)


@dataclass(frozen=True)
class EqConfig:
    """The voice-body equaliser: a band-pass boost."""

    gain_db: float = key(0.0, "presence boost; 0: off", unit="dB", low=0, high=12)
    low_hz: float = key(100.0, "lower edge", unit="Hz", low=50, high=1000)
    high_hz: float = key(1000.0, "upper edge", unit="Hz", low=200, high=4000)


@dataclass(frozen=True)
class AntinoiseConfig:
    """Plays steady tones phase-inverted; only for a microphone at the ear, and after `quietbox calibrate`."""

    on: bool = key(False, "enables anti-noise")
    calibration: str = key("/var/lib/quietbox/path.npz", "file that `quietbox calibrate` wrote")
    level_dbfs: float = key(-20.0, "maximum level of all anti-noise tones together", unit="dBFS", low=-60, high=-6)
    lowest_hz: float = key(40.0, "lowest frequency of a tone", unit="Hz", low=30, high=400)
    highest_hz: float = key(500.0, "highest frequency of a tone", unit="Hz", low=60, high=1000)
    tones: int = key(4, "maximum number of tones at a time", low=1, high=8)


@dataclass(frozen=True)
class HowlConfig:
    """Prevents acoustic feedback (howling) from an open headphone or a loudspeaker."""

    on: bool = key(False, "enables the howl guard")
    span_ms: float = key(100.0, "longest delay from output to microphone", unit="ms", low=20, high=200)


@dataclass(frozen=True)
class LimiterConfig:
    """Limits every sample, always last and never off. This is no hearing protection at full scale: set the volume."""

    threshold_dbfs: float = key(-2.0, "level above which the limiter attenuates", unit="dBFS", low=-40, high=0)
    peak_dbfs: float = key(-1.0, "ceiling of the output", unit="dBFS", low=-40, high=0)
    delay_ms: float = key(1.0, "look-ahead; adds to the latency", unit="ms", low=0, high=10)
    attack_ms: float = key(0.25, "attack time", unit="ms", low=0.05, high=100)
    release_ms: float = key(60.0, "release time", unit="ms", low=1, high=5000)


VOLUME_DB = -20.0
"""What ships: speech of usual level at some 74 dB SPL in the most sensitive headphones that are usual.

Assumed: a full-scale sine leaves the output with 1 V rms (a USB dongle; the Pi's jack gives less), the headphone makes
94 dB SPL of 75 mV (the most sensitive that EN 50332-2 allows beside a player), speech lies at -26 dBFS (the usual level
of ITU-T P.56), 23 dB below that sine: 71 mV, 94 dB SPL at 0 dB. ITU-T H.870 allows 80 dB(A) for 40 hours a week.
"""


@dataclass(frozen=True)
class PlaybackConfig:
    """The headphone output: the jack or another card."""

    device: str = key(
        "auto",
        "card id, or id,device, as `quietbox devices` lists it, or any ALSA PCM name; auto: the best match; off: the "
        "cable only",
    )
    volume_db: float = key(
        VOLUME_DB,
        "headphone volume, 0: full scale; set it before you put them on, raise it by 3 at a time; does not affect the "
        "cable",
        unit="dB",
        low=-60,
        high=0,
    )
    mixer: str = key(
        "auto",
        "auto: the card's own volume is set to 0 dB and unmuted at the start; off: not touched; or the name of one "
        "control",
    )
    channels: int | str = key(
        "all",
        "for a card with more than two channels: the first of the two that play, the others are silent; all: the same "
        "on every channel",
        low=1,
        high=32,
        choices=("all",),
    )
    queue_ms: float = key(
        25.0,
        "target of the output queue; less lowers the latency, more tolerates a busy system",
        unit="ms",
        low=5,
        high=500,
    )
    period_ms: float = key(
        10.0, "period of the output; the jack delivers in steps of 10 ms", unit="ms", low=1, high=100
    )
    periods: int = key(4, "periods in the card's buffer", low=2, high=64)
    clock: str = key(
        "auto",
        "whether microphone and output share one clock; auto: only if both are the same card",
        choices=("auto", "shared", "own"),
    )


USB_CARD = "UAC1Gadget"
"""The card that the kernel makes of a USB audio gadget, class 1 (``hw.board.gadget``)."""


@dataclass(frozen=True)
class CableConfig:
    """The cleaned microphone for other programs, beside the headphone output or instead of it."""

    device: str = key(
        "off", "card id or ALSA PCM name of a virtual cable (Loopback, by snd-aloop), or of the USB gadget; off: none"
    )
    usb: bool = key(
        False, "makes the board's USB port (Zero 2, 4, 5) a microphone for a PC; cable.device must be off then"
    )
    usb_orders: bool = key(
        False,
        "lets that PC give orders, too, by a serial port (/dev/ttyACM0, COM) beside the microphone; needs usb",
    )
    queue_ms: float = key(25.0, "target of the cable's queue", unit="ms", low=5, high=500)

    @property
    def pcm(self) -> str:
        """The device that carries the cable; empty if there is none."""
        if self.device != "off":
            return self.device
        return USB_CARD if self.usb else ""


@dataclass(frozen=True)
class BoxConfig:
    """The processing loop."""

    priority: int = key(50, "SCHED_FIFO priority to request; 0: none", low=0, high=95)
    start: str = key(
        "running",
        "the box begins like this; `quietbox bypass on --keep` and `mute on --keep` set it",
        choices=("running", "bypass", "muted"),
    )
    fade_ms: float = key(20.0, "cross-fade of bypass and mute", unit="ms", low=5, high=500)
    retry_s: float = key(30.0, "delay before a failed or late engine is tried again", unit="s", low=1, high=3600)


@dataclass(frozen=True)
class PanelConfig:
    """LED, button and knob."""

    led: int | str = key(17, "GPIO number (BCM) of the LED", low=2, high=27, choices=("off",))
    led_lit: str = key("high", "pin level that lights the LED", choices=("high", "low"))
    button: int | str = key(27, "GPIO number (BCM) of the button", low=2, high=27, choices=("off",))
    button_pull: str = key(
        "up", "pull-up: the button connects its pin to ground; down: to 3.3 V, never 5 V", choices=("up", "down")
    )
    long_press_ms: float = key(
        800.0, "a press this long mutes; a shorter one turns bypass on or off", unit="ms", low=300, high=5000
    )
    knob: str = key(
        "off",
        "what a rotary encoder on two pins changes while the box runs: 1.5 dB a detent, clockwise up; off: none",
        choices=("off", "volume", "limit"),
    )
    knob_clk: int = key(
        24,
        "GPIO number (BCM) of the encoder's terminal CLK, A on a bare one; swap the two if it turns the wrong way",
        low=2,
        high=27,
    )
    knob_dt: int = key(
        25, "GPIO number (BCM) of its terminal DT, or B; the third, GND or C, goes to ground", low=2, high=27
    )
    backend: str = key(
        "auto",
        "auto: the GPIO, if its library is installed; gpio: required; fake: simulated, for tests",
        choices=("auto", "gpio", "fake", "off"),
    )


@dataclass(frozen=True)
class RemoteConfig:
    """For engine = "remote": a bigger machine that runs `quietbox serve --boxes`."""

    server: str = key(
        "127.0.0.1:5557",
        "address:port of that machine; the service has no network access until the drop-in is installed",
    )
    server_key: str = key(
        "off", "the public key that `quietbox keys` printed on that machine; off is allowed on this machine only"
    )
    key_file: str = key("off", "this box's own secret key, made by `quietbox keys`; off only with server_key = off")
    budget_ms: float = key(
        60.0,
        "fixed latency of the engine; an answer that takes longer is replaced by the local network's",
        unit="ms",
        low=25,
        high=500,
    )


@dataclass(frozen=True)
class BridgeConfig:
    """For `quietbox serve`: the noise suppressor for another program, or for other boxes."""

    host: str = key("127.0.0.1", "the address it listens on; unless it is local, boxes need keys to connect")
    noisy_port: int = key(5555, "port to which a program pushes its noisy chunks", low=1, high=65535)
    clean_port: int = key(5556, "port from which it pulls the clean ones", low=1, high=65535)
    rate_hz: int = key(44100, "sample rate of those chunks", unit="Hz", low=8000, high=192000)
    boxes_port: int = key(5557, "port for boxes, with --boxes", low=1, high=65535)
    most_boxes: int = key(4, "maximum number of boxes at a time", low=1, high=64)
    key_file: str = key(
        "off", "the secret key of --boxes, made by `quietbox keys`; off is allowed on this machine only"
    )
    clients_file: str = key("off", "file with the public keys of the accepted boxes, one a line")
