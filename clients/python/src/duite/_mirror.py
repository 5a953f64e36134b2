"""Mirrors a state of a duite server into the state of a trame server.

Values come as a browser can have them: a `Blob` as a data URL, which an image shows as it is, and a
time as text in ISO 8601. A deleted key is None, as trame has no deletion.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable
from typing import Any, cast

from duite._monitor import guarded, merge
from duite._values import Blob
from duite.aio import AsyncClient
from duite.watches import Entry, LargeValue

# Larger ones come as stubs; there are none.
_INLINE_LIMIT = 1 << 20


async def follow_state(
    client: AsyncClient, server: Any, name: str, delay: float, *, until: str | None
) -> None:
    """Mirrors until the task `until` has ended; without one, for ever."""
    async with client:
        watch = client.watch_state(name, interval=delay, inline_limit=_INLINE_LIMIT, until=until)
        async for event in watch:
            changes = as_shown(event.changes)
            if changes:
                guarded(merge, server.state, changes)


def as_shown(entries: Iterable[Entry]) -> dict[str, Any]:
    """What a trame state takes. A value too large to come was replaced, and the newer follows."""
    return {
        entry.key: None if entry.deleted else plain(entry.value)
        for entry in entries
        if not isinstance(entry.value, LargeValue)
    }


def plain(value: Any) -> Any:
    """The value as a browser can have it."""
    if isinstance(value, Blob):
        kind = value.content_type or "application/octet-stream"
        return f"data:{kind};base64,{base64.b64encode(value.data).decode()}"
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, list):
        return [plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in cast("dict[str, Any]", value).items()}
    return value
