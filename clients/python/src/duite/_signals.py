"""What an attempt is told from outside: that it should stop, that its lease is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("duite")


class Signals:
    """Cancelled, and perhaps lost; each once and for good. Safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._callbacks: list[Callable[[], object]] = []
        self.cancelled: bool = False
        self.lost: bool = False
        self.reason: str = ""

    def cancel(self, reason: str = "") -> bool:
        """The task was asked to stop. False: that was known."""
        return self._tell(lost=False, reason=reason)

    def lose(self, reason: str) -> bool:
        """The lease is lost: what the handler returns counts no more. False: that was known."""
        return self._tell(lost=True, reason=reason)

    def _tell(self, lost: bool, reason: str) -> bool:
        with self._lock:
            if self.lost or (self.cancelled and not lost):
                return False
            callbacks, self._callbacks = self._callbacks, []
            self.reason = reason or self.reason
            self.cancelled, self.lost = True, lost
            listeners = list(self._listeners)
        self._told.set()
        for listener in listeners:
            listener()
        if callbacks:
            # Code of the user's: whoever brings the news must not wait for it.
            threading.Thread(
                target=_call_all, args=(callbacks,), name="duite-on-cancel", daemon=True
            ).start()
        return True

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls `listener` (which must not block) at a cancel and at a loss; at once where there
        was one."""
        with self._lock:
            self._listeners.append(listener)
            if not self.cancelled:
                return
        listener()

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Calls `callback` once, on a thread of its own; at once where it is cancelled already."""
        with self._lock:
            if not self.cancelled:
                self._callbacks.append(callback)
                return
        _call_all([callback])

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until cancelled; false after `timeout` seconds."""
        return self._told.wait(timeout)


def _call_all(callbacks: list[Callable[[], object]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("on_cancel function %s raised", getattr(callback, "__qualname__", "?"))
