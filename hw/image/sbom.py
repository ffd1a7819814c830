"""The bill of materials of a card image: every Debian package and every wheel in it, with version, hash and licences.

CycloneDX 1.6, JSON, written beside the image by the library of the format's owners. The same inputs give the same
bytes: its time is the image's, its serial number is made of what it lists.
"""

import email
import hashlib
import re
import uuid
import zipfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import UserError, command_for
from hw.image.debian import SUITE, Package
from hw.install import lockfile

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

RELEASE = {"bookworm": "debian-12", "trixie": "debian-13"}
"""Suite -> the word that package URLs have for it."""


def check_tool() -> None:
    """Raises UserError if the library that writes the bill is missing; before an image is built, not after."""
    try:
        import cyclonedx  # noqa: F401
    except ImportError:
        advice = command_for("image")
        raise UserError(
            f"the bill of materials needs cyclonedx-python-lib; {advice}, then .venv/bin/python hw/image/build"
        ) from None


def bill(version: str, packages: Iterable[Package], root: Path, wheels: Sequence[Path], epoch: int) -> str:
    """The bill of the image ``version`` as JSON.

    ``root``: the tree that ``packages`` were unpacked to, with their copyright files. ``epoch``: the time it states, in
    seconds since 1970. Raises UserError.
    """
    check_tool()
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    listed = [_of_debian(one, root) for one in packages] + [_of_wheel(path) for path in wheels]
    content = "\n".join(sorted(f"{one.purl} {[held.content for held in one.hashes]}" for one in listed))
    total = hashlib.sha256(f"{version}\n{content}".encode()).hexdigest()
    image = Component(name="quietbox-image", version=version, type=ComponentType.OPERATING_SYSTEM, bom_ref="image")
    bom = Bom(
        components=listed,
        serial_number=uuid.UUID(hex=total[:32], version=4),
        metadata=BomMetaData(component=image, timestamp=datetime.fromtimestamp(epoch, UTC)),
    )
    bom.register_dependency(image, listed)
    return str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"


def _component(name: str, version: str, purl: Any, sha256: str, licences: Iterable[str]) -> "Component":
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    make = LicenseFactory()
    found = [make.make_from_string(licence) for licence in licences]
    if len(found) > 1:  # the format takes one expression or several names, not both
        found = [make.make_with_name(licence) for licence in licences]
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        licenses=found,
    )


def _of_debian(package: Package, root: Path) -> "Component":
    from packageurl import PackageURL

    architecture = package.path.stem.rsplit("_", 1)[1]
    about = {"arch": architecture, "distro": RELEASE[SUITE]}
    purl = PackageURL("deb", "debian", package.name, package.version, about)
    copyright_file = root / "usr/share/doc" / package.name / "copyright"
    text = copyright_file.read_text(errors="replace") if copyright_file.is_file() else ""
    return _component(package.name, package.version, purl, package.sha256, debian_licences(package.name, text))


def debian_licences(name: str, text: str) -> list[str]:
    """The short names of the licences in a package's copyright file, each once, sorted; where it is not in the form
    that machines read (https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/), where to read it."""
    if not text:
        return [f"no copyright file in {name}"]
    names = re.findall(r"(?m)^License:[ \t]*(\S.*?)[ \t]*$", text) if text.lstrip().startswith("Format:") else []
    return sorted(set(names)) or [f"see /usr/share/doc/{name}/copyright"]


def _of_wheel(path: Path) -> "Component":
    from packageurl import PackageURL

    with zipfile.ZipFile(path) as held:
        about = next(name for name in held.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        metadata = email.message_from_bytes(held.read(about))
    name, version = str(metadata["Name"]), str(metadata["Version"])
    purl = PackageURL("pypi", None, lockfile.normal(name), version, {"file_name": path.name})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _component(name, version, purl, digest, wheel_licences(metadata))


def wheel_licences(metadata: "email.message.Message") -> list[str]:
    """The licences in a wheel's METADATA: its expression, else what its classifiers say, else the first line of its
    free text, else that it names none."""
    if expression := metadata["License-Expression"]:
        return [str(expression)]
    classifiers = [
        str(one).rsplit(" :: ", 1)[1] for one in metadata.get_all("Classifier", []) if "License ::" in str(one)
    ]
    if classifiers:
        return sorted(set(classifiers))
    words = str(metadata["License"] or "").strip().splitlines()
    return [words[0].strip()[:100]] if words and words[0].strip() else ["not stated in the wheel's METADATA"]
