"""What a process could not send any more, sent by another.

Since Python 3.12 no thread begins once the main program has ended, and gRPC begins one for each
stream. A program that ends before its stream is open hands its batches to a process of this module.
They keep their writer and their numbers, so that none counts twice, whatever has arrived before.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

# A frame may have 1 MiB; so much is left for what is around the batches.
_FRAME_BYTES = 900 << 10


@dataclasses.dataclass
class Unsent:
    """What one writer has not been acknowledged. `batches` are encoded, with their numbers."""

    address: str
    state: str
    lease: bytes
    writer: str
    first: int
    batches: list[bytes]


def send(unsent: list[Unsent], timeout: float) -> bool:
    """Has all of it sent, waiting at most so many seconds. Says whether it is durable."""
    package = os.path.dirname(os.path.dirname(__file__))
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "duite._last_words", f"{timeout:.3f}"]
    ended = subprocess.run(
        command,
        input=pickle.dumps(unsent),
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=timeout + 1,
        check=False,
    )
    return ended.returncode == 0


def _push(unsent: Unsent, until: float) -> None:
    from duite import _encode
    from duite._connection import channel
    from duite.v1 import state_service_pb2 as pb

    frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    opening = pb.PushOpen(
        state_name=unsent.state, writer_id=unsent.writer, lease_token=unsent.lease
    )
    frames.put(pb.PushStateRequest(open=opening).SerializeToString())
    connection: Any = channel(unsent.address, "push")
    push: Any = connection.stream_stream(
        "/duite.v1.StateService/PushState",
        request_serializer=None,
        response_deserializer=pb.PushStateResponse.FromString,
    )
    requests: Iterator[bytes] = iter(frames.get, None)  # pyright: ignore[reportAssignmentType]
    last = unsent.first + len(unsent.batches) - 1
    acked = sent = unsent.first - 1
    window = 1
    for answer in push(requests, timeout=max(until - time.monotonic(), 0), wait_for_ready=True):
        if answer.HasField("opened"):
            acked = sent = answer.opened.last_sequence
            window = max(answer.opened.window.max_unacked_batches, 1)
        elif answer.HasField("ack"):
            acked = answer.ack.acked_sequence
        elif answer.HasField("rewind"):
            sent = answer.rewind.expected_sequence - 1
        frame = b""
        while sent < min(last, acked + window):
            batch = unsent.batches[sent + 1 - unsent.first]
            if frame and len(frame) + len(batch) > _FRAME_BYTES:
                break
            sent += 1
            body = b"\x08" + _encode.varint(sent) + batch
            frame += b"\x0a" + _encode.varint(len(body)) + body
        if frame:
            frames.put(b"\x12" + _encode.varint(len(frame)) + frame)
        elif acked >= last:
            frames.put(None)


def _main() -> int:
    until = time.monotonic() + float(sys.argv[1])
    for unsent in pickle.load(sys.stdin.buffer):
        _push(unsent, until)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
