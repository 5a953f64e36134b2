"""Which state a StateQueue writes to, where the program does not say: that of the task it runs as.

A program that a worker runs finds its own in its environment: `DUITE_STATE`, or `DUITE_TASK` (the
state named after the task), together with the lease (`DUITE_LEASE`, hex) that fences its writes.
Only its own state is written under the lease.
"""

from __future__ import annotations

import os
from typing import Any

from duite._names import default_namespace, full_name, namespace_of, short_name
from duite.errors import InvalidArgument


def lease_from(given: bytes | str | None) -> bytes:
    """A lease's token, from bytes or hex."""
    if not given:
        return b""
    if isinstance(given, bytes):
        return given
    try:
        return bytes.fromhex(given)
    except ValueError:
        raise InvalidArgument(
            "DUITE_LEASE, or the lease given, is no token in hex: pass it on as the worker gave it",
            code="INVALID_ARGUMENT",
        ) from None


def target(
    state: str | None, namespace: str | None, lease: bytes | str | None
) -> tuple[str, bytes] | None:
    """The state's full name and the lease's token; None where no state is to be found."""
    if state:
        return full_name(state, default_namespace(namespace), "states"), lease_from(lease)
    own: Any = owner()
    if own is not None and own.state_name:
        return own.state_name, lease_from(lease or own.lease)
    return from_environment(os.environ, namespace, lease)


def from_environment(
    env: Any, namespace: str | None = None, lease: bytes | str | None = None
) -> tuple[str, bytes] | None:
    """The same, as the environment has it."""
    token = lease_from(lease or env.get("DUITE_LEASE"))
    state, task = env.get("DUITE_STATE"), env.get("DUITE_TASK")
    if state:
        return full_name(state, default_namespace(namespace), "states"), token
    if not task:
        return None
    if task.startswith("namespaces/"):
        namespace = namespace_of(task)
    return full_name(short_name(task), default_namespace(namespace), "states"), token


def owner() -> Any:
    """The task whose handler runs here, or which this program is; else None."""
    try:
        from duite.current import current_task
    except ImportError:
        return None
    return current_task()
