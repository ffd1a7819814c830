"""Presets: named sets of the few keys that suit a place. One is a settings file like any other, with its purpose in the
first line; what it does not name goes back to its default.

Ours ship in ``edge/presets``; anyone adds theirs in ``FOLDER``. `python -m quant.presets` measures them.
"""

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import UserError, config_edit, config_file, files, runtime
from edge.config import SECTIONS, Config
from edge.files import toml

SHIPPED = Path(__file__).parents[1] / "presets"
FOLDER = Path("/etc/quietbox/presets")
"""Everybody's own; one here takes the place of ours with its name."""
FIGURES = "figures.json"
MOST_FIGURES_BYTES = 1 << 16
KEYS = {
    "feedforward": ("highpass_hz",),
    "suppress": ("limit_db",),
    "voice": ("hold_ms",),
    "eq": ("gain_db", "low_hz", "high_hz"),
    "gate": ("on", "floor_dbfs", "ceiling_dbfs", "hold_ms", "depth_db"),
}
"""What a preset may set: how the voice sounds, and neither device nor volume."""


class BadPreset(UserError):
    """There is none of that name, or it sets what it must not; the text says which there are."""


@dataclass(frozen=True)
class Preset:
    """One of them."""

    name: str
    text: str
    """What it is for."""
    path: Path
    values: dict[tuple[str, str], Any]
    """(section, key) -> value, for every key of ``KEYS``."""
    figures: dict[str, Any]
    """As measured, by recording; empty if nobody did."""

    @property
    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, as ``section.key``."""
        return {
            f"{section}.{name}": value
            for (section, name), value in self.values.items()
            if value != getattr(SECTIONS[section](), name)
        }

    def apply(self, config: Config) -> Config:
        """The settings with every key of the preset."""
        for section in KEYS:
            values = {name: value for (of, name), value in self.values.items() if of == section}
            made = dataclasses.replace(getattr(config, section), **values)
            config = dataclasses.replace(config, **{section: made})
        return config


def known() -> dict[str, Path]:
    """Name -> file of every preset, by name; raises BadPreset if none is there."""
    found = {path.stem: path for folder in (SHIPPED, FOLDER) for path in sorted(folder.glob("*.toml"))}
    if not found:
        raise BadPreset(f"no presets in {SHIPPED} and {FOLDER}; reinstall quietbox")
    return dict(sorted(found.items()))


def load(name: str) -> Preset:
    """One by its name. Raises BadPreset, or BadConfig."""
    paths = known()
    if name not in paths:
        raise BadPreset(f"no preset is called {name[:40]!a}; there are: {', '.join(paths)}")
    return read(paths[name])


def read(path: Path) -> Preset:
    """A preset's file. Raises BadPreset, or BadConfig."""
    config = config_file.load(path)
    text = toml.decode(files.read_bounded(path, toml.MOST_BYTES))
    for section, values in toml.parse(text).items():
        for key in values:
            if key not in KEYS.get(section, ()):
                raise BadPreset(f"{path}: a preset cannot set [{section}] {key}; take it out")
    first = text.partition("\n")[0]
    values = {(section, name): getattr(getattr(config, section), name) for section in KEYS for name in KEYS[section]}
    words = (
        first.lstrip("# ").strip() if first.startswith("#") else "no description; its first line should be a comment"
    )
    return Preset(path.stem, words, path, values, _figures(path))


def _figures(path: Path) -> dict[str, Any]:
    """What was measured with this very file; nothing if it has changed since."""
    with contextlib.suppress(OSError, UserError, ValueError, KeyError, TypeError, AttributeError):
        entry = json.loads(files.read_bounded(path.with_name(FIGURES), MOST_FIGURES_BYTES))[path.stem]
        if entry["sha256"] == digest(path):
            return dict(entry["recordings"])
    return {}


def digest(path: Path) -> str:
    """SHA-256 of a preset's file."""
    import hashlib  # only where figures are read or written

    return hashlib.sha256(files.read_bounded(path, toml.MOST_BYTES)).hexdigest()


def use(preset: Preset, settings: Path) -> str:
    """Write it into a settings file and have a running box read that; returns what was done. Raises UserError."""
    config_edit.keep_all(settings, _needed(preset, settings))
    done = f"preset {preset.name} stands in {settings}"
    status = runtime.read_status()
    if status is None:
        return f"{done}; quietbox is not running"
    try:
        os.kill(int(status["pid"]), signal.SIGHUP)
    except (OSError, KeyError, ValueError, TypeError):
        return f"{done}; to have the running box read it: sudo systemctl reload quietbox"
    return f"{done}, and the running box reads it"


def _needed(preset: Preset, settings: Path) -> Mapping[tuple[str, str], Any]:
    """The keys whose value in the file is another one, so that what is right is left alone."""
    now = config_file.load(settings) if settings.exists() else Config()
    return {
        (section, name): value
        for (section, name), value in preset.values.items()
        if getattr(getattr(now, section), name) != value
    }


def as_json(preset: Preset) -> dict[str, Any]:
    """Everything about one."""
    return {
        "name": preset.name,
        "text": preset.text,
        "file": str(preset.path),
        "changed": preset.changed,
        "figures": preset.figures,
    }


def in_words(preset: Preset) -> list[str]:
    """Everything about one, in lines."""
    lines = [f"{preset.name}: {preset.text}", f"file: {preset.path}", ""]
    lines += [f"{key} = {json.dumps(value)}" for key, value in preset.changed.items()] or ["as the box ships"]
    lines.append("")
    if not preset.figures:
        return [*lines, f"not measured; python -m quant.presets {preset.path} does, in a checkout"]
    lines.append("measured on the test recordings (python -m quant.presets):")
    for recording, figures in preset.figures.items():
        lines.append(f"  {recording}: {', '.join(f'{name} {value:g}' for name, value in figures.items())}")
    return lines
