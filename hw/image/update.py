"""A new version of the product for boxes made by ``hw/image/build``, without writing their cards anew.

    hw/image/update --make FILE [--wheels DIR]   make an update of this checkout
    hw/image/update FILE --card DIR              lay it on a card in this PC: DIR is the card's first partition
    hw/image/update FILE --host NAME             put it into a running box that has SSH switched on, and restart

The box takes it in one step, keeps the version before, and goes back by itself if the new one was started twice
without becoming ready (``hw/image/versions.py``).
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from edge import UserError
from hw.image import bundle, card, product
from hw.image.versions import OFFERED


def make(out: Path, cache: Path, given: Path | None) -> str:
    """Write this checkout's update to ``out``; returns its version. Raises UserError."""
    cache.mkdir(parents=True, exist_ok=True)
    build = card.Build(cache, given)
    name, place = build.version(product.collect(cache, given))
    part = out.with_name(f".{out.name}.part")
    product.pack(place, name, part, build.epoch)
    part.rename(out)
    return name


def lay_on(file: Path, folder: Path) -> str:
    """Copy an update to a card's first partition. Raises UserError."""
    name = str(bundle.contents(file)["name"])
    if not (folder / "cmdline.txt").is_file():
        raise UserError(f"{folder} is no first partition of a card of ours: it has no cmdline.txt")
    target = folder / OFFERED.name
    target.unlink(missing_ok=True)
    if shutil.disk_usage(folder).free < file.stat().st_size:
        raise UserError(f"{folder} has no room for {file.stat().st_size >> 20} MB; remove what you put there")
    part = target.with_suffix(".part")
    shutil.copyfile(file, part)
    part.rename(target)
    os.sync()
    return name


def send(file: Path, host: str, ssh: str = "ssh") -> str:
    """Put an update into the running box ``host``, NAME or NAME:PORT, by the command ``ssh``. Raises UserError."""
    name = str(bundle.contents(file)["name"])
    if host.startswith("-"):
        raise UserError(f"{host} is no host; as in --host quietbox-1a2b")
    work = "f=$(mktemp -p /data) && trap 'rm -f $f' EXIT && cat >$f && quietbox-versions update $f"
    with file.open("rb") as source:
        done = subprocess.run(
            [*shlex.split(ssh), f"ssh://root@{host}", f"{work} && systemctl restart quietbox"],
            stdin=source,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ssh ended with {done.returncode}"])[-1]
        raise UserError(f"{host} did not take it: {last}")
    return name


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="hw/image/update", description="A new version for boxes on a card.")
    parser.add_argument("file", type=Path, help="the update")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--make", action="store_true", help="make it of this checkout")
    way.add_argument("--card", type=Path, metavar="DIR", help="lay it on the card whose first partition is DIR")
    way.add_argument("--host", metavar="NAME", help="put it into the running box NAME, by SSH")
    parser.add_argument("--ssh", default="ssh", metavar="COMMAND", help="with --host, as in --ssh 'ssh -i KEY'")
    parser.add_argument(
        "--cache", type=Path, default=card.CACHE, metavar="DIR", help="with --make, as hw/image/build's"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="with --make, as hw/image/build's")
    options = parser.parse_args(arguments)
    os.umask(0o022)
    try:
        if options.make:
            name = make(options.file, options.cache.resolve(), options.wheels and options.wheels.resolve())
            print(f"{options.file}: version {name}, {options.file.stat().st_size >> 20} MiB")
        elif options.card:
            print(f"version {lay_on(options.file, options.card)} is put in at that box's next power-on")
        else:
            name = send(options.file, options.host, options.ssh)
            print(f"{options.host} runs version {name}, or goes back by itself")
    except UserError as error:
        print(f"hw/image/update: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"hw/image/update: {error.filename or options.file}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
