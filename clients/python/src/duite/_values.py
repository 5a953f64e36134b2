"""Python's values as the API's, and back.

None, bool, int (64 bits), float, str, bytes, list, tuple, dict with text keys, datetime, `Blob`; numpy
scalars and arrays, and PIL images (as PNG), where those packages are used.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from duite.errors import InvalidArgument
from duite.v1 import common_pb2 as pb

_INTEGERS = range(-(2**63), 2**63)


@dataclasses.dataclass(frozen=True)
class Blob:
    """Bytes that say what they are, such as `Blob(png, "image/png")`."""

    data: bytes
    content_type: str = "application/octet-stream"


def to_value(thing: Any) -> pb.Value:
    """The API's value of `thing`. InvalidArgument where it has none."""
    if thing is None:
        return pb.Value(null=True)
    if isinstance(thing, bool):
        return pb.Value(boolean=thing)
    if isinstance(thing, int):
        if thing not in _INTEGERS:
            raise _refused(f"{thing} does not fit 64 bits: send it as text or as a float")
        return pb.Value(integer=thing)
    if isinstance(thing, float):
        return pb.Value(number=thing)
    if isinstance(thing, str):
        return pb.Value(text=thing)
    if isinstance(thing, (bytes, bytearray, memoryview)):
        return pb.Value(blob=pb.Blob(data=bytes(thing)))
    if isinstance(thing, Blob):
        return pb.Value(blob=pb.Blob(data=thing.data, content_type=thing.content_type))
    if isinstance(thing, (list, tuple)):
        return pb.Value(list=pb.ListValue(items=[to_value(item) for item in thing]))
    if isinstance(thing, dict):
        entries = [pb.MapEntry(key=str(key), value=to_value(item)) for key, item in thing.items()]
        return pb.Value(map=pb.MapValue(entries=entries))
    if isinstance(thing, datetime.datetime):
        value = pb.Value()
        value.time.FromDatetime(thing)
        return value
    raise _refused(
        f"a value of type {type(thing).__name__} cannot be sent: give numbers, text, "
        "lists, dicts, bytes or duite.Blob"
    )


def _refused(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="VALUE_INVALID", code="INVALID_ARGUMENT")


def from_value(value: pb.Value) -> Any:
    """Python's value. An unknown kind is None; untyped bytes are `bytes`."""
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null":
        return None
    if kind == "list":
        return [from_value(item) for item in value.list.items]
    if kind == "map":
        return {entry.key: from_value(entry.value) for entry in value.map.entries}
    if kind == "blob":
        if value.blob.content_type in ("", "application/octet-stream"):
            return value.blob.data
        return Blob(value.blob.data, value.blob.content_type)
    if kind == "time":
        return value.time.ToDatetime(tzinfo=datetime.timezone.utc)
    return getattr(value, kind)
