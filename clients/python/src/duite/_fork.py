"""Processes made with `fork`, and gRPC.

gRPC lets a process that uses it fork if it is told so before it is loaded
(`GRPC_ENABLE_FORK_SUPPORT`), and only while no call is on its way: the child would inherit locks
that nobody opens again. So streams that last are ended before a fork and resumed after it; nothing
is lost by that. A program that loads gRPC itself before this package, and forks, sets the variable
itself.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Protocol

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

# A fork waits no longer than this for the streams to end, in seconds.
PAUSE_SECONDS = 2.0


class Stream(Protocol):
    """What holds a stream. It is between `enter` and `leave` while it uses gRPC."""

    def interrupt(self) -> None:
        """Makes it end its stream soon. It is called again until it has."""


class Gate:
    """Open but for the moment of a fork."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._forking = 0
        self._inside: weakref.WeakSet[Stream] = weakref.WeakSet()

    def enter(self, stream: Stream) -> None:
        """Waits until no fork is going on."""
        with self._lock:
            self._lock.wait_for(lambda: not self._forking)
            self._inside.add(stream)

    def leave(self, stream: Stream) -> None:
        """The stream has ended."""
        with self._lock:
            self._inside.discard(stream)
            self._lock.notify_all()

    def close(self) -> None:
        """Ends all streams, and lets none begin."""
        until = time.monotonic() + PAUSE_SECONDS
        with self._lock:
            self._forking += 1
            while self._inside and time.monotonic() < until:
                for stream in list(self._inside):
                    stream.interrupt()
                self._lock.wait(0.02)

    def open(self) -> None:
        """The fork is done."""
        with self._lock:
            self._forking -= 1
            self._lock.notify_all()


gate = Gate()


def _in_child() -> None:
    gate.__init__()  # type: ignore[misc]


_installed = False


def install() -> None:
    """Takes part in forks. To be called once gRPC does, which is after its first channel: what is
    registered last runs first."""
    global _installed
    if not _installed and hasattr(os, "register_at_fork"):
        _installed = True
        os.register_at_fork(before=gate.close, after_in_parent=gate.open, after_in_child=_in_child)
