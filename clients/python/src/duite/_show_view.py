"""What `show` says of a task: pure, of a task and its state's keys as they are.
 A `Picture` is drawn as a table on a terminal; elsewhere the lines that are new against the
picture before are printed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from duite import _names
from duite._values import Blob
from duite.v1 import common_pb2, task_service_pb2
from duite.watches import LargeValue

_Status = task_service_pb2.Task.Status

TERMINAL = (_Status.STATUS_SUCCEEDED, _Status.STATUS_FAILED, _Status.STATUS_CANCELLED)

LOG_LINES = 10
"""Of the log tail so many lines are shown on a terminal."""

_MOST_KEYS = 30
_WIDTH = 100
_STEPS = 10  # of a progress, when told in lines


@dataclasses.dataclass(frozen=True)
class Picture:
    """A task at one moment."""

    title: str
    status: str
    terminal: bool
    facts: tuple[tuple[str, str], ...]
    progress: float | None
    keys: tuple[tuple[str, str], ...]
    keys_left_out: int
    log: tuple[str, ...]
    failure: str
    stack: str


def picture(task: task_service_pb2.Task, values: Mapping[str, Any], now: float) -> Picture:
    """The picture of a task. `now` is in seconds since 1970, by the server's clock as far as
    known."""
    shown = [(key, _short(value)) for key, value in sorted(values.items()) if key != "log"]
    failure = task.failure if task.HasField("failure") else None
    return Picture(
        title=f"{_names.short_name(task.name)} ({task.type})",
        status=_Status.Name(task.status).removeprefix("STATUS_").lower(),
        terminal=task.status in TERMINAL,
        facts=tuple(_facts(task, now)),
        progress=_progress(values.get("progress")),
        keys=tuple(shown[:_MOST_KEYS]),
        keys_left_out=max(len(shown) - _MOST_KEYS, 0),
        log=_log(values.get("log")),
        failure=_failure(failure) if failure else "",
        stack="\n".join(map(clean, failure.stack_trace.split("\n"))).strip() if failure else "",
    )


def _facts(task: task_service_pb2.Task, now: float) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    if task.attempt:
        of = f" of {task.policy.max_attempts}" if task.policy.max_attempts else ""
        facts.append(("attempt", f"{task.attempt}{of}"))
    if task.worker_id:
        facts.append(("worker", task.worker_id))
    elif task.queue_position:
        facts.append(("place", f"{task.queue_position} in {task.queue or 'default'}"))
    if task.HasField("start_time"):
        end = _seconds(task.end_time) if task.HasField("end_time") else now
        facts.append(("elapsed", elapsed(end - _seconds(task.start_time))))
    if task.cancel_requested and task.status not in TERMINAL:
        facts.append(("cancel", "requested"))
    if task.HasField("suspect_time") and task.status not in TERMINAL:
        facts.append(("suspect", "nothing is heard of its worker"))
    return facts


def _seconds(at: Any) -> float:
    return at.seconds + at.nanos / 1e9


def elapsed(seconds: float) -> str:
    """`12.3 s`, `4:05`, `1:02:03`."""
    seconds = max(seconds, 0.0)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _progress(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None


def _log(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(clean(line) for line in value.splitlines())
    if isinstance(value, (list, tuple)):
        items: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return tuple(clean(line) for item in items for line in str(item).split("\n"))
    return ()


def _failure(failure: common_pb2.Failure) -> str:
    said = [f"{failure.type}: {failure.message}" if failure.type else failure.message]
    cause = failure
    while cause.HasField("cause"):
        cause = cause.cause
        said.append(f"caused by {cause.type}: {cause.message}")
    return "\n".join(clean(line) for text in said for line in text.split("\n"))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Blob):
        return f"{clean(value.content_type)}, {len(value.data)} bytes"
    if isinstance(value, LargeValue):
        return f"{clean(value.content_type or 'value')}, {value.size} bytes"
    text = value if isinstance(value, str) else repr(value)
    text = clean(text.replace("\n", " "))
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def clean(text: str) -> str:
    """Without what a terminal would obey: what a task says may be anything."""
    return "".join(c if c.isprintable() or c == "\t" else "�" for c in text)


def news(before: Picture | None, now: Picture) -> list[str]:
    """The lines that are new, where there is no terminal to draw on."""
    lines: list[str] = []
    facts = dict(now.facts)
    if before is None or (before.status, dict(before.facts).get("attempt")) != (
        now.status,
        facts.get("attempt"),
    ):
        told = ", ".join(f"{name} {fact}" for name, fact in now.facts)
        lines.append(f"{now.title}: {now.status}" + (f" ({told})" if told else ""))
    if now.progress is not None:
        last = before.progress if before else None
        if last is None or int(last * _STEPS) != int(now.progress * _STEPS):
            lines.append(f"{now.title}: {now.progress:.0%}")
    lines += _new_lines(before.log if before else (), now.log)
    if now.failure and (before is None or before.failure != now.failure):
        lines.append(now.failure)
    if now.terminal:
        lines += [f"  {key} = {value}" for key, value in now.keys]
    return lines


def _new_lines(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    """What a tail has that the tail before had not: both are ends of one log."""
    for kept in range(min(len(before), len(now)), 0, -1):
        if before[-kept:] == now[:kept]:
            return now[kept:]
    return now
