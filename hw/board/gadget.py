"""The board's USB port as a plain USB microphone: a PC that is plugged in records what the box plays, without a driver.

``Gadget.up`` (``edge.tools.usb_microphone`` calls it, as root, at boot) builds a gadget in the kernel's configfs; twice
is as good as once, and a failure leaves nothing behind. ``down`` removes it. The kernel then has a sound card
``UAC1Gadget``; what is played there, the PC records: 48 kHz mono, 16 bits.

With ``[cable] usb_orders`` there is a serial port beside it (CDC ACM): /dev/ttyGS0 here, /dev/ttyACM0 or a COM port
there, for ``edge.serial_orders``. It carries no sound.

USB Audio Class 1, not 2: Windows, macOS and Linux all bring a driver for class 1. With class 2 the kernel's gadget was
refused by Windows for years ("This device cannot start", code 10; raspberrypi/linux#4587, libusbgx#24) and by
PulseAudio at times (raspberrypi/linux#3888), and one voice channel has no use for what class 2 adds.

The port must be in device mode: ``dtoverlay=dwc2,dr_mode=peripheral`` in config.txt. Zero, Zero W, Zero 2 W: the inner
port, marked USB; 4, 5, 400, 500: the USB-C port, which then also feeds the board, so the PC must give enough current
(a 5 wants more than most ports have: use a cable that splits power off). A, A+, 3A+ and Compute Modules have one port
for both roles; with a USB microphone plugged in there, it cannot be the device.

What no test without a board shows, and none here claims: that dwc2 binds, that each PC takes the descriptors, how it
sounds, and how long the PC's own queues are. Tested are the order and content of what is written, repetition, removal
and undoing (in a folder that behaves as configfs does); that the kernel binds it and Linux's USB sound driver makes a
microphone of it (``hw.prove.pi gadget``, whose controller carries no sound); and the box's side on made-up cards: a
card that nobody reads never touches the jack.
"""

import contextlib
import errno
import os
import subprocess
import time
from pathlib import Path

from edge import UserError
from hw.board.bootconfig import GADGET

NAME = "quietbox"
PRODUCT = "Quietbox clean microphone"
FUNCTION = f"uac1.{NAME}"
ENGLISH = "strings/0x409"
CONFIGURATION = "configs/c.1"

# 1d6b:0101 is the Linux Foundation's number for an audio gadget. The board takes its power from the PC's port.
ATTRIBUTES = {
    "idVendor": "0x1d6b",
    "idProduct": "0x0101",
    "bcdDevice": "0x0100",
    "bcdUSB": "0x0200",
    f"{ENGLISH}/manufacturer": "Quietbox",
    f"{ENGLISH}/product": PRODUCT,
    f"functions/{FUNCTION}/c_chmask": "0",
    f"functions/{FUNCTION}/p_chmask": "1",
    f"functions/{FUNCTION}/p_srate": "48000",
    f"functions/{FUNCTION}/p_ssize": "2",
    f"{CONFIGURATION}/MaxPower": "500",
    f"{CONFIGURATION}/bmAttributes": "0x80",
    f"{CONFIGURATION}/{ENGLISH}/configuration": "microphone",
}
"""p_: what the board plays and the PC records; c_: the other way, none. In the order in which it is written."""
IF_THERE = {
    f"functions/{FUNCTION}/p_mute_present": "0",
    f"functions/{FUNCTION}/p_volume_present": "0",
    f"functions/{FUNCTION}/function_name": PRODUCT,
}
"""From Linux 5.16 and 5.18 on. Without volume the PC cannot turn the microphone down behind the box's back."""
FOLDERS = (ENGLISH, f"functions/{FUNCTION}", CONFIGURATION, f"{CONFIGURATION}/{ENGLISH}")
"""What is made, in this order, and removed in the opposite one."""
LINK = f"{CONFIGURATION}/{FUNCTION}"
SERIAL = "acm.usb0"
SERIAL_FOLDER, SERIAL_LINK = f"functions/{SERIAL}", f"{CONFIGURATION}/{SERIAL}"
SERIAL_ATTRIBUTES = {
    "idProduct": "0x0104",
    "bDeviceClass": "0xEF",
    "bDeviceSubClass": "0x02",
    "bDeviceProtocol": "0x01",
    f"{CONFIGURATION}/{ENGLISH}/configuration": "microphone and orders",
}
"""With the serial port beside the microphone. 1d6b:0104 is the Linux Foundation's number for a gadget of several
functions: under the other one Windows remembers a device of one. The class says that interface association descriptors
follow (USB-IF, Interface Association Descriptor Device Class Code and Use Model): without it Windows does not join the
two interfaces of the port."""
CONTROLLERS = "sys/class/udc"
PLUGGED_IN = ("configured", "suspended")
"""States of a controller with a PC at the cable (Documentation/ABI/stable/sysfs-class-udc)."""
WAIT_S = 5.0
"""The controller's driver may still be loading at boot."""


class NoGadget(UserError):
    """The gadget cannot be made; the text has the reason and the fix."""


class Gadget:
    """Ours among the kernel's USB gadgets. ``root`` is ``/``, or a folder that stands for it."""

    def __init__(self, root: Path = Path("/"), wait_s: float = WAIT_S) -> None:
        self._root = root
        self._controllers = root / CONTROLLERS
        self._all = root / "sys/kernel/config/usb_gadget"
        self._ours = self._all / NAME
        self._wait_s = wait_s

    @property
    def bound_to(self) -> str:
        """The controller that ours drives; empty if it does not exist or drives none."""
        return _read(self._ours / "UDC")

    def up(self, serial: bool = False) -> str:
        """Build and bind it, with the serial port if ``serial``; returns one sentence. Where the port cannot be had the
        microphone comes without. Raises NoGadget, after removing whatever it had made."""
        if bound := self.bound_to:
            differs = serial != (self._ours / SERIAL_LINK).is_symlink()
            restart = "; for the serial port as set: systemctl restart quietbox-gadget" if differs else ""
            return f"already up on {bound}{restart}"
        controller = self._free_controller()
        self._need_configfs()
        found = f"up on {controller}: a PC at the USB port sees {PRODUCT!r}"
        if not serial:
            self._make(controller, serial=False)
            return found
        try:
            self._make(controller, serial=True)
            return f"{found} and a serial port for orders"
        except NoGadget as refusal:
            self._make(controller, serial=False)
            return f"{found}, and no serial port for orders ({refusal})"

    def _make(self, controller: str, serial: bool) -> None:
        self.down()  # of an earlier try that was killed
        try:
            self._build(serial)
            _write(self._ours / "UDC", controller)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.down()
            raise self._explained(error, controller) from None

    def down(self) -> str:
        """Remove all of it; returns one sentence, harmless if there is nothing. May raise OSError."""
        if not self._ours.exists():
            return "there is none"
        if self.bound_to:
            _write(self._ours / "UDC", "")
        for link in (LINK, SERIAL_LINK):
            (self._ours / link).unlink(missing_ok=True)
        for folder in (*reversed(FOLDERS), SERIAL_FOLDER, ""):
            _remove(self._ours / folder)
        return "removed"

    def status(self) -> str:
        """One sentence."""
        if not (bound := self.bound_to):
            return "down"
        state = _read(self._controllers / bound / "state") or "unknown"
        return f"up on {bound}, port {state}"  # "configured" once a PC has taken it, else "not attached" and the like

    def _build(self, serial: bool) -> None:
        self._ours.mkdir()
        for folder in (*FOLDERS, *([SERIAL_FOLDER] if serial else [])):
            (self._ours / folder).mkdir(parents=True)
        for name, value in (ATTRIBUTES | (SERIAL_ATTRIBUTES if serial else {})).items():
            _write(self._ours / name, value)
        for name, value in IF_THERE.items():
            if (self._ours / name).exists():
                _write(self._ours / name, value)
        number = _read(self._root / "proc/device-tree/serial-number").strip("\0") or NAME
        _write(self._ours / ENGLISH / "serialnumber", number)
        (self._ours / LINK).symlink_to(self._ours / "functions" / FUNCTION)
        if serial:
            self._need_first_port()
            (self._ours / SERIAL_LINK).symlink_to(self._ours / SERIAL_FOLDER)

    def _need_first_port(self) -> None:
        """The box listens at ttyGS0; another gadget may have it."""
        number = self._ours / SERIAL_FOLDER / "port_num"
        if (found := _read(number)) not in ("", "0"):
            raise OSError(
                errno.EEXIST, f"another gadget has the serial port ttyGS0, this one would be ttyGS{found}", number
            )

    def _free_controller(self) -> str:
        """The first controller that nobody drives."""
        over_s = time.monotonic() + self._wait_s
        while not (names := self._controller_names()) and time.monotonic() < over_s:
            time.sleep(0.2)
        if not names:
            raise NoGadget(
                f"no USB port of this board is in device mode: put {GADGET} under [all] in config.txt and restart "
                "(Zero, Zero 2, 4, 5, A models and Compute Modules; others cannot)"
            )
        drivers = {name: self._driver(name) for name in names}
        for name, driver in drivers.items():
            if not driver:
                return name
        taken = ", ".join(f"{name} by {driver}" for name, driver in drivers.items())
        raise NoGadget(
            f"the USB port is already in use by another gadget ({taken}): remove it first (g_ether and similar ones "
            "are set in cmdline.txt or /etc/modules)"
        )

    def _controller_names(self) -> list[str]:
        try:
            return sorted(entry.name for entry in self._controllers.iterdir())
        except OSError:
            return []

    def _driver(self, controller: str) -> str:
        """Which gadget drives a controller; empty if none does."""
        for udc in sorted(self._all.glob("*/UDC")):
            if _read(udc) == controller:
                return f"the gadget {udc.parent.name}"
        return _read(self._controllers / controller / "function")

    def _need_configfs(self) -> None:
        if not self._all.is_dir() and self._root == Path("/"):
            with contextlib.suppress(OSError):
                subprocess.run(["modprobe", "libcomposite"], check=False, capture_output=True)
        if not self._all.is_dir():
            raise NoGadget(
                f"{self._all} is missing: the kernel has no USB gadgets (module libcomposite), "
                "or configfs is not mounted (mount -t configfs none /sys/kernel/config)"
            )

    def _explained(self, error: OSError, controller: str) -> NoGadget:
        where = Path(str(error.filename or self._ours))
        if error.errno in (errno.EACCES, errno.EPERM) and os.getuid() != 0:
            return NoGadget(f"{where} can be written by root only")
        if error.errno == errno.ENOENT and where.name == FUNCTION:
            return NoGadget("the kernel has no USB audio gadget of class 1 (module usb_f_uac1)")
        if error.errno == errno.ENOENT and where.name == SERIAL:
            return NoGadget("the kernel has no serial gadget (module usb_f_acm)")
        if error.errno == errno.EBUSY:
            return NoGadget(
                f"{controller} rejected the gadget: another gadget uses it, or it has no endpoint for sound; see "
                "`journalctl -k -g udc`"
            )
        return NoGadget(f"{where}: {error.strerror}; everything was undone")


def is_plugged_in(root: Path = Path("/")) -> bool:
    """Whether a PC has taken the gadget that a controller drives, ours or another."""
    controllers = (root / CONTROLLERS).glob("*")
    return any(_read(each / "state") in PLUGGED_IN and _is_driven(each) for each in controllers)


def _is_driven(controller: Path) -> bool:
    """Old kernels have no such file."""
    return bool(_read(controller / "function")) or not (controller / "function").exists()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _write(path: Path, value: str) -> None:
    """One write call a value, as configfs wants it. A failure names the file."""
    try:
        path.write_text(f"{value}\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _remove(folder: Path) -> None:
    """configfs takes a folder's attributes along with it; under another root they are plain files."""
    if not folder.exists():
        return
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        for entry in folder.iterdir():
            entry.rmdir() if entry.is_dir() else entry.unlink()
        folder.rmdir()
