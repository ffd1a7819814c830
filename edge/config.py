"""The settings: all sections in one frozen dataclass, and what follows from several of their keys.

``edge.sections`` defines each key, ``edge.config_file`` reads and checks the TOML file that sets them. ``python -m
edge.config`` prints the documented file that ships as ``edge/quietbox.toml``.
"""

import dataclasses
import runpy
from dataclasses import dataclass, field, replace
from typing import Any

from edge import engines
from edge.sections import (
    USB_CARD,
    AntinoiseConfig,
    BoxConfig,
    BridgeConfig,
    CableConfig,
    CaptureConfig,
    EqConfig,
    FeedforwardConfig,
    GateConfig,
    HowlConfig,
    LimiterConfig,
    PanelConfig,
    PlaybackConfig,
    ReferenceConfig,
    RemoteConfig,
    SuppressConfig,
    VoiceConfig,
    WindowConfig,
)

__all__ = [
    "SECTIONS",
    "USB_CARD",
    "AntinoiseConfig",
    "BoxConfig",
    "BridgeConfig",
    "CableConfig",
    "CaptureConfig",
    "Config",
    "EqConfig",
    "FeedforwardConfig",
    "GateConfig",
    "HowlConfig",
    "LimiterConfig",
    "PanelConfig",
    "PlaybackConfig",
    "ReferenceConfig",
    "RemoteConfig",
    "SuppressConfig",
    "VoiceConfig",
    "WindowConfig",
    "beside_reference",
    "with_engine",
]


@dataclass(frozen=True)
class Config:
    """Everything; the sections stand in the order a sample meets them."""

    capture: CaptureConfig = field(default_factory=CaptureConfig)
    feedforward: FeedforwardConfig = field(default_factory=FeedforwardConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    suppress: SuppressConfig = field(default_factory=SuppressConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)
    eq: EqConfig = field(default_factory=EqConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    antinoise: AntinoiseConfig = field(default_factory=AntinoiseConfig)
    howl: HowlConfig = field(default_factory=HowlConfig)
    limiter: LimiterConfig = field(default_factory=LimiterConfig)
    playback: PlaybackConfig = field(default_factory=PlaybackConfig)
    cable: CableConfig = field(default_factory=CableConfig)
    box: BoxConfig = field(default_factory=BoxConfig)
    panel: PanelConfig = field(default_factory=PanelConfig)
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)

    @property
    def voice_channel(self) -> int | str:
        """The channel of the voice; with a reference, "auto" is the first other one."""
        if self.reference.channel and self.capture.channel == "auto":
            return beside_reference(self.reference.channel)
        return self.capture.channel

    @property
    def output(self) -> str:
        """The device that the box needs: the headphones, or the cable where that takes their place."""
        return self.playback.device if self.has_headphones else self.cable.pcm

    @property
    def has_headphones(self) -> bool:
        """Whether somebody listens to the output; without, the cable is a line output."""
        return self.playback.device != "off"

    @property
    def second_output(self) -> str:
        """The cable in addition to the headphones; empty if there is none."""
        return self.cable.pcm if self.has_headphones else ""

    @property
    def output_volume_db(self) -> float:
        """The volume of ``output``, dB, at most 0: a line output has full level."""
        return self.playback.volume_db if self.has_headphones else 0.0

    @property
    def without_volume(self) -> "Config":
        """The same with the volume at 0 dB, to compare everything else."""
        return replace(self, playback=replace(self.playback, volume_db=0.0))

    @property
    def without_live(self) -> "Config":
        """The same without what can change while the sound goes on, to compare everything else."""
        same = self.without_volume
        return replace(same, suppress=replace(same.suppress, limit_db=SuppressConfig().limit_db))

    @property
    def limiter_only(self) -> "Config":
        """The same devices with every stage of the chain off but the limiter, which is never off."""
        return replace(
            self,
            capture=replace(self.capture, channel=self.voice_channel),
            reference=replace(self.reference, channel=0),
            feedforward=replace(self.feedforward, highpass_hz=0, mains="off"),
            suppress=replace(self.suppress, engine="off"),
            eq=replace(self.eq, gain_db=0.0),
            gate=replace(self.gate, on=False),
        )


def with_engine(config: Config, engine: str) -> Config:
    """The settings with another engine; a model's path belongs to the kind of engine that it was set for."""
    suppress = config.suppress
    ours = [bool(engines.fallback_chain(name)) for name in (suppress.engine, engine)]
    model = suppress.model if suppress.engine == engine or all(ours) else SuppressConfig().model
    return replace(config, suppress=replace(suppress, engine=engine, model=model))


def beside_reference(reference: int) -> int:
    """The default channel of the voice with a reference on channel ``reference``; both count from 1."""
    return 2 if reference == 1 else 1


SECTIONS: dict[str, Any] = {section.name: section.default_factory for section in dataclasses.fields(Config)}


if __name__ == "__main__":
    runpy.run_module("edge.config_file", run_name="__main__")  # by name: that module imports this one
