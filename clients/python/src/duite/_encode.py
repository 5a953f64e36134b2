"""Values and updates straight into the protobuf wire format.

A StateQueue that sends 40,000 flushes a second has a few microseconds for each; building generated
messages takes ten times as long. The tests hold this against the generated code.

What may change later (lists, dicts, arrays) is encoded when it is given, by `capture`; plain
numbers and short texts go on as they are, and are encoded only if they are still the latest when
they are sent.
"""

from __future__ import annotations

import datetime
import io
import math
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from duite.errors import InvalidArgument, ValueTooLarge

MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = (1 << 20) - (1 << 10)
MAX_DEPTH = 32
# A one-dimensional numeric array up to here becomes a list, which every language reads; a longer
# one a blob.
MAX_LIST_ARRAY = 4096
NPY = "application/vnd.numpy"
# Texts up to here are encoded when they are sent, longer ones when they are given.
SHORT_TEXT = 1024

LEAST, MOST = -(2**63), 2**63 - 1
# Keys that were seen, with how they begin on the wire. More than a state can hold; where it runs
# over, it is begun anew.
MAX_KNOWN_KEYS = 16_384

_pack_double = struct.Struct("<d").pack
_NULL = b"\x08\x01"
_TRUE, _FALSE = b"\x10\x01", b"\x10\x00"


class Wire(bytes):
    """A Value that is encoded already."""

    __slots__ = ()


def varint(number: int) -> bytes:
    """An unsigned number as the wire has it."""
    if number < 0x80:
        return number.to_bytes(1, "little")
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0x200000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(tag: bytes, content: bytes) -> bytes:
    """A field that has a length."""
    return tag + varint(len(content)) + content


def refused(message: str) -> InvalidArgument:
    """The error for a value that cannot be sent."""
    return InvalidArgument(message, reason="VALUE_INVALID", code="INVALID_ARGUMENT")


def too_large(what: str, size: int) -> ValueTooLarge:
    """The error for a value that is over the limit."""
    return ValueTooLarge(
        f"{what} takes {size} bytes, but a value has at most {MAX_VALUE_BYTES}: send less of it, "
        "or keep it in a file or an object store and send its address",
        reason="VALUE_TOO_LARGE",
        code="INVALID_ARGUMENT",
    )


# Values. Each of these gives a whole `Value` message.


def _integer(value: int, depth: int = 0) -> bytes:
    if not LEAST <= value <= MOST:
        raise refused(f"{value} does not fit 64 bits: send it as text or as a float")
    return b"\x18" + varint(value & 0xFFFFFFFFFFFFFFFF)


def _number(value: float, depth: int = 0) -> bytes:
    # The API has no NaN, and a run should not end because a loss is one.
    return b"\x21" + _pack_double(value) if value == value else _NULL


def _text(value: str, depth: int = 0) -> bytes:
    return field(b"\x2a", utf8(value))


def utf8(text: str) -> bytes:
    """The text in UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise refused(
            f"a text has a lone surrogate at {error.start}, which UTF-8 cannot express: "
            "encode it with errors='replace' first"
        ) from None


def blob(data: bytes | bytearray | memoryview, content_type: str = "") -> bytes:
    """A blob."""
    data = bytes(data)
    kind = field(b"\x0a", utf8(content_type)) if content_type else b""
    return field(b"\x32", kind + (field(b"\x12", data) if data else b""))


def _bytes(value: Any, depth: int = 0) -> bytes:
    return blob(value)


def _deeper(depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise refused(
            f"lists and dicts are nested more than {MAX_DEPTH} deep, or contain themselves: "
            "flatten them"
        )
    return depth + 1


_ITEM_NUMBER = b"\x0a\x09\x21"


def _list(value: Any, depth: int = 0) -> bytes:
    depth = _deeper(depth)
    if value and set(map(type, value)) == {float} and not math.isnan(sum(value)):
        items = _ITEM_NUMBER + _ITEM_NUMBER.join(map(_pack_double, value))
        return b"\x3a" + varint(len(items)) + items
    return field(b"\x3a", b"".join([field(b"\x0a", encode(item, depth)) for item in value]))


def _map(value: Mapping[Any, Any], depth: int = 0) -> bytes:
    depth = _deeper(depth)
    entries: list[bytes] = []
    for key, item in value.items():
        name = utf8(key if isinstance(key, str) else str(key))
        head = field(b"\x0a", name) if name else b""
        entries.append(field(b"\x0a", head + field(b"\x12", encode(item, depth))))
    return field(b"\x42", b"".join(entries))


def _time(value: datetime.datetime, depth: int = 0) -> bytes:
    if value.tzinfo is not None:
        value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    since = value - datetime.datetime(1970, 1, 1)
    return field(b"\x4a", timestamp(since.days * 86_400 + since.seconds, since.microseconds * 1000))


def timestamp(seconds: int, nanos: int) -> bytes:
    """A google.protobuf.Timestamp."""
    of_seconds = b"\x08" + varint(seconds & 0xFFFFFFFFFFFFFFFF) if seconds else b""
    return of_seconds + (b"\x10" + varint(nanos) if nanos else b"")


_BY_TYPE: dict[type, Callable[[Any, int], bytes]] = {
    type(None): lambda _value, _depth: _NULL,
    bool: lambda value, _depth: _TRUE if value else _FALSE,
    int: _integer,
    float: _number,
    str: _text,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    list: _list,
    tuple: _list,
    dict: _map,
    datetime.datetime: _time,
    Wire: lambda value, _depth: value,
}


def register(kind: type, encoder: Callable[[Any, int], bytes]) -> None:
    """Teaches it a type."""
    _BY_TYPE[kind] = encoder


def encode(value: Any, depth: int = 0) -> bytes:
    """The `Value` message. InvalidArgument where there is none. NaN becomes null."""
    encoder = _BY_TYPE.get(type(value)) or _encoder_of(value)  # pyright: ignore[reportUnknownArgumentType]
    return encoder(value, depth)


def _encoder_of(value: Any) -> Callable[[Any, int], bytes]:
    # numpy first: its float64 is a float too, but its arrays and other scalars are nothing of ours.
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.generic, numpy.ndarray)):
        return _of_numpy
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(value, pil.Image):
        return _of_image
    for kind in (bool, int, float, str, bytes, bytearray, list, tuple, Mapping, datetime.datetime):
        if isinstance(value, kind):
            return _BY_TYPE[dict if kind is Mapping else kind]  # type: ignore[type-abstract]
    # Tensors of other packages.
    if numpy is not None and hasattr(value, "__array__"):
        return lambda value, depth: _of_numpy(numpy.asarray(_on_host(value)), depth)
    raise refused(
        f"a value of type {type(value).__name__} cannot be sent: give numbers, text, lists, dicts, "
        "bytes, datetime, numpy arrays, PIL images or duite.Blob"
    )


def _on_host(value: Any) -> Any:
    for step in ("detach", "cpu"):
        value = getattr(value, step, lambda value=value: value)()
    return value


def _of_numpy(value: Any, depth: int) -> bytes:
    kind = value.dtype.kind
    if kind in "biufU" and value.ndim <= 1 and value.size <= MAX_LIST_ARRAY:
        # An unsigned number may not fit 64 bits with a sign; as a blob it does.
        fits = kind != "u" or value.dtype.itemsize < 8 or not value.size or int(value.max()) <= MOST
        plain = value.tolist()
        if fits and not (kind == "f" and value.dtype.itemsize > 8):
            return encode(plain, depth)
        if value.ndim == 0:
            return encode(float(value) if kind == "f" else int(value), depth)
    if kind == "O" or value.dtype.hasobject:
        raise refused(
            f"a numpy array of dtype {value.dtype} cannot be sent, since it holds Python objects: "
            "convert it with astype, or send a list"
        )
    import numpy

    out = io.BytesIO()
    numpy.save(out, numpy.asarray(value), allow_pickle=False)
    return blob(out.getbuffer(), NPY)


def _of_image(value: Any, depth: int) -> bytes:
    out = io.BytesIO()
    image = (
        value
        if value.mode in ("1", "L", "LA", "I", "P", "RGB", "RGBA", "I;16")
        else value.convert("RGB")
    )
    # Made on the caller's thread: quick counts for more than small.
    image.save(out, "PNG", compress_level=1)
    return blob(out.getbuffer(), "image/png")


# Capturing, on the caller's thread.

_known: dict[str, tuple[bytes, bytes]] = {}


def check_key(key: Any) -> tuple[bytes, bytes]:
    """How an update of this key begins: the key's field, and what stands before a float. Raises
    InvalidArgument where it is no key."""
    if not isinstance(key, str):
        raise InvalidArgument(
            f"{key!r} is not a key: it should be a text of 1 to {MAX_KEY_BYTES} bytes",
            reason="KEY_INVALID",
            code="INVALID_ARGUMENT",
        )
    name = utf8(key)
    if not 0 < len(name) <= MAX_KEY_BYTES:
        raise InvalidArgument(
            f"a key has {len(name)} bytes: it should be a text of 1 to {MAX_KEY_BYTES} bytes, and "
            f"begins with {key[:40]!r}",
            reason="KEY_INVALID",
            code="INVALID_ARGUMENT",
        )
    start = field(b"\x0a", name)
    begin = (start, b"\x12" + varint(len(start) + 11) + start + b"\x12\x09\x21")
    if len(_known) >= MAX_KNOWN_KEYS:
        _known.clear()
    _known[key] = begin
    return begin


def capture(values: Mapping[str, Any]) -> tuple[dict[str, Any], int, int]:
    """What can be sent later, whatever the caller does to its values meanwhile: a new dict, or the
    same one where nothing in it can change. With it, about how many bytes all long values have, and
    how many the longest has. Raises where a key or value cannot be sent."""
    changed: dict[str, Any] | None = None
    heavy = longest = 0
    for key, value in values.items():
        if key not in _known:
            check_key(key)
        kind = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind is float or kind is bool or value is None:
            continue
        if kind is int:
            if LEAST <= value <= MOST:
                continue
        elif kind is str and len(value) <= SHORT_TEXT and value.isascii():
            if len(value) > 64:
                heavy += len(value)
            continue
        encoded = encode(value)
        size = len(encoded)
        if size > MAX_VALUE_BYTES:
            raise too_large(f"the value of {key!r}", size)
        heavy += size
        longest = max(longest, size)
        if changed is None:
            changed = dict(values)
        changed[key] = Wire(encoded)
    if changed is None:
        changed = cast("dict[str, Any]", values)
    return changed, heavy, longest


# Updates, on the sender's thread.

PUT, ADD, MAX, MIN = b"\x12", b"\x22", b"\x2a", b"\x32"
_DELETE = b"\x18\x01"


class Operation:
    """What is done to a key other than putting a value: `kind` is the operation's tag (of a field
    of KeyUpdate) or empty for a deletion."""

    __slots__ = ("kind", "operand")

    def __init__(self, kind: bytes, operand: int | float = 0) -> None:
        self.kind, self.operand = kind, operand

    def wire(self) -> bytes:
        """The operation's field."""
        return field(self.kind, encode(self.operand)) if self.kind else _DELETE


DELETE = Operation(b"")


class Operations(list[Any]):
    """Several operations on one key, in order: `Operation`s, after a value at most."""

    __slots__ = ()


def _one(start: bytes, value: Any) -> bytes:
    operation = value.wire() if type(value) is Operation else field(PUT, encode(value))
    return b"\x12" + varint(len(start) + len(operation)) + start + operation


def updates(entries: Mapping[str, Any]) -> bytes:
    """The `updates` of an UpdateBatch."""
    parts: list[bytes] = []
    add = parts.append
    for key, value in entries.items():
        begin = _known.get(key) or check_key(key)
        kind = type(value)  # pyright: ignore[reportUnknownVariableType]
        if kind is float and value == value:
            add(begin[1])
            add(_pack_double(value))
        elif kind is int and 0 <= value < 0x80:
            start = begin[0]
            add(
                b"\x12%c%b\x12\x02\x18%c" % (len(start) + 4, start, value)
                if len(start) < 100
                else _one(start, value)
            )
        elif kind is Operations:
            for operation in value:
                add(_one(begin[0], operation))
        else:
            add(_one(begin[0], value))
    return b"".join(parts)
