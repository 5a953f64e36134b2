import sys
import uuid

import grpc
from duite.v1 import state_service_pb2 as states
from duite.v1 import state_service_pb2_grpc, task_service_pb2_grpc
from duite.v1 import task_service_pb2 as tasks

channel = grpc.insecure_channel(sys.argv[1])
parent = "namespaces/default"
state = f"{parent}/states/run-1"

task = tasks.Task(type="train", state_name=state)
submit = tasks.CreateTaskRequest(parent=parent, task=task, request_id=str(uuid.uuid4()))
service = task_service_pb2_grpc.TaskServiceStub(channel)
answer = service.CreateTask(submit, timeout=10, wait_for_ready=True)
print("submitted", answer.task.name, flush=True)

watch = state_service_pb2_grpc.StateServiceStub(channel).WatchState(
    states.WatchStateRequest(names=[state])
)
for frame in watch:  # a snapshot first, then what changes
    for change in [*frame.snapshot.entries, *frame.delta.changes]:
        print(change.key, "=", str(change.value).strip(), flush=True)
        if change.key == "done":
            watch.cancel()  # a watch does not end by itself
            sys.exit()
