"""The product on the machine's disk: wheels collected here, `install.sh` run in there, since there is no network."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hw
from hw.virtual.pi.kernel import BuildFailed
from hw.virtual.pi.machine import Boot, boot, job

CHECKOUT = Path(hw.__path__[0]).parent
SHIPPED: tuple[str, ...] = ("edge", "hw", "models", "quant", "systemd", "pyproject.toml", "requirements.lock")
SHIPPED += ("README.md", "LICENSE", "install.sh")
INSTALL_LIMIT_S = 600.0
TRIES = 3
KEPT = 3
"""Installations of this many states of the checkout stay in the cache."""
SETTINGS = """[capture]
device = "Microphone"
[playback]
device = "Headphones"
volume_db = 0
"""
"""Loop-back cards are never taken by themselves; sound is compared at full level."""
INSTALL = f"""
set -x
cd /share/checkout && ./install.sh --board --wheels /share/wheels || exit
cat > /etc/quietbox/quietbox.toml <<'END'
{SETTINGS}END
systemctl restart quietbox.service
systemctl --no-pager status quietbox.service
systemctl stop quietbox.service
rm -rf /var/log/journal
sync
"""


def sources() -> Iterator[Path]:
    """Every file that an installation takes from this checkout; of this folder, which no board needs, the name only."""
    here = Path(__file__).parent
    for name in SHIPPED:
        top = CHECKOUT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            idle = "__pycache__" in path.parts or path.suffix == ".pt" or here.name in path.parent.parts
            if path.is_file() and (not idle or path == here / "__init__.py"):
                yield path


def fingerprint(disk: Path) -> str:
    """Changes with the product and with the disk it is installed on."""
    made = hashlib.sha256(disk.name.encode() + INSTALL.encode())
    for path in sources():
        made.update(str(path.relative_to(CHECKOUT)).encode() + b"\0" + path.read_bytes())
    return made.hexdigest()[:12]


def layer_path(cache: Path, disk: Path) -> Path:
    """Where the disk's layer with the product lies once it is made."""
    return cache / f"installed-{fingerprint(disk)}.cow"


def installed(cache: Path, kernel: Path, disk: Path) -> tuple[Path, str]:
    """The disk's layer with the product installed by `install.sh` in a boot of its own, and how that went.

    Raises BuildFailed with the installer's last words.
    """
    name = fingerprint(disk)
    layer, account = layer_path(cache, disk), cache / f"installed-{name}.txt"
    if layer.exists() and account.exists():
        return layer, account.read_text()
    share = cache / f"installing-{name}"
    for attempt in range(1, TRIES + 1):  # noqa: B007
        shutil.rmtree(share, ignore_errors=True)
        share.mkdir()
        wheels(share)
        job(share, INSTALL)
        ended = boot(kernel, disk, share / "layer", share, limit_s=INSTALL_LIMIT_S)
        if ended.status == 0:
            break
        if ended.status is not None:
            raise BuildFailed(f"install.sh failed in the machine: {_last_words(share)} (all of it: {share}/stdout)")
    else:
        raise BuildFailed(f"the machine never ended installing; see {share}/console")
    account.write_text(_in_words(ended, attempt))
    (share / "layer").rename(layer)
    shutil.copy(share / "stdout", cache / f"installed-{name}.log")
    shutil.rmtree(share)
    for old in sorted(cache.glob("installed-*.cow"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
        for path in cache.glob(f"{old.stem}.*"):
            path.unlink()
    return layer, account.read_text()


def wheels(share: Path) -> None:
    """Copy the checkout's files to ``share/checkout`` and everything it needs to ``share/wheels``."""
    for path in sources():
        target = share / "checkout" / path.relative_to(CHECKOUT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    command = ["./install.sh", "--collect-wheels", str(share / "wheels")]
    done = subprocess.run(command, cwd=share / "checkout", capture_output=True, text=True)
    (share / "wheels.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BuildFailed(f"install.sh --collect-wheels failed: {last}")


def _in_words(ended: Boot, attempt: int) -> str:
    again = "" if attempt == 1 else f"; try {attempt}"
    return f"{ended.seconds:.0f} s with boot and power-off{', which hung' if ended.hung else ''}{again}"


def _last_words(share: Path) -> str:
    lines = [line for name in ("stdout", "stderr") for line in (share / name).read_text().splitlines()]
    spoken = [line for line in lines if line and not line.startswith("+")]
    return spoken[-1] if spoken else "no output"
