"""Exponential backoff with full jitter: each wait is uniform between nothing and a limit that
doubles, so that a thousand clients of a restarted server do not come back in one instant."""

from __future__ import annotations

import random


class Backoff:
    """Gives the waits of a row of retries, in seconds."""

    def __init__(self, first: float, most: float, eager: tuple[float, float] | None = None) -> None:
        self._first, self._most = first, most
        # Until so many seconds were waited in a row, each wait is at most that long.
        self._eager = eager
        self._limit, self._waited = first, 0.0

    @classmethod
    def for_calls(cls) -> Backoff:
        """For unary calls: 0.1 s to 2 s."""
        return cls(0.1, 2)

    @classmethod
    def for_streams(cls) -> Backoff:
        """For streams that resume for ever: 0.2 s to 10 s, and at most 2 s within the first 30 s:
        a server that is started again should not be noticed late."""
        return cls(0.2, 10, eager=(30, 2))

    def next_wait(self) -> float:
        """How long to wait before the next attempt."""
        wait = self._limit * random.random()
        self._waited += wait
        most = self._most
        if self._eager and self._waited < self._eager[0]:
            most = min(most, self._eager[1])
        self._limit = min(self._limit * 2, most)
        return wait

    def reset(self) -> None:
        """To be called after progress: the next row of retries starts small again."""
        self._limit, self._waited = self._first, 0.0
