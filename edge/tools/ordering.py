"""`quietbox bypass|mute|limit|volume|engine`: an order to the running box and, if asked, to its settings file."""

from pathlib import Path

from edge import UserError, config_edit, config_file, orders
from edge.orders import NotObeyed, Order

STARTS = {"bypass on": "bypass", "mute on": "muted"}
"""What a box is told -> [box] start of one that is to begin so; anything else begins running."""


def order(verb: str, value: str, path: Path | None, *, keep: bool) -> str:
    """Have the running box obey; returns its answer. With ``keep`` it stands in the settings file ``path`` (None: the
    system's) afterwards, also where no box runs. Raises UserError."""
    wanted = orders.parse(f"{verb} {value}")
    if not keep:
        return orders.send(wanted)
    path = path or config_file.SYSTEM_FILE
    if not orders.is_running():
        if wanted.value in ("toggle", "up", "down"):
            raise NotObeyed(f"quietbox is not running, so {wanted} means nothing; start it or name a value")
        _keep(path, wanted, str(wanted))
        return f"{wanted}: kept in {path}; quietbox is not running"
    answer = orders.send(wanted)
    try:
        _keep(path, wanted, answer)
    except UserError as error:
        raise NotObeyed(f"{answer}, but {error}") from None
    return f"{answer}, kept in {path}"


def _keep(path: Path, wanted: Order, done: str) -> None:
    """``done`` names what the order came to: ``bypass on``, ``volume -20 dB``."""
    if wanted.verb in ("bypass", "mute"):
        config_edit.keep(path, "box", "start", STARTS.get(done, "running"))
    elif wanted.verb == "engine":
        config_edit.keep(path, "suppress", "engine", str(wanted.value))
    else:
        section, name = orders.SETTINGS[wanted.verb]
        config_edit.keep(path, section, name, float(done.split()[1]))
