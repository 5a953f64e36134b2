"""Measures StateQueue beside trame's, in one run:

    PYTHONPATH=src python bench/state_queue.py --server ../../target/release/duite

It starts that server on this machine (or uses `--addr`), and tells, for updates of 4 keys:

- what `update` costs the caller at full speed, and how many flushes a second become durable, with
  folding (the folded ones apart) and without it (each flush a batch of its own; the caller then
  waits while more than `--window` are unacknowledged, so that none has to fold);
- how long it takes from an update to an observer in another process, at 50 updates a second;
- how many updates a second trame's StateQueue and monitor merge over a multiprocessing.Queue, and
how
  long one takes at the monitor's default delay (skipped where trame is not installed).

It ends with 1 where a target is missed: 8 us for a call, 100,000 flushes/s with folding, 40,000/s
without it, 2 ms to the observer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import duite

RATE = 50
# As many for each second asked for: about what it merges in one.
TRAME_UPDATES = 10_000


def serve(binary: str, folder: str) -> tuple[subprocess.Popen[str], str]:
    command = [
        binary,
        "server",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--data",
        folder,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("listening grpc="):
            return process, "http://" + line.split("grpc=")[1].split()[0]
    raise SystemExit("the server did not start")


def values(n: int) -> dict[str, Any]:
    return {"step": n, "loss": n * 0.5, "phase": "train", "busy": True}


def push(address: str, seconds: float, fold: bool, window: int) -> dict[str, Any]:
    """Updates as fast as the caller can, and waits for all acknowledgements."""
    queue = duite.StateQueue(f"bench-{fold}", addr=address, fold=fold)
    queue.update(values(0))
    assert queue.flush_wait(10)
    before = queue.stats
    pusher = queue._pusher
    core = pusher.small.core  # pyright: ignore

    def has_room() -> bool:
        return core.counters.flushes - core.counters.acked_flushes <= window

    calls = 0
    busy = 0.0
    clock = time.perf_counter
    began = clock()
    while clock() - began < seconds:
        row = clock()
        for n in range(calls, calls + 250):
            queue.update({"step": n, "loss": n * 0.5, "phase": "train", "busy": True})
        busy += clock() - row
        calls += 250
        if not fold:
            pusher.wait(has_room, 10)
    assert queue.flush_wait(30)
    took = clock() - began
    counts = {name: count - before[name] for name, count in queue.stats.items()}
    queue.exit()
    return {
        "us_per_call": busy / calls * 1e6,
        "acked_flushes_per_s": counts["acked_flushes"] / took,
        "acked_batches_per_s": counts["acked_batches"] / took,
        "folded_flushes_per_s": counts["folded"] / took,
        "overflows": counts["overflows"],
    }


def observe(address: str, state: str, ready: Any, out: Any) -> None:
    """Another process: when it sees each update."""
    seen: dict[int, float] = {}

    def news(changes: dict[str, Any]) -> None:
        now = time.monotonic()
        if "stamp" not in changes:
            return
        stamp = changes["stamp"]
        if stamp == 0.0:
            ready.set()
        elif stamp < 0:
            out.put(list(seen.values()))
        else:
            seen[len(seen)] = now - stamp

    duite.StateQueue(state, addr=address).on_change("stamp", news)
    time.sleep(3600)


def latency(address: str, seconds: float) -> list[float]:
    spawn = multiprocessing.get_context("spawn")
    ready, out = spawn.Event(), spawn.Queue()
    observer = spawn.Process(
        target=observe, args=(address, "bench-latency", ready, out), daemon=True
    )
    observer.start()
    queue = duite.StateQueue("bench-latency", addr=address)
    queue.stamp = 0.0
    assert ready.wait(30)
    for n in range(int(seconds * RATE)):
        time.sleep(1 / RATE)
        queue.update({"step": n, "loss": 0.5, "phase": "train", "stamp": time.monotonic()})
    time.sleep(0.1)
    queue.stamp = -1.0
    found = out.get(timeout=30)
    observer.terminate()
    return found


# trame


class Observed:
    """A server of trame whose state tells what has been merged into it."""

    def __init__(self, server: Any, merged: Any) -> None:
        self._real, self._merged, self.state = server.state, merged, self
        # As once it runs: before that it keeps changes back.
        self._real.ready()

    def __enter__(self) -> Any:
        return self._real.__enter__()

    def __exit__(self, *error: object) -> Any:
        return self._real.__exit__(*error)

    def update(self, message: dict[str, Any]) -> None:
        self._real.update(message)
        self._merged(message)


def trame_fast(queue: Any, seconds: float) -> None:
    from trame.app import asynchronous

    with asynchronous.StateQueue(queue) as state:
        for n in range(int(seconds * TRAME_UPDATES)):
            state.update(values(n))


def trame_slow(queue: Any, seconds: float) -> None:
    from trame.app import asynchronous

    with asynchronous.StateQueue(queue) as state:
        for n in range(int(seconds * RATE)):
            # Not in step with the monitor's delay.
            time.sleep(1 / RATE)
            state.update({"step": n, "loss": 0.5, "phase": "train", "stamp": time.monotonic()})


async def trame(target: Any, seconds: float, delay: float, merged: Any) -> float:
    from trame.app import asynchronous, get_server

    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    server = Observed(get_server(f"bench-{target.__name__}"), merged)
    process = spawn.Process(target=target, args=(queue, seconds), daemon=True)
    process.start()
    while queue.empty():
        await asyncio.sleep(0.01)
    began = time.monotonic()
    monitor = asynchronous.create_state_queue_monitor_task(server, queue, delay)
    await monitor
    took = time.monotonic() - began
    process.join(10)
    return took


def trame_figures(seconds: float) -> dict[str, float]:
    merges: list[int] = []
    took = asyncio.run(trame(trame_fast, seconds, 0.001, lambda _message: merges.append(1)))
    waits: list[float] = []
    asyncio.run(
        trame(
            trame_slow,
            max(seconds, 5),
            1,
            lambda message: waits.append(time.monotonic() - message["stamp"]),
        )
    )
    return {"merges_per_s": len(merges) / took, "p50_ms": statistics.median(waits) * 1e3}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    options.add_argument("--server", help="the server's program, to be started here")
    options.add_argument("--addr", help="a server that runs already")
    options.add_argument("--seconds", type=float, default=10, help="of each measurement")
    options.add_argument("--window", type=int, default=3000)
    options.add_argument("--no-trame", action="store_true")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    process, folder = None, None
    address = given.addr
    if not address:
        if not given.server or not pathlib.Path(given.server).exists():
            raise SystemExit("give --server PATH/TO/duite or --addr http://host:port")
        folder = tempfile.TemporaryDirectory()
        process, address = serve(given.server, folder.name)
    try:
        folding = push(address, given.seconds, True, given.window)
        plain = push(address, given.seconds, False, given.window)
        waits = sorted(latency(address, given.seconds))
        figures: dict[str, Any] = {
            "python": platform.python_version(),
            "with_folding": folding,
            "without_folding": plain,
            "to_observer_ms": {
                "p50": statistics.median(waits) * 1e3,
                "p99": waits[int(len(waits) * 0.99)] * 1e3,
                "updates": len(waits),
            },
        }
        if not given.no_trame:
            try:
                figures["trame"] = trame_figures(given.seconds)
            except ImportError:
                print("trame is not installed: nothing to compare with", file=sys.stderr)
    finally:
        if process:
            process.terminate()
            process.wait(30)
        if folder:
            folder.cleanup()
    missed = [
        name
        for name, met in {
            "8 us for a call": folding["us_per_call"] <= 8 and plain["us_per_call"] <= 8,
            "100,000 flushes/s with folding": folding["acked_flushes_per_s"] >= 100_000,
            "40,000 flushes/s without folding": plain["acked_batches_per_s"] >= 40_000
            and not plain["overflows"],
            "2 ms to an observer": figures["to_observer_ms"]["p50"] <= 2,
        }.items()
        if not met
    ]
    if given.json:
        print(json.dumps({**figures, "missed": missed}, indent=1))
    else:
        tell(figures, missed)
    sys.exit(1 if missed else 0)


def tell(figures: dict[str, Any], missed: list[str]) -> None:
    for name in ("with_folding", "without_folding"):
        of = figures[name]
        print(
            f"StateQueue, {name.replace('_', ' ')}: {of['us_per_call']:.1f} us a call of update, "
            f"{of['acked_flushes_per_s']:,.0f} flushes/s acknowledged, "
            f"{of['folded_flushes_per_s']:,.0f}/s of them folded, "
            f"in {of['acked_batches_per_s']:,.0f} batches/s"
        )
    waits = figures["to_observer_ms"]
    print(
        f"update to an observer in another process: p50 {waits['p50']:.2f} ms, "
        f"p99 {waits['p99']:.2f} ms, {waits['updates']} updates at {RATE}/s"
    )
    if "trame" in figures:
        of = figures["trame"]
        print(
            f"trame's StateQueue and monitor: {of['merges_per_s']:,.0f} merges/s, "
            f"p50 {of['p50_ms']:.0f} ms at the default delay"
        )
    for target in missed:
        print(f"MISSED: {target}")


if __name__ == "__main__":
    main()
