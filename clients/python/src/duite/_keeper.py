"""Keeps a worker's leases: renews them, and hears what the server says of them.

It runs in a process of its own, because a handler that computes in one C call may hold the
interpreter's lock for minutes, and no thread beside it gets to renew anything. Where no process can
be started it runs on threads of the worker.

It reads commands and tells news, both as lines of JSON with tokens in hex; times are of the
system's monotonic clock, which processes share. It ends when its input ends: a worker that was
killed must lose its leases. Nothing here may wait for the worker to read: news of a lease replaces
the news before.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from duite._backoff import Backoff
from duite._connection import OPTIONS
from duite.v1 import worker_service_pb2 as work
from duite.v1 import worker_service_pb2_grpc

# How often a lease is renewed of which the server does not say it.
RENEW_EVERY = 2.0
# The API's limit for one call.
_MOST_TOKENS = 1000
# A stream without a word for so long is opened anew; the server's heartbeat is 15 s.
_SILENCE = 45.0
# How often it looks whether its parent lives, where no lease is to be renewed.
_IDLE = 1.0
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

News = dict[str, Any]


class _Lease:
    def __init__(self, token: bytes, until: float, every: float) -> None:
        self.token, self.until, self.every = token, until, every
        # A renewal that named it has come to an end: from here on its time counts.
        self.named = False


class Keeper:
    """The leases of one worker instance. `tell` is given news and must not block:

    `{"leases": {token: ["held" | "cancel" | "lost", until, reason]}}`, and with `server` how the
    last call went: `["worked" | "failed", when it began, error]`.
    """

    def __init__(
        self,
        target: str,
        parent: str,
        worker_id: str,
        instance_uid: str,
        tell: Callable[[News], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._channel = grpc.insecure_channel(target, options=OPTIONS)
        self._stub = worker_service_pb2_grpc.WorkerServiceStub(self._channel)
        self._parent = parent
        self._who = {"worker_id": worker_id, "instance_uid": instance_uid}
        self._tell, self._check = tell, check
        self._changed = threading.Condition()
        self._leases: dict[bytes, _Lease] = {}
        self._came = False
        self._stopped = False

    def start(self) -> None:
        """Starts its threads."""
        for name, run in (("renew", self._renew), ("expire", self._expire), ("watch", self._watch)):
            threading.Thread(target=run, name=f"duite-{name}", daemon=True).start()

    def stop(self) -> None:
        """Ends them."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._channel.close()

    def command(self, command: dict[str, Any]) -> None:
        """Obeys `{"keep": [[token, until, every], …], "drop": [token, …]}`."""
        with self._changed:
            for token, until, every in command.get("keep", ()):
                held = bytes.fromhex(token)
                self._leases[held] = _Lease(held, until, every if every > 0 else RENEW_EVERY)
                # It has to be accepted at once.
                self._came = True
            for token in command.get("drop", ()):
                self._leases.pop(bytes.fromhex(token), None)
            self._changed.notify_all()

    def _interval(self) -> float:
        # All are renewed as often as the one that needs it most.
        return min((lease.every for lease in self._leases.values()), default=RENEW_EVERY)

    def _renew(self) -> None:
        backoff = Backoff(0.1, 1.0)
        due = time.monotonic()
        while True:
            with self._changed:
                while not self._stopped and not self._came:
                    # A lease may come that is to be renewed sooner.
                    left = due - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(min(left, _IDLE))
                    self._check()
                if self._stopped:
                    return
                self._came = False
                leases = list(self._leases.values())
                interval = self._interval()
            self._check()
            due = time.monotonic() + interval
            worked = True
            for first in range(0, len(leases), _MOST_TOKENS):
                worked &= self._renew_some(leases[first : first + _MOST_TOKENS], interval)
            if worked:
                backoff.reset()
            else:
                due = time.monotonic() + backoff.next_wait()

    def _renew_some(self, leases: list[_Lease], interval: float) -> bool:
        sent = time.monotonic()
        request = work.RenewLeasesRequest(
            lease_tokens=[lease.token for lease in leases], **self._who
        )
        try:
            answer = self._stub.RenewLeases(request, timeout=max(interval, 1.0))
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]
            news: News = {}
            if code in _AWAY:
                news["server"] = ["failed", sent, code.name]
            with self._changed:
                for lease in leases:
                    lease.named = True
                self._changed.notify_all()
            self._tell(news)
            return False
        except ValueError:
            # The channel was closed: it stops.
            return False
        said = {}
        with self._changed:
            for lease, status in zip(leases, answer.statuses, strict=False):
                lease.named = True
                told = self._apply(lease, status, sent)
                if told:
                    said[lease.token.hex()] = told
            self._changed.notify_all()
        self._tell({"leases": said, "server": ["worked", sent, ""]})
        return True

    def _apply(self, lease: _Lease, status: work.LeaseStatus, sent: float) -> list[Any] | None:
        if lease.token not in self._leases:
            return None
        if status.disposition == work.LeaseStatus.DISPOSITION_LOST:
            del self._leases[lease.token]
            return ["lost", 0, "the server gave the task to another attempt"]
        # Counted from when the renewal was sent; it never shortens.
        until = sent + status.valid_for.ToTimedelta().total_seconds()
        lease.until = max(lease.until, until)
        cancel = status.disposition == work.LeaseStatus.DISPOSITION_CANCEL_REQUESTED
        return ["cancel" if cancel else "held", lease.until, ""]

    def _expire(self) -> None:
        """What is over by this clock is lost at that moment, whatever the server says later."""
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                over = [it for it in self._leases.values() if it.named and it.until <= now]
                for lease in over:
                    del self._leases[lease.token]
                if over:
                    why = "it was not renewed in time"
                    self._tell({"leases": {it.token.hex(): ["lost", 0, why] for it in over}})
                until = min((it.until for it in self._leases.values() if it.named), default=None)
                self._changed.wait(None if until is None else max(0.0, until - now))

    def _watch(self) -> None:
        backoff = Backoff.for_streams()
        while not self._stopped:
            wait = 0.0
            # Every renewal brings the same news.
            with contextlib.suppress(grpc.RpcError, ValueError):
                wait = self._watch_once(backoff)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, wait + backoff.next_wait())

    def _watch_once(self, backoff: Backoff) -> float:
        request = work.WatchLeasesRequest(parent=self._parent, **self._who)
        stream: Any = self._stub.WatchLeases(request)
        heard = [time.monotonic()]
        over = threading.Event()

        def guard() -> None:
            while not over.wait(5):
                if time.monotonic() - heard[0] > _SILENCE:
                    stream.cancel()

        threading.Thread(target=guard, name="duite-watch-guard", daemon=True).start()
        try:
            for frame in stream:
                heard[0] = time.monotonic()
                backoff.reset()
                kind = frame.WhichOneof("frame")
                if kind == "directive":
                    self._direct(frame.directive)
                elif kind == "closing":
                    return frame.closing.reconnect_after.ToTimedelta().total_seconds()
        finally:
            over.set()
            stream.cancel()
        return 0.0

    def _direct(self, directive: work.LeaseDirective) -> None:
        kind = {
            work.LeaseStatus.DISPOSITION_CANCEL_REQUESTED: "cancel",
            work.LeaseStatus.DISPOSITION_LOST: "lost",
        }.get(directive.disposition)
        if kind is None:
            return
        said: dict[str, Any] = {}
        with self._changed:
            # Without a token it is for the worker as a whole.
            tokens = [directive.lease_token] if directive.lease_token else list(self._leases)
            for token in tokens:
                lease = self._leases.get(token)
                if lease is not None:
                    said[token.hex()] = [kind, lease.until, directive.reason]
                    if kind == "lost":
                        del self._leases[token]
        self._tell({"leases": said})


class Teller:
    """Writes news as lines, on a thread of its own. What waits is folded: of each lease the last
    and the worst, so that a worker which does not read for an hour costs little memory."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._leases: dict[str, list[Any]] = {}
        self._server: list[Any] | None = None

    def tell(self, news: News) -> None:
        """Takes news; never blocks."""
        with self._changed:
            for token, said in news.get("leases", {}).items():
                self._leases[token] = worse(self._leases.get(token), said)
            self._server = news.get("server", self._server)
            self._changed.notify()

    def run(self) -> None:
        """Writes until nobody reads any more."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._leases or self._server)
                news: News = {"leases": self._leases}
                if self._server:
                    news["server"] = self._server
                self._leases, self._server = {}, None
            self._write(json.dumps(news).encode() + b"\n")


def worse(before: list[Any] | None, after: list[Any]) -> list[Any]:
    """What remains of two news of one lease: a loss is for good, a cancel stays."""
    order = ("held", "cancel", "lost")
    if before is None or order.index(before[0]) <= order.index(after[0]):
        return after
    return [before[0], max(before[1], after[1]), before[2]]


def main(config: dict[str, Any]) -> None:
    """The process: commands on standard input, news on standard output."""
    # The terminal's and the service manager's signals are for the worker, which drains: its leases
    # have to be kept meanwhile.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def check() -> None:
        # The worker's end of the pipe may live on in a process that it forked.
        if config["worker_pid"] and os.getppid() != config["worker_pid"]:
            os._exit(0)

    def write() -> None:
        try:
            teller.run()
        except OSError:
            os._exit(0)

    teller = Teller(output.write)
    keeper = Keeper(
        config["target"],
        config["parent"],
        config["worker_id"],
        config["instance_uid"],
        teller.tell,
        check,
    )
    output.write(b"{}\n")
    threading.Thread(target=write, name="duite-tell", daemon=True).start()
    keeper.start()
    for line in sys.stdin.buffer:
        keeper.command(json.loads(line))
    os._exit(0)
