"""Hostile update files: whatever they hold, one line, and nothing on the disk but the version before."""

import gzip
import hashlib
import json
import os
import resource
import shutil
import tarfile
from collections import namedtuple
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from edge import UserError
from hw.image import bundle

MIB = 1 << 20
Member = tuple[tarfile.TarInfo, bytes]


def listing(files: dict[str, str], **changed: object) -> bytes:
    reported: dict[str, object] = {"name": "1", "build": 1, "python": bundle.PYTHON, "machine": bundle.MACHINE}
    return json.dumps(reported | {"files": files} | changed).encode()


def member(name: str, data: bytes = b"", **header: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in header.items():
        setattr(info, key, value)
    return info, data


def packed(path: Path, contents: bytes, members: Iterable[Member], form: int = tarfile.USTAR_FORMAT) -> Path:
    """A gzip'd tar whose headers say what ``members`` say, right or wrong."""
    with gzip.open(path, "wb", 1) as out:
        for info, data in (member(bundle.CONTENTS, contents), *members):
            out.write(info.tobuf(form, "utf-8", "surrogateescape"))
            out.write(data + bytes(-len(data) % 512))
        out.write(bytes(1024))
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refused(path: Path, tmp_path: Path) -> str:
    """What is said; nothing may be left, nor may memory grow with what the file pretends to be."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = tmp_path / "versions/out"
    with pytest.raises(UserError) as caught:
        bundle.unpack(path, folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # KiB
    assert not folder.exists()
    said = str(caught.value)
    assert said.startswith(str(path)) and said.isprintable() and len(said) < len(str(path)) + 300
    return said


@pytest.mark.parametrize(
    "contents",
    [
        b"[" * 1000,
        b'{"files": ' * 100_000,
        b'{"name": 1' + b"0" * 5000 + b"}",
        b"[" + b"{}," * MIB + b"{}]",
        b'{"name": "1", "python": ["' + b"x" * 100_000 + b'"]}',
        b"\xff\xfe",
        b"",
        b"null",
    ],
)
def test_contents_that_are_none_are_one_line(tmp_path: Path, contents: bytes) -> None:
    said = refused(packed(tmp_path / "a.quietbox", contents, []), tmp_path)
    assert "as an update" in said or "has no version" in said or "not for this box" in said
    with pytest.raises(UserError):
        bundle.contents(tmp_path / "a.quietbox")


def test_contents_have_a_bound(tmp_path: Path) -> None:
    large = packed(tmp_path / "a.quietbox", b" " * (bundle.MOST_CONTENTS_BYTES + 1), [])
    assert "not a Quietbox update" in refused(large, tmp_path)
    many = listing({f"lib/{number}": "" for number in range(bundle.MOST_FILES + 1)})
    assert "at most" in refused(packed(tmp_path / "b.quietbox", many, []), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a",
        "a/../../b",
        "bin/python",
        "bin",
        "pyvenv.cfg",
        "complete.json",
        "a//b",
        "./a",
        "a/",
        ".",
        "",
        "a\0b",
        "a\nb",
        "\ud800",
    ],
)
def test_a_file_lies_only_where_its_version_lies(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / "a.quietbox", listing({name: digest(b"x")}), [])
    assert "outside" in refused(path, tmp_path)


def test_a_name_that_no_file_system_takes_is_one_line(tmp_path: Path) -> None:
    name = "n" * 256
    info, data = member("n", b"x")
    info.name = f"{'p' * 100}/{'n' * 99}"
    both = {info.name: digest(b"x"), name: digest(b"x"), f"{info.name}/a": digest(b"x")}
    path = packed(tmp_path / "a.quietbox", listing(both), [(info, data)])
    assert "lacks 2 files" in refused(path, tmp_path)
    path = packed(
        tmp_path / "b.quietbox",
        listing({"a": digest(b"x"), "a/b": digest(b"x")}),
        [member("a", b"x"), member("a/b", b"x")],
    )
    assert "cannot be unpacked" in refused(path, tmp_path)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, b""),
        ({"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, b""),
        ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5}, b""),
        ({"type": tarfile.BLKTYPE}, b""),
        ({"type": tarfile.FIFOTYPE}, b""),
        ({"type": tarfile.DIRTYPE}, b""),
        ({"type": tarfile.CONTTYPE}, b"x"),
        ({"type": tarfile.GNUTYPE_SPARSE}, b""),
        ({"type": tarfile.GNUTYPE_LONGNAME, "size": 700 * MIB}, b""),
        ({"type": tarfile.XHDTYPE}, b"18 path=lib/a\0b\n"),
        ({"type": tarfile.XHDTYPE}, b"9" * 100_000),  # CVE-2024-6232: quadratic in tarfile
        ({"type": tarfile.XHDTYPE, "size": 700 * MIB}, b""),
        ({"type": tarfile.XGLTYPE}, b""),
        ({"type": b"\xff"}, b""),
    ],
)
def test_only_plain_files_are_taken(tmp_path: Path, header: dict[str, object], data: bytes) -> None:
    wanted = listing({"lib/a": digest(data)})
    said = refused(packed(tmp_path / "a.quietbox", wanted, [member("lib/a", data, **header)]), tmp_path)
    assert "not a regular file" in said


def test_a_pax_header_is_refused_however_many_follow(tmp_path: Path) -> None:
    chain = [member("x", b"", type=tarfile.XHDTYPE)] * 5000  # tarfile recurses
    assert "not a regular file" in refused(packed(tmp_path / "a.quietbox", listing({}), chain), tmp_path)


@pytest.mark.parametrize("name", ["lib/a", bundle.CONTENTS, "lib/unheard-of"])
def test_700_mb_of_zeros_never_reach_the_disk(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.quietbox"
    with gzip.open(path, "wb", 1) as out:
        for info, data in (member(bundle.CONTENTS, listing({name: "0" * 64})), member(name, size=700 * MIB)):
            out.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
        for _ in range(64):  # what follows is never asked for
            out.write(bytes(MIB))
    assert path.stat().st_size < MIB
    assert "at most 128 MiB" in refused(path, tmp_path)


def test_many_files_together_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(MIB)
    names = [f"lib/{number}" for number in range(4)]
    path = packed(
        tmp_path / "a.quietbox", listing(dict.fromkeys(names, digest(data))), [member(name, data) for name in names]
    )
    bundle.unpack(path, tmp_path / "whole")
    monkeypatch.setattr(bundle, "MOST_BYTES", 3 * MIB)
    assert "more than its list of contents" in refused(path, tmp_path)
    monkeypatch.undo()
    lies = packed(
        tmp_path / "b.quietbox",
        listing(dict.fromkeys(names, digest(data)), bytes=2 * MIB),
        [member(name, data) for name in names],
    )
    assert "more than its list of contents" in refused(lies, tmp_path)
    for declared in (bundle.MOST_BYTES + 1, -1, "1", True, 1e3, 10**4000):
        path = packed(tmp_path / "c.quietbox", listing({}, bytes=declared), [])
        assert "has no size" in refused(path, tmp_path)


def test_an_update_never_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = namedtuple("free", "free")
    data = bytes(MIB)
    for number, changed in enumerate(({}, {"bytes": MIB})):
        path = packed(tmp_path / f"{number}.quietbox", listing({"a": digest(data)}, **changed), [member("a", data)])
        monkeypatch.setattr(shutil, "disk_usage", lambda where: free(bundle.SPARE_BYTES + MIB - 1))
        assert "does not fit" in refused(path, tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda where: free(bundle.SPARE_BYTES + MIB))
        bundle.unpack(path, tmp_path / f"{number}")


def test_a_size_that_is_not_true_is_found(tmp_path: Path) -> None:
    for size, says in ((3 * MIB, "truncated"), (511, "damaged"), (-1, "less than nothing")):
        info, data = member("a", b"x" * 512, size=size)
        path = packed(tmp_path / "a.quietbox", listing({"a": digest(data)}), [(info, data)], tarfile.GNU_FORMAT)
        assert says in refused(path, tmp_path)


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    twice = [member("a", b"x"), member("a", b"x")]
    assert "not in its list of contents" in refused(
        packed(tmp_path / "a.quietbox", listing({"a": digest(b"x")}), twice), tmp_path
    )


def of_a_fifo(path: Path) -> None:
    os.mkfifo(path)


def of_a_folder(path: Path) -> None:
    path.mkdir()


def of_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def of_a_loop(path: Path) -> None:
    path.symlink_to(path)


def of_a_terabyte(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def of_a_long_gzip_name(path: Path) -> None:
    path.write_bytes(b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (40 * MIB))


def of_nothing(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (of_a_fifo, "is a FIFO"),
        (of_a_folder, "is a folder"),
        (of_a_device, "is a device"),
        (of_a_loop, "symbolic links"),
        (of_a_terabyte, "at most 320 MiB"),
        (of_a_long_gzip_name, "truncated"),
        (of_nothing, "truncated"),
    ],
)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, made: Callable[[Path], None], says: str) -> None:
    made(tmp_path / "a.quietbox")
    assert says in refused(tmp_path / "a.quietbox", tmp_path)


NAMES = st.sampled_from(["a", "lib/a", "../a", "/a", "bin/a", "complete.json", "a\0", "é"]) | st.text(max_size=8)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from([b"0", b"\0", b"1", b"2", b"5", b"7", b"x", b"g", b"L", b"S"]),
        "size": st.integers(-(2**40), 2**40),
        "linkname": st.just("../../escaped"),
        "mode": st.integers(0, 0o7777),
    },
)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=600), HEADERS), max_size=4), st.booleans(), st.data())
@effort(max_examples=150, deadline=None)
def test_any_archive_is_whole_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[str, bytes, dict[str, object]]],
    told_rightly: bool,
    data: st.DataObject,
) -> None:
    top = tmp_path_factory.mktemp("bundle")
    listed = {name: digest(held) for name, held, _ in drawn}
    contents = listing(listed) if told_rightly else data.draw(st.binary(max_size=100))
    members = []
    for name, held, header in drawn:
        try:
            members.append(member(name, held, **header))
            members[-1][0].tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        except (ValueError, OverflowError):
            members.pop()
    path = packed(top / "a.quietbox", contents, members, tarfile.GNU_FORMAT)
    try:
        bundle.unpack(path, top / "versions/out")
    except UserError as error:
        assert str(error).isprintable()
        assert not (top / "versions/out").exists()
    else:
        assert bundle.whole(top / "versions/out")
        assert bundle.digests(top / "versions/out") == listed
    assert {entry.name for entry in top.iterdir()} <= {"a.quietbox", "versions"}, "nothing lies outside"
    shutil.rmtree(top)


@given(st.binary(max_size=2000))
@effort(max_examples=100, deadline=None)
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    top = tmp_path_factory.mktemp("junk")
    for number, content in enumerate((junk, gzip.compress(junk, 1))):
        path = top / f"{number}.quietbox"
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            bundle.contents(path)
        assert str(caught.value).isprintable()
    shutil.rmtree(top)


def test_a_stream_is_read_as_gzip_reads_it(tmp_path: Path) -> None:
    """Against Python's own reader, over what compresses well and what does not."""
    draw = os.urandom(300_000)
    for level in (0, 1, 9):
        held = draw + bytes(3 * MIB) + draw
        path = tmp_path / f"{level}.gz"
        with gzip.open(path, "wb", level) as out:
            out.write(held)
        descriptor = os.open(path, os.O_RDONLY)
        stream = bundle._Stream(descriptor)
        found = b"".join(stream.read(size) for size in (1, 511, MIB, len(held) - MIB - 512))
        assert found == held == gzip.decompress(path.read_bytes())
        with pytest.raises(EOFError):
            stream.read(1)
        os.close(descriptor)
