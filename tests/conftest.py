"""For all tests: the environment that the product gives its libraries, ordinary priority, which may be left out."""

import os
import platform
import sys
from collections.abc import Iterator

import pytest

import edge as edge

LEFT_OUT = pytest.StashKey[dict[str, str]]()


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """What runs in the test's own process may ask for real-time priority; the next test must not inherit it."""
    yield
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture
def quick_cable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are tried again at once, and a busy machine makes neither the cable nor the engine step down."""
    for name, value in (("RETRY_S", 0.01), ("SLOW_US", 1e9)):
        monkeypatch.setattr(f"edge.devices.cable.{name}", value)
    for name, value in (("RETRY_DEVICE_S", 0.01), ("LATE_US", 1e9)):
        monkeypatch.setattr(f"edge.box.{name}", value)


@pytest.fixture
def short_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """`quietbox calibrate` as it is, only shorter."""
    for name, value in (("SWEEP_S", 0.7), ("PAUSE_S", 0.4), ("SWEEPS", 2)):
        monkeypatch.setattr(f"edge.tools.calibrate.{name}", value)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="on Debian 12 as root a skipped test fails; tests/run installs what such a test lacks",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = {}


def nothing_may_be_missing(config: pytest.Config) -> bool:
    """Whether ``--no-skips`` asks for a complete run where one is possible."""
    return bool(config.getoption("--no-skips")) and is_tested_completely()


def is_tested_completely() -> bool:
    """Whether this is the system on which the project promises to skip nothing."""
    if os.geteuid() != 0 or sys.version_info[:2] != (3, 11):
        return False
    release = platform.freedesktop_os_release()
    return (release.get("ID"), release.get("VERSION_ID")) == ("debian", "12")


# Tests for another kind of machine are deselected, and named with what they need.


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept: list[pytest.Item] = []
    gone: list[pytest.Item] = []
    for item in items:
        needs = [mark.args[1] for mark in item.iter_markers("only_where") if not mark.args[0]]
        (gone if needs else kept).append(item)
        if needs:
            config.stash[LEFT_OUT][item.nodeid] = needs[0]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = kept


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # a process of pytest-xdist: it alone has collected
        session.config.workeroutput["left_out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: "object", error: object) -> None:
    node.config.stash[LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", {}))  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for test, needs in sorted(config.stash[LEFT_OUT].items()):
        terminalreporter.write_line(f"not for this machine: {test}: needs {needs}")


# A skipped test proves nothing: where everything can be installed, it fails.


def refuse_skip(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and nothing_may_be_missing(config):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{reason} (skipped, but nothing may be missing on Debian 12 as root; tests/run installs it)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    refuse_skip(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):  # type: ignore[no-untyped-def]
    report = yield
    refuse_skip(report, collector.config)
    return report
