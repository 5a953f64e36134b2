"""A progress bar that others see too.

    for batch in duite.track(batches, desc="epoch 1"):
        ...
 shows a bar here (tqdm's where that is installed, else a plain one, and on a terminal only) and
reports to the state of the task that it runs in; outside of tasks it is just the bar.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TextIO, TypeVar

from duite._own_state import Sink, own_state

__all__ = ["track"]

_T = TypeVar("_T")

_REPORT_EVERY = 0.1
"""Least seconds between two reports, and two drawings of the plain bar."""

_RATE_OVER = 3.0
"""The rate is a moving average: what is so many seconds old counts 1/e of what is new."""


def track(
    iterable: Iterable[_T],
    total: float | None = None,
    desc: str | None = None,
    key: str = "progress",
    *,
    state: Sink | str | None = None,
    bar: bool | None = None,
    unit: str = "it",
    initial: int = 0,
) -> Iterator[_T]:
    """Gives the items of `iterable`, and tells how far it is.

    Reported are, at most ten times a second, and always at the end: `{key}`, from 0 to 1;
    `{key}_step`, how many items are done; `{key}_total`, of how many; `{key}_rate`, items per
    second; `{key}_eta`, the seconds left; and `{key}_desc`. Without a total (`total`, else the
    iterable's length) `{key}`, total and seconds left are None until the end. A loop that is left
    early reports how far it came. Loops in loops want keys of their own.

    `state`: where to report, a `StateQueue` or a state's name; else the task's own, if any. `bar`:
    whether to draw one on stderr; else where that is a terminal. tqdm's bar is used where it is
    installed. `initial`: how many steps were done before, as by an attempt before this one, of
    which `iterable` has the rest; the total is of all.
    """
    if total is None:
        try:
            total = initial + len(iterable)  # type: ignore[arg-type]
        except TypeError:
            total = None
    return _steps(iterable, _Meter(total, initial), desc, key, state, bar, unit)


def _steps(
    iterable: Iterable[_T],
    meter: _Meter,
    desc: str | None,
    key: str,
    state: Sink | str | None,
    bar: bool | None,
    unit: str,
) -> Iterator[_T]:
    shown = _bar(meter.total, desc, bar, unit, meter.step)
    sink, close = _sink(state)
    told = float("-inf")

    def tell(*, done: bool = False) -> None:
        if sink is not None:
            sink.update(report(key, desc, meter, done=done))

    done = False
    try:
        for item in iterable:
            now = time.monotonic()
            if now - told >= _REPORT_EVERY:
                meter.look(now)
                tell()
                told = now
            yield item
            meter.step += 1
            shown.update(1)
        done = True
    finally:
        meter.look(time.monotonic())
        tell(done=done)
        close()
        shown.close()


class _Meter:
    """How far, and how fast."""

    def __init__(self, total: float | None, initial: int) -> None:
        self.total: float | None = total
        self.step: int = initial
        self.rate: float | None = None
        self._seen: tuple[float, int] | None = None

    def look(self, now: float) -> None:
        """Takes the rate."""
        if self._seen is None:
            self._seen = (now, self.step)
            return
        at, step = self._seen
        passed = now - at
        if passed <= 0 or self.step == step:
            return
        rate = (self.step - step) / passed
        new = min(passed / _RATE_OVER, 1.0)
        self.rate = rate if self.rate is None else self.rate + (rate - self.rate) * new
        self._seen = (now, self.step)


def report(key: str, desc: str | None, meter: _Meter, *, done: bool) -> dict[str, Any]:
    """The keys as they are now."""
    total = meter.step if done and meter.total is None else meter.total
    left = None if total is None else max(total - meter.step, 0)
    part = None if total is None else (meter.step / total if total else 1.0)
    changes: dict[str, Any] = {
        key: 1.0 if done else None if part is None else min(part, 1.0),
        f"{key}_step": meter.step,
        f"{key}_total": total,
        f"{key}_rate": meter.rate,
        f"{key}_eta": 0.0
        if done
        else left / meter.rate
        if meter.rate and left is not None
        else None,
    }
    if desc is not None:
        changes[f"{key}_desc"] = desc
    return changes


def _sink(state: Sink | str | None) -> tuple[Sink | None, Callable[[], object]]:
    if not isinstance(state, str):
        return (own_state() if state is None else state), lambda: None
    from duite.state_queue import StateQueue

    named = StateQueue(state)
    return named, named.exit


class _Bar(Protocol):
    def update(self, n: float = 1, /) -> object: ...
    def close(self) -> object: ...


def _bar(
    total: float | None, desc: str | None, wanted: bool | None, unit: str, initial: int
) -> _Bar:
    stream: Any = sys.stderr
    terminal = bool(stream and hasattr(stream, "isatty") and stream.isatty())
    if not stream or not (terminal if wanted is None else wanted):
        return _NoBar()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return _PlainBar(total, desc, unit, stream, initial)
    made: Any = tqdm(total=total, desc=desc, unit=unit, file=stream, initial=initial)
    return made


class _NoBar:
    def update(self, n: float = 1, /) -> None:
        """Nothing is drawn."""

    def close(self) -> None:
        """Nothing was drawn."""


class _PlainBar:
    """A line of its own on a terminal."""

    def __init__(
        self, total: float | None, desc: str | None, unit: str, stream: TextIO, initial: int
    ) -> None:
        self._total, self._unit, self._stream = total, unit, stream
        self._label = f"{desc}: " if desc else ""
        self._initial, self._done = initial, float(initial)
        self._started, self._drawn = time.monotonic(), float("-inf")

    def update(self, n: float = 1, /) -> None:
        self._done += n
        if time.monotonic() - self._drawn >= _REPORT_EVERY:
            self._draw()

    def close(self) -> None:
        self._draw()
        self._stream.write("\n")

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        rate = (self._done - self._initial) / max(self._drawn - self._started, 1e-9)
        text = f"{self._label}{self._done:g} {self._unit}"
        if self._total:
            filled = int(20 * min(self._done / self._total, 1))
            text = f"{self._label}[{'#' * filled:<20}] {self._done:g}/{self._total:g} {self._unit}"
        self._stream.write(f"\r\x1b[K{text}, {rate:.1f}/s")
        self._stream.flush()
