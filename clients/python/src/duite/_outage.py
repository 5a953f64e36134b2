"""Whether the server is there: one line in the log when it is lost and one when it is back, however
many calls find out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("duite")


# A worker has more than one connection, and gRPC pauses up to 2.4 s between attempts to make one: a
# failure so soon after the server is back is no news, unless it goes on.
_SETTLING = 4.0


class Outage:
    """Hears how calls went. Each says when it began, so that a call of before does not end an
    outage, nor begin it anew."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address, self._clock = address, clock
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self._back_since = -_SETTLING

    def failed(self, began: float, why: str) -> None:
        """A call did not reach the server."""
        with self._lock:
            if self._away_since is not None or began < self._back_since + _SETTLING:
                return
            self._away_since = self._clock()
        log.warning("lost the server at %s (%s), going on when it is back", self._address, why)

    def worked(self, began: float) -> None:
        """A call was answered."""
        with self._lock:
            if self._away_since is None or began < self._away_since:
                return
            away, self._away_since = self._clock() - self._away_since, None
            self._back_since = self._clock()
        log.info("the server at %s is back after %.1f s", self._address, away)
