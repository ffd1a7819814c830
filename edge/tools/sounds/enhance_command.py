"""The command `quietbox enhance`: every file's line or record, what failed, and the exit status.

With ``--json`` a list of records, one for every file that was named or lies in a folder named, with its ``source`` and
``state``: "done", "degraded" (its engine failed on the way), both with the fields of ``Enhanced``; "failed" and
"left out" (not tried: hidden, no sound) with ``why``.
"""

import contextlib
import dataclasses
import json
from typing import Any

from edge.console import complain, printable
from edge.tools import tables
from edge.tools.sounds.enhance_jobs import Job, Outcome, Request, outcomes
from edge.tools.sounds.progress import Quiet, progress_of
from edge.tools.sounds.sound_paths import Found, LeftOut, show_left_out


def enhance(request: Request, found: Found, processes: int, *, as_json: bool) -> int:
    """Process every sound found; returns the exit status: 1 where a file or its engine failed, or sounds were left out.

    Raises UserError where the engine named cannot be opened. What has been done until then is printed all the same.
    """
    jobs = [Job(source, target) for source, target in found.pairs]
    places = {job: number for number, job in enumerate(jobs)}
    notes: list[str] = []
    done: list[Outcome] = []
    failed = show_left_out(found)

    with progress_of([job.source for job in jobs], quiet=as_json) as progress:

        def at(job: Job, share: float) -> None:
            progress.at(job.source, share)

        try:
            with contextlib.closing(outcomes(request, jobs, processes, at, notes.append)) as finished:
                for outcome in finished:
                    progress.done(outcome.job.source)
                    done.append(outcome)
                    if outcome.result:
                        _say(notes)
                    _show(outcome, progress, as_json)
        finally:
            if as_json:
                done.sort(key=lambda outcome: places[outcome.job])
                records = [_record(outcome, found) for outcome in done]
                print(json.dumps([*records, *map(_record_left_out, found.left_out)], indent=2))
    return 0 if not failed and all(outcome.good or _passed_over(outcome, found) for outcome in done) else 1


def _passed_over(outcome: Outcome, found: Found) -> bool:
    """Whether it is a film without sound in a folder, which is no failure."""
    return outcome.no_sound and outcome.job.source not in found.named


def _record(outcome: Outcome, found: Found) -> dict[str, Any]:
    if outcome.result is None:
        state = "left out" if _passed_over(outcome, found) else "failed"
        return {"state": state, "source": str(outcome.job.source), "why": outcome.error}
    return {"state": "degraded" if outcome.result.degraded else "done", **dataclasses.asdict(outcome.result)}


def _record_left_out(one: LeftOut) -> dict[str, Any]:
    return {"state": "failed" if one.failed else "left out", "source": str(one.source), "why": one.why}


def _say(notes: list[str]) -> None:
    """Each once, and only where there is a result that they are about."""
    while notes:
        complain(notes.pop(0))


def _show(outcome: Outcome, progress: Quiet, as_json: bool) -> None:
    if outcome.result is None:
        complain(outcome.error)
        return
    if not as_json:
        progress.say(printable(tables.enhanced(outcome.result)))
    if outcome.result.degraded:
        complain(f"{outcome.job.source}: {outcome.result.degraded}")
