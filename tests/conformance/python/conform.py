"""Carries out the scenario with stock generated code; ../README.md says what each verb does.

python conform.py HOST:PORT NAMESPACE SCENARIO
"""

import queue
import sys
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from duite.v1 import common_pb2 as common
from duite.v1 import state_service_pb2 as states
from duite.v1 import state_service_pb2_grpc, task_service_pb2_grpc, worker_service_pb2_grpc
from duite.v1 import task_service_pb2 as tasks
from duite.v1 import watch_pb2 as watches
from duite.v1 import worker_service_pb2 as work

STREAM_SECONDS = 120


class Step:
    """The words of a line: `verb key=value key=value`."""

    def __init__(self, line):
        self.verb, *words = line.split(" ")
        self.words = [word.split("=", 1) for word in words]

    def __getitem__(self, key):
        return next((value for name, value in self.words if name == key), "")

    def all(self, key):
        return [value for name, value in self.words if name == key]

    @property
    def deadline(self):
        return float(self["deadline"] or 30)


# Data, values and updates, as the scenario writes them.


def pattern(size):
    return bytes(i % 251 for i in range(size))


def payload(text):
    data = pattern(int(text[1:])) if text.startswith("@") else text.encode()
    return common.Payload(content_type="text/plain", data=data) if data else None


def show_payload(name, given):
    data = given.data
    text = data.decode() if len(data) <= 100 else f"@{len(data)},{sum(data)}"
    return f" {name}={text}" if data else ""


def value_of(text, number=0):
    kind, text = text.split(":", 1)
    if kind == "int":
        return common.Value(integer=number if text == "#" else int(text))
    if kind == "list":
        items = [common.Value(integer=int(item)) for item in text.split(",")]
        return common.Value(list=common.ListValue(items=items))
    if kind == "map":
        words = text.split(",")
        entries = [
            common.MapEntry(key=key, value=common.Value(integer=int(item)))
            for key, item in zip(words[::2], words[1::2])
        ]
        return common.Value(map=common.MapValue(entries=entries))
    if kind == "blob":
        content_type, size = text.split(",")
        return common.Value(blob=common.Blob(content_type=content_type, data=pattern(int(size))))
    if kind == "time":
        value = common.Value()
        value.time.seconds = int(text)
        return value
    plain = {
        "number": lambda: common.Value(number=float(text)),
        "text": lambda: common.Value(text=text),
        "bool": lambda: common.Value(boolean=text == "true"),
        "null": lambda: common.Value(null=True),
    }
    return plain[kind]()


def show_value(value):
    kind = value.WhichOneof("kind")
    if kind == "integer":
        return f"int:{value.integer}"
    if kind == "number":
        return f"number:{value.number:.3f}"
    if kind == "text":
        return f"text:{value.text}"
    if kind == "boolean":
        return f"bool:{'true' if value.boolean else 'false'}"
    if kind == "list":
        return "list:" + ",".join(str(item.integer) for item in value.list.items)
    if kind == "map":
        return "map:" + ",".join(f"{e.key},{e.value.integer}" for e in value.map.entries)
    if kind == "time":
        return f"time:{value.time.seconds}"
    if kind == "blob":
        data = value.blob.data
        return f"blob:{value.blob.content_type},{len(data)},{sum(data)}"
    return "null:"  # also a kind of a later version


def updates_of(step, number=0):
    updates = []
    for name, word in step.words:
        if name == "delete":
            updates.append(states.KeyUpdate(key=word, delete=True))
        elif name in ("put", "add", "max", "min"):
            key, text = word.split(":", 1)
            updates.append(states.KeyUpdate(key=key, **{name: value_of(text, number)}))
    return updates


def enum(message, field, prefix):
    number = getattr(message, field)
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    known = kind.values_by_number.get(number)
    return known.name.removeprefix(prefix) if known else str(number)


def status_of(task):
    return enum(task, "status", "STATUS_")


def short(name):
    """The id, of a full name."""
    return name.rsplit("/", 1)[1]


# Errors.


def show_status(status):
    """`CODE REASON`, of a `google.rpc.Status`."""
    code = next(code.name for code in grpc.StatusCode if code.value[0] == status.code)
    reason, field = "-", ""
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info) and info.domain == "duite":
            reason = info.reason
        if detail.Unpack(bad) and bad.field_violations:
            field = f" field={bad.field_violations[0].field}"
    return f"{code} {reason}{field}"


def show_error(error):
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return show_status(status_pb2.Status.FromString(value))
    return f"{error.code().name} -"


class Watch:
    """A watch of states or tasks: the view it has told, and the token to go on with.

    `call` opens it, given the options; `changes` gives (name, text or None) for what a snapshot or
    a delta brings.
    """

    def __init__(self, call, changes):
        self.call, self.changes = call, changes
        self.view, self.revision, self.token = {}, 0, b""
        self.chain, self.ended = True, False

    def open(self):
        """Reads up to `synced`. Gives how it started."""
        self.stream = self.call(watches.WatchOptions(resume_token=self.token))
        started = ""
        while True:
            frame = next(self.stream)
            kind = frame.WhichOneof("frame")
            if kind == "opened":
                started = enum(frame.opened, "start", "START_")
            self.take(frame, kind)
            if kind == "synced":
                return started

    def take(self, frame, kind):
        """Says whether the view is complete after the frame."""
        if kind == "opened" and frame.opened.start == watches.WatchOpened.START_SNAPSHOT:
            self.view, self.revision = {}, 0
        elif kind == "reset":
            self.view, self.revision = {}, 0
        elif kind == "snapshot":
            self.apply(frame.snapshot)
        elif kind == "delta":
            self.chain = self.chain and frame.delta.base_revision == self.revision
            self.apply(frame.delta)
            if not frame.delta.more:
                return self.hold(frame.delta.position)
        elif kind in ("synced", "bookmark"):
            return self.hold(getattr(frame, kind).position)
        return False

    def apply(self, part):
        for name, text in self.changes(part):
            if text is None:
                self.view.pop(name, None)
            else:
                self.view[name] = text

    def hold(self, position):
        self.chain = self.chain and position.revision >= self.revision
        self.revision, self.token = position.revision, position.resume_token
        return True

    def until(self, name, wanted):
        """Reads on until the view has that, or to the end."""
        complete = True
        while not (complete and self.view.get(name, "absent") == wanted):
            frame = next(self.stream, None)
            if frame is None:  # OK: anything else is an exception
                if name != "end":
                    raise EOFError("the watch ended")
                return
            complete = self.take(frame, frame.WhichOneof("frame"))

    def show(self):
        return "".join(f" {name}={text}" for name, text in sorted(self.view.items()))


class Pen:
    """A writer of a state: what it has sent and not heard to be durable, to be sent again."""

    def __init__(self, stub, opening):
        self.stub, self.opening = stub, opening
        self.unacked, self.acked, self.sent, self.rejected = {}, 0, 0, []

    def open(self):
        """Gives the last sequence that is durable, and drops what that makes known."""
        self.frames = queue.SimpleQueue()
        self.stream = self.stub.PushState(iter(self.frames.get, None), timeout=STREAM_SECONDS)
        self.frames.put(states.PushStateRequest(open=self.opening))
        opened = next(self.stream).opened
        self.window = opened.window.max_unacked_batches
        self.drop(opened.last_sequence)
        return opened.last_sequence

    def drop(self, acked):
        self.acked = max(self.acked, acked)
        self.unacked = {number: b for number, b in self.unacked.items() if number > acked}

    def send(self, batch):
        while len(self.unacked) >= self.window:
            self.read()
        if batch.sequence > self.acked:
            self.unacked[batch.sequence] = batch
        self.sent = max(self.sent, batch.sequence)
        self.write(batch)

    def write(self, batch):
        batches = states.UpdateBatches(batches=[batch])
        self.frames.put(states.PushStateRequest(batches=batches))

    def read(self):
        """Takes one frame. Gives the number expected where it is a rewind."""
        frame = next(self.stream)
        kind = frame.WhichOneof("frame")
        if kind == "ack":
            self.drop(frame.ack.acked_sequence)
            self.window = frame.ack.window.max_unacked_batches
            self.rejected += frame.ack.rejected
        elif kind == "rewind":
            expected = frame.rewind.expected_sequence
            self.unacked = {n: batch for n, batch in self.unacked.items() if n < expected}
            self.sent = expected - 1
            return expected
        return None

    def show_rejected(self):
        told, self.rejected = self.rejected, []
        return "".join(f" rejected={r.sequence}:{r.key}:{r.reason}" for r in told)


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
