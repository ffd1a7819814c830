"""Wheels made on the spot, so that tests of the installer need no network."""

import re
import tomllib
import zipfile
from pathlib import Path

from setuptools import find_packages


def make_wheel(folder: Path, name: str, version: str, files: dict[str, bytes], requires: tuple[str, ...] = ()) -> None:
    about = f"{name.replace('-', '_')}-{version}.dist-info"
    reported = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    reported += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    files = files | {
        f"{about}/METADATA": reported.encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": b"[console_scripts]\nquietbox = edge.cli:main\n" if name == "quietbox" else b"",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
        for path, data in {**files, f"{about}/RECORD": record.encode()}.items():
            wheel.writestr(path, data)


def fill(folder: Path, checkout: Path) -> None:
    """The program's wheel, made of ``checkout``, and an empty one for everything it asks for."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    folder.mkdir(exist_ok=True)
    files: dict[str, bytes] = {}
    data = project["tool"]["setuptools"]["package-data"]
    for package in find_packages(str(checkout), include=project["tool"]["setuptools"]["packages"]["find"]["include"]):
        for pattern in ("*.py", *data["*"], *data.get(package, ())):
            for path in sorted((checkout / package.replace(".", "/")).glob(pattern)):
                files[str(path.relative_to(checkout))] = path.read_bytes()
    requires = tuple(project["project"]["dependencies"])
    make_wheel(folder, "quietbox", project["project"]["version"], files, requires)
    for requirement in (*requires, "rpi-lgpio", "RPi.GPIO", "onnxruntime", "systemd-python"):
        name = re.split(r"[<>=]", requirement)[0]
        module = {"pyalsaaudio": "alsaaudio", "RPi.GPIO": "RPi", "rpi-lgpio": "RPi", "systemd-python": "systemd"}.get(
            name, name.replace("-", "_")
        )
        make_wheel(folder, name, "99", {f"{module}/__init__.py": b""})
