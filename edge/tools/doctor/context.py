"""What every check looks at: the machine, and what earlier checks have found out about it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.config import CaptureConfig, Config, PlaybackConfig
from edge.devices.mixer import Level
from edge.tools import probe_process
from edge.tools.device_probe import MicrophoneProbe, OutputProbe
from edge.tools.probe_process import ProbeFailure
from hw.board import boards


@dataclass
class Context:
    """One machine, examined from the first check to the last."""

    config_file: Path | None = None
    seconds: float = 5.0
    """How long the microphone is recorded."""
    sound: bool = True
    """Whether the sound cards may be used."""
    root: Path = boards.ROOT
    """Where the files of the machine lie; other than / it has no service manager to query."""
    probe_microphone: Callable[[CaptureConfig, float], MicrophoneProbe | ProbeFailure] = (
        probe_process.microphone_in_child
    )
    probe_output: Callable[[PlaybackConfig, float], OutputProbe | ProbeFailure] = probe_process.output_in_child
    read_mixer: Callable[[str], list[Level] | ProbeFailure] = probe_process.mixer_in_child
    """The last reads the volume controls of an output."""
    config: Config = field(default_factory=Config)
    """The settings, once the check of their file has read them."""
    running: dict[str, Any] = field(default_factory=dict)
    """Status of the running box; empty if none runs."""
    heard_enough: bool = False
    """Whether the running box has heard enough to be judged by its own figures."""
    unit: dict[str, str] = field(default_factory=dict)
    """What systemd reports of the service; empty where there is none."""

    def __post_init__(self) -> None:
        self.here = self.root == boards.ROOT
        self.proc, self.dev = self.root / "proc", self.root / "dev"
        self.board = boards.this_board(self.root)

    @property
    def cards_in_use(self) -> bool:
        """Whether the running box has taken its cards."""
        return bool(self.running) and self.running.get("state") != "waiting"
