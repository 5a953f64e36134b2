"""Full names from short ones: `run-1` is `namespaces/default/states/run-1`."""

from __future__ import annotations

import os
import re

from duite.errors import InvalidArgument

_ID = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}", re.ASCII)


def default_namespace(given: str | None = None) -> str:
    """The id of the namespace: as given, else `$DUITE_NAMESPACE`, else `default`."""
    return checked_id(given or os.environ.get("DUITE_NAMESPACE") or "default", "namespace")


def checked_id(value: str, what: str) -> str:
    """The id, if it is one."""
    if not isinstance(value, str) or not _ID.fullmatch(value):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgument(
            f"{value!r} is not the id of a {what}: 1 to 128 of A-Z a-z 0-9 . _ ~ -, not starting "
            "with a dot",
            reason="FIELD_INVALID",
            code="INVALID_ARGUMENT",
        )
    return value


def full_name(name: str, namespace: str, kind: str) -> str:
    """`namespaces/{namespace}/{kind}/{name}` of a short name; a full one as it is. `kind` is
    `tasks`, `states` or `queues`."""
    if not name.startswith("namespaces/"):
        return f"namespaces/{namespace}/{kind}/{checked_id(name, kind[:-1])}"
    parts = name.split("/")
    if len(parts) != 4 or parts[2] != kind:
        raise InvalidArgument(
            f"{name!r} is not the name of a {kind[:-1]}: it should read "
            f"namespaces/{{namespace}}/{kind}/{{id}}, or be the id alone",
            reason="FIELD_INVALID",
            code="INVALID_ARGUMENT",
        )
    checked_id(parts[1], "namespace")
    checked_id(parts[3], kind[:-1])
    return name


def short_name(name: str) -> str:
    """The id, which is what comes last."""
    return name.rsplit("/", 1)[-1]


def namespace_of(name: str) -> str:
    """The namespace's id in a full name."""
    return name.split("/")[1]
