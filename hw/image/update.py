"""A new version of the product for boxes made by ``hw/image/build``, without writing their cards anew.

    hw/image/update --new-key [KEY]              once: make the owner's key, which signs updates
    hw/image/update --make FILE [--wheels DIR]   make an update of this checkout and sign it
    hw/image/update FILE --card DIR              lay it on a card in this PC: DIR is the card's first partition
    hw/image/update FILE --host NAME             put it into a running box that has SSH switched on, and restart

A box takes an update only if it is signed with the key whose public half its image was built with
(``hw/image/build --signer``), and is not older than what runs. It takes it in one step, keeps the version before, and
goes back by itself if the new one was started twice without becoming ready (``hw/image/versions.py``).
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from edge import UserError
from edge.console import run_main
from edge.files import atomic
from hw.image import bundle, card, owner, product, signature
from hw.image.versions import OFFERED

NEXT = """The secret key {key} signs your updates: keep a copy where nobody else can read it.
The public key {public} is written to your cards by `hw/image/build`.
fingerprint {fingerprint}
A box whose card was made without it does not accept your updates; if you lose the key, write the cards again."""


def make(out: Path, cache: Path, given: Path | None, key: Path, older: bool = False) -> str:
    """Write this checkout's update to ``out``, signed with ``key``; returns its version. Raises UserError."""
    owner.check_key(key)
    cache.mkdir(parents=True, exist_ok=True)
    build = card.Build(cache, given)
    name, place = build.version(product.collect(cache, given))
    with atomic.part_beside(out) as (_, part):
        product.pack(place, name, part, build.epoch, build.number, older)
        owner.sign(part, key)
    return name


def check(file: Path, key: Path) -> str:
    """The version in a signed update. Its signature is checked where the public half of ``key`` is at hand; else only
    the box can. Raises UserError."""
    signature.mark(file)
    public = owner.public_of(key)
    if public.is_file():
        with tempfile.TemporaryDirectory() as name:
            signers = Path(name, "signers")
            signers.write_text(owner.allowed_signers(public))
            try:
                with signature.verified(file, Path(name), signers):
                    pass
            except UserError as error:
                raise UserError(f"{error}; the key here is {public}, --key FILE names another") from None
    return str(bundle.contents(file)["name"])


def lay_on(file: Path, folder: Path, key: Path) -> str:
    """Copy an update to a card's first partition. Raises UserError."""
    name = check(file, key)
    if not (folder / "cmdline.txt").is_file():
        raise UserError(f"{folder} is not the first partition of a Quietbox card: it has no cmdline.txt")
    target = folder / OFFERED.name
    if atomic.same(file, target):
        raise UserError(f"{file} is the update already on this card; give another file")
    target.unlink(missing_ok=True)
    if shutil.disk_usage(folder).free < file.stat().st_size:
        raise UserError(f"{folder} has no room for {file.stat().st_size >> 20} MB; remove files that you put there")
    part = target.with_suffix(".part")
    shutil.copyfile(file, part)
    part.rename(target)
    os.sync()
    return name


def send(file: Path, host: str, key: Path, ssh: str = "ssh", older: bool = False) -> str:
    """Put an update into the running box ``host``, NAME or NAME:PORT, by the command ``ssh``; ``older``: although it is
    older than what runs there. Raises UserError."""
    name = check(file, key)
    if host.startswith("-"):
        raise UserError(f"{host} is not a host; as in --host quietbox-1a2b")
    work = "f=$(mktemp -p /data) && trap 'rm -f $f' EXIT && cat >$f && quietbox-versions update $f"
    work += " --older" if older else ""
    with file.open("rb") as source:
        done = subprocess.run(
            [*shlex.split(ssh), f"ssh://root@{host}", f"{work} && systemctl restart quietbox"],
            stdin=source,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ssh ended with {done.returncode}"])[-1]
        raise UserError(f"{host} did not accept it: {last}")
    return name


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="hw/image/update", description="Makes and installs updates of boxes that run from a card image."
    )
    parser.add_argument("file", type=Path, nargs="?", help="the update; with --new-key: the secret key")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--new-key", action="store_true", help="make the key that signs updates, once")
    action.add_argument("--make", action="store_true", help="make it from this checkout and sign it")
    action.add_argument(
        "--card", type=Path, metavar="DIR", help="copy it to the card whose first partition is mounted at DIR"
    )
    action.add_argument("--host", metavar="NAME", help="install it on the running box NAME by SSH")
    parser.add_argument(
        "--key", type=Path, default=owner.default_key(), metavar="FILE", help=f"the owner's key ({owner.default_key()})"
    )
    parser.add_argument(
        "--older", action="store_true", help="with --make or --host: boxes accept it although they run a later version"
    )
    parser.add_argument("--ssh", default="ssh", metavar="COMMAND", help="with --host, as in --ssh 'ssh -i KEY'")
    parser.add_argument(
        "--cache", type=Path, default=card.CACHE, metavar="DIR", help="with --make, as hw/image/build's"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="with --make, as hw/image/build's")
    options = parser.parse_args(arguments)
    if options.file is None and not options.new_key:
        parser.error("FILE is missing")
    if options.older and not (options.make or options.host):
        parser.error("an update on a card must permit a downgrade itself: hw/image/update --make FILE --older")
    os.umask(0o022)
    try:
        print(done(options))
    except UserError as error:
        print(f"hw/image/update: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"hw/image/update: {error.filename or options.file}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def done(options: argparse.Namespace) -> str:
    """Do what the command line asks for; returns the line to print. Raises UserError, OSError."""
    key: Path = options.key
    if options.new_key:
        key = options.file or key
        fingerprint = owner.new_key(key)
        return NEXT.format(key=key, public=owner.public_of(key), fingerprint=fingerprint)
    if options.make:
        given = options.wheels and options.wheels.resolve()
        name = make(options.file, options.cache.resolve(), given, key, options.older)
        signed = f"signed with {owner.fingerprint(key)}"
        return f"{options.file}: version {name}, {options.file.stat().st_size >> 20} MiB, {signed}"
    if options.card:
        return f"version {lay_on(options.file, options.card, key)} is installed at that box's next power-on"
    name = send(options.file, options.host, key, options.ssh, options.older)
    return f"{options.host} runs version {name}, or reverts to the old one by itself"


if __name__ == "__main__":
    run_main(main, "hw/image/update")
