"""What a box finds out about itself at its first boot: microphone, output, LED and button.

Written once to the data partition, and anew when the card is put into another board. It counts only where the user's
file says nothing. A USB microphone needs no entry: the box finds it by itself, also when it comes later.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from edge.devices import cards
from hw.board import boards, configtxt, hats, i2s
from hw.board.pins_taken import Header

ROOT = Path("/")
MEMS = "quietboxmic"
"""The id of the card that overlays/quietbox-microphone.dts makes; it is always there, wired or not."""
MEMS_GAIN_DB = 24.0
Tables = dict[str, dict[str, object]]


def look(root: Path = ROOT) -> Tables:
    """The settings that this board asks for; all that is left out takes its default."""
    listed = cards.list_cards(proc=root / "proc", dev=root / "dev")
    heard = {card.id for card in listed if any(p.direction == "capture" and p.looks_like for p in card.ports)}
    played = {card.id for card in listed if any(p.direction == "playback" and p.looks_like for p in card.ports)}
    values: Tables = {}
    if MEMS in {card.id for card in listed} and not heard - {MEMS}:
        values["capture"] = {"device": MEMS, "gain_db": MEMS_GAIN_DB}
    if len(played) == 1 and played == {"Headphones"}:
        values["playback"] = {"device": "Headphones"}
    claims, header = _on_header(root)
    own = [hat.card for claim in claims for hat in claim.hats if hat.inputs and hat.card in heard]
    if own:
        values["capture"] = {"device": own[0]}
    led, button = header.panel()
    if (led, button) != header.DEFAULTS:
        values["panel"] = {"led": led, "button": button}
    return values


def conflict(root: Path = ROOT) -> str:
    """What else has the I2S bus beside the image's own overlay, with the fix; empty where nothing has."""
    claims, _ = _on_header(root)
    text = boards.config_text(boards.this_board(root))
    mine = [one for one in configtxt.overlays(configtxt.obeyed(text, "")) if one.name in hats.OURS]
    if not claims or not mine:
        return ""
    line = mine[0].setting.line
    return (
        f"{i2s.in_one_line(claims)}; one I2S bus has one card: remove {line} from config.txt on the card, or the other"
    )


def _on_header(root: Path) -> tuple[tuple[i2s.Claim, ...], Header]:
    """(What claims the I2S bus, what is on the header)."""
    board, products = boards.this_board(root), boards.hat_products(root)
    text = boards.config_text(board)
    read = boards.beside(board.config_txt) if board.config_txt else configtxt.no_files
    claims = i2s.claims(text, board.model, read, products)
    return claims, i2s.header(text, board.model, claims, read, products)


def serial(root: Path = ROOT) -> str:
    """What distinguishes one board from another: its serial number; empty where the firmware gives none."""
    return _line(root / "proc/device-tree/serial-number")


def merged(user: Mapping[str, Mapping[str, object]], extra: Mapping[str, Mapping[str, object]]) -> Tables:
    """``user`` with the keys of ``extra`` that it does not set. A gain belongs to its device: once the user names a
    microphone, the one found has no say in that table."""
    result = {name: dict(keys) for name, keys in user.items()}
    for name, keys in extra.items():
        mine = result.get(name, {})
        if "device" in mine and "device" in keys:
            continue
        result[name] = {**keys, **mine}
    return result


def as_toml(tables: Mapping[str, Mapping[str, object]]) -> str:
    """Flat tables of texts, numbers and truths."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in keys.items())
        for name, keys in tables.items()
    )


def _line(path: Path) -> str:
    try:
        return path.read_bytes()[:200].split(b"\0")[0].decode(errors="replace").strip()
    except OSError:
        return ""
