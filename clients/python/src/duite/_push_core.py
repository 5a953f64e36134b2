"""The writer's side of PushState as a pure state machine: no clock, no network, no lock.

What is flushed gathers in *segments*, which have no number. With folding a flush joins the last
segment, by key, the newest value counts; so what waits is bounded by the keys. When the window has
room, segments become *numbered*: batches 1, 2, 3, ... which never change, are sent, and sent again
after a break or a rewind, until the server says that they are durable.

A segment becomes one batch. So it is never let grow over what a batch may hold: the next begins
instead, and a flush is seen whole or not at all. Only a flush that is larger by itself is cut, by
keys; and where as many segments as may wait do, all else folds into the last of them, however large
it gets (`overflows`): the price of a bounded memory while the server is away.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any

from duite import _encode
from duite._encode import Operation, Operations, Wire
from duite._fold import fold_in

# A batch has at most 1 MiB. An entry without a long value takes at most 256 bytes of key and 100
# more; these two leave room for the rest.
SEGMENT_KEYS = 1_500
SEGMENT_HEAVY = 400 << 10
BATCH_BYTES = (1 << 20) - 256
FRAME_BYTES = (1 << 20) - 64
# With folding: segments that wait.
MAX_SEGMENTS = 16
# Without folding: flushes that wait for room in the window. Beyond it they fold into the last.
MAX_WAITING = 8_192
MAX_WAITING_BYTES = 32 << 20


class WriterLost(Exception):
    """The server's memory of this writer and ours do not meet: a new writer has to be started."""


class Segment:
    """Flushes folded together, without a number."""

    __slots__ = ("after", "entries", "flushes", "heavy")

    def __init__(self, entries: dict[str, Any], flushes: int, heavy: int, after: int = 0) -> None:
        self.entries, self.flushes, self.heavy = entries, flushes, heavy
        # Not to be sent before so many flushes of the other lane are durable.
        self.after = after


class Numbered:
    """A batch. It is encoded when it is first sent."""

    __slots__ = ("after", "body", "entries", "final", "flushes", "sent")

    def __init__(self, segment: Segment, final: bool = False) -> None:
        self.entries: dict[str, Any] | None = segment.entries
        self.flushes, self.after, self.final = segment.flushes, segment.after, final
        self.body = b""
        self.sent = False

    def encode(self, time: bytes) -> bytes:
        """The batch without its number. The same each time: `time` counts the first time only."""
        if self.entries is not None:
            folded = self.flushes - 1
            self.body = b"%b\x1a%c%b%b%b" % (
                _encode.updates(self.entries),
                len(time),
                time,
                b"\x20" + _encode.varint(min(folded, 2**31 - 1)) if folded > 0 else b"",
                b"\x28\x01" if self.final else b"",
            )
            self.entries = None
        return self.body


@dataclasses.dataclass
class Counters:
    """What has happened so far. `flushes` went into `batches`; `acked` counts those of both that
    are durable; `folded` is the flushes that found an earlier one still waiting."""

    flushes: int = 0
    batches: int = 0
    acked_flushes: int = 0
    acked_batches: int = 0
    folded: int = 0
    overflows: int = 0
    resent: int = 0
    writer_restarts: int = 0


class PushCore:
    """See the module."""

    def __init__(self, fold: bool = True, most_segments: int = MAX_SEGMENTS) -> None:
        self.writer = str(uuid.uuid4())
        self.fold, self.most_segments = fold, most_segments
        self.segments: deque[Segment] = deque()
        self.numbered: deque[Numbered] = deque()
        # The sequence of numbered[0].
        self.first = 1
        # numbered[:cursor] went out on this stream, as so many bytes.
        self.cursor = 0
        self.sent_bytes: deque[int] = deque()
        self.in_flight_bytes = 0
        self.is_open = self.is_draining = False
        # The writer's last batch is numbered.
        self.finished = False
        self.window_batches = self.window_bytes = 1
        # Durable flushes of the other lane.
        self.reached = 0
        # Changes whenever what was taken to be sent must be thrown away.
        self.generation = 0
        self.waiting_bytes = 0
        self.counters = Counters()

    # Flushing.

    def flush(self, entries: Mapping[str, Any], heavy: int, plain: bool, after: int = 0) -> None:
        """Takes one flush; `entries` is copied. `plain`: it has values only, no operations."""
        self.counters.flushes += 1
        segments = self.segments
        if segments and self._joins(segments[-1], entries, heavy, after):
            last = segments[-1]
            if plain:
                last.entries.update(entries)
            else:
                fold_in(last.entries, entries)
            last.flushes += 1
            last.heavy += heavy
            last.after = max(after, last.after)
            self.counters.folded += 1
        else:
            segments.append(Segment(dict(entries), 1, heavy, after))
        self.waiting_bytes += heavy

    def _joins(self, last: Segment, entries: Mapping[str, Any], heavy: int, after: int) -> bool:
        if not self.fold:
            is_full = len(self.segments) >= MAX_WAITING or self.waiting_bytes > MAX_WAITING_BYTES
            self.counters.overflows += is_full
            return is_full
        if heavy and last.heavy + heavy > SEGMENT_HEAVY:
            self._weigh(last)
        if (
            after <= last.after
            and len(last.entries) + len(entries) <= SEGMENT_KEYS
            and (not heavy or last.heavy + heavy <= SEGMENT_HEAVY)
        ):
            return True
        # What stands before the last keeps its turn.
        is_full = len(self.segments) >= self.most_segments
        self.counters.overflows += is_full
        return is_full

    def _weigh(self, segment: Segment) -> None:
        # Values that were replaced count no more.
        entries = segment.entries.values()
        heavy = sum(len(value) for value in entries if isinstance(value, (bytes, str)))
        self.waiting_bytes += heavy - segment.heavy
        segment.heavy = heavy

    # Numbering.

    def _number(self, segment: Segment, final: bool = False) -> None:
        chunks = [segment]
        if len(segment.entries) > SEGMENT_KEYS or segment.heavy > SEGMENT_HEAVY:
            chunks = _cut(segment)
        for chunk in chunks:
            self.numbered.append(Numbered(chunk, final and chunk is chunks[-1]))
        self.counters.batches += len(chunks)
        self.waiting_bytes -= segment.heavy

    def seal(self) -> None:
        """Numbers everything that was flushed, room or not, so that its mark can be given to
        others."""
        if self.finished:
            return
        while self.segments:
            self._number(self.segments.popleft())

    def finish(self) -> None:
        """The same, and marks the last batch as the writer's last."""
        if self.finished:
            return
        while len(self.segments) > 1:
            self._number(self.segments.popleft())
        last = self.segments.popleft() if self.segments else Segment({}, 0, 0)
        self._number(last, final=True)
        self.finished = True

    @property
    def last_sequence(self) -> int:
        """The last number that was given; 0 before the first."""
        return self.first + len(self.numbered) - 1

    @property
    def is_used(self) -> bool:
        """Whether there ever was anything to send."""
        return self.last_sequence > 0 or bool(self.segments)

    @property
    def is_settled(self) -> bool:
        """Whether everything that was flushed is durable."""
        return not self.numbered and not self.segments

    @property
    def is_drained(self) -> bool:
        """Whether the server goes away and has acknowledged everything that was sent."""
        return self.is_draining and self.cursor == 0

    def is_on_its_way(self) -> bool:
        """Whether something is flushed and not known to be durable."""
        return bool(self.numbered or self.segments)

    # Sending.

    def take(self) -> tuple[int, list[Numbered]]:
        """What may be sent now, from `cursor` on; the number of its first batch comes with it. To
        be encoded and followed by `sent`."""
        if not self.is_open or self.is_draining:
            return 0, []
        if not self.finished:
            room = self.window_batches - len(self.numbered)
            while self.segments and room > 0 and self.segments[0].after <= self.reached:
                self._number(self.segments.popleft())
                room -= 1
        ready: list[Numbered] = []
        if self.cursor < len(self.numbered) and self._has_room(self.numbered[self.cursor]):
            # A deque is slow in its middle.
            ready = list(self.numbered)[self.cursor : max(self.window_batches, self.cursor + 1)]
            for index, batch in enumerate(ready):
                if batch.after > self.reached:
                    del ready[index:]
                    break
        return self.first + self.cursor, ready

    def _has_room(self, batch: Numbered) -> bool:
        return (
            self.cursor == 0
            or (self.cursor < self.window_batches and self.in_flight_bytes < self.window_bytes)
            # The server merges at once what is final, and need not be waited for.
            or (batch.final and self.cursor == self.window_batches)
        )

    def sent(self, generation: int, sizes: list[int]) -> bool:
        """So many batches of what was taken go out, with these sizes. False: not any more, throw
        the frame away."""
        if generation != self.generation:
            return False
        for batch in list(self.numbered)[self.cursor : self.cursor + len(sizes)]:
            self.counters.resent += batch.sent
            batch.sent = True
        self.cursor += len(sizes)
        self.sent_bytes.extend(sizes)
        self.in_flight_bytes += sum(sizes)
        return True

    # What the server says.

    def on_opened(self, last_sequence: int, batches: int, size: int) -> None:
        """It has opened the stream and says what it has of this writer, and the window."""
        if not self.first - 1 <= last_sequence <= self.last_sequence:
            raise WriterLost
        self._restart_from_the_first()
        self._drop_acked(last_sequence)
        self.set_window(batches, size)
        self.is_open, self.is_draining = True, False

    def set_window(self, batches: int, size: int) -> None:
        """What may be unacknowledged. A window is never nothing: that would wedge the writer."""
        self.window_batches, self.window_bytes = max(batches, 1), max(size, 1)

    def on_ack(self, sequence: int) -> None:
        """Everything up to `sequence` is durable."""
        self._drop_acked(min(sequence, self.last_sequence))

    def on_rewind(self, expected: int) -> None:
        """It saw a gap and wants everything from `expected` again."""
        if not self.first <= expected <= self.last_sequence + 1:
            raise WriterLost
        self.generation += 1
        while self.cursor > expected - self.first:
            self.cursor -= 1
            self.in_flight_bytes -= self.sent_bytes.pop()

    def on_disconnect(self) -> None:
        """The stream is gone; everything not acknowledged goes out again on the next."""
        self.is_open = self.is_draining = False
        self._restart_from_the_first()

    def on_drain(self) -> None:
        """It goes away: nothing more is sent on this stream."""
        self.is_draining = True
        self.generation += 1

    def restart_writer(self) -> int:
        """Starts as another writer; what was numbered and not acknowledged is numbered again, from
        1. Says how many batches those are: the old writer may have brought some of them home."""
        self.on_disconnect()
        self.counters.writer_restarts += 1
        self._renew()
        return len(self.numbered)

    def begin_again(self) -> bool:
        """After its last batch is durable, what was flushed since goes out under a new writer.
        Says whether there is something."""
        if not (self.finished and not self.numbered and self.segments):
            return False
        self.on_disconnect()
        self._renew()
        self.finished = False
        return True

    def _renew(self) -> None:
        self.writer = str(uuid.uuid4())
        self.first = 1

    def _restart_from_the_first(self) -> None:
        self.generation += 1
        self.cursor = self.in_flight_bytes = 0
        self.sent_bytes.clear()

    def _drop_acked(self, sequence: int) -> None:
        numbered, sizes, counters = self.numbered, self.sent_bytes, self.counters
        for _ in range(sequence - self.first + 1):
            counters.acked_flushes += numbered.popleft().flushes
            counters.acked_batches += 1
            self.first += 1
            if self.cursor:
                self.cursor -= 1
                self.in_flight_bytes -= sizes.popleft()
            else:
                # Acknowledged before it went out again.
                self.generation += 1


def _cut(segment: Segment) -> list[Segment]:
    """Cuts it by keys, into as few as fit."""
    chunks = [Segment({}, 0, 0, segment.after)]
    size = 0
    for key, value in segment.entries.items():
        for part in value if type(value) is Operations else [value]:
            if type(part) is Operation:
                weight = 32
            else:
                weight = len(part) if type(part) in (Wire, str, bytes) else 16
            weight += 4 * len(key) if len(key) < 64 else len(_encode.utf8(key))
            weight += 24
            if size + weight > BATCH_BYTES and chunks[-1].entries:
                chunks.append(Segment({}, 0, 0, segment.after))
                size = 0
            fold_in(chunks[-1].entries, {key: part})
            size += weight
    chunks[-1].flushes = segment.flushes
    return chunks
