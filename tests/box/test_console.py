"""Every command ends in one line or in silence, whatever becomes of its output."""

import ast
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import UserError, console
from edge.console import step

CHECKOUT = Path(__file__).resolve().parents[2]
ENTRIES = [
    path
    for package in ("edge", "hw", "models", "quant")
    for path in sorted((CHECKOUT / package).rglob("*.py"))
    if '\nif __name__ == "__main__"' in path.read_text(encoding="utf-8")
]
COMMANDS = {
    "devices": ["-m", "edge.cli", "devices"],
    "help": ["-m", "edge.cli", "report", "--help"],
    "tables": ["-m", "edge.journal"],  # holds a degree sign
    "boards": ["-m", "hw.board.boards"],
}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def shell(command: str, words: list[str], **surroundings: str) -> subprocess.CompletedProcess[bytes]:
    """``command`` in bash, where "$@" is our command; its exit status is that of ours."""
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, *words],
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | surroundings,
        capture_output=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ('"$@" >/dev/full', "No space left on device"),
        ('"$@" >&-', "standard output is closed"),
        ('"$@" >&- <&- 2>&-', ""),
        ('{ "$@"; echo $? >&3; } 3>&2 | true; exit 1', "1"),  # nobody reads; its status on stderr
    ],
)
def test_a_lost_output_is_one_line_and_an_error(command: str, says: str, name: str) -> None:
    done = shell(command, COMMANDS[name])
    said = done.stderr.decode()
    assert done.returncode == 1, said
    if says == "1":
        assert said.strip() in ("0", "1")  # 0: the pipe took all before it closed
    else:
        assert says in said and said.count("\n") == bool(says)
    assert not done.stdout


@pytest.mark.parametrize("name", ["devices", "tables"])
@pytest.mark.parametrize("surroundings", [{"PYTHONIOENCODING": "latin-1"}, ASCII], ids=["latin-1", "ascii"])
def test_a_terminal_without_our_signs_gets_the_rest(surroundings: dict[str, str], name: str) -> None:
    done = shell('"$@"', COMMANDS[name], **surroundings)
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout
    if name == "tables":
        assert (b"deg C" in done.stdout) == (surroundings is ASCII) and b"\\x" not in done.stdout


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.relative_to(CHECKOUT).as_posix())
def test_every_entry_ends_that_way(path: Path) -> None:
    block = next(
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
    )
    ends = ast.unparse(block.body[-1])
    if path.name == "cli.py":  # its main is also the installed command's, so the way out is in there
        assert ends == "sys.exit(main())" and "return console.guarded(verb)" in path.read_text()
    elif path.name == "config.py":  # it starts another entry, which is in this list itself
        assert ends == "runpy.run_module('edge.config_file', run_name='__main__')"
    else:
        assert ends.startswith("run_main(")


def raising(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (UserError("two\nlines and a \x1b[31m bell\x07"), 1, "x: two\\x0alines and a \\x1b[31m bell\\x07\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
        (OSError(28, "No space left on device", "/a/b"), 1, "x: /a/b: No space left on device\n"),
        (OSError(28, "No space left on device"), 1, "x: output: No space left on device\n"),
        (KeyboardInterrupt(), 130, "x: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_ends_a_command(error: BaseException, status: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.guarded(raising(error), "x") == status
    assert capsys.readouterr() == ("", says)


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(7)], ids=["fault", "exit"])
def test_a_fault_of_ours_is_not_hidden_and_an_exit_is_one(error: BaseException) -> None:
    with pytest.raises(type(error)):
        console.guarded(raising(error), "x")


def test_what_must_not_keep_the_box_from_starting_does_not() -> None:
    code = "from edge.console import run_main; run_main(lambda: print('x'), 'settings', if_lost=0)"
    assert shell('"$@" >/dev/full', ["-c", code]).returncode == 0
    assert shell('"$@" >/dev/full', ["-c", code.replace("=0", "=1")]).returncode == 1


def test_the_way_out_needs_only_python() -> None:
    for name in ("console", "files/atomic", "__init__"):
        for node in ast.walk(ast.parse((CHECKOUT / "edge" / f"{name}.py").read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {each.split(".")[0] for each in names} <= {*sys.stdlib_module_names, "edge"}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_step_is_shown_on_a_terminal_alone_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, file = Screen(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    step("timing network ...")
    step("timing rnn ...")
    step("")
    step("")
    assert screen.getvalue() == "\r\033[Ktiming network ...\r\033[Ktiming rnn ...\r\033[K"
    monkeypatch.setattr(sys, "stderr", file)
    step("timing network ...")
    step("")
    monkeypatch.setattr(sys, "stderr", None)
    step("timing network ...")
    assert file.getvalue() == ""
