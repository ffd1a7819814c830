"""The installer, for real, below a root of its own: in, again, newer, off, and cut off in the middle of each.

The packages are empty ones, made here, so that no network is needed; the program's own wheel holds the checkout.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from wheelhouse import fill, make_wheel

from hw.board import boards, bootconfig
from hw.install import command, ledger, places, wheels

CHECKOUT = Path(__file__).resolve().parents[2]
NEEDED = ("systemd-sysusers", "userdel", "groupdel")
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason=f"the installer needs Debian's {', '.join(NEEDED)}"
)
CONFIG_TXT = "dtparam=audio=on\r\ndtoverlay=vc4-kms-v3d\r\n[pi5]\r\nx=1"
USB = " 0 [Headphones     ]: bcm2835_headpho - bcm2835 Headphones\n 1 [Mic            ]: USB-Audio - Mic\n"


def make_root(root: Path, model: str = "Raspberry Pi 4 Model B Rev 1.5", asound: str = USB) -> Path:
    """What a freshly flashed card holds, as far as the installer looks at it."""
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_text(f"{model}\0")
    (tree / "compatible").write_text("raspberrypi,board\0")
    for number, name, driver in re.findall(r"(\d) \[(\S+) *\]: (\S+)", asound):
        letter = "p" if name == "Headphones" else "c"
        port = root / f"proc/asound/card{number}/pcm0{letter}"
        port.mkdir(parents=True)
        (port / "info").write_text(f"name: {driver}\n")
    (root / "proc/asound").mkdir(exist_ok=True)
    (root / "proc/asound/cards").write_text(asound)
    (root / "boot/firmware").mkdir(parents=True)
    (root / "boot/firmware/config.txt").write_bytes(CONFIG_TXT.encode())
    for place in ("usr/local/bin", "etc/systemd/system/multi-user.target.wants", "etc/udev/rules.d", "opt"):
        (root / place).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\naudio:x:29:\n")
    return root


def noted(root: Path) -> str:
    return (root / places.MANIFEST).read_text()


def snapshot(root: Path) -> dict[str, str]:
    """Every path below ``root`` with what it holds; byte code and the tools' own back-ups aside."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if "__pycache__" in name or re.fullmatch(r"etc/(.*-|\.pwd\.lock|g?shadow)", name):
            continue
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = ledger.digest(path) if path.is_file() else "folder"
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout that nobody edits meanwhile."""
    copy = tmp_path_factory.mktemp("source") / "quietbox"
    ignored = shutil.ignore_patterns("__pycache__", "*.pt")
    for name in ("edge", "hw", "models", "quant", "systemd"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "install.sh"):
        shutil.copy(CHECKOUT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def packages(checkout: Path) -> Path:
    fill(checkout.parent / "wheels", checkout)
    return checkout.parent / "wheels"


@pytest.fixture
def here(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wheels, "SOURCE", checkout)
    return checkout


@pytest.fixture(scope="module")
def built(checkout: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with everything installed, through the front door."""
    root = make_root(tmp_path_factory.mktemp("built") / "root")
    done = door(checkout, "--root", str(root), "--wheels", str(packages))
    assert done.returncode == 0, done.stderr
    for heavy in ("pip", "setuptools", "pkg_resources"):  # of no more use, and the copies below are many
        for folder in version(root).glob(f"lib/*/site-packages/{heavy}"):
            shutil.rmtree(folder)
    return root


def door(checkout: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(checkout / "install.sh"), *arguments], capture_output=True, text=True, timeout=240)


def fresh(built: Path, root: Path) -> Path:
    """A fresh card that already holds the built program (its folder, nothing that leads there)."""
    make_root(root)
    folder = version(built)
    (root / places.OPT).mkdir()
    subprocess.run(["cp", "-al", str(folder), str(root / places.OPT)], check=True)
    return root


def copied(built: Path, root: Path) -> Path:
    subprocess.run(["cp", "-al", str(built), str(root)], check=True)
    return root


def version(root: Path) -> Path:
    return (root / places.CURRENT).resolve()


def cut_off(at: int, arguments: list[str], events: tuple[str, ...]) -> bool:
    """Run the installer in a process that is killed, with all it started, before its change number ``at``. Whether it
    was.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        count = 0

        def watch(event: str, about: tuple[object, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(about[2], int) and about[2] & (os.O_WRONLY | os.O_RDWR)
            if event in events or (writes and "open" in events):
                count += 1
                if count == at:
                    os.killpg(0, signal.SIGKILL)

        sys.addaudithook(watch)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        os._exit(command.main(arguments))
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stamped folder counts as running: what is cut here does not touch it."""
    monkeypatch.setattr(wheels, "complete", lambda folder: (folder / wheels.STAMP).is_file())


CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "subprocess.Popen", "shutil.rmtree", "open")


@pytest.mark.slow
def test_it_is_all_there_and_a_second_run_has_nothing_to_do(built: Path, checkout: Path, packages: Path) -> None:
    folder = version(built)
    assert re.fullmatch(r"\d+\.\d+\.\d+-[0-9a-f]{10}", folder.name)
    assert (folder / "bin/quietbox").read_text().startswith(f"#!/opt/quietbox/{folder.name}/bin/python")
    assert str(built) not in (folder / "pyvenv.cfg").read_text()
    assert os.readlink(built / places.COMMAND) == "/opt/quietbox/current/bin/quietbox"
    wants = built / "etc/systemd/system/multi-user.target.wants/quietbox.service"
    assert os.readlink(wants) == "/etc/systemd/system/quietbox.service"
    for source in (checkout / "systemd").glob("*.*"):
        assert (built / places.place_of(source.name)).read_bytes() == source.read_bytes()
    assert "quietbox:x:" in (built / "etc/passwd").read_text()
    assert re.search(r"^audio:x:29:quietbox$", (built / "etc/group").read_text(), re.MULTILINE)
    settings = tomllib.loads((built / places.SETTINGS).read_text())
    assert settings["capture"]["device"] == "Mic" and settings["playback"]["device"] == "Headphones"
    assert settings["capture"]["gain_db"] == 0
    assert (built / "boot/firmware/config.txt").read_bytes() == CONFIG_TXT.encode()  # its jack is on already
    before = snapshot(built)
    again = door(checkout, "--root", str(built), "--wheels", str(packages))
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert snapshot(built) == before


def test_off_again_leaves_what_was_there_and_the_settings(built: Path, here: Path, tmp_path: Path) -> None:
    root = fresh(built, tmp_path / "root")
    shutil.rmtree(root / places.OPT)
    before = snapshot(root)
    subprocess.run(["cp", "-al", f"{built}/opt/quietbox", str(root / "opt")], check=True)
    (root / places.MANIFEST).unlink()
    for name in ("current", "previous"):
        (root / places.OPT / name).unlink(missing_ok=True)
    assert command.main(["--root", str(root), "--microphone", "i2s"]) == 0
    config_txt = root / "boot/firmware/config.txt"
    assert bootconfig.MICROPHONE in config_txt.read_text()
    assert (config_txt.parent / bootconfig.BACKUP).read_bytes() == CONFIG_TXT.encode()
    settings = (root / places.SETTINGS).read_bytes()
    assert tomllib.loads(settings.decode())["capture"]["gain_db"] == 24
    assert command.main(["--root", str(root), "--uninstall"]) == 0
    kept = root / f"{places.SETTINGS}.kept"
    assert kept.read_bytes() == settings
    assert command.main(["--root", str(root), "--uninstall", "--purge"]) == 0
    assert not kept.exists()
    kept.parent.rmdir()  # it stayed because of what was kept in it
    assert snapshot(root) == before


def test_purge_takes_the_settings_too(built: Path, here: Path, tmp_path: Path) -> None:
    root = fresh(built, tmp_path / "root")
    assert command.main(["--root", str(root)]) == 0
    (root / "etc/systemd/system/quietbox.service.d").mkdir()  # the user's own, it stays
    assert command.main(["--root", str(root), "--uninstall", "--purge"]) == 0
    left = {name for name in snapshot(root) if "quietbox" in name}
    assert left == {"etc/systemd/system/quietbox.service.d"}


def test_lines_the_user_adds_to_config_txt_survive(built: Path, here: Path, tmp_path: Path) -> None:
    root = fresh(built, tmp_path / "root")
    assert command.main(["--root", str(root), "--microphone", "i2s"]) == 0
    with (root / "boot/firmware/config.txt").open("ab") as out:
        out.write(b"hdmi_drive=2\r\n")
    assert command.main(["--root", str(root), "--uninstall"]) == 0
    assert (root / "boot/firmware/config.txt").read_bytes() == f"{CONFIG_TXT}\r\n[all]\r\nhdmi_drive=2\r\n".encode()


def test_the_plan_is_what_is_done(built: Path, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fresh(built, tmp_path / "root")
    before = snapshot(root)
    assert command.main(["--root", str(root), "--microphone", "i2s", "--dry-run"]) == 0
    planned = re.findall(r"^    \d+\. (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert snapshot(root) == before and len(planned) > 5
    assert command.main(["--root", str(root), "--microphone", "i2s"]) == 0
    done = re.findall(r"^==> \d+/\d+ (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert done == planned


@pytest.mark.slow
def test_power_cuts_anywhere_end_in_the_same_tree(built: Path, here: Path, trusting: None, tmp_path: Path) -> None:
    arguments = ["--microphone", "i2s", "--release-cards"]
    whole = fresh(built, tmp_path / "whole")
    assert command.main(["--root", str(whole), *arguments]) == 0
    wanted = snapshot(whole)
    at, cuts = 1, 0
    while True:
        root = fresh(built, tmp_path / f"cut-{at}")
        if not cut_off(at, ["--root", str(root), *arguments], CHANGES):
            break
        cuts += 1
        assert command.main(["--root", str(root), *arguments]) == 0
        assert noted(root) == noted(whole), f"cut before change {at}"
        assert snapshot(root) == wanted, f"cut before change {at}"
        shutil.rmtree(root)
        at += 19
    assert cuts > 8


def test_power_cuts_while_it_is_taken_off(built: Path, here: Path, tmp_path: Path) -> None:
    whole = fresh(built, tmp_path / "whole")
    assert command.main(["--root", str(whole), "--microphone", "i2s"]) == 0
    gone = copied(whole, tmp_path / "gone")
    assert command.main(["--root", str(gone), "--uninstall"]) == 0
    wanted = snapshot(gone)
    at, cuts = 1, 0
    while at < 200:
        root = copied(whole, tmp_path / f"cut-{at}")
        if not cut_off(at, ["--root", str(root), "--uninstall"], CHANGES):
            break
        cuts += 1
        assert command.main(["--root", str(root), "--uninstall"]) == 0
        assert snapshot(root) == wanted, f"cut before change {at}"
        shutil.rmtree(root)
        at += 17
    assert cuts > 5


@pytest.mark.slow
def test_power_cuts_while_the_program_is_built(built: Path, here: Path, packages: Path, tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    arguments = ["--root", str(root), "--wheels", str(packages)]
    folder = root / places.OPT / wheels.name_of("rpi-lgpio")
    stamp = folder / wheels.STAMP

    def cut_when(reached: Callable[[], bool]) -> None:
        child = subprocess.Popen(
            [sys.executable, "-B", "-m", "hw.install", *arguments],
            cwd=here,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        late = time.monotonic() + 120
        while not reached() and child.poll() is None and time.monotonic() < late:
            time.sleep(0.002)
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL

    cut_when((folder / "bin").is_dir)
    assert not stamp.exists()
    cut_when(lambda: any(folder.glob("lib/python3*/site-packages/edge")))
    assert not stamp.exists() and not (root / places.CURRENT).exists()
    assert command.main(arguments) == 0
    assert wheels.complete(version(root)) and version(root) == folder
    strip = ("opt/quietbox/", "etc/passwd", "etc/group")
    mine, theirs = (
        {name: text for name, text in snapshot(tree).items() if not name.startswith(strip)} for tree in (root, built)
    )
    assert mine == theirs


@pytest.mark.slow
def test_an_upgrade_keeps_settings_and_the_version_before(
    built: Path,
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = copied(built, tmp_path / "root")
    first = version(root).name
    settings = root / places.SETTINGS
    ledger.write(settings, b"[suppress]\nlimit_db = 12\n")
    newer = tmp_path / "newer"
    shutil.copytree(checkout, newer)
    with (newer / "edge/__init__.py").open("a") as out:
        out.write("\nNEWER = 1\n")
    fill(tmp_path / "wheels", newer)
    monkeypatch.setattr(wheels, "SOURCE", newer)
    arguments = ["--root", str(root), "--wheels", str(tmp_path / "wheels")]
    assert command.main(arguments) == 0
    assert version(root).name != first and os.readlink(root / places.PREVIOUS) == first
    assert settings.read_text() == "[suppress]\nlimit_db = 12\n"

    # A key that the new version does not know: the old one stays, and the line is said.
    second = version(root).name
    ledger.write(settings, b"[suppress]\nlimit_decibel = 12\n")
    (root / places.CURRENT).unlink()
    (root / places.CURRENT).symlink_to(first)
    capsys.readouterr()
    assert command.main(arguments) == 1
    said = capsys.readouterr().err
    assert "line 2" in said and "limit_decibel" in said and "limit_db" in said and f"{first} stays" in said
    assert version(root).name == first

    # Mended, it goes on; what is older than the version before goes.
    ledger.write(settings, b"[suppress]\nlimit_db = 13\n")
    shutil.copytree(root / places.OPT / first, root / places.OPT / "0.0.1-0000000000", symlinks=True)
    assert command.main(arguments) == 0
    versions = {path.name for path in (root / places.OPT).glob("*-*")}
    assert version(root).name == second and versions == {first, second}


@pytest.mark.slow
def test_a_version_that_runs_no_more_is_built_beside(built: Path, here: Path, packages: Path, tmp_path: Path) -> None:
    root = copied(built, tmp_path / "root")
    first = version(root)
    (first / "bin/python").unlink()  # as after an upgrade of Debian
    assert command.main(["--root", str(root), "--wheels", str(packages)]) == 0
    assert version(root).name == f"{first.name}.2"


def test_a_missing_wheel_is_named(
    here: Path, packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = tmp_path / "some"
    shutil.copytree(packages, some, ignore=shutil.ignore_patterns("soundfile*", "onnx*"))
    root = make_root(tmp_path / "root")
    assert command.main(["--root", str(root), "--wheels", str(some)]) == 1
    said = capsys.readouterr().err
    assert "no wheel of soundfile" in said and "--collect-wheels" in said and len(said.splitlines()) == 1
    with (here / "edge/__init__.py").open("a") as out:
        out.write("\n")
    try:
        assert command.main(["--root", str(root), "--wheels", str(some)]) == 1
    finally:
        (here / "edge/__init__.py").write_bytes((here / "edge/__init__.py").read_bytes()[:-1])
    assert "no quietbox made of this checkout" in capsys.readouterr().err


TWO = USB + " 2 [Mic_1          ]: USB-Audio - Mic\n"


@pytest.mark.parametrize(
    ("model", "asound", "arguments", "said"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "", [], "no headphone jack on this board: no output is plugged in yet"),
        ("Raspberry Pi 4 Model B Rev 1.5", TWO, [], "several microphones: Mic, Mic_1; auto selects Mic"),
        ("Raspberry Pi 4 Model B Rev 1.5", TWO, [], 'quietbox.toml: [playback] device = "Headphones"'),
        ("Raspberry Pi 4 Model B Rev 1.5", USB, [], '[capture] device = "Mic", [playback] device = "Headphones"'),
        ("Raspberry Pi 4 Model B Rev 1.5", "", [], "all settings at their defaults"),
        ("Raspberry Pi 4 Model B Rev 1.5", USB, ["--microphone", "i2s"], "gain_db = 24.0"),
        ("Raspberry Pi 4 Model B Rev 1.5", USB, ["--usb-microphone"], bootconfig.GADGET),
        ("Raspberry Pi 4 Model B Rev 1.5", USB, ["--usb-microphone"], "[cable] usb = true"),
        ("Raspberry Pi 4 Model B Rev 1.5", USB, ["--release-cards"], "leave Headphones, Mic alone"),
    ],
)
def test_what_it_finds_and_says(
    model: str,
    asound: str,
    arguments: list[str],
    said: str,
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = make_root(tmp_path / "root", model, asound)
    assert command.main(["--root", str(root), "--dry-run", *arguments]) == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("Raspberry Pi 3 Model B Rev 1.2", ["--usb-microphone"], "no USB port with device mode"),
        ("Raspberry Pi 4 Model B Rev 1.5", ["--wheels", "/nowhere"], "no such folder"),
        ("Raspberry Pi 4 Model B Rev 1.5", ["--wheels", "/proc"], "holds no wheels"),
    ],
)
def test_what_it_refuses(
    model: str, arguments: list[str], said: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_root(tmp_path / "root", model)
    before = snapshot(root)
    assert command.main(["--root", str(root), *arguments]) == 1
    reported = capsys.readouterr().err
    assert said in reported and len(reported.splitlines()) == 1
    assert snapshot(root) == before


def test_it_takes_no_file_of_others_and_runs_alone(
    built: Path, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = fresh(built, tmp_path / "root")
    (root / places.COMMAND).write_text("another program")
    assert command.main(["--root", str(root)]) == 1
    assert "exists and is not" in capsys.readouterr().err
    (root / places.COMMAND).unlink()
    (root / "etc/systemd/system/quietbox.service").write_text("by hand")
    holder = os.open(root / "etc", os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert command.main(["--root", str(root)]) == 1
    assert "another run" in capsys.readouterr().err
    os.close(holder)
    assert command.main(["--root", str(root)]) == 0
    assert (root / "etc/systemd/system/quietbox.service.kept").read_text() == "by hand"


def test_off_a_pi_nothing_is_installed_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    if boards.this_board().is_pi:
        pytest.skip("this is a Raspberry Pi")
    assert command.main([]) == 1
    assert "--board" in capsys.readouterr().err


def test_the_door(checkout: Path) -> None:
    helped = door(checkout, "--help")
    assert helped.returncode == 0
    for word in ("--setup", "--board", "--uninstall", "--collect-wheels", "Exit status"):
        assert word in helped.stdout
    wrong = door(checkout, "--bogus")
    assert wrong.returncode == 2 and "unrecognized arguments: --bogus" in wrong.stderr


def test_the_shell_script_is_sound() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck: apt-get install shellcheck")
    subprocess.run(["shellcheck", str(CHECKOUT / "install.sh"), str(CHECKOUT / "tests/run")], check=True)


def test_every_system_file_has_a_place(checkout: Path) -> None:
    for source in (checkout / "systemd").glob("*.*"):
        assert places.place_of(source.name), f"hw/install/places.py does not know where {source.name} goes"


@pytest.mark.slow
def test_an_extra_that_was_asked_for_stays_until_it_is_taken_off(
    here: Path, packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "wheels"
    shutil.copytree(packages, folder)
    make_wheel(folder, "pyzmq", "99", {"zmq/__init__.py": b""})
    root = make_root(tmp_path / "root")
    call = ["--root", str(root), "--wheels", str(folder)]

    def has_bridge() -> bool:
        return any(version(root).glob("lib/*/site-packages/zmq"))

    assert command.main([*call, "--with", "bridge"]) == 0 and has_bridge()
    capsys.readouterr()
    assert command.main(call) == 0 and "nothing to do" in capsys.readouterr().out, "the next run keeps it"
    assert command.main([*call, "--with", "none"]) == 0 and not has_bridge()
    with pytest.raises(SystemExit) as wrong:
        command.main([*call, "--with", "bridges"])
    assert wrong.value.code == 2 and "there is no 'bridges'; there are bridge, peers, pictures, none" in (
        capsys.readouterr().err
    )
