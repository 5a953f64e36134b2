"""A task's input as it is submitted, and input and output as they are read.

Nothing is ever pickled: whoever can submit a task could make its worker run anything.
"""

from __future__ import annotations

import json
from typing import Any

from duite import _payload
from duite._values import Blob
from duite.errors import DuiteError, FailedPrecondition, InvalidArgument
from duite.v1 import common_pb2 as pb

_OMITTED = "duite.omitted_bytes"


def to_payload(thing: Any, what: str = "input") -> pb.Payload | None:
    """None for None; bytes as they are, a Blob with its content type, all else as JSON.
    InvalidArgument where it has no JSON form. Unlike an output, which is what it came to be, an
    input with a NaN is refused: it would be null to the worker."""
    if thing is None:
        return None
    if isinstance(thing, (Blob, bytes, bytearray, memoryview)):
        return _payload.payload_of(thing)
    try:
        text = json.dumps(
            thing,
            allow_nan=False,
            ensure_ascii=False,
            separators=(",", ":"),
            default=_payload.plain,
        )
        return pb.Payload(content_type="application/json", data=text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the {what} has no JSON form: {error}; give numbers (not NaN), text, lists and dicts, "
            "or bytes, or a duite.Blob",
            reason="FIELD_INVALID",
            code="INVALID_ARGUMENT",
        ) from None


def from_payload(payload: pb.Payload, what: str = "input") -> Any:
    """What `to_payload` was given. FailedPrecondition where a list or a watch left the data out."""
    if is_left_out(payload):
        raise FailedPrecondition(
            f"the {what} is left out here ({payload.metadata[_OMITTED]} bytes): lists and watches "
            "carry small ones only, Client.get reads the task whole",
            code="FAILED_PRECONDITION",
        )
    try:
        return _payload.from_payload(payload)
    except ValueError as error:
        kind = payload.content_type
        raise DuiteError(f"the {what} is not the {kind} that it says it is: {error}") from None


def is_left_out(payload: pb.Payload) -> bool:
    """Whether the data was too large for where this payload was read."""
    return _OMITTED in payload.metadata and not payload.data
