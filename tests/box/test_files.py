"""Files that a user or an attacker gives: whoever reads them neither waits nor fills the memory, and says one line."""

import io
import json
import os
import resource
import shutil
import struct
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from edge import UserError, cli, config, config_file, files, runtime
from edge.dsp.secondary_path import BadPath, SecondaryPath
from edge.files import arrays
from edge.net import keys
from edge.suppress.foreign import assets
from edge.suppress.foreign.deepfilter import open_core as open_deepfilter
from edge.suppress.foreign.dtln import open_core as open_dtln
from edge.suppress.foreign.gtcrn import open_core as open_gtcrn
from edge.suppress.foreign.rnnoise import open_core as open_rnnoise
from edge.suppress.foreign.window import open_core as open_window
from edge.suppress.shipped import FOLDER, BadModel, Model
from edge.tools import calibrate
from edge.tools.reports import journal_files, report
from hw.install import ledger, target
from models.train import checkpoint
from models.train.checkpoint import Refused
from models.train.checkpoint import read_weights as read_student
from models.window_training import holds_unet
from models.window_training import read_weights as read_unet
from quant.calibrate import read_samples
from quant.deepfilter.archive import read_archive
from quant.evaluate.sounds import read_sound
from quant.graph import read_model

Reader = Callable[[Path], Any]
READERS: dict[str, Reader] = {
    "settings": config_file.load,
    "secret key": keys.read_secret,
    "clients": keys.read_clients,
    "calibration": SecondaryPath.load,
    "graph": assets.open_session,
    "library": assets.library,
    "rnnoise": lambda path: open_rnnoise(str(path)),
    "gtcrn": lambda path: open_gtcrn(str(path)),
    "window": lambda path: open_window(str(path)),
    "journal": lambda path: report.from_file(str(path), io.BytesIO()),
    "student": read_student,
    "unet": read_unet,
    "samples": lambda path: read_samples(path, 100),
    "ONNX": read_model,
    "sound": read_sound,
    "archive": lambda path: read_archive(path, "0" * 64),
    "config.txt": target.read_text,
    "calibrate": lambda path: calibrate.calibrate(config.Config(), path),
}
ONLY_KINDS = {"library", "sound", "rnnoise", "calibrate"}
"""Read by a library in pieces, or only written: their size is no matter."""


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def terabyte(path: Path) -> None:
    path.touch(0o600)
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    ("made", "says"), [(fifo, "FIFO"), (device, "device"), (folder, "folder"), (terabyte, "at most")]
)
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_names_what_is_no_file_or_too_large(
    tmp_path: Path, reader: str, made: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "given"
    made(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reported: list[BaseException] = []

    def read() -> None:
        try:
            READERS[reader](path)
        except BaseException as error:
            reported.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits"
    if made is terabyte and reader in ONLY_KINDS:
        assert reported
        return
    (error,) = reported
    assert isinstance(error, UserError | Refused), error
    assert str(path) in str(error) and "\n" not in str(error)
    if not isinstance(error, Refused) or "no such file" not in str(error):  # training asks for a regular file first
        others = {"secret key": "key", "clients": "more than", "window": "given.onnx is missing"}
        assert says in str(error) or others.get(reader, says) in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


@pytest.mark.parametrize("made", [fifo, device, folder, terabyte])
@pytest.mark.parametrize("name", ["mine.npz", "mine.onnx", "CARD.md"])
def test_a_model_of_any_kind_is_refused(tmp_path: Path, name: str, made: Callable[[Path], None]) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    for suffix in (".npz", ".onnx"):
        shutil.copy(FOLDER / "quietbox" / f"quietbox{suffix}", place / f"mine{suffix}")
    (place / name).unlink(missing_ok=True)
    made(place / name)
    with pytest.raises(BadModel, match=name):
        Model(str(place)).weights("network")
        Model(str(place)).read(".onnx")
    for opened in (open_dtln, open_deepfilter):
        with pytest.raises(BadModel):
            opened(str(place))


def test_a_model_without_a_card_may_not_have_a_dangling_one(tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    shutil.copy(FOLDER / "quietbox/quietbox.npz", place / "mine.npz")
    Model(str(place)).weights("network")
    (place / "CARD.md").symlink_to("nowhere")
    with pytest.raises(BadModel, match=r"CARD\.md is missing"):
        Model(str(place)).weights("network")


def test_a_graph_is_read_once_and_what_was_summed_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    content = (FOLDER / "quietbox/quietbox.onnx").read_bytes()
    path.write_bytes(b"something else by now")
    assert assets.open_session(path, content).get_inputs()
    reads: list[Path] = []
    read = files.read_bounded
    monkeypatch.setattr(files, "read_bounded", lambda path, most: (reads.append(path), read(path, most))[1])
    path.write_bytes(content)
    assets.open_session(path)
    assert reads.count(path) == 1


# Archives of arrays.


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def npz(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def test_arrays_are_what_numpy_stored(tmp_path: Path) -> None:
    held = {
        "a": np.arange(6, dtype=np.int8).reshape(2, 3),
        "b": np.float32(1.5),
        "c": np.array("text"),
        "d": np.zeros(0),
    }
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, **held)
        found = arrays.read_npz(out.getvalue(), 1 << 20)
        assert found.keys() == held.keys()
        for name, values in held.items():
            assert np.array_equal(found[name], values) and found[name].dtype == np.asarray(values).dtype


@pytest.mark.parametrize(
    "member",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
        npy("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\x04K\x01."),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 70 + "), }", bytes(4)),
        npy("[" * 100),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(4), b"\x09\x00"),
        b"",
        bytes(16 << 20),
    ],
)
def test_an_array_that_asks_for_more_than_it_holds_is_refused(tmp_path: Path, member: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    content = npz(response=member, meta=member)
    with pytest.raises(Exception):  # noqa: B017  whatever NumPy says; the readers make one line of it
        arrays.read_npz(content, 1 << 20)
    path = tmp_path / "path.npz"
    path.write_bytes(content)
    with pytest.raises(BadPath, match="quietbox calibrate"):
        SecondaryPath.load(path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.npz").write_bytes(content)
    with pytest.raises(BadModel, match="contains no readable weights"):
        Model(str(tmp_path / "mine")).weights("network")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB


def test_a_member_that_is_larger_than_the_archive_says_is_not_unpacked() -> None:
    content = bytearray(npz(a=bytes(64 << 20)))
    for start, field in ((b"PK\x03\x04", 22), (arrays.DIRECTORY_ENTRY, 24)):  # the size, unpacked
        struct.pack_into("<I", content, content.index(start) + field, 1000)
    tracemalloc.start()
    with pytest.raises(zipfile.BadZipFile):
        arrays.read_npz(bytes(content), 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_an_archive_of_very_many_members_is_refused_before_it_is_opened() -> None:
    with pytest.raises(ValueError, match="members"):
        arrays.check_archive(arrays.DIRECTORY_ENTRY * (arrays.MOST_MEMBERS + 1), 1 << 20)


@given(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 255))
@effort(max_examples=100, deadline=None)
def test_any_calibration_is_one_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, place: int, byte: int
) -> None:
    path = tmp_path_factory.mktemp("junk") / "path.npz"
    whole = io.BytesIO()
    np.savez(whole, response=np.ones(200, np.float32), gain_db=0.0, signal_to_noise_db=20.0, rate_hz=16_000)
    changed = bytearray(whole.getvalue())
    changed[place % len(changed)] = byte
    for content in (junk, bytes(changed)):
        path.write_bytes(content)
        try:
            assert np.isfinite(SecondaryPath.load(path).response).all()
        except BadPath as error:
            assert "\n" not in str(error)
    shutil.rmtree(path.parent)


def test_weights_that_unpack_to_more_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    monkeypatch.setattr(checkpoint, "MOST_BYTES", 4 << 20)
    path.write_bytes(npz(data=bytes(5 << 20)))
    assert path.stat().st_size < 1 << 20
    for read in (read_student, read_unet):
        with pytest.raises(Refused, match="no weights of"):
            read(path)
    assert not holds_unet(path)


# State files.


@pytest.mark.parametrize("made", [fifo, device, folder, terabyte])
def test_a_status_of_any_kind_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(runtime, "SYSTEM_FOLDER", tmp_path)
    held = runtime.StatusFile()
    made(tmp_path / runtime.STATUS)
    assert runtime.read_status() is None
    held._lock = None
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    made(tmp_path / runtime.STATUS_LOCK)
    assert runtime.read_status() is None


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"9" * 5000, b"[]", b'{"files": []'])
def test_a_status_or_a_ledger_of_any_content_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(runtime, "SYSTEM_FOLDER", tmp_path)
    held = runtime.StatusFile()
    (tmp_path / runtime.STATUS).write_bytes(content)
    assert runtime.read_status() is None
    held.remove()
    (tmp_path / "ledger").write_bytes(content)
    assert ledger.Ledger(tmp_path, "ledger").files == {}


def test_the_digest_of_a_file_needs_no_memory_for_it(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 128 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(ledger.digest(path)) == 64
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_journal_of_any_lines_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"__REALTIME_TIMESTAMP": "1700000000000000", "PRIORITY": "6", "QUIETBOX_EVENT": "start", "MESSAGE": "hello"}
    nested: object = 1
    for _ in range(400):
        nested = [nested]
    hostile = [
        json.dumps(line | {"QUIETBOX_X": nested}),
        "[" * 100_000,
        json.dumps(line | {"QUIETBOX_X": "x" * 300_000}),
    ]
    found = report.entries("\n".join([*hostile, json.dumps(line)]))
    assert 1 <= len(found) <= 2 and found[-1].sentence == "hello"
    monkeypatch.setattr(journal_files, "MOST_BYTES", 100)
    with pytest.raises(report.NoHistory, match="standard input has more than 100 bytes"):
        report.from_file("-", io.BytesIO(b" " * 101))


def test_an_address_of_any_port_is_one_line() -> None:
    for port in ("9" * 5000, "²", "٣", "-1", "65536", ""):
        with pytest.raises(UserError, match="not an address"):
            keys.host_and_port(f"10.0.0.1:{port}", "server")


@pytest.mark.parametrize("made", [fifo, device, folder, terabyte])
def test_the_command_says_one_line_for_any_settings(
    tmp_path: Path, made: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "a.toml")
    assert cli.main(["run", "--config", str(tmp_path / "a.toml"), "--seconds", "1"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"quietbox: {tmp_path / 'a.toml'}")
