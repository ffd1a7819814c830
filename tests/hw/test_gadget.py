"""The USB microphone's configfs tree in a folder to use instead of /: what is written, repeated, removed and undone."""

import errno
import os
from pathlib import Path

import pytest

from edge.tools.usb_microphone import main
from hw.board import gadget as gadget_module
from hw.board.gadget import ATTRIBUTES, CONFIGURATION, FUNCTION, PRODUCT, SERIAL, SERIAL_ATTRIBUTES, Gadget, NoGadget

CONTROLLER = "3f980000.usb"
ON = "[cable]\nusb = true\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A board in device mode, its gadgets empty."""
    (tmp_path / "sys/class/udc" / CONTROLLER).mkdir(parents=True)
    (tmp_path / "sys/class/udc" / CONTROLLER / "state").write_text("not attached\n")
    (tmp_path / "sys/kernel/config/usb_gadget").mkdir(parents=True)
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/serial-number").write_bytes(b"10000000abcdef\0")
    return tmp_path


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def made(root: Path) -> Gadget:
    return Gadget(root, wait_s=0)


def ours(root: Path) -> Path:
    return root / "sys/kernel/config/usb_gadget/quietbox"


def test_up_writes_a_capture_only_microphone(root: Path) -> None:
    assert CONTROLLER in made(root).up()
    function = ours(root) / "functions" / FUNCTION
    figures = {name: (function / name).read_text().strip() for name in ("c_chmask", "p_chmask", "p_srate", "p_ssize")}
    assert figures == {"c_chmask": "0", "p_chmask": "1", "p_srate": "48000", "p_ssize": "2"}
    assert (ours(root) / "strings/0x409/product").read_text() == f"{PRODUCT}\n" == "Quietbox clean microphone\n"
    assert (ours(root) / "strings/0x409/serialnumber").read_text() == "10000000abcdef\n"
    assert (ours(root) / CONFIGURATION / FUNCTION).resolve() == function
    assert (ours(root) / "UDC").read_text().strip() == CONTROLLER
    for name, value in ATTRIBUTES.items():
        assert (ours(root) / name).read_text() == f"{value}\n"


def test_it_is_bound_last_and_linked_when_complete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reads the function's figures when it is linked and bound; later writes are refused."""
    order = []
    write = gadget_module._write

    def noted(path: Path, value: str) -> None:
        order.append((path.name, (ours(root) / CONFIGURATION / FUNCTION).is_symlink()))
        write(path, value)

    monkeypatch.setattr(gadget_module, "_write", noted)
    made(root).up()
    assert order[-1] == ("UDC", True)
    assert not any(linked for name, linked in order[:-1])


def test_up_twice_is_up_once_and_down_removes_exactly_what_up_made(root: Path) -> None:
    (root / "sys/kernel/config/usb_gadget/other").mkdir()
    before = everything(root)
    made(root).up()
    after = everything(root)
    stamps = {path: path.lstat().st_mtime_ns for path in ours(root).rglob("*")}
    assert "already up" in made(root).up()
    assert everything(root) == after
    assert {path: path.lstat().st_mtime_ns for path in ours(root).rglob("*")} == stamps
    assert made(root).down() == "removed"
    assert everything(root) == before
    assert made(root).down() == "there is none"
    made(root).up()
    assert everything(root) == after


@pytest.mark.parametrize("step", range(len(ATTRIBUTES) + 2))
def test_a_failure_at_any_write_is_undone(root: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    before = everything(root)
    write, calls = gadget_module._write, []

    def failing(path: Path, value: str) -> None:
        calls.append(path)
        if len(calls) == step + 1:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        write(path, value)

    monkeypatch.setattr(gadget_module, "_write", failing)
    with pytest.raises(NoGadget, match=r"Invalid argument; everything was undone") as refusal:
        made(root).up()
    assert str(calls[step]) in str(refusal.value) and "\n" not in str(refusal.value)
    assert everything(root) == before


@pytest.mark.parametrize("reached", range(1, 12))
def test_a_try_that_was_killed_is_cleared_away_first(root: Path, monkeypatch: pytest.MonkeyPatch, reached: int) -> None:
    calls = []
    write = gadget_module._write

    def killed(path: Path, value: str) -> None:
        calls.append(path)
        if len(calls) > reached:
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(gadget_module, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        made(root).up()
    monkeypatch.undo()
    assert ours(root).exists()
    assert CONTROLLER in made(root).up()


def test_no_port_in_device_mode_names_the_line_for_config_txt(root: Path) -> None:
    (root / "sys/class/udc" / CONTROLLER / "state").unlink()
    (root / "sys/class/udc" / CONTROLLER).rmdir()
    with pytest.raises(NoGadget, match=r"dtoverlay=dwc2,dr_mode=peripheral under \[all\] in config.txt"):
        made(root).up()


def test_a_kernel_without_gadgets_names_the_module(root: Path) -> None:
    (root / "sys/kernel/config/usb_gadget").rmdir()
    with pytest.raises(NoGadget, match="libcomposite"):
        made(root).up()


def test_a_kernel_without_the_audio_function_names_the_module(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(root)
    mkdir = Path.mkdir

    def refuse(self: Path, *args: object, **more: object) -> None:
        if self.name == FUNCTION:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        mkdir(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(NoGadget, match="usb_f_uac1"):
        made(root).up()
    assert everything(root) == before


def test_a_port_that_somebody_else_has_is_named(root: Path) -> None:
    other = root / "sys/kernel/config/usb_gadget/network"
    other.mkdir()
    (other / "UDC").write_text(f"{CONTROLLER}\n")
    with pytest.raises(NoGadget, match="the gadget network"):
        made(root).up()
    (other / "UDC").write_text("\n")
    (root / "sys/class/udc" / CONTROLLER / "function").write_text("g_ether\n")
    with pytest.raises(NoGadget, match=r"by g_ether\): remove it first"):
        made(root).up()
    (root / "sys/class/udc/fe980000.usb").mkdir()
    assert "up on fe980000.usb" in made(root).up()


def test_newer_kernels_get_the_attributes_older_ones_lack(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def with_attributes(self: Path, *args: object, **more: object) -> None:
        mkdir(self, *args, **more)  # type: ignore[arg-type]
        if self.name == FUNCTION:
            (self / "p_volume_present").write_text("1\n")

    monkeypatch.setattr(Path, "mkdir", with_attributes)
    made(root).up()
    assert (ours(root) / "functions" / FUNCTION / "p_volume_present").read_text() == "0\n"
    assert not (ours(root) / "functions" / FUNCTION / "function_name").exists()


def test_the_command(root: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path_factory.mktemp("etc") / "quietbox.toml"
    before = everything(root)

    def call(order: str) -> tuple[int, str]:
        status = main([order, "--root", str(root), "--config", str(settings)])
        out, err = capsys.readouterr()
        assert (out + err).count("\n") == 1
        return status, out + err

    settings.write_text("[cable]\nusb = false\n")
    assert call("up") == (0, "USB microphone: not wanted ([cable] usb = false)\n") and everything(root) == before
    settings.write_text(ON)
    assert call("status") == (1, "USB microphone: down\n")
    assert call("up")[0] == 0
    assert call("status") == (0, f"USB microphone: up on {CONTROLLER}, port not attached\n")
    assert call("down")[0] == 0 and everything(root) == before
    settings.write_text(f"{ON}usb_orders = true\n")
    assert "serial port for orders" in call("up")[1] and (ours(root) / CONFIGURATION / SERIAL).is_symlink()
    assert call("down")[0] == 0 and everything(root) == before
    settings.write_text("[cable]\nusb = 3\n")
    status, said = call("up")
    assert status == 1 and "true or false" in said and everything(root) == before


def test_the_serial_port_stands_beside_the_microphone_and_off_is_the_default(root: Path) -> None:
    before = everything(root)
    assert "serial" not in made(root).up()
    assert not (ours(root) / "functions" / SERIAL).exists()
    assert not {"bDeviceClass", "bDeviceSubClass"} & {path.name for path in ours(root).iterdir()}
    assert "restart quietbox-gadget" in made(root).up(serial=True)
    made(root).down()
    assert "and a serial port for orders" in made(root).up(serial=True)
    assert made(root).up(serial=True) == f"already up on {CONTROLLER}"
    assert {path.name for path in (ours(root) / "functions").iterdir()} == {FUNCTION, "acm.usb0"}
    for function in (FUNCTION, SERIAL):
        assert (ours(root) / CONFIGURATION / function).resolve() == ours(root) / "functions" / function
    for name, value in (ATTRIBUTES | SERIAL_ATTRIBUTES).items():
        assert (ours(root) / name).read_text() == f"{value}\n"
    assert made(root).down() == "removed"
    assert everything(root) == before


@pytest.mark.parametrize("step", range(0, len(ATTRIBUTES | SERIAL_ATTRIBUTES) + 2, 3))
def test_without_the_serial_port_the_microphone_is_still_made(
    root: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    made(root).up()
    wanted = everything(root)
    made(root).down()
    write, calls = gadget_module._write, []

    def failing(path: Path, value: str) -> None:
        calls.append(path)
        if len(calls) == step + 1:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        write(path, value)

    monkeypatch.setattr(gadget_module, "_write", failing)
    said = made(root).up(serial=True)
    assert "no serial port for orders (" in said and "Invalid argument" in said and "\n" not in said
    assert everything(root) == wanted


@pytest.mark.parametrize(
    ("fault", "named"),
    [(errno.ENOENT, "the kernel has no serial gadget (module usb_f_acm)"), (None, "this one would be ttyGS1")],
)
def test_a_serial_port_that_cannot_be_had_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, fault: int | None, named: str
) -> None:
    mkdir = Path.mkdir

    def acm(self: Path, *args: object, **more: object) -> None:
        if self.name == SERIAL and fault:
            raise OSError(fault, os.strerror(fault), str(self))
        mkdir(self, *args, **more)  # type: ignore[arg-type]
        if self.name == SERIAL:
            (self / "port_num").write_text("1\n")

    monkeypatch.setattr(Path, "mkdir", acm)
    said = made(root).up(serial=True)
    assert named in said and said.startswith(f"up on {CONTROLLER}")
    assert (ours(root) / CONFIGURATION / FUNCTION).is_symlink()
    assert not (ours(root) / "functions" / SERIAL).exists()


@pytest.mark.parametrize("reached", range(1, 18, 4))
def test_a_try_with_a_serial_port_that_was_killed_is_cleared_away(
    root: Path, monkeypatch: pytest.MonkeyPatch, reached: int
) -> None:
    calls = []
    write = gadget_module._write

    def killed(path: Path, value: str) -> None:
        calls.append(path)
        if len(calls) > reached:
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(gadget_module, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        made(root).up(serial=True)
    monkeypatch.undo()
    assert CONTROLLER in made(root).up()
    assert not (ours(root) / "functions" / SERIAL).exists()


@pytest.mark.parametrize(
    ("state", "function", "plugged_in"),
    [
        ("configured", "configfs-gadget.quietbox", True),
        ("suspended", "configfs-gadget.quietbox", True),
        ("not attached", "configfs-gadget.quietbox", False),
        ("configured", "", False),
    ],
)
def test_a_pc_is_there_while_it_has_taken_the_gadget(root: Path, state: str, function: str, plugged_in: bool) -> None:
    (root / "sys/class/udc" / CONTROLLER / "state").write_text(f"{state}\n")
    (root / "sys/class/udc" / CONTROLLER / "function").write_text(f"{function}\n")
    assert gadget_module.is_plugged_in(root) == plugged_in
