"""The command `quietbox enhance`: every file's line or record, what failed, and the exit status."""

import contextlib
import dataclasses
import json

from edge.console import complain, printable
from edge.tools import tables
from edge.tools.enhance_jobs import Job, Outcome, Request, outcomes
from edge.tools.progress import Quiet, progress_of
from edge.tools.sound_paths import Found, show_left_out


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
                print(json.dumps([dataclasses.asdict(outcome.result) for outcome in done if outcome.result], indent=2))
    return 0 if not failed and all(outcome.good for outcome in done) else 1


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
