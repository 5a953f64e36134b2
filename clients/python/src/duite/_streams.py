"""Reads a synchronous stream with a limit of time.

gRPC's iterator waits for ever, and cannot be left from another thread. Here a thread of the stream's
own reads it and hands over.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import grpc

# Frames read ahead. More would only be older: what a slow reader has not read is folded by the
# server.
_READ_AHEAD = 2


class Ended(Exception):
    """The stream has ended; `error` is None where it did so with OK."""

    def __init__(self, error: grpc.RpcError | None) -> None:
        super().__init__()
        self.error = error


class StreamReader:
    """One call's frames. Read on one thread; `close` on any."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._condition = threading.Condition()
        self._frames: deque[Any] = deque()
        self._ended: Ended | None = None
        self._closed = False
        # When the last frame came.
        self.heard = time.monotonic()
        threading.Thread(target=self._read, name="duite-watch", daemon=True).start()

    def _read(self) -> None:
        error = None
        try:
            for frame in self._call:
                with self._condition:
                    while len(self._frames) >= _READ_AHEAD and not self._closed:
                        self._condition.wait()
                    if self._closed:
                        return
                    self.heard = time.monotonic()
                    self._frames.append(frame)
                    self._condition.notify_all()
        except grpc.RpcError as failed:
            error = failed
        with self._condition:
            self._ended = Ended(error)
            self._condition.notify_all()

    def get(self, until: float) -> Any:
        """The next frame; None when none came until then (by `time.monotonic()`). Raises Ended, also
        after `close`."""
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

    def close(self) -> None:
        """Cancels the call and ends the reading."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._call.cancel()
