"""Runs one attempt: calls the handler, catches what it does, and says how it ended."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

from duite import _names, _spans
from duite._payloads import to_payload
from duite.current import CurrentTask, _current  # pyright: ignore[reportPrivateUsage]
from duite.errors import InvalidArgument
from duite.failure import failure_of, made_failure
from duite.v1 import common_pb2 as pb
from duite.v1 import worker_service_pb2 as work

log = logging.getLogger("duite")

# The API's limit for an output, its type and metadata included.
_MOST_OUTPUT = 1 << 20
# Below the 4 MiB that a call may weigh.
_MOST_OUTCOME = 3 << 20

Mode = Literal["thread", "process", "async"]


@dataclasses.dataclass(frozen=True)
class Handler:
    """A function that runs tasks of a type. `takes_task`: it is given the task."""

    function: Callable[..., Any]
    mode: Mode
    takes_task: bool
    is_async: bool = False

    def call(self, task: CurrentTask) -> Any:
        """Calls it; what comes back may be awaitable."""
        return self.function(task) if self.takes_task else self.function()


def handler_of(function: Callable[..., Any], run: str | None) -> Handler:
    """What a decorated function is. InvalidArgument where it cannot be called with a task or with
    nothing, or `run` is unknown."""
    where = getattr(function, "__qualname__", repr(function))
    if run not in (None, "thread", "process"):
        raise InvalidArgument(f'run={run!r} is not a way to run {where}: use "thread" or "process"')
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose call is a coroutine
    )
    if is_async and run == "thread":
        raise InvalidArgument(
            f"{where} is a coroutine function: it runs on an event loop, not in a thread"
        )
    signature = inspect.signature(function)
    takes_task = _accepts(signature, 1)
    if not takes_task and not _accepts(signature, 0):
        raise InvalidArgument(
            f"{where}{signature} cannot be a handler: it should take the task, or nothing"
        )
    mode: Mode = "process" if run == "process" else "async" if is_async else "thread"
    return Handler(function, mode, takes_task, is_async)


def _accepts(signature: inspect.Signature, arguments: int) -> bool:
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


def run_sync(handler: Handler, task: CurrentTask) -> work.TaskOutcome:
    """Runs a handler to its end on this thread."""
    token = _current.set(task)
    try:
        with _span(task) as span:
            try:
                result = handler.call(task)
            except BaseException as error:  # noqa: BLE001 - the task's failure is no failure of ours
                ended = _failed(task, span, error)
            else:
                ended = _succeeded(task, result, span)
    finally:
        _current.reset(token)
    return _outcome(task, ended)


async def run_async(handler: Handler, task: CurrentTask) -> work.TaskOutcome:
    """The same for a coroutine function, on this loop."""
    token = _current.set(task)
    try:
        with _span(task) as span:
            try:
                awaitable: Awaitable[Any] = handler.call(task)
                result = await awaitable
            except BaseException as error:  # noqa: BLE001 - as above; a cancel is an outcome
                ended = _failed(task, span, error)
            else:
                ended = _succeeded(task, result, span)
    finally:
        _current.reset(token)
    if task._has_many_queues():  # pyright: ignore[reportPrivateUsage]
        # Then it may wait, and the loop must not.
        return await asyncio.to_thread(_outcome, task, ended)
    return _outcome(task, ended)


def _span(task: CurrentTask) -> Any:
    attributes: dict[str, str | int] = {
        "task.id": task.id,
        "task.type": task.type,
        "duite.attempt.number": task.attempt,
        "duite.namespace": _names.namespace_of(task.name),
    }
    return _spans.handler_span(task.type, attributes, task._trace)  # pyright: ignore[reportPrivateUsage]


def _succeeded(task: CurrentTask, result: Any, span: _spans.HandlerSpan) -> pb.Payload | pb.Failure:
    try:
        payload = _output(result)
    except InvalidArgument as error:
        return _told(task, made_failure("output.invalid", error.message), span)
    except Exception as error:  # noqa: BLE001 - code of the output's own, such as its `tolist`
        return _failed(task, span, error)
    if payload.ByteSize() > _MOST_OUTPUT:
        return _told(task, _too_large("the output weighs", payload.ByteSize(), _MOST_OUTPUT), span)
    return payload


def _output(result: Any) -> pb.Payload:
    try:
        payload = to_payload(result, "output")
    except InvalidArgument:
        # A training that ended with NaN has a result all the same: null, which is what JSON has.
        try:
            finite = _finite(result)
        except RecursionError:
            # It is in itself, or too deep.
            finite = result
        if finite is result:
            raise
        payload = to_payload(finite, "output")
    return payload if payload is not None else pb.Payload()


def _finite(thing: Any) -> Any:
    """The same without NaN and infinities; itself where it has none."""
    if isinstance(thing, float):
        return thing if math.isfinite(thing) else None
    if isinstance(thing, dict):
        thing = cast("dict[Any, Any]", thing)
        found = {key: _finite(item) for key, item in thing.items()}
        return found if any(found[key] is not thing[key] for key in found) else thing
    if isinstance(thing, (list, tuple)):
        thing = cast("list[Any]", thing)
        items = [_finite(item) for item in thing]
        return items if any(a is not b for a, b in zip(items, thing, strict=True)) else thing
    if hasattr(thing, "tolist"):
        plain = thing.tolist()
        finite = _finite(plain)
        return thing if finite is plain else finite
    return thing


def _failed(task: CurrentTask, span: _spans.HandlerSpan, error: BaseException) -> pb.Failure:
    return _told(task, failure_of(error), span, error)


def _told(
    task: CurrentTask,
    failure: pb.Failure,
    span: _spans.HandlerSpan,
    error: BaseException | None = None,
) -> pb.Failure:
    if failure.category != pb.Failure.CATEGORY_CANCELLED:
        span.failed(failure.type, failure.message)
        # The message may quote an input, which no log may hold: it stands with the task.
        log.error(
            "handler of task %s failed with %s at %s",
            task.name,
            failure.type,
            failure.location or "an unknown place",
            exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
        )
    return failure


def _too_large(what: str, size: int, limit: int) -> pb.Failure:
    return made_failure(
        "output.too_large",
        f"{what} {size} bytes, the limit is {limit}; put large results elsewhere and return where",
    )


def _outcome(task: CurrentTask, ended: pb.Payload | pb.Failure) -> work.TaskOutcome:
    outcome = work.TaskOutcome(flushed=task._close_queues())  # pyright: ignore[reportPrivateUsage]
    if isinstance(ended, pb.Payload):
        outcome.output.CopyFrom(ended)
        outcome.contributions.extend(task._contributed())  # pyright: ignore[reportPrivateUsage]
        if outcome.ByteSize() > _MOST_OUTCOME:
            size = outcome.ByteSize()
            del outcome.contributions[:]
            ended = _too_large("the output and contributions weigh", size, _MOST_OUTCOME)
    if isinstance(ended, pb.Failure):
        # Of the category CANCELLED it ends the task as CANCELLED, and stays with it.
        outcome.failure.CopyFrom(ended)
    return outcome
