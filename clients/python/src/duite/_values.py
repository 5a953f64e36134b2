"""Python's values as the API's, and back.

None, bool, int (64 bits), float, str, bytes, list, tuple, dict with text keys, datetime, `Blob`;
numpy scalars and arrays, and PIL images (as PNG), where those packages are used. NaN becomes None:
the API has no such number. A datetime without a time zone is taken as UTC.

A numpy array of one dimension and at most 4096 numbers becomes a list, any other a blob in the
format of `numpy.save` (`application/vnd.numpy`), which is read back as an array where numpy is
installed.
"""

from __future__ import annotations

import dataclasses
import datetime
import io
from typing import Any

from duite import _encode
from duite.v1 import common_pb2 as pb


@dataclasses.dataclass(frozen=True)
class Blob:
    """Bytes that say what they are, such as `Blob(png, "image/png")`."""

    data: bytes
    content_type: str = "application/octet-stream"


_encode.register(Blob, lambda value, _depth: _encode.blob(value.data, value.content_type))


def to_value(thing: Any) -> pb.Value:
    """The API's value of `thing`. InvalidArgument where it has none."""
    return pb.Value.FromString(_encode.encode(thing))


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
        return _from_blob(value.blob)
    if kind == "time":
        return value.time.ToDatetime(tzinfo=datetime.timezone.utc)
    return getattr(value, kind)


def _from_blob(blob: pb.Blob) -> Any:
    if blob.content_type in ("", "application/octet-stream"):
        return blob.data
    if blob.content_type == _encode.NPY:
        try:
            import numpy

            return numpy.load(io.BytesIO(blob.data), allow_pickle=False)
        except (ImportError, ValueError, OSError, EOFError):
            # Without numpy, or not in its format: as it came.
            pass
    return Blob(blob.data, blob.content_type)
