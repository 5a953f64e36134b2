"""Carries out the scenario with stock generated code; ../README.md says what each verb does.

python conform.py HOST:PORT NAMESPACE SCENARIO
"""

import sys
import uuid

import grpc
from duite.v1 import common_pb2 as common
from duite.v1 import state_service_pb2 as states
from duite.v1 import state_service_pb2_grpc, task_service_pb2_grpc, worker_service_pb2_grpc
from duite.v1 import task_service_pb2 as tasks
from duite.v1 import worker_service_pb2 as work
from google.protobuf.duration_pb2 import Duration

from streams import STREAM_SECONDS, Pen, Watch
from words import (
    Step,
    enum,
    payload,
    short,
    show_error,
    show_payload,
    show_status,
    show_value,
    status_of,
    updates_of,
    value_of,
)


class Conformance:
    """A method for each verb; each gives the words after `ok`."""

    def __init__(self, address, namespace):
        channel = grpc.insecure_channel(address)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.states = state_service_pb2_grpc.StateServiceStub(channel)
        self.workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self.parent = f"namespaces/{namespace}"
        self.names = {}  # of tasks, by `id` or `as`
        self.leases, self.streams, self.instances = {}, {}, {}

    def run(self, step):
        try:
            return "ok" + getattr(self, "do_" + step.verb.replace("-", "_"))(step)
        except grpc.RpcError as error:
            return show_error(error)

    def task(self, key):
        return self.names.get(key, f"{self.parent}/tasks/{key}")

    def state(self, key):
        return f"{self.parent}/states/{key}"

    def worker(self, name):
        uid = self.instances.setdefault(name, str(uuid.uuid4()))
        return {"worker_id": name, "instance_uid": uid}

    # Tasks.

    def do_submit(self, step):
        task = tasks.Task(type=step["type"], input=payload(step["input"]))
        if step["state"]:
            task.state_name = self.state(step["state"])
        if step["attempts"]:
            task.policy.max_attempts = int(step["attempts"])
        task.labels.update(label.split(":", 1) for label in step.all("label"))
        request = tasks.CreateTaskRequest(
            parent=self.parent, task_id=step["id"], task=task, request_id=step["request"]
        )
        made = self.tasks.CreateTask(request, timeout=step.deadline).task
        key = step["id"] or step["as"]
        if self.names.setdefault(key, made.name) != made.name:
            key = "other"
        return f" task={key} status={status_of(made)} attempt={made.attempt}"

    def do_get(self, step):
        request = tasks.GetTaskRequest(name=self.task(step["id"]))
        task = self.tasks.GetTask(request, timeout=step.deadline).task
        text = f" task={short(task.name)} status={status_of(task)} attempt={task.attempt}"
        text += show_payload("output", task.output)
        if task.HasField("failure"):
            failure = task.failure
            text += f" failure={failure.type} message={failure.message}"
            text += f" category={enum(failure, 'category', 'CATEGORY_')}"
            text += f" stack={failure.stack_trace}" if failure.stack_trace else ""
            text += f" runtime={failure.runtime}" if failure.runtime else ""
            if failure.HasField("cause"):
                text += f" cause={failure.cause.type} cause-message={failure.cause.message}"
            text += "".join(f" meta={k}:{v}" for k, v in sorted(failure.metadata.items()))
            text += show_payload("details", failure.details)
            text += " attempts=" + ",".join(a.failure.message for a in task.attempts)
        return text

    def do_list(self, step):
        request = tasks.ListTasksRequest(parent=self.parent, page_size=int(step["size"]))
        count = 0
        while True:
            page = self.tasks.ListTasks(request, timeout=step.deadline)
            count += len(page.tasks)
            if not page.next_page_token:
                return f" tasks={count}"
            request.page_token = page.next_page_token

    def do_cancel(self, step):
        request = tasks.CancelTaskRequest(name=self.task(step["id"]), reason=step["reason"])
        task = self.tasks.CancelTask(request, timeout=step.deadline).task
        running = task.cancel_requested and not task.HasField("end_time")
        return f" status={status_of(task)}" + (" cancel_requested=yes" if running else "")

    # Watches.

    def watch_tasks(self, ids):
        request = tasks.WatchTasksRequest(parent=self.parent, until_terminal=True)
        request.filter.names.extend(self.task(key) for key in ids)

        def call(options):
            request.options.CopyFrom(options)
            return self.tasks.WatchTasks(request, timeout=STREAM_SECONDS)

        def changes(part):
            chunk = isinstance(part, tasks.TaskChunk)
            for task in part.tasks if chunk else part.changed:
                yield short(task.name), status_of(task)
            for removed in () if chunk else part.removed:
                yield short(removed.name), None

        return Watch(call, changes)

    def do_await(self, step):
        watch = self.watch_tasks([step["id"]])
        watch.open()
        watch.until("end", "OK")
        return watch.show()

    def do_tasks(self, step):
        watch = self.streams[step["as"]] = self.watch_tasks(step["ids"].split(","))
        return f" start={watch.open()}{watch.show()}"

    def do_watch(self, step):
        ids = step["states"].split(",")
        request = states.WatchStateRequest(names=[self.state(key) for key in ids])

        def call(options):
            request.options.CopyFrom(options)
            return self.states.WatchState(request, timeout=STREAM_SECONDS)

        def changes(part):
            chunk = isinstance(part, states.StateChunk)
            for change in part.entries if chunk else part.changes:
                name, kind = f"{ids[change.target]}/{change.key}", change.WhichOneof("change")
                if kind == "deleted":
                    yield name, None
                elif kind == "stub":
                    yield name, f"stub:{change.stub.content_type}"
                else:
                    yield name, show_value(change.value)

        watch = self.streams[step["as"]] = Watch(call, changes)
        watch.token = step["token"].encode()
        return self.do_resume(step)

    def do_resume(self, step):
        watch = self.streams[step["as"]]
        return f" start={watch.open()}{watch.show()}"

    def do_until(self, step):
        watch = self.streams[step["as"]]
        watch.until(*next(word for word in step.words if word[0] not in ("as", "deadline")))
        return f"{watch.show()} chain={'ok' if watch.chain else 'broken'}"

    def do_cut(self, step):
        self.streams[step["as"]].stream.cancel()
        return ""

    def do_close(self, step):
        self.do_cut(step)
        del self.streams[step["as"]]
        return ""

    # Workers.

    def do_lease(self, step):
        request = work.LeaseTasksRequest(
            parent=self.parent, task_types=[step["type"]], **self.worker(step["worker"])
        )
        request.wait.FromNanoseconds(int(float(step["wait"]) * 1e9))
        given = self.workers.LeaseTasks(request, timeout=step.deadline).leases
        if not given:
            return " none"
        self.leases[step["as"]] = given[0], step["worker"]
        task = given[0].task
        labels = "".join(f" label={k}:{v}" for k, v in sorted(task.labels.items()))
        text = f" task={short(task.name)} attempt={task.attempt}"
        return text + show_payload("input", task.input) + labels

    def token(self, step):
        return self.leases[step["lease"]][0].lease_token if step["lease"] else b""

    def do_renew(self, step):
        token = self.token(step) or step["token"].encode()
        worker = self.leases[step["lease"]][1] if step["lease"] else "w1"
        request = work.RenewLeasesRequest(lease_tokens=[token], **self.worker(worker))
        status = self.workers.RenewLeases(request, timeout=step.deadline).statuses[0]
        return " " + enum(status, "disposition", "DISPOSITION_")

    def do_release(self, step):
        request = work.ReleaseLeasesRequest(lease_tokens=[self.token(step)])
        self.workers.ReleaseLeases(request, timeout=step.deadline)
        return ""

    def failure(self, step):
        failure = common.Failure(
            category="CATEGORY_" + (step["category"] or "APPLICATION"),
            type=step["failure"],
            message=step["message"],
            stack_trace=step["stack"],
            runtime=step["runtime"],
            retryable=step["retryable"] == "yes",
            metadata=dict(word.split(":", 1) for word in step.all("meta")),
            details=payload(step["details"]),
        )
        if step["delay"]:
            failure.retry_delay.CopyFrom(Duration(nanos=int(float(step["delay"]) * 1e9)))
        if step["cause"]:
            cause = common.Failure(type=step["cause"], message=step["cause-message"])
            failure.cause.CopyFrom(cause)
        return failure

    def do_finish(self, step):
        outcome = work.TaskOutcome(lease_token=self.token(step))
        if step["failure"]:
            outcome.failure.CopyFrom(self.failure(step))
        elif step["cancelled"]:
            outcome.cancelled = True
        else:
            outcome.output.CopyFrom(payload(step["output"]) or common.Payload())
        if step["flushed"]:
            pen = self.streams[step["flushed"]]
            opening = pen.opening
            outcome.flushed.add(
                state_name=opening.state_name, writer_id=opening.writer_id, sequence=pen.sent
            )
        if step["contribute"]:
            state, key, text = step["contribute"].split(":", 2)
            update = states.KeyUpdate(key=key, add=value_of(text))
            outcome.contributions.add(state_name=self.state(state), updates=[update])
        request = work.FinishTasksRequest(outcomes=[outcome])
        result = self.workers.FinishTasks(request, timeout=step.deadline).results[0]
        if result.HasField("error"):
            raise Refused(show_status(result.error))
        return f" task={short(result.task.name)}"

    def do_directives(self, step):
        request = work.WatchLeasesRequest(parent=self.parent, **self.worker(step["worker"]))
        stream = self.workers.WatchLeases(request, timeout=STREAM_SECONDS)
        self.streams[step["as"]] = Directives(stream)
        return ""

    def do_directive(self, step):
        for frame in self.streams[step["as"]].stream:
            told = frame.directive
            about = told.lease_token in (b"", self.token(step))
            if frame.WhichOneof("frame") == "directive" and about:
                reason = f" reason={told.reason}" if told.reason else ""
                return f" {enum(told, 'disposition', 'DISPOSITION_')}{reason}"
        raise EOFError("the directives ended")

    # States.

    def do_update(self, step):
        request = states.UpdateStateRequest(
            name=self.state(step["state"]),
            updates=updates_of(step),
            request_id=step["request"],
            expected_revision=int(step["revision"] or 0),
        )
        rejected = self.states.UpdateState(request, timeout=step.deadline).rejected
        return "".join(f" rejected={r.key}:{r.reason}" for r in rejected)

    def do_get_state(self, step):
        request = states.GetStateRequest(name=self.state(step["state"]))
        entries = self.states.GetState(request, timeout=step.deadline).state.entries
        return "".join(
            f" {step['state']}/{entry.key}={show_value(entry.value)}" for entry in entries
        )

    def do_delete_state(self, step):
        request = states.DeleteStateRequest(name=self.state(step["state"]))
        self.states.DeleteState(request, timeout=step.deadline)
        return ""

    # Pushes.

    def do_push_open(self, step):
        opening = states.PushOpen(
            state_name=self.state(step["state"]),
            writer_id=step["writer"],
            lease_token=self.token(step),
        )
        pen = self.streams[step["as"]] = Pen(self.states, opening)
        return f" last={pen.open()}"

    def do_push_resume(self, step):
        pen = self.streams[step["as"]]
        before = pen.acked
        last = pen.open()
        for batch in pen.unacked.values():
            pen.write(batch)
        return f" last={before}..{pen.sent}" if before <= last <= pen.sent else f" last={last}"

    def do_push(self, step):
        first, last = int(step["from"]), int(step["to"])
        for number in range(first, last + 1):
            self.streams[step["as"]].send(
                states.UpdateBatch(
                    sequence=number,
                    updates=updates_of(step, number),
                    final=number == last and step["final"] == "yes",
                )
            )
        return ""

    def do_push_until(self, step):
        pen = self.streams[step["as"]]
        if step["rewind"]:
            while (expected := pen.read()) is None:
                pass
            return f" rewind={expected}{pen.show_rejected()}"
        while pen.acked < int(step["acked"]):
            pen.read()
        return f" acked={pen.acked}{pen.show_rejected()}"

    def do_push_close(self, step):
        pen = self.streams[step["as"]]
        pen.frames.put(None)
        try:
            while True:
                pen.read()
        except StopIteration:  # OK: anything else is another exception
            return f" acked={pen.acked}"


class Directives:
    """The open stream of a worker's directives."""

    def __init__(self, stream):
        self.stream = stream


class Refused(Exception):
    """An outcome that was refused, as it is printed."""


def main():
    address, namespace, scenario = sys.argv[1:]
    conformance = Conformance(address, namespace)
    number = 0
    with open(scenario, encoding="utf-8") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if not line or line[0] in "#>":
                continue
            number += 1
            try:
                result = conformance.run(Step(line))
            except Refused as refused:
                result = str(refused)
            print(number, result, flush=True)


main()
