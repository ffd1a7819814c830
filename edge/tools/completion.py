"""Completion of `quietbox` in bash and zsh: files that ship, written by `python -m edge.write_completion`.

`quietbox completion bash` prints one; the installer puts it where bash looks.
"""

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "completion"
SHELLS = ("bash", "zsh")


def shipped(shell: str) -> str:
    """The file of a shell, as it ships. Raises OSError."""
    return path_of(shell).read_text(encoding="utf-8")


def path_of(shell: str) -> Path:
    """Where it lies."""
    return FOLDER / f"quietbox.{shell}"
