"""Files written whole or not at all, never over an input, and never over a file of somebody else's."""

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from edge import cli
from edge.files import atomic


def test_a_file_is_replaced_whole_and_keeps_its_permissions(tmp_path: Path) -> None:
    target = tmp_path / "x.html"
    target.write_bytes(b"old")
    target.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(target, 12_345, 23_456)
    owner = target.stat().st_uid, target.stat().st_gid
    atomic.write(target, b"new")
    assert target.read_bytes() == b"new" and stat.S_IMODE(target.stat().st_mode) == 0o640
    assert (target.stat().st_uid, target.stat().st_gid) == owner
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]


def test_what_fails_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.html"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic.part_beside(target) as (descriptor, _):
        os.write(descriptor, b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]


def test_part_files_of_others_are_left_alone_and_the_longest_name_fits(tmp_path: Path) -> None:
    others = {tmp_path / name: name.encode() for name in (".x.html.part", ".x.part.html", "x.part", ".quietbox-1.part")}
    for path, data in others.items():
        path.write_bytes(data)
    atomic.write(tmp_path / "x.html", b"new")
    atomic.write(tmp_path / (251 * "n" + ".wav"), b"long")
    assert {path: path.read_bytes() for path in others} == others


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"old")
    (tmp_path / "x").symlink_to("precious")
    (tmp_path / "twin").hardlink_to(tmp_path / "precious")
    atomic.write(tmp_path / "x", b"new")
    atomic.write(tmp_path / "twin", b"new")
    assert (tmp_path / "precious").read_bytes() == b"old"
    assert not (tmp_path / "x").is_symlink() and (tmp_path / "x").read_bytes() == b"new"


def test_what_is_no_plain_file_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    atomic.write(tmp_path / "link", b"through")
    reader.join(10)
    assert heard == [b"through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and (tmp_path / "link").is_symlink()
    atomic.write(Path("/dev/null"), b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(Path("/dev/full"), b"too much")


def test_a_place_that_cannot_be_written_is_named_by_the_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for target in (tmp_path / "missing" / "x", tmp_path / "file" / "x", tmp_path, Path("/proc/x")):
        for attempt in (lambda place: atomic.write(place, b"new"), atomic.can_write):
            with pytest.raises(OSError) as refused:
                attempt(target)
            assert refused.value.filename == str(target) and refused.value.errno in (
                *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM),
            )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    atomic.can_write(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with atomic.part_beside(target) as (one, _):
        os.write(one, b"1" * 10)
        with atomic.part_beside(target) as (other, _):
            os.write(other, b"2" * 20)
        assert target.read_bytes() == b"2" * 20
        os.write(one, b"1" * 10)
    assert target.read_bytes() == b"1" * 20


def test_an_input_is_known_by_any_name(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"input")
    (tmp_path / "soft").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "folder").symlink_to(tmp_path)
    names = (source, tmp_path / "soft", tmp_path / "hard", tmp_path / "folder" / "a", tmp_path / "folder" / ".." / "x")
    for name in names[:4]:
        with pytest.raises(atomic.WouldOverwrite, match="would overwrite the input"):
            atomic.refuse_overwriting(name, [None, source])
    atomic.refuse_overwriting(tmp_path / "b", [None, source, tmp_path / "missing"])
    assert atomic.place_of(tmp_path / "new" / "x") == atomic.place_of(tmp_path / "folder" / "new" / "x")
    assert atomic.place_of(tmp_path / "new" / "x") != atomic.place_of(tmp_path / "x")


def test_a_report_never_overwrites_what_it_was_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "day.json"
    records.write_text("{}\n")
    (tmp_path / "day.html").symlink_to("day.json")
    for target in (records, tmp_path / "day.html"):
        assert cli.main(["report", "--file", str(records), "-o", str(target)]) == 1
        assert "would overwrite the input" in capsys.readouterr().err
    assert records.read_text() == "{}\n"


def test_an_interruption_at_the_moment_a_file_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = os.open

    def interrupted(*arguments: Any, **named: Any) -> int:
        os.close(made(*arguments, **named))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic.write(tmp_path / "x", b"new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
