"""Files that other users must not read, change or lock, tried as another user."""

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge import UserError, cli, runtime
from edge.net import keys
from edge.tools.doctor import settings
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import OK, WARN

NOBODY = 65534


@contextmanager
def another_user() -> Iterator[None]:
    """The process has no more rights than any user of the machine."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime folder in memory that everybody can enter, as /run/quietbox."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        Path(name).chmod(0o755)
        monkeypatch.setenv("RUNTIME_DIRECTORY", name)
        yield Path(name)


def can_lock(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY)
    except PermissionError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)
    return True


def test_no_other_user_can_hold_a_lock_of_the_box(shared: Path) -> None:
    for name in ("capture_a.lock", runtime.STATUS_LOCK):
        (shared / name).touch(0o644)  # as earlier versions left it
    claim, status = runtime.Claim(["capture:a", "playback:b"]), runtime.StatusFile()
    claim.release()
    status.remove()
    locks = sorted(path.name for path in shared.glob("*.lock"))
    assert locks == ["capture_a.lock", "playback_b.lock", "status.lock"]
    with another_user():
        for name in locks:
            assert not can_lock(shared / name), name
            with pytest.raises(OSError):
                (shared / name).unlink()
        with pytest.raises(OSError):
            (shared / "playback_c.lock").touch()


def test_another_user_sees_the_status_of_a_living_box_only(shared: Path) -> None:
    box = runtime.StatusFile()
    box.write({"state": "running"})
    with another_user():
        assert runtime.read_status() == {"state": "running"}
    box.remove()
    (shared / runtime.STATUS).write_text('{"state": "killed"}\n')
    with another_user():
        assert runtime.read_status() is None


def test_a_folder_that_others_can_write_to_holds_no_locks(shared: Path) -> None:
    for mode in (0o775, 0o757, 0o1777):
        shared.chmod(mode)
        with pytest.raises(runtime.NoRuntimeFolder, match=f"chmod 755 {shared}"):
            runtime.Claim(["capture:a"])
    shared.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(shared, NOBODY, -1)
        with pytest.raises(runtime.NoRuntimeFolder, match="belongs to nobody; remove it"):
            runtime.Claim(["capture:a"])


def test_the_services_folder_is_not_advised_to_be_removed(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a folder away")
    os.chown(shared, NOBODY, -1)
    monkeypatch.setattr(runtime, "SYSTEM_FOLDER", shared)
    with pytest.raises(
        runtime.NoRuntimeFolder, match=r"belongs to nobody; stop the service \(systemctl stop quietbox\)"
    ):
        runtime.Claim(["capture:a"])


ORPHAN = """
import os, sys, time
from edge.runtime import Claim
claim = Claim(["capture:a"])
child = os.fork()
if child == 0:
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print(os.getpid(), flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_dead_holder_is_not_named_as_running(shared: Path) -> None:
    """Its child has inherited the lock, and lives."""
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as dead:
        assert dead.stdout is not None and dead.stdin is not None
        number = dead.stdout.readline().strip()
        assert dead.wait() == -9
        with pytest.raises(runtime.AlreadyRunning) as refusal:
            runtime.Claim(["capture:a"])
        dead.stdin.close()
    lock = shared / "capture_a.lock"
    assert number in lock.read_text()
    assert f"process {number}" not in str(refusal.value)
    assert f"another process (`fuser {lock}` names it)" in str(refusal.value)


@pytest.mark.parametrize(
    "written", ["", "quietbox run, process 1\n", "quietbox run\n{pid}\n1\n", "a\nb\nc\n", "\xff" * 9999]
)
def test_a_process_that_took_over_the_number_is_not_named(shared: Path, written: str) -> None:
    lock = shared / "capture_a.lock"
    lock.write_text(written.format(pid=os.getpid()), encoding="latin-1")
    lock.chmod(0o600)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(runtime.AlreadyRunning, match="is already used by another process"):
            runtime.Claim(["capture:a"])


# Who lets boxes in.


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o602])
def test_a_list_of_clients_that_others_can_change_is_refused(
    mode: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = keys.create(tmp_path / "key")
    clients = tmp_path / "clients"
    clients.write_text(known + "\n")
    assert keys.read_clients(clients) == {known.encode()}
    clients.chmod(mode)
    command = ["serve", "--boxes", "--host", "127.0.0.1", "--key", str(tmp_path / "key"), "--clients", str(clients)]
    assert cli.main(command) == 1
    reported = capsys.readouterr().err
    assert f"can be written by others: chmod go-w {clients}" in reported and reported.count("\n") == 1


def test_a_list_of_clients_lies_where_nobody_can_replace_it(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    clients, link = folder / "clients", tmp_path / "link"
    clients.write_text(keys.create(tmp_path / "key") + "\n")
    link.symlink_to(clients)
    for mode in (0o777, 0o770, 0o702):
        folder.chmod(mode)
        for path in (clients, link):
            with pytest.raises(UserError, match=f"chmod go-w {folder}"):
                keys.read_clients(path)
    folder.chmod(0o1777)  # sticky, as /tmp
    assert len(keys.read_clients(link)) == 1
    if os.geteuid() == 0:
        os.chown(clients, NOBODY, -1)
        with pytest.raises(UserError, match=rf"belongs to another user \(uid {NOBODY}\): chown 0 {clients}"):
            keys.read_clients(clients)


def test_a_list_of_clients_is_read_with_a_bound(tmp_path: Path) -> None:
    clients = tmp_path / "clients"
    clients.write_text("# " + "x" * keys.MOST_BYTES)
    with pytest.raises(UserError, match="more than 256 KiB"):
        keys.read_clients(clients)
    os.mkfifo(tmp_path / "fifo")
    for odd in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(UserError, match=str(odd)):
            keys.read_clients(odd)


def test_the_doctor_names_settings_that_others_can_change(tmp_path: Path) -> None:
    file = tmp_path / "etc/quietbox/quietbox.toml"
    file.parent.mkdir(parents=True)
    file.write_text("")
    (found,) = settings.settings(Context(root=tmp_path))
    assert found.verdict is OK
    file.chmod(0o666)
    (found,) = settings.settings(Context(root=tmp_path))
    assert found.verdict is WARN and found.fix == f"chmod go-w {file}" and "by others" in found.found
