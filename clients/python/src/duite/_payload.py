"""Inputs and outputs as payloads: JSON, or bytes as they are."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from typing import Any

from duite._values import Blob
from duite.v1 import common_pb2 as pb

_JSON = "application/json"
_BYTES = "application/octet-stream"


def payload_of(thing: Any) -> pb.Payload:
    """None is nothing, bytes and `Blob` are themselves, all else is JSON: also numpy scalars and
    arrays, dataclasses and datetimes. NaN and the infinities are null, which is what JSON has.
    TypeError and ValueError where it cannot be JSON."""
    if thing is None:
        return pb.Payload()
    if isinstance(thing, (bytes, bytearray, memoryview)):
        return pb.Payload(content_type=_BYTES, data=bytes(thing))
    if isinstance(thing, Blob):
        return pb.Payload(content_type=thing.content_type, data=thing.data)
    try:
        text = json.dumps(thing, default=plain, allow_nan=False, ensure_ascii=False)
    except ValueError:
        text = json.dumps(_finite(thing), default=lambda it: _finite(plain(it)), allow_nan=False)
    return pb.Payload(content_type=_JSON, data=text.encode())


def from_payload(payload: pb.Payload) -> Any:
    """What `payload_of` was given, as far as JSON keeps it; text for `text/…`, a `Blob` for bytes
    of another type. ValueError where it says that it is JSON and is not."""
    kind = payload.content_type.partition(";")[0].strip().lower()
    if kind == _JSON or kind.endswith("+json"):
        return json.loads(payload.data) if payload.data else None
    if kind.startswith("text/"):
        return payload.data.decode(errors="replace")
    if kind == "" and not payload.data:
        return None
    if kind in ("", _BYTES):
        return payload.data
    return Blob(payload.data, payload.content_type)


def plain(thing: Any) -> Any:
    """What JSON can say of things that it does not know itself. TypeError where it cannot."""
    if hasattr(thing, "tolist") and hasattr(thing, "dtype"):
        return thing.tolist()
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return dataclasses.asdict(thing)
    if isinstance(thing, (datetime.datetime, datetime.date)):
        return thing.isoformat()
    raise TypeError(
        f"{type(thing).__name__} cannot be JSON: use dicts, lists, text, numbers, bytes or "
        "duite.Blob"
    )


def _finite(thing: Any) -> Any:
    if isinstance(thing, float) and not math.isfinite(thing):
        return None
    if isinstance(thing, dict):
        return {key: _finite(item) for key, item in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_finite(item) for item in thing]
    return thing
