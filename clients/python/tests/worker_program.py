"""A worker for tests: worker_program.py QUEUE. Its handlers can be imported."""

import ctypes
import os
import signal
import sys
import time

import duite


def process_id(task):
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "task": os.environ["DUITE_TASK"],
        "traceparent": os.environ.get("TRACEPARENT", ""),
    }


def die(task):
    if task.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def die_with_a_child(task):
    """Dies while a process that it forked lives on, which has what was open."""
    child = os.fork()
    if child == 0:
        time.sleep(40)
        os._exit(0)
    task.state["child"] = child
    task.state.flush_wait(10)
    os.kill(os.getpid(), signal.SIGKILL)


def task_of_a_thread(task):
    """Whether a thread that the handler starts finds the same attempt."""
    import threading

    found = []
    thread = threading.Thread(target=lambda: found.append(duite.current_task()))
    thread.start()
    thread.join()
    return found[0] is task


def spin(task):
    """Looks at nothing."""
    task.state["pid"] = os.getpid()
    while True:
        time.sleep(0.05)


def obey(task):
    task.state["pid"] = os.getpid()
    task.wait_cancelled(60)
    task.check_cancelled()
    return "was not asked"


async def obey_async(task):
    import asyncio

    task.state["pid"] = os.getpid()
    await asyncio.sleep(60)


def write_and_contribute(task):
    for step in range(50):
        task.state["step"] = step
    task.contribute(task.input, add={"done": 1})
    return "written"


def hold(task):
    """Holds the interpreter's lock in one C call."""
    ctypes.PyDLL(None).sleep(int(task.input))
    return task.attempt


def wait_for_file(task):
    open(task.input + ".begun", "w").close()
    while not os.path.exists(task.input):
        task.check_cancelled()
        time.sleep(0.02)
    return task.attempt


def raise_two():
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("two") from error


if __name__ == "__main__":
    worker = duite.Worker(queues=[sys.argv[1]], concurrency=4)
    worker.add("hold", hold)
    worker.add("wait", wait_for_file)
    worker.add("process", process_id, run="process")
    worker.add("spin", spin, run="process")
    print("starting", flush=True)
    worker.run(drain=float(sys.argv[2]) if len(sys.argv) > 2 else 10)
    print("stopped", flush=True)
