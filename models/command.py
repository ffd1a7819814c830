"""What the commands of models/ and quant/ share: a user's error in one line, the packages they need, the exit status.

Needs no extra: ``--help`` prints after a bare ``./install.sh``. A command reads its options first and imports what
comes from an extra (PyTorch, ONNX) afterwards, inside the function that works.
"""

import importlib.util
import sys
from collections.abc import Callable

from edge import UserError, command_for

REFUSED, INTERRUPTED = 2, 130
"""Exit status for what the user must correct, and after Ctrl-C."""


class BadRequest(UserError):
    """Something the user can correct; the text is one line."""


def need(extra: str, *packages: str) -> None:
    """Raises BadRequest that names the packages not installed here and how to get ``extra`` (comma-separated)."""
    if missing := [package for package in packages if not installed(package)]:
        raise BadRequest(f"{', '.join(missing)} not installed; {command_for(extra)}")


def installed(package: str) -> bool:
    """Whether ``package`` can be imported, as far as that shows without doing so."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # an importer of its own refuses it
        return False


def status_of(work: Callable[[], int | None], name: str, stopped: str = "interrupted") -> int:
    """``work``'s exit status; 2 after one line on stderr for a UserError, 130 after Ctrl-C and the line ``stopped``."""
    try:
        return work() or 0
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print(f"{name}: {stopped}", file=sys.stderr)
        return INTERRUPTED
