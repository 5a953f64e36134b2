"""What a task works on and what it gives, as the API carries it: JSON unless it is bytes.

Nothing is ever pickled: whoever can submit a task could make its worker run anything.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from typing import Any

from duite._values import Blob
from duite.errors import DuiteError, FailedPrecondition, InvalidArgument
from duite.v1 import common_pb2 as pb

JSON = "application/json"
_OMITTED = "duite.omitted_bytes"


def to_payload(thing: Any, what: str = "input") -> pb.Payload | None:
    """None for None; bytes as they are, a Blob with its content type, all else as JSON.
    InvalidArgument where it has no JSON form."""
    if thing is None:
        return None
    if isinstance(thing, pb.Payload):
        return thing
    if isinstance(thing, Blob):
        return pb.Payload(content_type=thing.content_type, data=thing.data)
    if isinstance(thing, (bytes, bytearray, memoryview)):
        return pb.Payload(content_type="application/octet-stream", data=bytes(thing))
    try:
        text = json.dumps(
            thing, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain
        )
        data = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the {what} has no JSON form: {error}; give numbers (not NaN), text, lists and dicts, "
            "or bytes, or a duite.Blob",
            reason="FIELD_INVALID",
            code="INVALID_ARGUMENT",
        ) from None
    return pb.Payload(content_type=JSON, data=data)


def _plain(thing: Any) -> Any:
    """What JSON can say of things that are common in inputs."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    if isinstance(thing, (datetime.datetime, datetime.date)):
        return thing.isoformat()
    # Scalars and arrays of numpy, tensors.
    if hasattr(thing, "tolist"):
        return thing.tolist()
    raise TypeError(f"a {type(thing).__name__} is not JSON")


def from_payload(payload: pb.Payload, what: str = "input") -> Any:
    """What `to_payload` was given: JSON is read, text is `str`, untyped bytes are `bytes`, and
    others are a Blob. FailedPrecondition where a list or a watch left the data out."""
    if is_left_out(payload):
        raise FailedPrecondition(
            f"the {what} is left out here ({payload.metadata[_OMITTED]} bytes): lists and watches "
            "carry small ones only, Client.get reads the task whole",
            code="FAILED_PRECONDITION",
        )
    kind, _, _ = payload.content_type.partition(";")
    try:
        if kind == JSON:
            return json.loads(payload.data) if payload.data else None
        if kind == "text/plain":
            return payload.data.decode()
    except ValueError as error:
        raise DuiteError(f"the {what} is not the {kind} that it says it is: {error}") from None
    if kind in ("", "application/octet-stream"):
        return payload.data
    return Blob(payload.data, payload.content_type)


def is_left_out(payload: pb.Payload) -> bool:
    """Whether the data was too large for where this payload was read."""
    return _OMITTED in payload.metadata and not payload.data
