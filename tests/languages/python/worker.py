"""Fails twice and succeeds: worker.py HOST:PORT. Prints its lines as JSON objects."""

import json
import sys

import telemetry

provider = telemetry.start()

from duite_client import Client
from duite_worker import Worker


class MeshError(Exception):
    """What only a task can mean."""


def read_mesh(vertices):
    return {"vertices": vertices}["faces"]


def build_mesh(task, value):
    if task.attempt == 1:
        return vertices_per_face(value["vertices"], 0)
    if task.attempt == 2:
        try:
            read_mesh(value["vertices"])
        except KeyError as error:
            raise MeshError(f"a mesh of {value['vertices']} vertices has no faces") from error
    return {"attempt": task.attempt}


def vertices_per_face(vertices, faces):
    return vertices / faces


worker = Worker(Client(sys.argv[1]), {"mesh": build_mesh})
attempts = 0
while attempts < 3:
    for lease in worker.run_some():
        attempts += 1
        context = lease.trace_context.traceparent
        print(json.dumps({"attempt": lease.task.attempt, "traceparent": context}))
provider.shutdown()
