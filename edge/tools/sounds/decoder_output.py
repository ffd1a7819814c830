"""What the codecs' libraries write to the terminal by themselves, kept off it."""

import contextlib
import os
import threading
from collections.abc import Iterator

_one_at_a_time = threading.Lock()
"""Descriptor 2 belongs to the process: two threads that redirect it crosswise would lose it."""
MOST_BYTES = 4096


@contextlib.contextmanager
def captured(lines: list[str]) -> Iterator[None]:
    """While the body runs, what native code writes to descriptor 2 goes to ``lines`` (the first ``MOST_BYTES``).

    libmpg123 reports damage in MP3 files there, many lines a file, and libsndfile does not let it be silenced.
    """
    with _one_at_a_time:
        try:
            kept = os.dup(2)
        except OSError:  # closed, as in some services: nobody sees what is written there
            yield
            return
        hidden = os.memfd_create("decoder", os.MFD_CLOEXEC)
        try:
            os.dup2(hidden, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written = os.pread(hidden, MOST_BYTES, 0).decode(errors="replace")
            os.close(hidden)
            lines += [line.strip() for line in written.splitlines() if line.strip()]
