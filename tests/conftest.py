"""For all tests: the environment that the product gives its libraries, and ordinary priority in every test."""

import os
from collections.abc import Iterator

import pytest

import edge as edge


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """What runs in the test's own process may ask for real-time priority; the next test must not inherit it."""
    yield
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
