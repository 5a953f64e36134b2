"""Where the server is, and connections to it.

A process has one connection for each address and *purpose*, so that a large preview image on the
one for pushing delays no renewal on the one for control. A process made by `fork` starts with none.
"""

from __future__ import annotations

import os
import threading
from typing import Literal

import grpc

from duite import _fork
from duite.errors import InvalidArgument

DEFAULT_ADDRESS = "http://127.0.0.1:7643"

Purpose = Literal["control", "push", "large_push", "watch"]

# A message is at most 4 MiB; gRPC counts a little around it.
_MOST_BYTES = 5 << 20

OPTIONS: list[tuple[str, object]] = [
    ("grpc.max_receive_message_length", _MOST_BYTES),
    ("grpc.max_send_message_length", _MOST_BYTES),
    # A dead connection is noticed; the server allows a ping each 30 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # What is retried is decided here, not by gRPC.
    ("grpc.enable_retries", 0),
    # Or else two channels to one address share a connection.
    ("grpc.use_local_subchannel_pool", 1),
]

_channels: dict[tuple[str, Purpose], grpc.Channel] = {}
_lock = threading.Lock()


def address_from(given: str | None = None) -> str:
    """The address: as given, else `$DUITE_ADDR`, else `http://127.0.0.1:7643`."""
    return given or os.environ.get("DUITE_ADDR") or DEFAULT_ADDRESS


def target_of(address: str) -> str:
    """What gRPC calls that address: `host:port`."""
    scheme, found, rest = address.partition("://")
    if not found:
        scheme, rest = "http", address
    rest = rest.rstrip("/")
    host, _, port = rest.rpartition(":")
    if (
        scheme != "http"
        or not host
        or not port.isdecimal()
        or not 0 < int(port) < 65536
        or "/" in rest
    ):
        raise InvalidArgument(
            f"{address!r} is not an address of a server: it should read http://host:port or "
            "host:port",
            code="INVALID_ARGUMENT",
        )
    return rest


def channel(address: str, purpose: Purpose = "control") -> grpc.Channel:
    """The process's connection to that address. Nothing is connected before the first call."""
    key = (target_of(address), purpose)
    with _lock:
        if key not in _channels:
            _channels[key] = grpc.insecure_channel(key[0], options=OPTIONS)
            # Now gRPC's own part in forks is in place.
            _fork.install()
        return _channels[key]


def _forget() -> None:
    # The parent's connections are the parent's: closing them here would end its calls.
    global _lock
    _lock = threading.Lock()
    _forgotten.extend(_channels.values())
    _channels.clear()


_forgotten: list[grpc.Channel] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
