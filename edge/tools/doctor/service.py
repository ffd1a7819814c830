"""The service: whether systemd runs it, and whether it may use real-time priority."""

import subprocess
from collections.abc import Callable, Iterator

from edge.tools import probe_process
from edge.tools.doctor.context import Context
from edge.tools.doctor.finding import FAIL, OK, WARN, Finding
from edge.tools.doctor.running import HEARD_S, heard_s, running_box, settled_status
from edge.tools.probe_process import ProbeFailure
from edge.tools.reports import journal_reader

UNIT = "quietbox.service"
UNIT_FACTS = ("LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "LimitRTPRIO", "LimitMEMLOCK")


def service(context: Context) -> Iterator[Finding]:
    context.unit = _unit_facts() if context.here else {}
    if context.here:
        capture = context.config.capture
        enough_s = (capture.mute_ms + capture.fade_ms) / 1000 + HEARD_S
        started = context.unit.get("ActiveState") == "active"
        context.running, waited_s = settled_status(started, enough_s)
        context.heard_enough = heard_s(context.running) >= enough_s
        if context.running:
            yield running_box(context.running, waited_s)
    yield _service_state(context.unit, journal_reader.last_warning)


def real_time(context: Context) -> Iterator[Finding]:
    wanted = context.config.box.priority
    if context.unit.get("LoadState") == "loaded":
        limits = {name: context.unit.get(name, "") for name in ("LimitRTPRIO", "LimitMEMLOCK")}
        refused = [] if _number(limits["LimitRTPRIO"]) >= wanted else [f"LimitRTPRIO={max(wanted, 1)}"]
        if _number(limits["LimitMEMLOCK"]) < 2**30:
            refused.append("LimitMEMLOCK=infinity")
        if refused:
            fix = f"put {' and '.join(refused)} into [Service] (systemctl edit quietbox), or run install.sh again"
            yield Finding(
                "real time", WARN, "the service may not use real-time priority or lock its memory", fix, limits
            )
        else:
            yield Finding("real time", OK, f"the service may use priority {wanted} and lock memory", "", limits)
        return
    answer = probe_process.run_in_child("realtime", {"priority": wanted})
    if isinstance(answer, ProbeFailure):
        yield Finding("real time", WARN, f"could not be tested: {answer.text}", "please report it")
    elif answer:
        fix = "run the service, or run as root; without real-time priority the sound may drop out under load"
        yield Finding("real time", WARN, "; ".join(answer), fix)
    else:
        yield Finding("real time", OK, f"priority {wanted} and locked memory are granted to this user")


def _service_state(unit: dict[str, str], last_warning: Callable[[], str] = str) -> Finding:
    """``last_warning`` is asked only about a service that has failed."""
    if not unit:
        return Finding("service", WARN, "no systemd here", "start the box by hand: quietbox run")
    active, sub, enabled = unit.get("ActiveState"), unit.get("SubState"), unit.get("UnitFileState")
    found = f"{active} ({sub}), {enabled or 'not enabled'}"
    if unit.get("LoadState") != "loaded":
        fix = "sudo ./install.sh, or start the box by hand: quietbox run"
        state = "not installed" if unit.get("LoadState") == "not-found" else unit.get("LoadState")
        return Finding("service", WARN, f"{UNIT} is {state}", fix, dict(unit))
    if active == "failed" or sub == "auto-restart":
        fix = "see journalctl -u quietbox"
        why = f"; its last warning: {said}" if (said := last_warning()) else ""
        return Finding("service", FAIL, f"{found}: its result was {unit.get('Result')}{why}", fix, dict(unit))
    if active not in ("active", "activating", "reloading"):
        return Finding("service", WARN, found, "sudo systemctl enable --now quietbox", dict(unit))
    if enabled != "enabled":
        return Finding(
            "service", WARN, found, "sudo systemctl enable quietbox, otherwise it does not start at the next boot", unit
        )
    return Finding("service", OK, found, figures=dict(unit))


def _unit_facts() -> dict[str, str]:
    """What systemd reports of the service; empty where there is no systemd."""
    if not journal_reader.booted():
        return {}
    order = ["systemctl", "show", UNIT, f"--property={','.join(UNIT_FACTS)}"]
    try:
        answer = subprocess.run(order, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    lines = answer.stdout.decode(errors="replace").splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines) if name in UNIT_FACTS}


def _number(limit: str) -> float:
    """A limit as systemd prints it, perhaps "infinity"."""
    try:
        return float(limit)
    except ValueError:
        return 0.0
