"""The feedback path: engines that look at what the feedforward path left over and take the noise out.

``mask`` is the engine, the files beside it are the estimators that drive it, and ``open_engine`` chooses among them.
"""

from collections.abc import Callable

from edge.suppress.dsp import Wiener
from edge.suppress.mask import Estimator, MaskEngine, Unity

BUILDERS: dict[str, Callable[[], Estimator]] = {"dsp": Wiener, "off": Unity}
"""Every engine a user can name, best first."""


def open_engine(engine: str, limit_db: float) -> MaskEngine:
    """The engine asked for with everything below it on the ladder; ``auto`` begins with the best."""
    names = list(BUILDERS)
    first = 0 if engine == "auto" else names.index(engine)
    return MaskEngine([BUILDERS[name]() for name in names[first:]], limit_db)
