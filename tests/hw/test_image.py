"""The card image: its table, its partitions, which settings hold, and which version runs after any power cut."""

import functools
import gzip
import hashlib
import io
import itertools
import json
import os
import shutil
import struct
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from edge import UserError, config, config_file
from hw.image import (
    boot,
    bundle,
    card,
    disk,
    first,
    found,
    libraries,
    owner,
    product,
    settings,
    signature,
    table,
    update,
    versions,
)
from hw.image.versions import Versions
from hw.install import ledger

EPOCH = 1_735_689_600


def needs(*commands: str) -> pytest.MarkDecorator:
    missing = [name for name in commands if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed here: {', '.join(missing)}")


# The partition table.


def test_the_table_says_what_was_laid_out() -> None:
    laid = table.lay_out([(table.FAT, 10 << 20), (table.LINUX, 1), (table.LINUX, 5 << 20)])
    sector = table.boot_record(laid, 0x12345678)
    assert len(sector) == 512
    assert table.read(sector) == laid
    assert struct.unpack_from("<I", sector, 440)[0] == 0x12345678
    for one, other in itertools.pairwise(laid):
        assert one.start % table.ALIGN == 0
        assert other.start >= one.start + one.sectors


@needs("sfdisk")
def test_the_table_is_what_sfdisk_reads(tmp_path: Path) -> None:
    laid = table.lay_out([(table.FAT, 10 << 20), (table.LINUX, 8 << 20), (table.LINUX, 5 << 20)])
    image = tmp_path / "card.img"
    image.write_bytes(table.boot_record(laid, 0xABCD1234))
    os.truncate(image, 64 << 20)
    reported = json.loads(subprocess.run(["sfdisk", "-J", image], capture_output=True, check=True).stdout)[
        "partitiontable"
    ]
    assert reported["id"] == "0xabcd1234"
    assert [(one["start"], one["size"]) for one in reported["partitions"]] == [(one.start, one.sectors) for one in laid]


@given(st.integers(0, 1 << 33))
def test_growing_moves_nothing_and_stays_on_the_card(card_sectors: int) -> None:
    laid = table.lay_out([(table.FAT, 10 << 20), (table.LINUX, 8 << 20), (table.LINUX, 64 << 20)])
    before = table.boot_record(laid, 1)
    after = table.grown(before, card_sectors)
    parts = table.read(after)
    assert parts[:2] == laid[:2]
    assert parts[2].start == laid[2].start
    assert parts[2].sectors >= laid[2].sectors
    assert after == before or parts[2].start + parts[2].sectors <= card_sectors
    assert table.grown(after, card_sectors) == after


@pytest.mark.parametrize("sector", [b"", b"\0" * 512, os.urandom(510) + b"\0\0"])
def test_no_table_is_one_clear_line(sector: bytes) -> None:
    with pytest.raises(UserError, match="partition table"):
        table.grown(sector, 1 << 20)


def test_a_foreign_table_is_left_alone(tmp_path: Path) -> None:
    laid = table.lay_out([(table.FAT, 10 << 20), (table.LINUX, 8 << 20)])
    image = tmp_path / "card.img"
    image.write_bytes(table.boot_record(laid, 1))
    before = image.read_bytes()
    with pytest.raises(UserError, match="not the image's"):
        table.grow_file(image, 1 << 24)
    assert image.read_bytes() == before


def test_the_card_of_a_machine_that_is_none_is_named() -> None:
    try:
        path, name = first.disk_of_root()
    except UserError as error:
        assert "stays as it is" in str(error)
    else:
        assert path == Path("/dev", name)


# Partitions from folders.


@needs("mformat", "mcopy", "mtype")
def test_the_first_partition_holds_the_files_and_is_the_same_twice(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    (folder / "overlays").mkdir(parents=True)
    (folder / "quietbox.toml").write_text("[box]\n")
    (folder / "overlays/a.dtbo").write_bytes(b"\1" * 5000)
    made = []
    for number in range(2):
        image = tmp_path / f"{number}.img"
        disk.fat(folder, image, 48, "ABCD-1234", EPOCH)
        made.append(hashlib.sha256(image.read_bytes()).hexdigest())
    text = subprocess.run(["mtype", "-i", image, "::quietbox.toml"], capture_output=True, check=True).stdout
    assert text == b"[box]\n"
    data = image.read_bytes()[:512]
    assert data[82:87] == b"FAT32"
    assert data[67:71] == bytes.fromhex("ABCD1234")[::-1]
    assert made[0] == made[1]


@needs("mke2fs", "e2fsck", "debugfs")
def test_the_root_is_whole_and_the_same_from_two_copies(tmp_path: Path) -> None:
    made = []
    for number in range(2):
        folder = tmp_path / f"tree{number}"
        names = [f"d{at % 7}/f{at}" for at in range(150)]
        for name in names if number else names[::-1]:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name * 50)
        (folder / "link").symlink_to("d1/f1")
        for path in [folder, *folder.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755)
        image = tmp_path / f"{number}.ext4"
        disk.ext4(folder, image, disk.bytes_needed(folder), "root", disk.Ids("x").of("root"), EPOCH)
        checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
        made.append(hashlib.sha256(image.read_bytes()).hexdigest())
    reported = subprocess.run(["debugfs", "-R", "stat /d1/f1", image], capture_output=True, text=True).stdout
    assert reported.count("Jan  1 00:00:00 2025") + reported.count("Dec 31") == 4, reported
    assert made[0] == made[1]


@needs("mke2fs")
def test_a_program_whose_library_is_in_no_package_is_named(tmp_path: Path) -> None:
    program, loader = Path("/bin/true"), "libc.so.6"
    (tmp_path / "opt/deep").mkdir(parents=True)
    for name in ("one", "two"):
        shutil.copy(program, tmp_path / "opt/deep" / name)
    (tmp_path / "opt/deep/script").write_text("#!/bin/sh\n")
    (tmp_path / "opt/link").symlink_to("deep/one")
    lacked = libraries.missing(tmp_path, "opt")
    assert sorted(lacked[loader]) == ["opt/deep/one", "opt/deep/two"]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / loader).symlink_to("libc-2.36.so")
    assert loader not in libraries.missing(tmp_path, "opt")
    assert libraries.missing(tmp_path, "lib") == {}


def test_a_card_has_its_partitions_where_its_table_says(tmp_path: Path) -> None:
    parts = []
    for number, kind in enumerate((table.FAT, table.LINUX, table.LINUX)):
        path = tmp_path / f"part{number}"
        path.write_bytes(bytes([number + 1]) * ((number + 1) << 20))
        parts.append((kind, path))
    out = tmp_path / "card.img"
    disk.card(parts, out, 7)
    data = out.read_bytes()
    for place, (_, path) in zip(table.read(data), parts, strict=True):
        start = place.start * table.SECTOR
        assert data[start : start + place.sectors * table.SECTOR] == path.read_bytes()
    assert not list(tmp_path.glob(".*part"))


@needs("cpio")
def test_the_initial_root_is_an_archive_that_cpio_reads(tmp_path: Path) -> None:
    made = boot.archive({"bin": None, "bin/x": b"12345", "init": b"#!/bin/sh\n"}, {"bin/sh": "x"})
    subprocess.run(["cpio", "-id", "--quiet"], input=made, cwd=tmp_path, check=True)
    assert (tmp_path / "bin/x").read_bytes() == b"12345"
    assert os.readlink(tmp_path / "bin/sh") == "x"


@needs("sh")
def test_the_first_script_is_a_shell_script() -> None:
    subprocess.run(["sh", "-n"], input=boot.INIT.encode(), check=True)
    trial = (card.HERE / "files/usr/sbin/quietbox-trial").read_bytes()
    subprocess.run(["sh", "-n"], input=trial, check=True)


@needs("dtc")
def test_an_update_is_sent_by_ssh_and_a_refusal_is_one_line(tmp_path: Path) -> None:
    """``hw.prove.pi3 --send`` does it with the real thing; here ``ssh`` is a script that writes down its call."""
    offered, called = bundle_of(tmp_path, "7"), tmp_path / "called"
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" > {called}\ncmp -s - {offered} && exit\n')
    ssh.chmod(0o755)
    assert update.send(offered, "box:2222", owner_key(), f"{ssh} -i key") == "7"
    words = called.read_text()
    assert words.startswith("-i key ssh://root@box:2222 ") and "quietbox-versions update" in words
    ssh.write_text("#!/bin/sh\necho 'warning: x' >&2; echo 'Permission denied (publickey).' >&2; exit 255\n")
    with pytest.raises(UserError, match=r"box did not accept it: Permission denied \(publickey\)\.$"):
        update.send(offered, "box", owner_key(), str(ssh))
    with pytest.raises(UserError, match="is not a host"):
        update.send(offered, "-oProxyCommand=x", owner_key(), str(ssh))


def test_the_overlay_compiles(tmp_path: Path) -> None:
    for source in (card.HERE / "overlays").glob("*.dts"):
        boot._compile(source, tmp_path / "out.dtbo")
        assert (tmp_path / "out.dtbo").read_bytes()[:4] == b"\xd0\x0d\xfe\xed"


def test_units_of_the_image_are_right_by_systemd_s_own_word(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not installed here: systemd-analyze")
    units = tmp_path / "etc/systemd/system"
    shutil.copytree(card.HERE / "files/etc/systemd/system", units)
    for unit in units.glob("*.service"):
        text = unit.read_text()
        assert text.startswith("#") and "[Service]" in text
        for program in [
            line.split("=", 1)[1].split()[0] for line in text.splitlines() if line.startswith("ExecStart=")
        ]:
            assert program.startswith("/")


# Settings.


def check(path: Path) -> str:
    try:
        config_file.load(path)
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    for name in ("card", "data", "run"):
        (tmp_path / name).mkdir()
    return {
        "card": tmp_path / "card/quietbox.toml",
        "kept": tmp_path / "data/settings/quietbox.toml",
        "guessed": tmp_path / "data/settings/found.toml",
        "out": tmp_path / "run/settings/quietbox.toml",
    }


def test_the_shipped_file_sets_nothing_and_is_right(places: dict[str, Path]) -> None:
    places["card"].write_text(boot.settings())
    assert settings.choose(check, **places) == settings.Choice("card", "")
    assert config_file.load(places["out"]) == config.Config()
    assert not any(tomllib.loads(boot.settings()).values())


def test_good_settings_are_kept_and_a_broken_file_falls_back_to_them(places: dict[str, Path]) -> None:
    places["card"].write_bytes(b"\xef\xbb\xbf[suppress]\r\nlimit_db = 12.0\r\n")  # as Notepad saves it
    assert settings.choose(check, **places).source == "card"
    places["card"].write_text("[suppress]\nlimit_dB = 40.0\n")
    choice = settings.choose(check, **places)
    assert choice.source == "last good"
    assert "limit_dB" in choice.fault and "limit_db" in choice.fault and "quietbox.toml" in choice.fault
    assert ".quietbox-part" not in choice.fault
    assert config_file.load(places["out"]).suppress.limit_db == 12.0
    places["card"].unlink()
    assert "no quietbox.toml" in settings.choose(check, **places).fault
    assert config_file.load(places["out"]).suppress.limit_db == 12.0


def test_everything_wrong_on_the_card_is_in_one_line(places: dict[str, Path]) -> None:
    places["card"].write_text("[suppress]\nlimit_db = 12,5\n[gate]\non = 1\n" + "nothing = 1\n" * 500)
    fault = settings.choose(check, **places).fault
    assert fault.startswith("quietbox.toml: 502 errors: line 2: not valid TOML: the decimal sign is a point")
    assert "; line 4: [gate] on = 1 is not true or false; line 5: unknown key" in fault and len(fault) < 500


@pytest.mark.slow
@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@effort(max_examples=60, deadline=None)
def test_whatever_lies_on_the_card_there_are_settings(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("card")
    names = {"card": "a.toml", "kept": "kept/b.toml", "guessed": "found.toml", "out": "out/c.toml"}
    places = {name: folder / place for name, place in names.items()}
    places["card"].write_bytes(junk)
    (folder / "kept").mkdir()
    places["kept"].write_bytes(junk[::-1])
    places["guessed"].write_bytes(junk)
    choice = settings.choose(check, **places)
    assert check(places["out"]) == ""
    assert (choice.source == "card") == (not choice.fault)


def test_a_data_partition_that_is_gone_costs_only_the_keeping(places: dict[str, Path]) -> None:
    places["kept"] = Path("/proc/nothing/quietbox.toml")
    places["card"].write_text("[suppress]\nlimit_db = 12.0\n")
    assert settings.choose(check, **places).source == "card"
    assert config_file.load(places["out"]).suppress.limit_db == 12.0


def test_what_was_found_counts_only_where_the_user_says_nothing(places: dict[str, Path]) -> None:
    places["guessed"].parent.mkdir()
    places["guessed"].write_text('[capture]\ndevice = "quietboxmic"\ngain_db = 24.0\n[panel]\nled = 25\n')
    places["card"].write_text("[capture]\ngain_db = 10.0\n[box]\nretry_s = 5.0\n")
    assert settings.choose(check, **places).source == "card"
    held = config_file.load(places["out"])
    assert (held.capture.device, held.capture.gain_db, held.panel.led, held.box.retry_s) == (
        "quietboxmic",
        10.0,
        25,
        5.0,
    )
    places["card"].write_text('[capture]\ndevice = "Headset"\n')
    settings.choose(check, **places)
    assert config_file.load(places["out"]).capture == config.CaptureConfig(device="Headset")


def test_what_a_version_has_taken_is_not_asked_again(places: dict[str, Path], tmp_path: Path) -> None:
    asked: list[Path] = []

    def counted(path: Path) -> str:
        asked.append(path)
        return check(path)

    notes = tmp_path / "notes/checked"
    places["card"].write_text("[suppress]\nlimit_db = 12.0\n")
    for _ in range(3):
        settings.choose(settings.remembering(counted, "1", notes), **places)
    assert len(asked) == 1
    settings.choose(settings.remembering(counted, "2", notes), **places)
    assert len(asked) == 2
    places["card"].write_text("[suppress]\nlimit_db = 400.0\n")
    for _ in range(2):
        assert "limit_db" in settings.choose(settings.remembering(counted, "2", notes), **places).fault


def test_a_broken_version_is_not_the_settings_fault(places: dict[str, Path], tmp_path: Path) -> None:
    broken, shipped = tmp_path / "broken", tmp_path / "shipped"

    def ask(version: Path, path: Path) -> str:
        return "ModuleNotFoundError: No module named 'edge'" if version == broken else check(path)

    places["card"].write_text("[suppress]\nlimit_db = 12.0\n")
    assert settings.choose(settings.checker(broken, shipped, ask), **places) == settings.Choice("card", "")
    places["card"].write_text("[suppress]\nlimit_db = 400.0\n")
    choice = settings.choose(settings.checker(broken, shipped, ask), **places)
    assert choice.source == "last good" and "limit_db" in choice.fault
    assert check(settings.NONE) == ""


def test_a_wrong_guess_never_spoils_the_users_settings(places: dict[str, Path]) -> None:
    places["guessed"].parent.mkdir()
    places["guessed"].write_text("[panel]\nled = 99\n")
    places["card"].write_text("[suppress]\nlimit_db = 12.0\n")
    assert settings.choose(check, **places) == settings.Choice("card", "")
    assert config_file.load(places["out"]).suppress.limit_db == 12.0


@given(
    st.dictionaries(
        st.sampled_from(["capture", "panel", "box"]),
        st.dictionaries(
            st.sampled_from(["a", "b"]),
            st.text(st.characters(exclude_categories=["Cs", "Cc"]))
            | st.integers(-99, 99)
            | st.booleans()
            | st.just(0.5),
        ),
    )
)
def test_settings_survive_being_written(tables: found.Tables) -> None:
    assert tomllib.loads(found.as_toml(tables)) == tables


# Versions. Power cuts are simulated where the file system is changed: everything up to the cut is there, nothing after.


class PowerCut(BaseException):
    """Not an Exception: no handler of the product may survive it."""


CHANGES = ("replace", "rename", "unlink", "symlink", "mkdir", "rmdir", "link", "fsync", "sync")


def asked_once(fault: Callable[[BinaryIO, bytes, Path], str]) -> Callable[[BinaryIO, bytes, Path], str]:
    """ssh-keygen's answer about one update does not change: thousands of starts need not ask it again."""
    known: dict[tuple[bytes, bytes, bytes], str] = {}

    def asked(payload: BinaryIO, reported: bytes, signers: Path) -> str:
        payload.seek(0)
        key = payload.read(), reported, signers.read_bytes()
        if key not in known:
            known[key] = fault(payload, reported, signers)
        return known[key]

    return asked


class Power:
    """Lets ``left`` changes of the file system happen, then cuts; before or after the change itself."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left, self.used = 1 << 30, 0
        for name in CHANGES:
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(signature, "_fault", asked_once(signature._fault))

    def _counted(self, real: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object, **named: object) -> object:
            if self.used >= self.left:
                raise PowerCut
            self.used += 1
            return None if "sync" in real.__name__ else real(*arguments, **named)

        return change

    def on(self, changes: int = 1 << 30) -> None:
        self.left, self.used = changes, 0


@pytest.fixture
def power() -> Iterator[Power]:
    with pytest.MonkeyPatch.context() as patch:
        yield Power(patch)


KEYS = tempfile.TemporaryDirectory()


@functools.cache
def owner_key() -> Path:
    """The key that signs updates here; beside it lies the list of signers of the boxes here."""
    key = Path(KEYS.name, "update-key")
    owner.new_key(key)
    key.with_name("signers").write_text(owner.allowed_signers(owner.public_of(key)))
    return key


def bundle_of(path: Path, called: str, **changed: object) -> Path:
    """A signed bundle with one small file."""
    data = called.encode()
    reported: dict[str, object] = {"name": called, "python": bundle.PYTHON, "machine": bundle.MACHINE, "build": EPOCH}
    reported |= {"files": {"lib/program": hashlib.sha256(data).hexdigest()}} | changed
    file = path / f"{called}.quietbox"
    with tarfile.open(file, "w:gz") as tar:
        for member, held in ((bundle.CONTENTS, json.dumps(reported).encode()), ("lib/program", data)):
            info = tarfile.TarInfo(member)
            info.size = len(held)
            tar.addfile(info, io.BytesIO(held))
    owner.sign(file, owner_key())
    return file


def box(tmp_path: Path) -> Versions:
    shipped = tmp_path / "shipped"
    (shipped / "bin").mkdir(parents=True)
    (shipped / "bin/quietbox").write_text("")
    (tmp_path / "store/versions").mkdir(parents=True)
    return Versions(tmp_path / "store", shipped, tmp_path / "run/version", owner_key().with_name("signers"))


def quiet(text: str) -> None:
    """Nobody listens."""


def start(held: Versions, works: Callable[[str], bool]) -> str:
    """One start of the service; returns what ran."""
    folder = held.begin(quiet)
    assert folder == held.shipped or bundle.whole(folder), "what is started is whole"
    assert ledger.points_to(held.in_use) == str(folder)
    name = "shipped" if folder == held.shipped else folder.name
    if works(name):
        held.ready()
    return name


def test_a_version_that_becomes_ready_stays(tmp_path: Path) -> None:
    held = box(tmp_path)
    held.update(bundle_of(tmp_path, "1"), quiet)
    assert start(held, lambda name: True) == "1"
    assert held.good == "1" and held.tries == 0
    for _ in range(5):
        assert start(held, lambda name: False) == "1"
    held.update(bundle_of(tmp_path, "2"), quiet)
    assert (held.current, held.previous, held.good) == ("2", "1", "1")
    assert start(held, lambda name: True) == "2"
    assert sorted(path.name for path in (held.store / "versions").iterdir()) == ["1", "2"]
    held.update(bundle_of(tmp_path, "3"), quiet)
    assert sorted(path.name for path in (held.store / "versions").iterdir()) == ["2", "3"]


def test_twice_not_ready_goes_back_and_is_not_taken_again(tmp_path: Path) -> None:
    held = box(tmp_path)
    said: list[str] = []
    held.update(bundle_of(tmp_path, "1"), quiet)
    start(held, lambda name: True)
    held.update(bundle_of(tmp_path, "2"), quiet)
    assert [start(held, lambda name: name != "2") for _ in range(4)] == ["2", "2", "1", "1"]
    assert held.refused == ["2"]
    offered = bundle_of(tmp_path, "2")
    versions.take_offered(held, offered, said.append)
    assert held.current == "1" and not said
    with pytest.raises(UserError, match="--again"):
        held.update(offered, quiet)
    held.update(offered, quiet, again=True)
    assert start(held, lambda name: True) == "2" and held.refused == []


def test_an_update_that_stays_on_the_card_does_not_undo_a_later_one(tmp_path: Path) -> None:
    held = box(tmp_path)
    offered = bundle_of(tmp_path, "1")
    versions.take_offered(held, offered, quiet)
    start(held, lambda name: True)
    for name in ("2", "3"):
        held.update(bundle_of(tmp_path, name), quiet)
        start(held, lambda name: True)
    versions.take_offered(held, offered, quiet)
    assert held.current == "3"
    versions.take_offered(held, bundle_of(tmp_path, "4"), quiet)
    assert held.current == "4"


def test_without_a_version_before_the_shipped_one_is_the_last_resort(tmp_path: Path) -> None:
    held = box(tmp_path)
    held.update(bundle_of(tmp_path, "1"), quiet)
    assert [start(held, lambda name: name == "shipped") for _ in range(3)] == ["1", "1", "shipped"]
    assert held.current == ""


def test_an_update_of_an_update_that_was_never_ready_goes_back_to_the_good_one(tmp_path: Path) -> None:
    held = box(tmp_path)
    held.update(bundle_of(tmp_path, "1"), quiet)
    start(held, lambda name: True)
    held.update(bundle_of(tmp_path, "2"), quiet)
    start(held, lambda name: False)
    held.update(bundle_of(tmp_path, "3"), quiet)
    assert held.previous == "1"
    assert [start(held, lambda name: name == "1") for _ in range(3)] == ["3", "3", "1"]


def test_a_damaged_version_is_not_started(tmp_path: Path) -> None:
    held = box(tmp_path)
    held.update(bundle_of(tmp_path, "1"), quiet)
    start(held, lambda name: True)
    (held.folder("1") / bundle.STAMP).unlink()
    assert start(held, lambda name: True) == "shipped"


def test_a_store_that_cannot_be_written_still_starts(tmp_path: Path) -> None:
    shipped = box(tmp_path).shipped
    said: list[str] = []
    for store in ("/proc/nothing", "/dev/null/x"):
        held = Versions(Path(store), shipped, tmp_path / "run/version")
        assert held.begin(said.append) == shipped


@pytest.mark.slow
@pytest.mark.parametrize("works", ["1", "2", "12", ""])
def test_a_power_cut_anywhere_in_an_update_leaves_a_box_that_runs(tmp_path: Path, power: Power, works: str) -> None:
    """Every change of the file system, in the update and in the starts after it, is the one where the power goes."""
    updates = [bundle_of(tmp_path, name) for name in ("1", "2")]
    for cut_update in (True, False):
        for after in range(10_000):
            power.on()
            place = tmp_path / f"{cut_update}{after}"
            held = box(place)
            held.update(updates[0], quiet)
            start(held, lambda name: True)
            try:
                if not cut_update:
                    held.update(updates[1], quiet)
                power.on(after)
                if cut_update:
                    held.update(updates[1], quiet)
                else:
                    for _ in range(3):
                        start(held, lambda name: name in works)
                cut = False
            except PowerCut:
                cut = True
            power.on()
            ran = [start(held, lambda name: name in works or name == "shipped") for _ in range(4)]
            settled = ran[-1]
            assert ran[-2] == settled or "shipped" in ran
            assert settled in ("1", "2")
            assert settled == "1" or "2" in works, "a version that never became ready does not stay"
            held.update(bundle_of(tmp_path, "4"), quiet)  # whatever was left half done is no hindrance
            assert start(held, lambda name: True) == "4"
            shutil.rmtree(place)
            if not cut:
                break
        else:
            pytest.fail("the power was always cut")
        assert after > 5


# Bundles.


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"python": "3.13"}, "not for this box"),
        ({"machine": "x86_64"}, "not for this box"),
        ({"name": "../../etc"}, "has no version"),
        ({"files": {"lib/program": "0" * 64}}, "damaged"),
        ({"files": {}}, "is not in its list of contents"),
        ({"files": {"/etc/passwd": "0" * 64}}, "outside"),
        ({"files": {"a/../../b": "0" * 64}}, "outside"),
    ],
)
def test_a_bad_bundle_changes_nothing(tmp_path: Path, changed: dict[str, object], says: str) -> None:
    held = box(tmp_path)
    file = bundle_of(tmp_path, "1", **changed)
    with pytest.raises(UserError, match=says):
        held.update(file, quiet)
    assert held.current == "" and not held.store.joinpath("versions/1").exists()
    said: list[str] = []
    versions.take_offered(held, file, said.append)
    assert len(said) == 1 and "\n" not in said[0]


@given(st.integers(0, 400), st.integers(0, 255))
@effort(max_examples=40, deadline=None)
def test_a_bundle_with_any_wrong_byte_is_refused_or_whole(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    file = bundle_of(folder, "1")
    data = bytearray(file.read_bytes())
    data[place % len(data)] = byte
    file.write_bytes(data if byte else data[:place])
    try:
        bundle.unpack(file, folder / "out")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert (folder / "out/lib/program").read_bytes() == b"1"


def test_what_is_packed_is_what_is_unpacked(tmp_path: Path) -> None:
    place = tmp_path / "made"
    (place / "lib/a").mkdir(parents=True)
    (place / "lib/a/x.py").write_text("print()\n")
    (place / "lib/a/x.so").write_bytes(bytes(5000))
    (place / "lib/a/x.so").chmod(0o755)
    bundle.dress(place)
    made = []
    for number in range(2):
        product.pack(place, "0.1.0-abc", tmp_path / f"{number}.quietbox", EPOCH, EPOCH)
        made.append((tmp_path / f"{number}.quietbox").read_bytes())
    assert made[0] == made[1]
    bundle.unpack(tmp_path / "0.quietbox", tmp_path / "out")
    assert bundle.whole(tmp_path / "out")
    assert bundle.digests(tmp_path / "out") == bundle.digests(place)
    assert os.access(tmp_path / "out/lib/a/x.so", os.X_OK)
    assert gzip.decompress(made[0])


def test_an_update_is_laid_on_a_card_whole_or_not_at_all(tmp_path: Path) -> None:
    file = bundle_of(tmp_path, "1")
    folder = tmp_path / "card"
    folder.mkdir()
    with pytest.raises(UserError, match="not the first partition"):
        update.lay_on(file, folder, owner_key())
    (folder / "cmdline.txt").write_text("quiet\n")
    assert update.lay_on(file, folder, owner_key()) == "1"
    held = box(tmp_path)
    versions.take_offered(held, folder / versions.OFFERED.name, quiet)
    assert held.current == "1"
    with pytest.raises(UserError, match="is not signed"):
        update.lay_on(folder / "cmdline.txt", folder, owner_key())


# The command.


def test_another_set_of_inputs_is_named() -> None:
    mine = {"debian": {"bash": {"version": "1"}}, "epoch": 1}
    card._compare(mine, {"debian": {"bash": {"version": "1"}}, "epoch": 1})
    with pytest.raises(UserError, match="debian bash"):
        card._compare(mine, {"debian": {"bash": {"version": "2"}}, "epoch": 1})
    with pytest.raises(UserError, match="epoch"):
        card._compare(mine, {"debian": {"bash": {"version": "1"}}, "epoch": 2})


def test_bad_calls_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    if os.geteuid() == 0:
        with pytest.raises(UserError, match="arm64 wheels"):
            product.collect(tmp_path, tmp_path / "none")
    assert versions.main(["update"]) == 1
    assert versions.main(["update", str(tmp_path / "nothing")]) == 1
    reported = capsys.readouterr().err
    assert "Traceback" not in reported and len(reported.splitlines()) == 2
