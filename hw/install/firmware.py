"""The lines in the firmware's config.txt: put in, and taken out again."""

from collections.abc import Iterator
from pathlib import Path

from hw.board import boards, bootconfig
from hw.install import ledger
from hw.install.target import Step, Target, read_text, say


def steps(target: Target) -> Iterator[Step]:
    """The lines in config.txt."""
    path = bootconfig.find(target.root)
    wish = bootconfig.Wish(
        microphone=target.i2s.microphone,
        gadget=target.options.usb_microphone,
        jack=target.board.kind.jack is True,
        off=target.i2s.off,
        restore=target.i2s.restore,
    )
    if path is None:
        if target.board.is_pi or wish.microphone or wish.gadget:
            say("there is no config.txt below /boot: the overlays are not changed")
        return
    now = read_text(path)
    after = bootconfig.edit(now, wish, target.board.model, boards.beside(path))
    if after == now:
        return
    held = [line for line in bootconfig.block(after) if line in bootconfig.SETTINGS]
    off = "".join(f", {setting.line} off" for setting in wish.off)
    back = ", your lines on again" if wish.restore and bootconfig.restore(now) != now else ""
    yield Step(
        f"set in {target.named(path)}: {', '.join(held) or 'nothing more'}{off}{back} (needs a reboot)",
        lambda: put(target, path, after),
    )


def put(target: Target, path: Path, text: str) -> None:
    backup = path.with_name(bootconfig.BACKUP)
    target.ledger.config_txt = str(path.relative_to(target.root))
    target.ledger.save()
    if not backup.exists():
        ledger.write(backup, path.read_bytes())
    ledger.write(path, text.encode("utf-8", "surrogateescape"), path.stat().st_mode & 0o777)
    target.reboot = True


def restore(target: Target, path: Path) -> None:
    if path.is_file():
        now = read_text(path)
        after = bootconfig.undo(now)
        if after != now:
            ledger.write(path, after.encode("utf-8", "surrogateescape"), path.stat().st_mode & 0o777)
            say("config.txt changed: it takes effect at the next reboot")
    path.with_name(bootconfig.BACKUP).unlink(missing_ok=True)
    ledger.part_of(path).unlink(missing_ok=True)
    target.ledger.config_txt = ""
    target.ledger.save()
