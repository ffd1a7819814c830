"""The product goes into a stock Raspberry Pi OS image: real partition table and file systems, as small as they come."""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wheelhouse import fill, make_wheel

from edge import UserError
from hw.image import partitions, stock
from hw.install import wheels

TOOLS = ("mcopy", "mformat", "mdir", "debugfs", "e2fsck", "mke2fs", "dpkg-deb")
pytestmark = pytest.mark.skipif(
    not all(map(partitions.tool_path, TOOLS)), reason=f"needs {', '.join(TOOLS)}: apt-get install mtools e2fsprogs dpkg"
)

MIB = 1 << 20
BOOT_AT, BOOT_SIZE, ROOT_AT = 4 * MIB, 34 * MIB, 38 * MIB
AARCH64, ARM, X86 = 183, 40, 62
RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n'
HELD = ("python3-venv", "alsa-utils")

Change = Callable[[Path], object]


def make_image(
    path: Path, machine: int = AARCH64, held: tuple[str, ...] = HELD, change: Change = lambda _: None, size_mb: int = 48
) -> Path:
    """A card as pi-gen lays it out: MBR, FAT32 with the firmware's files, ext4 root; ``change`` may spoil the root."""
    root = path.with_suffix(".root")
    for folder in ("etc/systemd/system", "usr/lib", "usr/bin", "var/lib/dpkg", "boot/firmware"):
        (root / folder).mkdir(parents=True)
    (root / "etc/rpi-issue").write_text("Raspberry Pi reference 2024-11-19\n")
    (root / "usr/lib/os-release").write_text(RELEASE)
    (root / "usr/bin/python3").symlink_to("python3.11")
    (root / "usr/bin/python3.11").write_bytes(b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(44))
    status = "\n".join(f"Package: {name}\nStatus: install ok installed\nVersion: 1\n" for name in held)
    (root / "var/lib/dpkg/status").write_text(f"{status}\nPackage: gone\nStatus: deinstall ok config-files\n")
    change(root)
    ext4 = path.with_suffix(".ext4")
    ext4.write_bytes(b"")
    os.truncate(ext4, size_mb * MIB)
    run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(ext4))
    with path.open("wb") as disk:
        entries = ((0x0C, BOOT_AT, BOOT_SIZE), (0x83, ROOT_AT, size_mb * MIB))
        table = b"".join(
            bytes(4)
            + bytes([kind])
            + bytes(3)
            + (at // 512).to_bytes(4, "little")
            + (size // 512).to_bytes(4, "little")
            for kind, at, size in entries
        )
        disk.write((bytes(446) + table).ljust(510, b"\0") + b"\x55\xaa")
        disk.seek(ROOT_AT)
        disk.write(ext4.read_bytes())
    run("mformat", "-i", f"{path}@@{BOOT_AT}", "-F", "-T", str(BOOT_SIZE // 512), "::")
    for name, text in (("config.txt", "dtparam=audio=on\n"), ("cmdline.txt", "console=tty1 root=PARTUUID=1-02\n")):
        partitions.Fat(path, partitions.Partition(0x0C, BOOT_AT, BOOT_SIZE)).put(name, text.encode())
    shutil.rmtree(root)
    ext4.unlink()
    return path


def run(*command: str) -> str:
    done = subprocess.run([partitions.tool_path(command[0]), *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of this checkout that nobody works on meanwhile."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in stock.sources():
        target = copy / path.relative_to(wheels.SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheels, "SOURCE", copy)
        yield copy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels for a 64-bit board, empty but the program's own."""
    made = tmp_path_factory.mktemp("wheels")
    fill_for(made, "aarch64")
    return made


def fill_for(folder: Path, processor: str) -> None:
    """As test_install's, but NumPy's says which processor it is for."""
    fill(folder, wheels.SOURCE)
    numpy = next(folder.glob("numpy-*.whl"))
    numpy.rename(folder / f"numpy-99-cp311-cp311-manylinux_2_28_{processor}.whl")
    next(folder.glob("onnxruntime-*.whl")).unlink()
    make_wheel(folder, "onnxruntime", "1.23.2", {})


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image") / "raspios.img")


def parts(image: Path) -> tuple[partitions.Fat, partitions.Ext4]:
    boot, root = partitions.look(image)
    return partitions.Fat(image, boot), partitions.Ext4(image, root)


def contents(image: Path, tmp_path: Path) -> dict[str, bytes]:
    """The archive on the card."""
    archive = tmp_path / "held.tar"
    archive.write_bytes(parts(image)[1].read(f"{stock.PLACE}/product.tar"))
    with tarfile.open(archive) as tar:
        return {entry.name: held.read() for entry in tar if (held := tar.extractfile(entry))}


def test_goes_in_and_again_is_the_same(image: Path, folder: Path, tmp_path: Path) -> None:
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    out = tmp_path / "out.img"
    system = stock.customise(image, out, folder)
    assert (system.python, system.processor.name, system.release) == ("3.11", "aarch64", "bookworm")
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before
    _, root = parts(out)
    link = f"{stock.UNITS}/multi-user.target.wants/{stock.UNIT}"
    assert root.link(link) == f"{stock.UNITS}/{stock.UNIT}"
    assert root.read(f"{stock.PLACE}/run") == (stock.HERE / "first-boot").read_bytes()
    assert "Mode:  0755" in root._stat(f"{stock.PLACE}/run")
    assert root.read(f"{stock.UNITS}/{stock.UNIT}").startswith(b"#")
    assert root.read("/usr/lib/os-release").decode() == RELEASE
    held = contents(out, tmp_path)
    assert held["options"] == b"" and "quietbox.toml" not in held
    assert held["checkout/edge/chain.py"] == (wheels.SOURCE / "edge/chain.py").read_bytes()
    assert {name for name in held if name.startswith("wheels/")} == {
        f"wheels/{wheel.name}" for wheel in folder.iterdir()
    }
    note = run("mtype", "-i", f"{out}@@{BOOT_AT}", f"::{stock.NOTE}")
    assert hashlib.sha256(root.read(f"{stock.PLACE}/product.tar")).hexdigest() in note
    assert run("mtype", "-i", f"{out}@@{BOOT_AT}", "::config.txt") == "dtparam=audio=on\n"

    twice = tmp_path / "twice.img"
    stock.customise(out, twice, folder)
    assert contents(twice, tmp_path) == held
    once_more = tmp_path / "once-more.img"
    stock.customise(image, once_more, folder)
    assert once_more.read_bytes() == out.read_bytes()


def test_another_choice_replaces_the_earlier_one(image: Path, folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "mine.toml"
    settings.write_text("[suppress]\nlimit_db = 12\n")
    first, second = tmp_path / "first.img", tmp_path / "second.img"
    stock.customise(image, first, folder, "i2s", settings)
    held = contents(first, tmp_path)
    assert held["options"] == b"--microphone\ni2s\n" and held["quietbox.toml"] == settings.read_bytes()
    stock.customise(first, second, folder, "usb")
    assert contents(second, tmp_path)["options"] == b"--microphone\nusb\n"
    assert "microphone: usb" in run("mtype", "-i", f"{second}@@{BOOT_AT}", f"::{stock.NOTE}")
    assert not list(tmp_path.glob(".*"))


def test_the_archive_is_what_the_installer_takes(image: Path, folder: Path, tmp_path: Path) -> None:
    """Unpacked as the first boot does, its installer plans an install from its wheels and nothing else."""
    out = tmp_path / "out.img"
    stock.customise(image, out, folder)
    for name, data in contents(out, tmp_path).items():
        path = tmp_path / "card" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    command = ["bash", "install.sh", "--board", "--wheels", "../wheels", "--root", str(root), "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path / "card/checkout", capture_output=True, text=True)
    assert done.returncode == 0 and f"packages from {tmp_path / 'card/wheels'}" in done.stdout, done.stderr
    code = "from pathlib import Path; from hw.install import wheels; print(wheels.wheel_in(Path('../wheels')))"
    done = subprocess.run(["python3", "-B", "-c", code], cwd=tmp_path / "card/checkout", capture_output=True, text=True)
    assert "quietbox-" in done.stdout, done.stderr


def spoil(at: int, data: bytes) -> Change:
    def change(image: Path) -> None:
        with image.open("r+b") as disk:
            disk.seek(at)
            disk.write(data)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoil(0, b"\xfd7zXZ\0"), "packed.*xz -dk"),
        (spoil(510, b"\0\0"), "no partition table"),
        (spoil(446 + 4, b"\xee"), "GPT"),
        (spoil(446 + 4, b"\x83"), "0x83, 0x83"),
        (spoil(446 + 16 + 4, b"\0"), "kinds 0x0c;"),
        (spoil(446, bytes(64)), "kinds none"),
        (spoil(ROOT_AT + 1024 + 56, b"\0\0"), "no ext4"),
        (spoil(ROOT_AT + 1024 + 58, b"\0\0"), "cleanly"),
        (spoil(ROOT_AT + 1024 + 96, b"\xc6"), "cleanly"),
        (spoil(BOOT_AT, bytes(2 * MIB)), "config.txt"),
        (lambda image: os.truncate(image, 40 * MIB), "is truncated"),
        (lambda image: os.truncate(image, 100), "partition table"),
    ],
)
def test_refuses_what_is_no_such_image(image: Path, folder: Path, tmp_path: Path, change: Change, words: str) -> None:
    broken = Path(shutil.copy(image, tmp_path / "broken.img"))
    change(broken)
    with pytest.raises(UserError, match=words) as refusal:
        stock.customise(broken, tmp_path / "out.img", folder)
    assert "\n" not in str(refusal.value) and str(broken) in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.img"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "etc/rpi-issue").unlink(), "holds Debian GNU/Linux 12.*no Raspberry Pi OS"),
        (
            lambda root: (root / "usr/lib/os-release").write_text("PRETTY_NAME=Eleven\nVERSION_CODENAME=bullseye\n"),
            "Eleven",
        ),
        (lambda root: (root / "usr/bin/python3").unlink(), "no /usr/bin/python3"),
        (lambda root: (root / "usr/bin/python3.11").write_text("#!/bin/sh"), "another processor"),
    ],
)
def test_names_the_system_it_does_not_know(folder: Path, tmp_path: Path, change: Change, words: str) -> None:
    odd = make_image(tmp_path / "odd.img", change=change)
    with pytest.raises(UserError, match=words):
        stock.customise(odd, tmp_path / "out.img", folder)


def test_what_does_not_fit_is_refused(image: Path, folder: Path, tmp_path: Path) -> None:
    full = make_image(tmp_path / "full.img", size_mb=12)
    with pytest.raises(UserError, match="MB free in its root"):
        stock.customise(full, tmp_path / "out.img", folder)
    with pytest.raises(UserError, match="not a plain file"):
        stock.customise(image, tmp_path, folder)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[suppress]\nlimt_db = 12\n")
    with pytest.raises(UserError, match="limt_db"):
        stock.customise(image, tmp_path / "out.img", folder, settings=wrong)
    assert not (tmp_path / "out.img").exists()


def test_wheels_of_another_board_are_refused(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_for(tmp_path / "w", "armv7l")
    with pytest.raises(UserError, match=r"no wheel of numpy\S* for Python 3.11 on aarch64"):
        stock.customise(image, tmp_path / "out.img", tmp_path / "w")
    small = make_image(tmp_path / "small.img", ARM, (*HELD, "libsndfile1", "libopenblas0", "libgfortran5"))
    next((tmp_path / "w").glob("rpi_lgpio*")).unlink()
    assert stock.customise(small, tmp_path / "out.img", tmp_path / "w").processor.bits == 32
    assert "the box will lack LED and button" in capsys.readouterr().out


def make_deb(folder: Path, name: str, depends: str = "", architecture: str = "all") -> None:
    about = folder / "made/DEBIAN"
    about.mkdir(parents=True)
    lines = [
        f"Package: {name}",
        "Version: 1",
        f"Architecture: {architecture}",
        "Maintainer: x <x@y.z>",
        "Description: x",
    ]
    (about / "control").write_text("\n".join([*lines, *([f"Depends: {depends}"] if depends else []), ""]))
    run("dpkg-deb", "--build", str(folder / "made"), str(folder / f"{name}_1_{architecture}.deb"))
    shutil.rmtree(folder / "made")


def test_debian_packages_come_along_where_they_are_missing(folder: Path, tmp_path: Path) -> None:
    bare = make_image(tmp_path / "bare.img", held=("alsa-utils",))
    own, out = tmp_path / "w", tmp_path / "out.img"
    shutil.copytree(folder, own)
    with pytest.raises(UserError, match="lacks the Debian packages python3-venv;"):
        stock.customise(bare, out, own)
    make_deb(own, "python3-venv", "python3-pip-whl (>= 1), alsa-utils | other")
    with pytest.raises(UserError, match="lacks the Debian packages python3-pip-whl;"):
        stock.customise(bare, out, own)
    make_deb(own, "python3-pip-whl")
    stock.customise(bare, out, own)
    assert {name for name in contents(out, tmp_path) if name.startswith("debs/")} == {
        "debs/python3-venv_1_all.deb",
        "debs/python3-pip-whl_1_all.deb",
    }
    make_deb(own, "another", architecture="amd64")
    with pytest.raises(UserError, match="is for amd64, the image is arm64"):
        stock.customise(bare, out, own)


def test_its_command_says_one_line(image: Path, tmp_path: Path) -> None:
    command = [str(stock.HERE / "customise"), "nothing.img", "--wheels", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(rf"customise: {tmp_path}/nothing.img: there is no such file\n", done.stderr)


def test_the_first_boot_step_is_a_sound_script() -> None:
    run_ = (stock.HERE / "first-boot").read_text()
    subprocess.run(["bash", "-n", str(stock.HERE / "first-boot")], check=True)
    unit = (stock.HERE / "first-boot.service").read_text()
    assert f"ExecStart={stock.PLACE}/run" in unit
    assert f"here={stock.PLACE}\n" in run_ and f"unit={stock.UNITS}/{stock.UNIT}\n" in run_
