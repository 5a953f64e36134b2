"""Starts the real server for tests: the fixture `server` is shared, `own_server` can be killed."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[3]


def binary() -> str:
    """The server's program: `$DUITE_BIN`, else what cargo has built."""
    given = os.environ.get("DUITE_BIN")
    if given:
        return given
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for profile in ("release", "debug"):
        if (target / profile / "duite").exists():
            return str(target / profile / "duite")
    pytest.exit("there is no duite binary: cargo build --release, or set DUITE_BIN", 2)


class Server:
    """A server of its own, in a folder of its own, on a port that the system chose."""

    def __init__(self, folder: pathlib.Path, port: int = 0) -> None:
        self._folder, self._port = folder, port
        self._process: subprocess.Popen[str] | None = None
        self.address = self.admin = ""
        self.start()

    def start(self) -> None:
        """Starts it; again after `kill` or `stop`, on the port and data of before."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DUITE_", "OTEL_"))}
        log = (self._folder / "server.log").open("a")
        self._process = subprocess.Popen(
            [
                binary(),
                "server",
                "--listen",
                f"127.0.0.1:{self._port}",
                "--admin",
                "127.0.0.1:0",
                "--data",
                str(self._folder / "data"),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
        log.close()  # the server has its own
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("listening grpc="):
                self.address = "http://" + line.split("grpc=")[1].split()[0]
                self.admin = "http://" + line.split("admin=")[1].split()[0]
                self._port = int(self.address.rsplit(":", 1)[1])
                return
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """An orderly end."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process:
            self._process.send_signal(number)
            self._process.wait(30)
            if self._process.stdout:
                self._process.stdout.close()
            self._process = None

    def wait_until(self, check, seconds: float = 20, what: str = "it") -> None:
        """Waits until `check()` holds."""
        wait_until(check, seconds, what)


def wait_until(check, seconds: float = 20, what: str = "it") -> None:
    """Waits until `check()` holds; fails after `seconds`."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server for all tests; give each test's tasks and states names of their own."""
    it = Server(tmp_path_factory.mktemp("server"))
    yield it
    it.stop()


@pytest.fixture
def own_server(tmp_path):
    """A server that the test may kill and start again."""
    it = Server(tmp_path)
    yield it
    it.stop()


@pytest.fixture
def name(request) -> str:
    """A name that no other test uses."""
    plain = request.node.name.translate(str.maketrans("[]/ ", "----"))
    return f"{plain[:90]}-{time.time_ns()}"


@pytest.fixture
def wait_for_state():
    """Gives `wait(address, state, check)`: waits until `check(values)` holds of a state."""
    import grpc

    from duite._values import from_value
    from duite.v1 import state_service_pb2, state_service_pb2_grpc

    def wait(address, state, check, seconds: float = 20):
        request = state_service_pb2.GetStateRequest(name=f"namespaces/default/states/{state}")
        values = {}
        with grpc.insecure_channel(address.removeprefix("http://")) as channel:
            stub = state_service_pb2_grpc.StateServiceStub(channel)

            def holds():
                try:
                    entries = stub.GetState(request, timeout=10).state.entries
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.NOT_FOUND:
                        raise
                    return False
                values.clear()
                values.update({entry.key: from_value(entry.value) for entry in entries})
                return check(values)

            wait_until(holds, seconds, "the state")
        return values

    return wait
