"""Texts cut to what may be kept of them."""

from __future__ import annotations


def cut(text: str, limit: int, *, keep_end: bool = False) -> str:
    """The text, in UTF-8 no longer than `limit` bytes; what was cut says so. `keep_end`: its
    beginning is cut off, else its end."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        # What UTF-8 cannot carry (lone surrogates) is replaced.
        return encoded.decode()
    mark = f"(cut, {len(encoded)} bytes)"
    room = max(limit - len(mark) - 4, 0)  # the dots and a space
    if keep_end:
        return f"{mark} …" + encoded[len(encoded) - room :].decode(errors="ignore")
    return encoded[:room].decode(errors="ignore") + f"… {mark}"
