"""Keys of a settings file changed in place: every other line, comment and blank stays as somebody wrote it."""

from collections.abc import Mapping
from pathlib import Path

from edge import UserError, config_file, files
from edge.files import atomic, toml
from edge.files.toml_edit import literal, with_key


class NotKept(UserError):
    """The file cannot be changed so; the text names it and what to do by hand."""


def keep(path: Path, section: str, name: str, value: str | float) -> None:
    """Set ``[section] name`` in the settings file ``path``, which is made if it is missing. The rest must be right
    before and after. Raises UserError."""
    keep_all(path, {(section, name): value})


def keep_all(path: Path, values: Mapping[tuple[str, str], str | float]) -> None:
    """The same for several keys, all or none."""
    if not values:
        return
    by_hand = "set " + ", ".join(
        f"{name} = {literal(value)} in [{section}]" for (section, name), value in values.items()
    )
    if path.is_symlink():
        raise NotKept(f"not kept for the next start: {path} is a link to {path.readlink()}; {by_hand} where it is made")
    try:
        text = toml.decode(files.read_bounded(path, toml.MOST_BYTES)) if path.exists() else ""
    except (OSError, UserError, toml.BadToml) as error:
        raise NotKept(f"not kept for the next start: {path} cannot be read ({error}); {by_hand} yourself") from None
    config_file.parse(text, str(path))
    for (section, name), value in values.items():
        text = with_key(text, section, name, literal(value))
    try:
        config = config_file.parse(text, str(path))
    except config_file.BadConfig as error:
        raise NotKept(f"not kept for the next start: {error}") from None
    if any(getattr(getattr(config, section), name) != value for (section, name), value in values.items()):
        raise NotKept(f"not kept for the next start: {path} sets it in a way of its own; {by_hand} yourself")
    try:
        atomic.write(path, text.encode())
    except OSError as error:
        raise NotKept(
            f"not kept for the next start: {path} cannot be written ({error.strerror}); run it with sudo"
        ) from None
