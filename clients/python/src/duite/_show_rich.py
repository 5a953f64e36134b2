"""Draws the picture of a task with rich."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from duite._show_view import LOG_LINES, Picture

_STYLES = {
    "running": "cyan",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "yellow",
}
_STACK_LINES = 20


@contextlib.contextmanager
def screen(out: Any) -> Generator[Callable[[Picture], None], None, None]:
    """Gives what draws the next picture over the one before."""
    console = Console(file=out)
    with Live(console=console, auto_refresh=False) as live:
        yield lambda shown: live.update(table(shown), refresh=True)


def table(shown: Picture) -> RenderableType:
    """The picture as a table. All texts are literal: none is rich's markup."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("status", Text(shown.status, style=_STYLES.get(shown.status, "")))
    for name, fact in shown.facts:
        rows.add_row(name, Text(fact))
    if shown.progress is not None:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=1.0, completed=shown.progress, width=40),
            Text(f"{shown.progress:.1%}"),
        )
        rows.add_row("progress", bar)
    parts: list[RenderableType] = [rows]
    if shown.keys:
        keys = Table(box=None, padding=(0, 2), header_style="dim")
        keys.add_column("key")
        keys.add_column("value", overflow="fold")
        for key, value in shown.keys:
            keys.add_row(Text(key), Text(value))
        if shown.keys_left_out:
            keys.add_row("…", f"and {shown.keys_left_out} more")
        parts += [Text(), keys]
    if shown.log:
        lines = "\n".join(shown.log[-LOG_LINES:])
        parts += [Text(), Text(lines, style="dim", overflow="ellipsis", no_wrap=True)]
    if shown.failure:
        parts += [Text(), Text(shown.failure, style="red")]
        if shown.terminal and shown.stack:
            parts.append(Text("\n".join(shown.stack.split("\n")[-_STACK_LINES:]), style="dim"))
    return Panel(Group(*parts), title=Text(shown.title), title_align="left", expand=True)
