"""What people may change while the box runs, obeyed off the audio thread: the orders of ``edge.orders``."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from edge import UserError, orders
from edge.box import Box
from edge.config import Config, with_engine
from edge.config_rules import key
from edge.console import describe
from edge.orders import BadOrder, NotObeyed, Order
from edge.suppress import open_named

ANSWERS_KEPT = 16
"""In the status; whoever asked looks for theirs fifty times a second."""
MOST_WAITING = 64
"""Orders that wait while settings are read or an engine is built."""


class Control:
    """Obeys orders one after the other and keeps the answers for the status."""

    def __init__(
        self,
        box: Box,
        report: Callable[[str], None],
        complain: Callable[[str], None],
        in_background: Callable[[Callable[[], None]], None],
        is_busy: Callable[[], bool],
        watched: Callable[[], None] | None = None,
    ) -> None:
        """``report`` hears what was done, ``complain`` what was refused; ``in_background`` runs what may take seconds,
        and until it is done ``is_busy``; ``watched`` is called for each order ``watch``; None refuses it."""
        self.box = box
        self.answers: deque[dict[str, Any]] = deque(maxlen=ANSWERS_KEPT)
        """The last ones, oldest first: ``order``, ``answer``, whether ``done``, ``token``."""
        self._report, self._complain = report, complain
        self._in_background, self.is_busy = in_background, is_busy
        self._watched = watched
        self._waiting: deque[Order] = deque()
        self._seen: dict[str, Any] | None = None

    def take(self, lines: Iterable[str]) -> bool:
        """Obey what has come, or what has waited; whether there are new answers since the last time."""
        for line in lines:
            try:
                order = orders.parse(line)
                if order.verb == orders.WATCH and self._watched:
                    self._watched()  # repeated every few seconds: neither answered nor reported
                    continue
                if order.verb == orders.WATCH:
                    raise NotObeyed("the figures are shown on the box itself: quietbox watch")
                if len(self._waiting) >= MOST_WAITING:
                    raise NotObeyed(f"more than {MOST_WAITING} orders are waiting; this one was dropped")
            except (BadOrder, NotObeyed) as error:
                self._answer(Order("", "", orders.token_of(line)), str(error), done=False)
                self._complain(f"order refused: {error}")
            else:
                self._waiting.append(order)
        while self._waiting and not self.is_busy():
            self._obey(self._waiting.popleft())
        newest = self.answers[-1] if self.answers else None
        is_new, self._seen = newest is not self._seen, newest
        return is_new

    def _obey(self, order: Order) -> None:
        if order.verb == "engine":
            self._in_background(lambda: self._guarded(order, self._change_engine))
        else:
            self._guarded(order, {"bypass": self._bypass, "mute": self._mute}.get(order.verb, self._change_setting))

    def _guarded(self, order: Order, obey: Callable[[Order], str]) -> None:
        try:
            words = obey(order)
        except UserError as error:
            self._complain(f"order refused: {error}")
            self._answer(order, str(error), done=False)
        except Exception as fault:
            why = describe(fault)
            self._complain(f"order {order} failed, please report it ({why})")
            self._answer(order, f"unexpected fault ({why})", done=False)
        else:
            self._report(words)
            self._answer(order, words, done=True)

    def _answer(self, order: Order, words: str, done: bool) -> None:
        self.answers.append({"order": str(order).strip(), "answer": words, "done": done, "token": order.token})

    def _bypass(self, order: Order) -> str:
        self.box.bypass = _switched(self.box.bypass, order.value)
        return f"bypass {'on' if self.box.bypass else 'off'}"

    def _mute(self, order: Order) -> str:
        self.box.muted = _switched(self.box.muted, order.value)
        return f"mute {'on' if self.box.muted else 'off'}"

    def _change_setting(self, order: Order) -> str:
        if isinstance(order.value, str):
            return self.step(order.verb, orders.STEP_DB if order.value == "up" else -orders.STEP_DB)
        return self._set(order.verb, order.value)

    def step(self, verb: str, by_db: float) -> str:
        """Change volume or limit by so many dB, as far as its range goes; returns what it came to. Not while
        ``is_busy``: what is under way then would undo it. Raises UserError."""
        section, name = orders.SETTINGS[verb]
        rule = key(section, name).metadata
        value = getattr(getattr(self.box.latest, section), name) + by_db
        return self._set(verb, min(max(value, rule["low"]), rule["high"]))

    def _set(self, verb: str, value: float) -> str:
        """The sound goes on, the new value is approached without a click."""
        section, name = orders.SETTINGS[verb]
        latest = self.box.latest
        if verb == "volume" and not latest.has_headphones:
            raise NotObeyed('the volume is that of headphones, and [playback] device = "off"; a cable has full level')
        self.box.reload(with_value(latest, section, name, value))
        return f"{verb} {value:g} dB"

    def _change_engine(self, order: Order) -> str:
        """The engine that was named, or none: only the settings may ask for one that falls back."""
        chosen = with_engine(self.box.latest, str(order.value))
        open_named(chosen).close()
        self.box.reload(chosen)
        return f"engine {order.value}"


def with_value(config: Config, section: str, name: str, value: Any) -> Config:
    """The settings with one key changed."""
    return replace(config, **{section: replace(getattr(config, section), **{name: value})})


def _switched(now: bool, order: str | float) -> bool:
    return not now if order == "toggle" else order == "on"
