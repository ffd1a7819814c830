"""Updates are signed and not older than what runs: by the card's way and by SSH's, against whoever changes them."""

import functools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from edge import UserError
from hw.image import bundle, owner, product, signature, update, versions
from hw.image.versions import Versions

EPOCH = 1_735_689_600
KEYS = tempfile.TemporaryDirectory()


@functools.cache
def key_of(name: str) -> Path:
    made = Path(KEYS.name, name)
    owner.new_key(made)
    return made


def packed(place: Path, name: str, build: int = EPOCH, older: bool = False, program: str = "") -> Path:
    """An update of one small program, not signed."""
    source = place / f"made-{name}"
    (source / "lib").mkdir(parents=True, exist_ok=True)
    (source / "lib/program").write_text(program or name)
    file = place / f"{name}.quietbox"
    product.pack(source, name, file, EPOCH, build, older)
    return file


def signed(place: Path, name: str, build: int = EPOCH, older: bool = False, by: str = "owner") -> Path:
    file = packed(place, name, build, older)
    owner.sign(file, key_of(by))
    return file


def box(place: Path, shipped_build: int = 0) -> Versions:
    shipped = place / "shipped"
    (shipped / "bin").mkdir(parents=True)
    (shipped / "bin/quietbox").write_text("")
    bundle.stamp(shipped, shipped_build)
    signers = place / "signers"
    signers.write_text(owner.allowed_signers(owner.public_of(key_of("owner"))))
    return Versions(place / "store", shipped, place / "run/version", signers)


def quiet(text: str) -> None:
    """Nobody listens."""


def works(held: Versions) -> str:
    """One start that becomes ready; returns what runs."""
    held.begin(quiet)
    held.ready()
    return held.current


# The key.


def test_the_owners_key_is_made_once_and_is_nobody_elses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)
    secret = tmp_path / ".config/quietbox/update-key"
    assert update.main(["--new-key"]) == 0
    reported = capsys.readouterr().out
    assert str(secret) in reported and "SHA256:" in reported and "hw/image/build" in reported
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    before = secret.read_bytes()
    assert update.main(["--new-key"]) == 1 and update.main(["--new-key", str(secret)]) == 1
    assert "exists already" in capsys.readouterr().err and secret.read_bytes() == before
    secret.unlink()  # a public key whose secret one lies elsewhere is not overwritten, either
    assert update.main(["--new-key"]) == 1 and not secret.exists()
    assert update.main(["--new-key", str(tmp_path / "second")]) == 0
    text, who = owner.chosen_signers(None)
    assert "ssh-ed25519" in text and str(secret) in who


def test_who_may_sign_is_chosen_at_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text, who = owner.chosen_signers(None)
    assert text == "" and "accepts no update" in who and "--new-key" in who
    assert owner.chosen_signers("none")[0] == ""
    both = tmp_path / "both.pub"
    both.write_text(
        owner.public_of(key_of("owner")).read_text() + "\n" + owner.public_of(key_of("stranger")).read_text()
    )
    text, _ = owner.chosen_signers(str(both))
    assert len(text.splitlines()) == 2 and all('namespaces="quietbox-update"' in line for line in text.splitlines())
    held = box(tmp_path)
    held.signers.write_text(text)
    held.update(signed(tmp_path, "1", by="stranger"), quiet)
    for wrong in (
        key_of("owner").read_text(),  # the secret key
        "cert-authority " + owner.public_of(key_of("owner")).read_text(),
        'ssh-ed25519 AAAA" principal',
        "",
        "ssh-ed25519 " + "A" * 68 + "\n",
    ):
        both.write_text(wrong)
        with pytest.raises(UserError, match=r"both\.pub"):
            owner.chosen_signers(str(both))
    with pytest.raises(UserError, match="nothing"):
        owner.chosen_signers(str(tmp_path / "nothing"))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="fifo is a FIFO"):
        owner.chosen_signers(str(tmp_path / "fifo"))


def test_without_the_key_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert update.main(["--make", str(tmp_path / "x"), "--key", str(tmp_path / "none"), "--cache", str(tmp_path)]) == 1
    reported = capsys.readouterr().err
    assert "--new-key" in reported and len(reported.splitlines()) == 1 and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        update.main([str(tmp_path / "x"), "--card", str(tmp_path), "--older"])


# What a box refuses.


def changed_at(place: float) -> Callable[[Path], None]:
    """One byte changed, at a share of the whole file; 1.0 is the last one."""

    def change(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[round(place * (len(data) - 1))] ^= 0x40
        file.write_bytes(data)

    return change


def cut_to(share: float) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, round(share * file.stat().st_size))


def unsigned(file: Path) -> None:
    with file.open("rb") as source:
        size, _ = signature.split(source, file)
    os.truncate(file, size)


def signed_by(file: Path, who: str, namespace: str) -> None:
    unsigned(file)
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", key_of(who), "-n", namespace, file], check=True)
    file.write_bytes(file.read_bytes() + file.with_name(f"{file.name}.sig").read_bytes())


def with_the_signature_of_another(file: Path) -> None:
    other = signed(file.parent, "other")
    with other.open("rb") as source:
        _, stolen = signature.split(source, other)
    unsigned(file)
    file.write_bytes(file.read_bytes() + stolen)


def with_more(file: Path) -> None:
    """Anything after the signature, or a second one by somebody else."""
    file.write_bytes(file.read_bytes() + b"\0")


def with_more_before_the_last_line(file: Path) -> None:
    """ssh-keygen takes a signature up to its first end and ignores the rest."""
    file.write_bytes(file.read_bytes() + b"anything\n" + signature.END)


def with_a_strangers_second(file: Path) -> None:
    owner.sign(file, key_of("stranger"))


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "not signed": (unsigned, "is not signed"),
    "signed by somebody else": (lambda file: signed_by(file, "stranger", signature.NAMESPACE), "not signed with"),
    "signed as something else": (lambda file: signed_by(file, "owner", "git"), "not signed with"),
    "first byte changed": (changed_at(0.0), "changed after signing"),
    "a byte changed": (changed_at(0.3), "changed after signing"),
    "signature changed": (changed_at(0.9), "not signed with"),
    "last byte changed": (changed_at(1.0), "is not signed"),
    "cut within the signature": (cut_to(0.9), "is not signed"),
    "cut within the payload": (cut_to(0.4), "is not signed"),
    "empty": (cut_to(0.0), "is not signed"),
    "another update's signature": (with_the_signature_of_another, "changed after signing"),
    "something behind it": (with_more, "is not signed"),
    "something behind it, and its last line again": (with_more_before_the_last_line, "is not signed"),
    "a second signature": (with_a_strangers_second, "not signed with"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_the_owner_did_not_sign_is_refused_and_never_read(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = box(tmp_path)
    file = signed(tmp_path, "1")
    change, says = REFUSED[why]
    change(file)

    def read(path: Path, *more: object) -> object:
        pytest.fail(f"{path} was read")

    monkeypatch.setattr(bundle, "contents", read)
    monkeypatch.setattr(bundle, "unpack", read)
    with pytest.raises(UserError, match=says) as refusal:
        held.update(file, quiet, again=True, older=True)
    assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)
    said: list[str] = []
    for _ in range(2):  # at every power-on
        versions.take_offered(held, file, said.append)
    assert said == [str(refusal.value)] * 2
    assert held.current == held.offered == "" and held.begin(quiet) == held.shipped
    assert [path.name for path in held.store.iterdir()] == [], "no copy is left"


def test_a_box_without_a_key_or_without_ssh_keygen_takes_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = box(tmp_path)
    file = signed(tmp_path, "1")
    text = held.signers.read_text()
    for signers, says in (
        ("", "not signed with"),
        (text.replace("owner ", "somebody "), "not signed with"),
        (text.replace(signature.NAMESPACE, "git"), "not signed with"),
    ):
        held.signers.write_text(signers)
        with pytest.raises(UserError, match=says):
            held.update(file, quiet)
    held.signers.unlink()
    with pytest.raises(UserError, match=r"accepts no updates.*--signer"):
        held.update(file, quiet)
    held.signers.write_text(text)
    monkeypatch.setattr(signature, "VERIFY_S", 0.2)
    slow = tmp_path / "bin/ssh-keygen"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
        with pytest.raises(UserError, match="could not be checked within"):
            held.update(file, quiet)
        patch.setenv("PATH", str(tmp_path / "none"))
        with pytest.raises(UserError, match="openssh-client"):
            held.update(file, quiet)
    assert held.current == ""


def test_an_update_too_large_for_the_data_partition_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = box(tmp_path)
    file = signed(tmp_path, "1")
    full = shutil.disk_usage(tmp_path)._replace(free=bundle.SPARE_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: full)
        with pytest.raises(UserError, match="no room"):
            held.update(file, quiet)
    huge, fifo = tmp_path / "huge", tmp_path / "fifo"
    huge.touch()
    os.truncate(huge, bundle.MOST_PACKED_BYTES + 1)
    with pytest.raises(UserError, match="at most 320 MiB"):
        held.update(huge, quiet)
    os.mkfifo(fifo)
    for odd in (fifo, Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match=str(odd)):
            held.update(odd, quiet)


@pytest.mark.parametrize("in_place", [True, False])
def test_what_was_checked_is_what_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool) -> None:
    """The file is exchanged the moment its signature was found right."""
    held = box(tmp_path)
    file = signed(tmp_path, "1")
    other = packed(tmp_path, "2", program="not signed")
    check = signature._fault

    def exchanged(payload: BinaryIO, reported: bytes, signers: Path) -> str:
        fault = check(payload, reported, signers)
        if in_place:
            file.write_bytes(other.read_bytes())
        else:
            os.replace(other, file)
        return fault

    monkeypatch.setattr(signature, "_fault", exchanged)
    assert held.update(file, quiet) == "1"
    assert held.folder("1").joinpath("lib/program").read_text() == "1"


# Not older than what runs.


def test_an_older_version_needs_to_be_asked_for(tmp_path: Path) -> None:
    held = box(tmp_path, shipped_build=EPOCH)
    with pytest.raises(UserError, match=r"older than what runs.*--older"):
        held.update(signed(tmp_path, "0", EPOCH - 1), quiet)
    for name, build in (("1", EPOCH), ("2", EPOCH + 9), ("2again", EPOCH + 9)):
        held.update(signed(tmp_path, name, build), quiet)
        assert works(held) == name
    with pytest.raises(UserError, match="version 3 of 2025-01-01 00:00:08 UTC is older"):
        held.update(signed(tmp_path, "3", EPOCH + 8), quiet)
    assert held.update(signed(tmp_path, "3", EPOCH + 8), quiet, older=True) == "3"
    assert works(held) == "3"
    assert held.update(signed(tmp_path, "4", EPOCH - 5, older=True), quiet) == "4"
    assert works(held) == "4"
    with pytest.raises(UserError, match="older"):  # than the shipped one, which is later than what runs
        held.update(signed(tmp_path, "5", EPOCH - 4), quiet)


def test_an_older_update_on_the_card_is_named_once_and_costs_no_start(tmp_path: Path) -> None:
    held = box(tmp_path, shipped_build=EPOCH)
    said: list[str] = []
    offered = signed(tmp_path, "1", EPOCH - 1)
    right = [versions.take_offered(held, offered, said.append) for _ in range(3)]
    assert right == [False, True, True], "the LED tells it once, too"
    assert len(said) == 1 and str(offered) in said[0] and "--make FILE --older" in said[0]
    assert held.current == ""
    versions.take_offered(held, signed(tmp_path, "1", EPOCH - 1, older=True), said.append)
    assert held.current == "1"


@pytest.mark.parametrize("build", [None, -1, 1.5, True, "1", bundle.MOST_BUILD + 1])
def test_an_update_without_a_right_build_number_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: object
) -> None:
    held = box(tmp_path)
    file = packed(tmp_path, "1", build)  # type: ignore[arg-type]
    owner.sign(file, key_of("owner"))
    with pytest.raises(UserError, match="no build number") as refusal:
        held.update(file, quiet)
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"build": "9"}', '{"build": -1}', "[" * 5000, '{"build": 1e400}'])
def test_a_damaged_stamp_has_no_build_number(tmp_path: Path, text: str) -> None:
    (tmp_path / bundle.STAMP).write_text(text)
    assert bundle.build_of(tmp_path) == 0
    assert bundle.build_of(tmp_path / "none") == 0


def test_a_later_checkout_has_a_greater_build_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product.wheels, "SOURCE", tmp_path)
    for part in product.arm64.PRODUCT:
        (tmp_path / part).write_text(part)
        os.utime(tmp_path / part, (EPOCH, EPOCH))
    assert product.build_number() == EPOCH, "no git: the newest file"
    os.utime(tmp_path / "LICENSE", (1 << 39, 1 << 39))
    assert product.build_number() < EPOCH * 2, "a file of the future does not shut out every later version"
    os.utime(tmp_path / "LICENSE", (EPOCH, EPOCH))
    if shutil.which("git"):
        date = f"{EPOCH + 50} +0000"
        who = {f"GIT_{one}_{what}": "a@b" for one in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        reported = os.environ | who | {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date}
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
            subprocess.run(["git", *words], cwd=tmp_path, env=reported, check=True)
        assert product.build_number() == EPOCH + 50, "the commit's time"
        (tmp_path / "README.md").write_text("changed")
        os.utime(tmp_path / "README.md", (EPOCH + 70, EPOCH + 70))
        assert product.build_number() == EPOCH + 70, "changed since"


# Both ways into a box.

ON_THE_BOX = """#!/bin/sh
cd {source} && exec {python} -c '
import sys
from pathlib import Path
from hw.image import versions
versions.Versions.__init__.__defaults__ = tuple(map(Path, sys.argv[1:5]))
sys.exit(versions.main(sys.argv[5:]))
' {places} "$@"
"""


def test_by_ssh_the_box_checks_the_same(tmp_path: Path) -> None:
    """``ssh`` is a script that runs the very command of ``hw/image/update --host`` on a box in a folder."""
    held = box(tmp_path, shipped_build=EPOCH)
    tools = tmp_path / "tools"
    tools.mkdir()
    places = f"{held.store} {held.shipped} {held.in_use} {held.signers}"
    source = Path(__file__).parents[2]
    scripts = {
        "quietbox-versions": ON_THE_BOX.format(source=source, python=sys.executable, places=places),
        "mktemp": f"#!/bin/sh\nexec /usr/bin/mktemp -p {tmp_path}\n",
        "systemctl": "#!/bin/sh\n",
        "ssh": f'#!/bin/sh\nPATH={tools}:$PATH exec sh -c "$2"\n',
    }
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    ssh = str(tools / "ssh")
    elsewhere = tmp_path / "no key here"
    before = {path.name for path in tmp_path.iterdir()}
    for file, says in (
        (signed(tmp_path, "1", by="stranger"), "box did not accept it: quietbox-versions: .*not signed with"),
        (signed(tmp_path, "0", EPOCH - 1), "box did not accept it: quietbox-versions: .*older than what runs"),
    ):
        with pytest.raises(UserError, match=says):
            update.send(file, "box", elsewhere, ssh)
        assert held.current == ""
    with pytest.raises(UserError, match="is not signed"):  # before it is sent
        update.send(packed(tmp_path, "2"), "box", elsewhere, ssh)
    with pytest.raises(UserError, match=r"not signed with.*the key here is .*owner\.pub, --key FILE"):
        update.send(tmp_path / "1.quietbox", "box", key_of("owner"), ssh)
    assert update.send(tmp_path / "0.quietbox", "box", key_of("owner"), ssh, older=True) == "0"
    assert held.current == "0"
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("made-")} - before
    assert left == {"0.quietbox", "1.quietbox", "2.quietbox", "store"} - before


def test_a_card_gets_only_what_its_box_will_take(tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    (card / "cmdline.txt").touch()
    with pytest.raises(UserError, match="not signed with"):
        update.lay_on(signed(tmp_path, "1", by="stranger"), card, key_of("owner"))
    assert not (card / versions.OFFERED.name).exists()
    assert update.lay_on(signed(tmp_path, "1"), card, key_of("owner")) == "1"
    held = box(tmp_path)
    versions.take_offered(held, card / versions.OFFERED.name, quiet)
    assert works(held) == "1"
