"""Unary calls: one deadline over all attempts, and retries of what was surely not answered.

`UNAVAILABLE` alone is tried again, which is safe because a call that changes anything carries a
request id or does no more when repeated. `Attempts` decides, without a clock; `unary` and
`unary_async` do it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from duite import _connection, _telemetry
from duite._backoff import Backoff
from duite.errors import DuiteError, Timeout, Unavailable, from_rpc

# Attempts in a row that end a call, if they took long enough as well.
_MOST_ATTEMPTS = 4
# gRPC pauses up to 2.4 s between attempts to connect, and fails the calls meanwhile: whoever gave
# up sooner would not notice a server that is back.
_LEAST_SECONDS = 3.0

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


@dataclasses.dataclass(frozen=True)
class Method(Generic[Q, A]):
    """A call of the API. `doing` is what an error says that could not be done."""

    path: str
    request: type[Q]
    answer: type[A]
    doing: str

    def on(self, channel: Any) -> Any:
        """What calls it once on that channel, synchronous or not."""
        return channel.unary_unary(
            self.path,
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.answer.FromString,
        )

    def stream_on(self, channel: Any) -> Any:
        """The same for a method whose answer is a stream."""
        return channel.unary_stream(
            self.path,
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.answer.FromString,
        )


class Attempts:
    """What to do after each attempt of one call. Times are `time.monotonic()`'s."""

    def __init__(
        self,
        doing: str,
        address: str,
        timeout: float,
        now: float,
        backoff: Backoff | None = None,
    ) -> None:
        self._doing, self._address, self._timeout = doing, address, timeout
        self._started, self._deadline = now, now + timeout
        self._backoff = backoff or Backoff.for_calls()
        self._made = 0

    def remaining(self, now: float) -> float:
        """How long the next attempt may take, in seconds. Raises Timeout where nothing is left."""
        if now >= self._deadline:
            raise self._late()
        return self._deadline - now

    def after(self, error: grpc.RpcError, now: float) -> float:
        """How long to wait before the next attempt; raises what the call ends with if there is
        none."""
        self._made += 1
        failed = from_rpc(error, self._doing)
        # The server keeps the deadline too, and may be the first to say that it passed.
        late = failed.code == "CANCELLED" and now >= self._deadline
        if late or failed.code == "DEADLINE_EXCEEDED" or failed.reason == "DEADLINE":
            raise self._late()
        if failed.code != "UNAVAILABLE":
            raise failed
        if self._made >= _MOST_ATTEMPTS and now - self._started >= _LEAST_SECONDS:
            raise unreachable(failed, self._address)
        wait = (failed.retry_after or 0.0) + self._backoff.next_wait()
        if now + wait >= self._deadline:
            raise unreachable(failed, self._address)
        return wait

    def _late(self) -> Timeout:
        return Timeout(
            f"cannot {self._doing}: no answer from {self._address} within {self._timeout:g} s; it "
            "may still take effect",
            reason="DEADLINE",
            code="DEADLINE_EXCEEDED",
        )


def unreachable(error: DuiteError, address: str) -> DuiteError:
    """The error with a word on where nobody answered, if it was not the service that spoke."""
    if error.reason:
        return error
    return Unavailable(
        f"{error.message}: is a server running at {address}? Give another address with addr= or "
        "$DUITE_ADDR",
        code=error.code,
        retry_after=error.retry_after,
    )


def unary(
    address: str,
    method: Method[Q, A],
    request: Q,
    timeout: float,
    *,
    purpose: _connection.Purpose = "control",
) -> A:
    """Makes the call on the process's connection. Raises a DuiteError."""
    attempts = Attempts(method.doing, address, timeout, time.monotonic())
    call = method.on(_connection.channel(address, purpose))
    metadata = _telemetry.metadata()
    while True:
        remaining = attempts.remaining(time.monotonic())
        try:
            return call(request, timeout=remaining, metadata=metadata)
        except grpc.RpcError as error:
            failed = error
        # Outside of the handler: gRPC's own exception tells nothing more, at great length.
        time.sleep(attempts.after(failed, time.monotonic()))


async def unary_async(
    channel: grpc.aio.Channel, address: str, method: Method[Q, A], request: Q, timeout: float
) -> A:
    """The same in an event loop, on a connection of that loop's."""
    attempts = Attempts(method.doing, address, timeout, time.monotonic())
    call = method.on(channel)
    metadata = _telemetry.metadata()
    while True:
        remaining = attempts.remaining(time.monotonic())
        try:
            return await call(request, timeout=remaining, metadata=metadata)
        except grpc.RpcError as error:
            failed = error
        await asyncio.sleep(attempts.after(failed, time.monotonic()))
