"""The words of the scenario as messages, and messages as the words that are printed."""

import grpc
from duite.v1 import common_pb2 as common
from duite.v1 import state_service_pb2 as states
from google.rpc import error_details_pb2, status_pb2


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
