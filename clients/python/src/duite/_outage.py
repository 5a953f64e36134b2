"""Whether the server is there: one line in the log when it is lost and one when it is back, however
many calls find out."""

from __future__ import annotations

import logging
import threading
import time

log = logging.getLogger("duite")


class Outage:
    """Hears how calls went. Each says when it began, so that a call of before does not end an outage,
    nor begin it anew."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self._back_since = 0.0

    def failed(self, began: float, why: str) -> None:
        """A call did not reach the server."""
        with self._lock:
            if self._away_since is not None or began < self._back_since:
                return
            self._away_since = time.monotonic()
        log.warning("lost the server at %s (%s), going on when it is back", self._address, why)

    def worked(self, began: float) -> None:
        """A call was answered."""
        with self._lock:
            if self._away_since is None or began < self._away_since:
                return
            away, self._away_since = time.monotonic() - self._away_since, None
            self._back_since = time.monotonic()
        log.info("the server at %s is back after %.1f s", self._address, away)
