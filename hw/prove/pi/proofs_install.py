"""Inside the machine: the installer on the running box; what it takes lies in /share/checkout and /share/wheels."""

import contextlib
import io
import os
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

from proving import SHARE, check
from stage import SETTINGS, show, state, wait_for

from hw.install import ledger, wheels

OPT = Path("/opt/quietbox")
CHECKOUT = SHARE / "checkout"


def installer(*words: str) -> list[str]:
    """The command that the user types."""
    return [str(CHECKOUT / "install.sh"), "--board", "--wheels", str(SHARE / "wheels"), *words]


def install(*words: str) -> tuple[int, str]:
    """Exit status and last line of the installer."""
    done = subprocess.run(installer(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    with (SHARE / "installer.log").open("a") as log:
        log.write(done.stdout + done.stderr)
    lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
    return done.returncode, lines[-1]


def in_use() -> str:
    return os.readlink(OPT / "current")


@contextlib.contextmanager
def later_version(file: str, old: str, new: str) -> Iterator[None]:
    """A checkout in which the first ``old`` of a file has become ``new``, its wheel, and the list of sums beside it."""
    path, wheel = CHECKOUT / file, next((SHARE / "wheels").glob("quietbox-*.whl"))
    sums = SHARE / "wheels" / wheels.SUMS
    before, listed = (path.read_bytes(), wheel.read_bytes()), sums.read_text()
    collected = ledger.digest(wheel)
    path.write_text(path.read_text().replace(old, new, 1))
    try:
        with zipfile.ZipFile(io.BytesIO(before[1])) as held, zipfile.ZipFile(wheel, "w") as made:
            for name in held.namelist():
                made.writestr(name, path.read_bytes() if name == file else held.read(name))
        sums.write_text(listed.replace(collected, ledger.digest(wheel)))
        yield
    finally:
        path.write_bytes(before[0])
        wheel.write_bytes(before[1])
        sums.write_text(listed)


def way_back() -> str:
    """a new version that cannot start: the one before runs on"""
    before = in_use()
    with later_version("edge/service.py", "for refusal in lock_memory_and_freeze_gc():", "raise SystemExit(7)"):
        status, words = install()
    wait_for(lambda: state() == "running", 60)
    return check(
        status == 1 and "runs again" in words and in_use() == before and show("ActiveState")["ActiveState"] == "active",
        f"exit status {status}: {words}",
    )


def cut_off() -> str:
    """an upgrade killed at three moments: what ran runs on, the next try finishes"""
    before, moments_s = in_use(), (2.0, 6.0, 12.0)
    still = []
    with later_version("edge/__init__.py", '"""', '"""Later. '):
        for moment_s in moments_s:
            run = subprocess.Popen(
                installer(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(moment_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            still.append(in_use() == before and state() == "running")
        status, words = install()
    wait_for(lambda: state() == "running", 60)
    return check(
        all(still) and status == 0 and in_use() != before and os.readlink(OPT / "previous") == before,
        f"killed after {', '.join(f'{moment_s:g}' for moment_s in moments_s)} s, the box ran on; then: {words}",
    )


def upgraded() -> str:
    """a new version over the running box: settings kept; then nothing left to do"""
    SETTINGS.write_text(SETTINGS.read_text() + "# mine\n")
    settings, before = SETTINGS.read_bytes(), in_use()
    with later_version("edge/__init__.py", '"""', '"""Later still. '):
        status, words = install()
        wait_for(lambda: state() == "running", 60)
        after = in_use()
        again = subprocess.run(installer("--dry-run"), capture_output=True, text=True).stdout
    return check(
        status == 0
        and words.endswith("the box works")
        and after != before
        and SETTINGS.read_bytes() == settings
        and "planned steps" not in again,
        f"exit status {status}, {words}; {before} -> {after}, settings as they were; a second run has nothing to do",
    )


def uninstalled() -> str:
    """taken off the running box"""
    unit = Path("/etc/systemd/system/quietbox.service")
    status, words = install("--uninstall")
    left = [str(path) for path in (OPT, unit, Path("/usr/local/bin/quietbox"), SETTINGS) if path.exists()]
    account = "quietbox:" in Path("/etc/passwd").read_text()
    kept = SETTINGS.with_name(f"{SETTINGS.name}.kept").is_file()
    loaded = show("LoadState")["LoadState"]
    return check(
        status == 0 and not left and not account and kept and loaded == "not-found",
        f"exit status {status}: {words}; left: {', '.join(left) or 'the settings only'}; unit {loaded}",
    )
