"""Folding: one entry per key that does what a row of them would have done.

A value replaces what stood before it, an operation on a value that is known here is carried out
here, sums become one sum. What cannot be folded stays a list, in order. Folding sums of floats
changes their last bits; it is what keeps memory bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from duite._encode import ADD, DELETE, LEAST, MAX, MIN, MOST, Operation, Operations


def fold_in(entries: dict[str, Any], later: Mapping[str, Any]) -> None:
    """Takes a later flush in."""
    for key, value in later.items():
        if type(value) is Operations:
            for part in value:
                _fold_one(entries, key, part)
        else:
            _fold_one(entries, key, value)


def _fold_one(entries: dict[str, Any], key: str, value: Any) -> None:
    if type(value) is not Operation or value is DELETE or key not in entries:
        entries[key] = value
        return
    before = entries[key]
    parts = before if type(before) is Operations else Operations([before])
    folded = fold(parts[-1], value)
    if folded is None:
        parts.append(value)
        entries[key] = parts
    elif parts is before:
        parts[-1] = folded
    else:
        entries[key] = folded


def fold(before: Any, later: Operation) -> Any:
    """The one entry that does what both do, in order; None where there is none."""
    if type(before) is not Operation:
        # None for a value of another kind: the server rejects the operation and keeps the value.
        return applied(before, later)
    if before is DELETE:
        # Nothing there counts as 0, or takes the operand.
        return later.operand
    if before.kind != later.kind:
        return None
    result = applied(before.operand, later)
    return None if result is None else Operation(later.kind, result)


def applied(value: Any, operation: Operation) -> int | float | None:
    """What the operation makes of a number; None where the server would not take it."""
    kind, operand = operation.kind, operation.operand
    if type(value) is not type(operand) or type(value) not in (int, float):
        return None
    if kind == ADD:
        result = value + operand
        if type(result) is int:
            return result if LEAST <= result <= MOST else None
        # The server's rule: an overflow or NaN is rejected.
        finite = abs(result) != float("inf") or float("inf") in (abs(value), abs(operand))
        return result if finite and result == result else None
    if kind == MAX:
        return operand if operand > value else value
    if kind == MIN:
        return operand if operand < value else value
    return None
