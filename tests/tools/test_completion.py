"""Completion in the shell: what ships is of today's options, and bash offers it."""

import subprocess

import pytest

from edge.cli import main
from edge.tools.completion import SHELLS, path_of
from edge.write_completion import made


@pytest.mark.parametrize("shell", SHELLS)
def test_what_ships_is_of_todays_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == made(shell), "python -m edge.write_completion"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("dev", {"devices"}),
        ("bypass ", {"on", "off", "toggle"}),
        ("volume ", {"up", "down"}),
        ("engine rn", {"rnn", "rnnoise"}),
        ("doctor --bun", {"--bundle"}),
        ("enhance --eng", {"--engine"}),
        ("nonsense", set()),
    ],
)
def test_bash_offers_what_the_command_takes(words: str, offered: set[str]) -> None:
    typed = ["quietbox", *words.split(" ")]
    script = (
        f"source {path_of('bash')}; COMP_WORDS=({' '.join(word or chr(39) * 2 for word in typed)}); "
        f"COMP_CWORD={len(typed) - 1}; _shtab_quietbox; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert {word.strip() for word in done.stdout.splitlines() if word.strip()} == offered
