"""Whatever the card or the data partition holds, the box starts: a version, settings, one line and the fault light."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from edge import UserError, config, config_file, files
from edge.files import toml
from hw.image import blink, bundle, first, settings, versions
from hw.image.versions import Versions
from hw.install import ledger, wheels

GOOD = "[suppress]\nlimit_db = 12.0\n"
NAMES = ("current", "previous", "good", "tries", "refused", "offered", "versions")


def of_bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def of_zeros(path: Path) -> None:
    """Sparse: 700 MB that take no room."""
    path.touch()
    os.truncate(path, 700 << 20)


def of_a_tree(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("x")


def of_a_link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


ANYTHING: dict[str, Callable[[Path], None]] = {
    "FIFO": lambda path: os.mkfifo(path),
    "device": of_a_link("/dev/zero"),
    "folder": of_a_tree,
    "loop": of_a_link("loop"),
    "dangling": of_a_link("/nothing/there"),
    "zeros": of_zeros,
    "not text": of_bytes(b"\xff\xfe\0x"),
    "NUL": of_bytes(b'[suppress]\nmodel = "a\0b"\n'),
    "escaped NUL": of_bytes(b'[suppress]\nmodel = "a\\u0000b"\n'),
    "5000 digits": of_bytes(b"[suppress]\nlimit_db = " + b"9" * 5000),
    "hexadecimal": of_bytes(b"[suppress]\nlimit_db = 0x" + b"f" * 60_000),
    "1000 brackets": of_bytes(b"[suppress]\nlimit_db = " + b"[" * 1000),
    "60 000 brackets": of_bytes(b"limit_db = " + b"[" * 60_000),
    "tables in tables": of_bytes(b"a = " + b"{a = " * 10_000),
    "256 KB of dots": of_bytes(b"a." * (128 << 10) + b"a = 1"),
    "64 KB of dots": of_bytes(b"a." * 32_000 + b"a = 1"),
    "a header of dots": of_bytes(b"[" + b"a." * 32_000 + b"a]"),
    "hidden dots": of_bytes(b'a={x="""\n""", ' + b"k." * 30_000 + b'k="'),
    "quotes": of_bytes(b'"' * 60_000),
    "escapes": of_bytes(b'a = "' + b'\\"' * 30_000),
    "keys": of_bytes(b"".join(b"a%d=1\n" % number for number in range(8000))),
    "a long key": of_bytes(b"[suppress]\n" + b"a" * 60_000 + b" = 1"),
    "lines": of_bytes(b"\n" * 60_000 + b"[nothing]"),
    "a date": of_bytes(b"[suppress]\nlimit_db = 1979-05-27T07:32:00Z"),
    "not a number": of_bytes(b"[suppress]\nlimit_db = nan"),
    "superscript": of_bytes("x ²".encode()),
}

KINDS = ("FIFO", "device", "folder", "loop", "dangling", "zeros", "not text", "superscript")
"""What differs where the content is not TOML."""


def ask(version: Path, path: Path) -> str:
    """As ``wheels.settings_fault``, without another Python."""
    try:
        config_file.load(path)
    except UserError as error:
        return str(error)
    return ""


def check(path: Path) -> str:
    return ask(path, path)


def places(folder: Path) -> dict[str, Path]:
    for name in ("card", "data/settings", "run"):
        (folder / name).mkdir(parents=True)
    return {
        "card": folder / "card/quietbox.toml",
        "kept": folder / "data/settings/quietbox.toml",
        "guessed": folder / "data/settings/found.toml",
        "out": folder / "run/settings/quietbox.toml",
    }


# Settings.


@pytest.mark.parametrize("what", ANYTHING)
def test_any_settings_file_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "loop"
    ANYTHING[what](path)
    with pytest.raises(config_file.BadConfig) as caught:
        config_file.load(path)
    said = str(caught.value)
    assert said.startswith(str(path)) and "\n" not in said and len(said) < len(str(path)) + 600


@pytest.mark.parametrize("what", ANYTHING)
def test_any_file_on_the_card_ends_in_the_last_good_settings(tmp_path: Path, what: str) -> None:
    held = places(tmp_path)
    held["card"].write_text(GOOD)
    assert settings.choose(check, **held) == settings.Choice("card", "")
    held["card"].unlink()
    ANYTHING[what](held["card"])
    choice = settings.choose(check, **held)
    assert choice.source == "last good" and "quietbox.toml" in choice.fault and "\n" not in choice.fault
    assert config_file.load(held["out"]).suppress.limit_db == 12.0


@pytest.mark.parametrize("what", ANYTHING)
def test_any_file_on_the_data_partition_leaves_the_cards_settings(tmp_path: Path, what: str) -> None:
    held = places(tmp_path)
    ANYTHING[what](held["kept"])
    ANYTHING[what](held["guessed"])
    notes = tmp_path / "data/loop"
    ANYTHING[what](notes)
    for _ in range(2):
        held["card"].write_text(GOOD)
        assert settings.choose(settings.remembering(check, "1", notes), **held) == settings.Choice("card", "")
        assert config_file.load(held["out"]).suppress.limit_db == 12.0
    held["card"].unlink()
    choice = settings.choose(check, **held)
    assert choice.source == "last good", "it could be kept, whatever lay there"


@given(
    st.recursive(
        st.integers()
        | st.floats()
        | st.booleans()
        | st.text(max_size=5)
        | st.datetimes().map(lambda at: at.isoformat()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([f"{section}.{key}" for section in config.SECTIONS for key in ("device", "on", "x")]),
)
@effort(max_examples=60, deadline=None)
def test_any_toml_of_the_board_is_no_hindrance(
    tmp_path_factory: pytest.TempPathFactory, value: object, place: str
) -> None:
    held = places(tmp_path_factory.mktemp("found"))
    held["card"].write_text(GOOD)
    held["guessed"].write_text(f"{place} = {as_toml(value)}\n", encoding="utf-8", errors="replace")
    assert settings.choose(check, **held).source == "card"
    assert config_file.load(held["out"]).suppress.limit_db == 12.0


def as_toml(value: object) -> str:
    match value:
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return "{" + ", ".join(f'"{key}" = {as_toml(one)}' for key, one in value.items()) + "}"
        case bool():
            return str(value).lower()
        case str() if value[:4].isdecimal():
            return value
        case str():
            return f"'{value}'"
    return repr(value)


@given(st.text("ab.=[]{}\"'#\\\n 1-", max_size=300) | st.text(max_size=100) | st.binary(max_size=200))
@effort(max_examples=300, deadline=None)
def test_any_text_is_settings_or_one_line(tmp_path_factory: pytest.TempPathFactory, junk: str | bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "a.toml"
    path.write_bytes(junk if isinstance(junk, bytes) else junk.encode(errors="surrogatepass"))
    try:
        assert isinstance(config_file.load(path), config.Config)
    except config_file.BadConfig as error:
        assert "\n" not in str(error)
    shutil.rmtree(path.parent)


def test_the_bounds_leave_room_for_every_key(tmp_path: Path) -> None:
    text = "\n".join(config_file.documented())
    assert len(text) * 5 < toml.MOST_BYTES
    assert toml.parse(text)
    floats = ", ".join(f"a{number} = 1.5" for number in range(toml.MOST_DOTS))
    assert toml.parse(f"a = {{{floats}}}  # and so on.... and on {'.' * 50}\nb = '{'.' * 50}'\n")


def test_no_settings_may_come_from_dev_null() -> None:
    assert config_file.load(Path("/dev/null")) == config.Config()


def test_the_fault_light_needs_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blink, "OUT", tmp_path / "none.toml")
    assert blink.pins() == config.PanelConfig()


def test_a_program_that_cannot_check_is_a_fault_in_one_line(tmp_path: Path) -> None:
    python = tmp_path / "bin/python"
    assert "cannot check" in wheels.settings_fault(tmp_path, tmp_path)
    python.parent.mkdir()
    for script, says in (
        ("kill -9 $$", "ended with -9"),
        ("exit 3", "ended with 3"),
        ("printf '\\377' >&2; exit 1", "�"),
    ):
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        assert says in wheels.settings_fault(tmp_path, tmp_path)


# Versions.


def version(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/quietbox").write_text("#!/bin/sh\n")
    (folder / "bin/quietbox").chmod(0o755)
    (folder / bundle.STAMP).write_text("{}")
    return folder


def box(folder: Path) -> Versions:
    """Version 2 in use and good, 1 before it."""
    held = Versions(folder / "store", version(folder / "shipped"), folder / "run/version")
    for name in ("1", "2"):
        version(held.store / "versions" / name)
    ledger.link(held.store / "current", "versions/2")
    ledger.link(held.store / "previous", "versions/1")
    (held.store / "good").write_text("2\n")
    return held


def starts(held: Versions) -> str:
    """What begins now; it is whole and the link to it does not dangle."""
    folder = held.begin(lambda text: None)
    assert bundle.whole(folder) and held.in_use.resolve() == folder.resolve()
    return folder.name


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_state_file_is_a_whole_version_starts(tmp_path: Path, name: str, what: str) -> None:
    held = box(tmp_path)
    path = held.store / name
    ledger.remove_tree(path)
    (held.store / "good").unlink(missing_ok=True)
    ANYTHING[what](path)
    held.choose()
    for _ in range(4):
        assert starts(held) in ("1", "2", "shipped")
        held.ready()
    held.sweep()
    assert (held.store / "versions").is_dir()


@pytest.mark.parametrize("count", ["²", "٣", "-1", "1e9", "9" * 5000, "0x1", "", "1 1", "\0"])
def test_a_count_of_starts_that_is_none_counts_from_nothing(tmp_path: Path, count: str) -> None:
    held = box(tmp_path)
    (held.store / "good").unlink()
    (held.store / "tries").write_text(f"2 {count}")
    assert held.tries == 0
    assert [starts(held) for _ in range(3)] == ["2", "2", "1"]


@pytest.mark.parametrize("damage", [*KINDS, "missing", "no stamp", "no program"])
@pytest.mark.parametrize("broken", [("2",), ("1",), ("1", "2")])
def test_a_damaged_version_gives_way_to_a_whole_one(tmp_path: Path, broken: tuple[str, ...], damage: str) -> None:
    held = box(tmp_path)
    for name in broken:
        place = held.store / "versions" / name
        if damage in ANYTHING:
            shutil.rmtree(place)
            ANYTHING[damage](place)
        else:
            ledger.remove_tree(place / {"missing": "", "no stamp": bundle.STAMP, "no program": "bin"}[damage])
    expected = "shipped" if len(broken) == 2 else {"1": "2", "2": "1"}[broken[0]]
    assert held.choose().name == expected, "already before anything is counted"
    for _ in range(3):
        assert starts(held) == expected
        held.ready()


def test_an_exception_while_counting_costs_the_counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = box(tmp_path)
    said: list[str] = []
    for error in (RuntimeError("x"), RecursionError(), MemoryError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x")):
        monkeypatch.setattr(held, "_count", lambda say, error=error: (_ for _ in ()).throw(error))
        held.in_use.unlink(missing_ok=True)
        assert held.begin(said.append).name == "2"
        assert held.in_use.resolve().name == "2"
    assert len(said) == 4
    monkeypatch.setattr(versions, "Versions", lambda: held)
    monkeypatch.setattr(held, "ready", lambda: 1 / 0)
    assert versions.main(["begin"]) == versions.main(["ready"]) == 0, "else systemd would not start the service"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_data_partition_that_takes_nothing_costs_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Full, read-only, worn out: a new version that never becomes ready still gives way, counted in memory."""
    held, laid = box(tmp_path), places(tmp_path / "settings")
    (held.store / "good").unlink()
    kept = [held.store, laid["kept"].parent]
    for name in ("write", "link"):
        real = getattr(ledger, name)

        def failing(path: Path, *rest: object, real: Callable[..., None] = real) -> None:
            if path.parent in kept:
                raise OSError(code, os.strerror(code))
            real(path, *rest)

        monkeypatch.setattr(ledger, name, failing)
    laid["card"].write_text(GOOD)
    notes = laid["kept"].parent / "checked"
    assert settings.choose(settings.remembering(check, "1", notes), **laid) == settings.Choice("card", "")
    assert [starts(held) for _ in range(4)] == ["2"] * 4
    assert held.fail(lambda text: None).name == "1" == starts(held)


def test_the_link_to_what_runs_is_made_whatever_lies_there(tmp_path: Path) -> None:
    held = box(tmp_path)
    for what in ANYTHING.values():
        ledger.remove_tree(held.in_use)
        held.in_use.parent.mkdir(exist_ok=True)
        what(held.in_use)
        assert starts(held) == "2"


def test_a_version_that_does_not_start_any_more_gives_way_until_power_on(tmp_path: Path) -> None:
    held = box(tmp_path)
    said: list[str] = []
    assert starts(held) == "2"
    assert held.fail(said.append).name == "1"
    assert starts(held) == "1"
    held.ready()
    assert (held.current, held.good) == ("2", "2"), "nothing is settled on the card"
    assert held.fail(said.append).name == "shipped"
    assert held.fail(said.append).name == "shipped" == starts(held)
    assert len(said) == 2
    shutil.rmtree(held.in_use.parent)
    assert starts(held) == "2"


def test_the_units_script_starts_something_whatever_happens(tmp_path: Path) -> None:
    """hw/image/files/usr/sbin/quietbox-trial, as systemd runs it, on paths of its own."""
    held = box(tmp_path)
    source = Path(versions.__file__).parent / "files/usr/sbin/quietbox-trial"
    script = tmp_path / "quietbox-trial"
    text = source.read_text()
    for path, mine in (
        ("/data/quietbox", held.store),
        ("/opt/quietbox/shipped", held.shipped),
        ("/run/quietbox-version", held.in_use),
        ("/run/quietbox-starts", tmp_path / "run/starts"),
    ):
        assert path in text
        text = text.replace(path, str(mine))
    script.write_text(text)
    python = held.shipped / "bin/python"
    called = tmp_path / "called"
    code = tmp_path / "versions.py"
    code.write_text(
        "import sys\nfrom pathlib import Path\nfrom hw.image import versions\n"
        f"held = versions.Versions(*map(Path, {[str(one) for one in (held.store, held.shipped, held.in_use)]}))\n"
        "versions.Versions = lambda: held\nsys.exit(versions.main(sys.argv[3:]))\n"
    )
    python.write_text(f'#!/bin/sh\necho >>{called}\nPYTHONPATH={wheels.SOURCE} exec {sys.executable} {code} "$@"\n')
    python.chmod(0o755)
    held.in_use.parent.mkdir()

    def trial(order: str) -> str:
        done = subprocess.run(["sh", script, order], timeout=60, capture_output=True, check=True)
        assert done.stdout == b""
        assert os.access(held.in_use / "bin/quietbox", os.X_OK)
        return held.in_use.resolve().name

    held.choose()
    assert [trial("begin"), trial("ready")] == ["2", "2"]
    assert not called.exists(), "a good version costs no Python"
    assert [trial("begin") for _ in range(8)] == ["2"] * 6 + ["1"] * 2
    trial("ready")
    shutil.rmtree(held.in_use.parent)
    held.in_use.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    (held.store / "good").unlink()
    os.mkfifo(held.store / "good")
    assert trial("begin") == "shipped", "although Python fails and /run is empty"


# The order at power-on.


@pytest.mark.parametrize("error", [RuntimeError("x"), OSError(5, "Input/output error"), UserError("x")])
def test_at_power_on_the_version_is_chosen_before_anything_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    held = box(tmp_path)
    lit: list[bool] = []

    def fails(*arguments: object) -> bool:
        assert held.in_use.resolve().name == "2", "chosen before"
        raise error

    monkeypatch.setattr(settings, "Versions", lambda: held)
    monkeypatch.setattr(settings, "choose", fails)
    monkeypatch.setattr(settings, "OFFERED", tmp_path / "update.quietbox")
    monkeypatch.setattr(settings, "_show_fault", lambda: lit.append(True))
    monkeypatch.setattr(bundle, "contents", fails)
    (tmp_path / "update.quietbox").touch()
    assert settings.main() == 0
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and lit == [True]


@pytest.mark.parametrize("what", KINDS)
def test_any_update_on_the_card_is_one_line_and_the_light(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    held = box(tmp_path)
    lit: list[bool] = []
    monkeypatch.setattr(settings, "Versions", lambda: held)
    monkeypatch.setattr(settings, "_make", lambda *arguments: False)
    monkeypatch.setattr(settings, "OFFERED", tmp_path / "loop")
    monkeypatch.setattr(settings, "_show_fault", lambda: lit.append(True))
    ANYTHING[what](tmp_path / "loop")
    assert settings.main() == 0
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("<4>") and lit == [True]
    assert (held.current, held.in_use.resolve().name) == ("2", "2")
    assert sorted(path.name for path in (held.store / "versions").iterdir()) == ["1", "2"]


def test_the_journal_gets_one_line_of_a_readable_length(capfd: pytest.CaptureFixture[str]) -> None:
    versions.warn("a\nb\x1b[2J" + "x" * 100_000)
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "\x1b" not in said and len(said) < 1000


@pytest.mark.parametrize("what", KINDS)
def test_a_board_noted_anyhow_is_looked_at_anew(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first, "BOARD", tmp_path / "loop")
    ANYTHING[what](tmp_path / "loop")
    assert first._looked_at() != "1234"


# The helper.


def test_a_bounded_file_is_read_whole_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for size in (0, 1, 4096, (3 << 20) + 1):
        data = os.urandom(size)
        path.write_bytes(data)
        assert files.read_bounded(path, size) == data
        if size:
            with pytest.raises(files.BadFile, match=r"has .*, at most .* are read"):
                files.read_bounded(path, size - 1)
    assert len(files.read_bounded(Path("/proc/self/maps"), 16 << 20)) > 100, "whose size is 0"
    with pytest.raises(files.BadFile, match="at most 10 bytes"):
        files.read_bounded(Path("/proc/self/maps"), 10)
    with pytest.raises(FileNotFoundError):
        files.read_bounded(tmp_path / "none", 10)
    with pytest.raises(files.BadFile, match="NUL"):
        files.read_bounded(Path("a\0b"), 10)
    assert [files.in_bytes(count) for count in (900, 64 << 10, 1610612736)] == ["900 bytes", "64 KiB", "1.5 GiB"]
