"""The virtual Pi's pure parts; and, where its cache is there and QUIETBOX_VIRTUAL_PI=1 asks for it, one boot."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hw.prove.pi.__main__ import TRIES, Row, inside, note, read, sessions, table
from hw.virtual.pi import image, kernel, machine, product

HERE = product.CHECKOUT / "hw/prove/pi"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quietbox" / "virtual"


def proofs() -> set[str]:
    """The functions that proofs.py offers; it cannot be imported outside the machine."""
    tree = ast.parse((HERE / "proofs.py").read_text())
    offered = next(
        node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PROOFS"
    )
    assert offered is not None
    return {node.id for node in ast.walk(offered) if isinstance(node, ast.Name)} - {"proof"}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("hour", [True, False])
def test_every_proof_has_its_boot_and_only_one(quick: bool, hour: bool) -> None:
    names = [name for session in sessions(quick, hour) for name in session.names]
    assert len(names) == len(set(names))
    assert set(names) == proofs()


def test_everything_that_the_proofs_import_goes_into_the_machine() -> None:
    sent = {path.stem for path in inside()}
    assert {"proofs", "proving", "stage"} < sent
    for path in inside():
        tree = ast.parse(path.read_text())
        named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        named |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        assert {name for name in named if name.startswith("proofs") or name in ("proving", "stage")} <= sent, path.name


def result(name: str, passed: bool = True) -> str:
    return json.dumps({"name": name, "passed": passed, "words": f"{name} measured", "seconds": 1.0}) + "\n"


def test_results_of_a_boot_become_rows(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(result("a") + result("b", passed=False))
    rows = {name: Row(name) for name in "abc"}
    note(rows, ["a", "b", "c"], results, machine.Boot(None, 9.0, hung=True))
    assert (rows["a"].passed, rows["a"].tries) == (True, 1)
    assert (rows["b"].passed, rows["b"].tries) == (False, 1)
    assert (rows["c"].passed, rows["c"].tries, rows["c"].words) == (False, 1, "the machine hung in the middle")


def test_only_the_proof_at_which_it_hung_counts_as_tried(tmp_path: Path) -> None:
    rows = {name: Row(name) for name in "abc"}
    note(rows, ["a", "b", "c"], tmp_path / "none", machine.Boot(None, 9.0, hung=True))
    assert [rows[name].tries for name in "abc"] == [1, 0, 0]


def test_a_retry_never_hides_what_came_before(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    rows = {"a": Row("a")}
    for passed in (False, False, True):
        results.write_text(result("a", passed))
        note(rows, ["a"], results, machine.Boot(0, 9.0, hung=False))
    assert rows["a"].passed
    assert rows["a"].tries == TRIES == 3
    assert len(rows["a"].earlier) == 2
    shown = table([rows["a"]])
    assert "1 of them tried more than once" in str(shown.title)
    assert next(iter(shown.columns[2].cells)).count("before: ") == 2


def test_half_a_line_is_no_result(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(result("a") + result("b")[:-5])
    assert [entry["name"] for entry in read(results)] == ["a"]


def test_the_fingerprint_follows_the_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in product.SHIPPED:
        if "." in name or name == "LICENSE":
            (tmp_path / name).write_text(name)
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "part.py").write_text(name)
    monkeypatch.setattr(product, "CHECKOUT", tmp_path)
    before = product.fingerprint(Path("disk"))
    (tmp_path / "edge" / "__pycache__").mkdir()
    (tmp_path / "edge" / "__pycache__" / "part.pyc").write_text("changed")
    assert product.fingerprint(Path("disk")) == before
    (tmp_path / "edge" / "part.py").write_text("changed")
    assert product.fingerprint(Path("disk")) != before
    assert product.fingerprint(Path("another")) != product.fingerprint(Path("disk"))


def test_the_installation_gets_what_it_needs() -> None:
    shipped = {str(path.relative_to(product.CHECKOUT)) for path in product.sources()}
    assert {"install.sh", "systemd/quietbox.service", "edge/cli.py", "models/quietbox/quietbox.onnx"} <= shipped
    assert not any(name.endswith("proofs.py") for name in shipped)


def test_the_kernels_wishes_do_not_contradict_each_other() -> None:
    assert not set(kernel.ON.split()) & set(kernel.OFF.split())
    assert set(kernel.NEEDED) <= set(kernel.ON.split())


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(kernel.BuildFailed, match=r"apt-get install .*flex"):
        kernel.kernel(tmp_path)
    with pytest.raises(kernel.BuildFailed, match="apt-get install mmdebstrap"):
        image.debian(tmp_path)


def test_the_guests_scripts_are_sound_shell() -> None:
    for name in ("kernel-parts", "job"):
        subprocess.run(["sh", "-n", str(image.GUEST / "usr/local/lib/virtual-pi" / name)], check=True)


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    """A kernel that boots nothing: it keeps a child, ignores SIGTERM, and writes the job's status if asked to."""
    program = tmp_path / "sleeper"
    program.write_text(
        "#!/bin/bash\ntrap '' TERM\nfor word in \"$@\"; do\n"
        "case $word in pi.share=*) share=${word#pi.share=};; esac; done\n"
        "sleep 1000 &\necho $! >$share/child\n[ -e $share/ends ] && echo 3 >$share/status\nwait\n"
    )
    program.chmod(0o755)
    return program


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize("ends", [True, False])
def test_a_machine_that_hangs_is_killed_with_all_it_holds(
    tmp_path: Path, sleeper: Path, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "POWER_OFF_S", 0.5)
    if ends:
        (tmp_path / "ends").touch()
    found = machine.boot(sleeper, tmp_path / "disk", tmp_path / "layer", tmp_path, limit_s=2.0)
    assert found.hung
    assert found.status == (3 if ends else None)
    assert not alive(int((tmp_path / "child").read_text()))


def test_a_machine_with_a_clock_of_its_own_runs_in_no_real_time_class() -> None:
    """It computes without a pause, and would take its processor from everybody else."""
    places = Path("kernel"), Path("disk"), Path("layer"), Path("share")
    real = machine.command(*places, words=(), busy=False)
    own = machine.command(*places, words=("ro",), busy=False, own_time=True)
    assert machine.OWN_TIME not in real
    assert own[0] == "kernel"
    assert {machine.OWN_TIME, "ro"} <= set(own)


def test_the_clock_of_the_host_stands_in_no_proof_that_counts_every_xrun() -> None:
    """On a shared host processors are taken away for longer than the output queue lasts."""
    own = {name for session in sessions(quick=False, hour=False) if session.own_time for name in session.names}
    assert own == {"drift", "stalled"}


def test_an_unknown_proof_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hw.prove.pi", "nonsense"], capture_output=True, text=True, cwd=product.CHECKOUT
    )
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(600)
@pytest.mark.only_where(
    os.environ.get("QUIETBOX_VIRTUAL_PI") == "1" and any(CACHE.glob("linux-????????????")),
    f"QUIETBOX_VIRTUAL_PI=1 and a kernel in {CACHE}; python -m hw.prove.pi boots builds one and proves more",
)
def test_the_machine_boots_and_switches_off(tmp_path: Path) -> None:
    machine.job(tmp_path, "cat /proc/asound/cards; ls /dev/gpiochip0; exit 7")
    found = machine.boot(kernel.kernel(CACHE), image.disk(CACHE), tmp_path / "layer", tmp_path, limit_s=300)
    assert found.status == 7
    reported = (tmp_path / "stdout").read_text()
    assert "/dev/gpiochip0" in reported
    assert all(card in reported for card in machine.CARDS)
