"""Fails in a hundred ways for three causes: failures.py HOST:PORT QUEUE TASKS CAUSE=REPORTS...

Runs so many tasks of type `solve`, each of which fails, and reports failures outside of tasks.
"""

import sys

from duite_client import Client, failure_of
from duite_worker import Worker


class MeshError(Exception):
    """What only a task can mean."""


def parse(number):
    raise ValueError(f"'x{number}' is no number, at line {number * 7}")


def solve(number):
    # The same type, raised in another function: another cause.
    raise ValueError(f"no convergence after {number} steps, residual {number / 3}")


def mesh(number):
    raise MeshError(f"vertex {number} of {2 * number + 1} is in no face")


CAUSES = {"parse": parse, "solve": solve, "mesh": mesh}


def directly(cause, number):
    CAUSES[cause](number)


def by_a_longer_way(cause, number):
    def once_more():
        directly(cause, number)

    once_more()


def run(cause, number):
    # The same cause by different callers and line numbers is one.
    (directly if number % 2 else by_a_longer_way)(cause, number)


def handle(task, value):
    run(value["cause"], value["number"])


def caught(cause, number):
    try:
        run(cause, number)
    except Exception as error:
        failure = failure_of(error)
        if number % 3 == 0:
            # Clients need not say where: the stack does.
            failure.location = ""
        return failure


address, queue, most, *reports = sys.argv[1:]
client = Client(address)
for report in reports:
    cause, count = report.split("=")
    client.report("solve", [caught(cause, number) for number in range(int(count))])

worker = Worker(client, {"solve": handle}, queue=queue)
left = int(most)
while left:
    left -= len(worker.run_some(most=min(left, 100)))
