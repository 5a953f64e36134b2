"""The worker's end of its keeper: starts the process, starts it again if it dies, and passes on
what it says. See `_keeper` for why there is one."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing.spawn
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import IO, Any

from duite._backoff import Backoff
from duite._keeper import Keeper, Teller

log = logging.getLogger("duite")

# It imports nothing of the package but what it needs: a stand-in takes the package's place, and the
# interpreter's start is spared what `site` does.
_BOOT = """
import json, sys, types
config = json.loads(sys.stdin.buffer.readline())
sys.path[:] = config["path"]
package = types.ModuleType("duite")
package.__path__ = [config["package"]]
sys.modules["duite"] = package
from duite._keeper import main
main(config)
"""
# One that lived for so long died of something else than the one before.
_LONG_LIFE = 30.0
# So many die soon after their start: then it runs on threads of this process.
_MOST_DEATHS = 5
_READY_SECONDS = 15.0

_clients: weakref.WeakSet[KeeperClient] = weakref.WeakSet()


class KeeperClient:
    """Keeps leases by a process. `on_news` is called on a thread of its own."""

    def __init__(self, config: dict[str, Any], on_news: Callable[[dict[str, Any]], None]) -> None:
        self._config, self._on_news = config, on_news
        self._lock = threading.Lock()
        # Token to until and every: what another process is to be told.
        self._leases: dict[bytes, list[float]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._local: Keeper | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._supervise, name="duite-keeper", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process's id; none while there is no process."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Starts the process."""
        _clients.add(self)
        self._thread.start()

    def wait_ready(self) -> None:
        """Waits until it listens, though not for ever."""
        self._ready.wait(_READY_SECONDS)

    def stop(self) -> None:
        """Ends the process: what it still keeps expires."""
        self._stopping.set()
        with self._lock:
            process, local = self._process, self._local
            if process is not None and process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        if local is not None:
            local.stop()
        self._thread.join(5)
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def replace(self) -> None:
        """Ends a process that hangs: another is started in its place."""
        process = self._process
        if process is not None and process.poll() is None:
            log.warning("the process that renews leases does not answer, it is ended")
            process.kill()

    def keep(self, leases: Iterable[tuple[bytes, float, float]]) -> None:
        """Renews these, the first time at once: token, valid until, how often."""
        with self._lock:
            told: list[list[Any]] = []
            for token, until, every in leases:
                self._leases[token] = [until, every]
                told.append([token.hex(), until, every])
            self._send({"keep": told})

    def drop(self, token: bytes) -> None:
        """Renews it no more."""
        with self._lock:
            if self._leases.pop(token, None) is not None:
                self._send({"drop": [token.hex()]})

    def _send(self, command: dict[str, Any]) -> None:
        if self._local is not None:
            self._local.command(command)
        elif self._process is not None and self._process.stdin is not None:
            # One that is gone is told everything when it is started again.
            with contextlib.suppress(OSError, ValueError):
                _write(self._process.stdin, command)

    def _supervise(self) -> None:
        backoff = Backoff(0.05, 2.0)
        deaths = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            how = self._run_process()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _LONG_LIFE:
                deaths, self._warned = 0, False
                backoff.reset()
            deaths += 1
            if deaths > _MOST_DEATHS:
                self._run_here(how)
                return
            level = logging.DEBUG if self._warned else logging.WARNING
            self._warned = True
            log.log(level, "the process that renews leases %s, starting another", how)
            self._stopping.wait(backoff.next_wait())

    def _run_process(self) -> str:
        """One process, from its start to its end; says how it ended."""
        executable = os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)
        environment = {
            **os.environ,
            "GRPC_VERBOSITY": os.environ.get("GRPC_VERBOSITY", "NONE"),
        }
        try:
            process = subprocess.Popen(
                [executable, "-s", "-S", "-c", _BOOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                bufsize=0,
            )
        except OSError as error:
            return f"did not start ({error})"
        assert process.stdin is not None
        assert process.stdout is not None
        config = {
            **self._config,
            "path": [path for path in sys.path if path],
            "package": os.path.dirname(os.path.abspath(__file__)),
            "worker_pid": os.getpid() if os.name == "posix" else 0,
        }
        with contextlib.suppress(OSError):
            _write(process.stdin, config)
            with self._lock:
                if self._stopping.is_set():
                    process.stdin.close()
                else:
                    kept = [[t.hex(), *of] for t, of in self._leases.items()]
                    _write(process.stdin, {"keep": kept})
                self._process = process
        self._read(process.stdout)
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"

    def _read(self, output: IO[bytes]) -> None:
        buffered = os.fdopen(os.dup(output.fileno()), "rb")
        with buffered:
            for line in buffered:
                self._ready.set()
                try:
                    news = json.loads(line)
                except ValueError:
                    continue
                self._take(news)

    def _take(self, news: dict[str, Any]) -> None:
        with self._lock:
            for token, (kind, until, _) in news.get("leases", {}).items():
                held = self._leases.get(bytes.fromhex(token))
                if held is not None and kind != "lost":
                    held[0] = max(held[0], until)
        try:
            self._on_news(news)
        except Exception:
            log.exception("news of leases could not be told")

    def _run_here(self, how: str) -> None:
        log.warning(
            "the process that renews leases cannot run (the last %s): they are renewed on a "
            "thread, which a handler that holds the interpreter's lock can keep from it",
            how,
        )
        config = self._config
        teller = Teller(lambda line: self._take(json.loads(line)))
        threading.Thread(target=teller.run, name="duite-tell", daemon=True).start()
        local = Keeper(
            config["target"],
            config["parent"],
            config["worker_id"],
            config["instance_uid"],
            teller.tell,
        )
        with self._lock:
            local.command({"keep": [[t.hex(), *of] for t, of in self._leases.items()]})
            self._local, self._process = local, None
        local.start()
        self._ready.set()

    def _after_fork(self) -> None:
        # A child that holds the pipe open would keep the leases of a worker that was killed.
        self._lock = threading.Lock()
        self._stopping.set()
        process = self._process
        for pipe in (process.stdin, process.stdout) if process is not None else ():
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _write(pipe: IO[bytes], command: dict[str, Any]) -> None:
    data = memoryview(json.dumps(command).encode() + b"\n")
    while data:
        data = data[pipe.write(data) :]


def _after_fork() -> None:
    for client in _clients:
        client._after_fork()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
