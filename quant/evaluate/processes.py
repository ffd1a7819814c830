"""Work spread over processes."""

import signal
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

Found = TypeVar("Found")


def pool_of(jobs: int, context: Any = None) -> ProcessPoolExecutor:
    """Processes that leave an interruption by the keyboard to the one that started them."""
    return ProcessPoolExecutor(jobs, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))


def in_order(pool: ProcessPoolExecutor, ticks: Callable[[], object], futures: Iterable[Future[Found]]) -> list[Found]:
    """Every result, in the order of ``futures``; the first that fails stops the rest."""
    waiting = list(futures)
    try:
        for done in as_completed(waiting):
            done.result()
            ticks()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return [future.result() for future in waiting]
