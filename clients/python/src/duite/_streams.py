"""Reads a synchronous stream with a limit of time.

gRPC's iterator waits for ever, and cannot be left from another thread. Here a thread of the
stream's own reads it and hands over.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc

from duite._fork import gate

# Frames read ahead. More would only be older: what a slow reader has not read is folded by the
# server.
_READ_AHEAD = 2


class Ended(Exception):
    """The stream has ended; `error` is None where it did so with OK."""

    def __init__(self, error: grpc.RpcError | None) -> None:
        super().__init__()
        self.error = error


class StreamReader:
    """One call's frames. Read on one thread; `close` on any.

    `start` begins the call. A process that forks ends all calls before and lets none begin until it
    has: gRPC would crash or hang.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._call: Any = None
        self._condition = threading.Condition()
        self._frames: deque[Any] = deque()
        self._ended: Ended | None = None
        self._closed = False
        # A fork ended the stream: nothing is wrong, and the next may begin at once.
        self.interrupted = False
        # When the last frame came.
        self.heard = time.monotonic()
        gate.enter(self)
        try:
            self._call = start()
            threading.Thread(target=self._read, name="duite-watch", daemon=True).start()
        except BaseException:
            gate.leave(self)
            raise

    def _read(self) -> None:
        error = None
        try:
            for frame in self._call:
                if not self._hand_over(frame):
                    break
        except grpc.RpcError as failed:
            error = failed
        finally:
            with self._condition:
                self._ended = Ended(error)
                self._condition.notify_all()
            gate.leave(self)

    def _hand_over(self, frame: Any) -> bool:
        """Waits for room; false where nobody wants more."""
        with self._condition:
            self._condition.wait_for(
                lambda: len(self._frames) < _READ_AHEAD or self._closed or self.interrupted
            )
            if self._closed or self.interrupted:
                return False
            self.heard = time.monotonic()
            self._frames.append(frame)
            self._condition.notify_all()
            return True

    def get(self, until: float) -> Any:
        """The next frame; None when none came until then (by `time.monotonic()`). Raises Ended,
        also after `close`."""
        with self._condition:
            while True:
                if self._closed:
                    raise Ended(None)
                if self._frames:
                    frame = self._frames.popleft()
                    # The reader may have waited for this, and so heard nothing.
                    self.heard = max(self.heard, time.monotonic())
                    self._condition.notify_all()
                    return frame
                if self._ended:
                    raise self._ended
                left = until - time.monotonic()
                if left <= 0:
                    return None
                self._condition.wait(min(left, threading.TIMEOUT_MAX))

    def interrupt(self) -> None:
        """For a fork: ends the call soon. What was read already can still be got."""
        with self._condition:
            self.interrupted = True
            self._condition.notify_all()
        if self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        """Cancels the call and ends the reading."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._call.cancel()
