"""The bill of materials: every package with version, hash and licence, the same twice; copyright files stay."""

import gzip
import io
import json
import tarfile
import uuid
from pathlib import Path

import pytest
from wheelhouse import make_wheel

from edge import UserError
from hw.image import debian, sbom

pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed; ./install.sh --setup image")

DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: BSD-3-clause

Files: debian/*
License: GPL-2+

License: GPL-2+
 This program is free software.
"""
EPOCH = 1_735_689_600


def make_deb(folder: Path, name: str, version: str, files: dict[str, str]) -> debian.Package:
    """A Debian package that dpkg-deb unpacks, with links where a text begins with "->"."""

    def member(listed: dict[str, str]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for path, text in listed.items():
                info = tarfile.TarInfo(f"./{path}")
                if text.startswith("->"):
                    info.type, info.linkname = tarfile.SYMTYPE, text[2:]
                info.size = 0 if text.startswith("->") else len(text.encode())
                tar.addfile(info, io.BytesIO(text.encode()))
        return gzip.compress(out.getvalue(), mtime=0)

    control = f"Package: {name}\nVersion: {version}\nArchitecture: arm64\nMaintainer: a\nDescription: b\n"
    path = folder / f"{name}_{version.replace(':', '%3a')}_arm64.deb"
    parts = {"debian-binary": b"2.0\n", "control.tar.gz": member({"control": control}), "data.tar.gz": member(files)}
    content = b"!<arch>\n"
    for called, data in parts.items():
        content += f"{called:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        content += b"\n" * (len(data) % 2)
    path.write_bytes(content)
    return debian._package(path)


@pytest.fixture
def packages(tmp_path: Path) -> list[debian.Package]:
    doc = "usr/share/doc"
    return [
        make_deb(tmp_path, "alsa", "1:2.0-1", {f"{doc}/alsa/copyright": DEP5, f"{doc}/alsa/NEWS.gz": "news"}),
        make_deb(tmp_path, "old", "3", {f"{doc}/old/copyright": "Do as you like.", f"{doc}/old/examples/a": "b"}),
        make_deb(tmp_path, "twin", "1", {f"{doc}/twin": "->alsa", "usr/bin/twin": "c"}),
    ]


@pytest.fixture
def root(packages: list[debian.Package], tmp_path: Path) -> Path:
    """The packages unpacked as the image's are."""
    root = tmp_path / "root"
    root.mkdir()
    out = ["tar", "-x", "-C", str(root), *(f"--exclude=./{folder}/*" for folder in debian.BARE)]
    for package in packages:
        debian.unpack(package, out)
    debian.keep_copyright(root / "usr/share/doc")
    return root


def test_copyright_files_are_kept_and_nothing_else_of_the_documentation(root: Path) -> None:
    kept = sorted(str(path.relative_to(root / "usr/share/doc")) for path in (root / "usr/share/doc").rglob("*"))
    assert kept == ["alsa", "alsa/copyright", "old", "old/copyright", "twin"]
    assert (root / "usr/share/doc/twin/copyright").read_text() == DEP5 and (root / "usr/bin/twin").exists()


def test_everything_is_listed_with_version_hash_and_licence(
    packages: list[debian.Package], root: Path, tmp_path: Path
) -> None:
    make_wheel(tmp_path, "our-library", "2.5", {"a.py": b""})
    (wheel,) = tmp_path.glob("*.whl")
    text = sbom.bill("0.1-abc", packages, root, [wheel], EPOCH)
    assert text == sbom.bill("0.1-abc", packages, root, [wheel], EPOCH), "the same inputs give the same bytes"
    reported = json.loads(text)
    assert reported["bomFormat"] == "CycloneDX" and reported["specVersion"] == "1.6"
    assert reported["metadata"]["timestamp"].startswith("2025-01-01T00:00:00")
    assert reported["metadata"]["component"]["version"] == "0.1-abc"
    assert uuid.UUID(reported["serialNumber"]).version == 4
    held = {one["name"]: one for one in reported["components"]}
    assert {name: one["version"] for name, one in held.items()} == {
        "alsa": "1:2.0-1",
        "old": "3",
        "twin": "1",
        "our-library": "2.5",
    }
    assert held["alsa"]["purl"] == "pkg:deb/debian/alsa@1:2.0-1?arch=arm64&distro=debian-12"
    assert held["our-library"]["purl"].startswith("pkg:pypi/our-library@2.5?file_name=our_library-2.5-py3-none-any.whl")
    assert held["alsa"]["hashes"] == [{"alg": "SHA-256", "content": packages[0].sha256}]
    names = {name: [one["license"]["name"] for one in part["licenses"]] for name, part in held.items()}
    assert names["alsa"] == names["twin"] == ["BSD-3-clause", "GPL-2+"]
    assert names["old"] == ["see /usr/share/doc/old/copyright"]
    assert names["our-library"] == ["not stated in the wheel's METADATA"]
    other = sbom.bill("0.1-abc", packages[:2], root, [wheel], EPOCH)
    assert json.loads(other)["serialNumber"] != reported["serialNumber"]


def test_a_bill_can_be_read_back_by_its_library(packages: list[debian.Package], root: Path) -> None:
    from cyclonedx.model.bom import Bom

    reported = Bom.from_json(json.loads(sbom.bill("1", packages, root, [], EPOCH)))  # type: ignore[attr-defined]
    assert {one.name for one in reported.components} == {"alsa", "old", "twin"} and reported.validate()


def test_the_library_s_absence_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cyclonedx", None)
    with pytest.raises(UserError, match=r"needs cyclonedx-python-lib; \./install\.sh --setup image"):
        sbom.check_tool()
