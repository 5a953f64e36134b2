"""Failures of a process's own tasks, on their way to a server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import grpc
import pytest

from duite import reports
from duite.errors import InvalidArgument
from duite.v1 import error_service_pb2, error_service_pb2_grpc


class MeshError(Exception):
    """What only this test can mean."""


def failed(message="vertex 7 is in no face") -> BaseException:
    """An exception with a stack and a cause."""
    try:
        try:
            raise OSError(28, "disk is full")
        except OSError as error:
            raise MeshError(message) from error
    except MeshError as error:
        return error


def groups(address, parent="namespaces/default"):
    """The error groups of a server by their task type."""
    with grpc.insecure_channel(address.removeprefix("http://")) as channel:
        stub = error_service_pb2_grpc.ErrorServiceStub(channel)
        request = error_service_pb2.ListErrorGroupsRequest(parent=parent, page_size=1000)
        return {group.task_type: group for group in stub.ListErrorGroups(request).groups}


@pytest.fixture
def nothing_configured(monkeypatch):
    """A process that has not decided yet where it reports to."""
    monkeypatch.setattr(reports, "_reporter", None)
    monkeypatch.setattr(reports, "_decided", False)
    for name in ("DUITE_ADDR", "DUITE_REPORT_ADDR", "DUITE_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_nothing_is_reported_unless_an_address_is_configured():
    configured = reports.configured_address
    assert configured({}) is None
    assert configured({"DUITE_ADDR": "a:1"}) == "a:1"
    assert configured({"DUITE_ADDR": "a:1", "DUITE_REPORT_ADDR": "b:1"}) == "b:1"
    assert configured({"DUITE_ADDR": "a:1", "DUITE_REPORT_ADDR": "off"}) is None
    assert configured({"DUITE_ADDR": ""}) is None


def test_a_name_becomes_an_id():
    assert reports.id_of("read mesh/7") == "read_mesh_7"
    assert reports.id_of("..") == "task"
    assert reports.id_of("outer.<locals>.inner") == "outer.inner"
    assert reports.id_of("größe") == "gr__e"
    assert len(reports.id_of("x" * 300)) == 128


def test_a_report_has_type_message_stack_and_cause():
    report = reports.report_of("mesh", failed())
    failure = report.failure
    assert (report.task_type, failure.type) == ("mesh", "MeshError")
    assert failure.message == "vertex 7 is in no face"
    assert failure.runtime.startswith("python/3.")
    assert failure.stack_trace.startswith("Traceback (most recent call last)")
    assert "in failed" in failure.stack_trace
    assert (failure.cause.type, failure.cause.category) == (
        "OSError",
        failure.CATEGORY_RESOURCE,
    )
    assert failure.HasField("time")
    assert report.report_id != reports.report_of("mesh", failed()).report_id


def test_a_long_stack_is_cut_and_causes_that_go_round_end():
    def deep(depth):
        if depth:
            return deep(depth - 1)
        raise MeshError("x" * 100_000)

    try:
        deep(900)
    except MeshError as error:
        first = error
    first.__cause__ = second = ValueError("b")
    second.__cause__ = first
    failure = reports.report_of("deep", first).failure
    assert len(failure.stack_trace.encode()) <= 64 << 10
    assert len(failure.message.encode()) <= 16 << 10
    assert failure.cause.type == "ValueError"
    assert not failure.cause.HasField("cause")


def test_reports_that_wait_are_bounded_and_what_is_dropped_is_counted():
    gate = threading.Event()
    sent = []

    def send(batch):
        gate.wait(30)
        sent.extend(batch)

    reporter = reports.Reporter(send, capacity=3, linger=0)
    taken = [reporter.take(reports.report_of(str(number), failed())) for number in range(5)]
    gate.set()
    assert reporter.flush(30) == 0
    assert taken == [True, True, True, False, False]
    assert reporter.dropped == 2
    heavy = reports.Reporter(send, capacity_bytes=100)
    assert not heavy.take(reports.report_of("heavy", failed()))
    assert [report.task_type for report in sent] == ["0", "1", "2"]


def test_a_batch_that_the_server_cannot_take_now_is_sent_again_as_it_was():
    calls = []

    def send(batch):
        calls.append([report.report_id for report in batch])
        return 0.0 if len(calls) < 3 else None

    reporter = reports.Reporter(send, linger=0)
    reporter.take(reports.report_of("again", failed()))
    assert reporter.flush(30) == 0
    assert len(calls) == 3
    assert calls[0] == calls[1] == calls[2]
    assert reporter.dropped == 0


def test_a_batch_that_is_refused_is_lost_and_the_next_one_is_sent():
    calls = []

    def send(batch):
        calls.append(batch)
        if len(calls) == 1:
            raise InvalidArgument("no", code="INVALID_ARGUMENT")

    reporter = reports.Reporter(send, linger=0)
    reporter.take(reports.report_of("refused", failed()))
    assert reporter.flush(30) == 0
    reporter.take(reports.report_of("taken", failed()))
    assert reporter.flush(30) == 0
    assert (len(calls), reporter.dropped) == (2, 1)


def test_a_call_has_at_most_a_hundred_reports():
    sizes = []
    reporter = reports.Reporter(lambda batch: sizes.append(len(batch)), linger=60)
    for _ in range(250):
        reporter.take(reports.report_of("many", failed()))
    assert reporter.flush(30) == 0
    assert sum(sizes) == 250
    assert max(sizes) == 100


def test_a_failure_lands_in_the_error_groups_of_the_server(server, name, nothing_configured):
    nothing_configured.setenv("DUITE_REPORT_ADDR", server.address)
    for _ in range(3):
        assert reports.report_failure(name, failed())
    assert reports.flush_reports(30) == 0
    group = groups(server.address)[reports.id_of(name)]
    assert (group.count, group.failure_type) == (3, "MeshError")
    assert group.location == "test_reports.py:failed"


def test_an_address_that_is_none_is_warned_of_once_and_fails_nobody(nothing_configured, caplog):
    nothing_configured.setenv("DUITE_REPORT_ADDR", "ftp://nowhere")
    assert not reports.report_failure("a", failed())
    assert not reports.report_failure("b", failed())
    warnings = [record for record in caplog.records if "not reported" in record.message]
    assert len(warnings) == 1
    assert "ftp://nowhere" in warnings[0].message


def test_naming_a_server_that_is_none_is_an_error(nothing_configured):
    with pytest.raises(InvalidArgument, match="nowhere"):
        reports.report_failures_to("nowhere")


def test_a_process_that_ends_at_once_still_reports(server, name):
    program = (
        "from duite import reports\n"
        "try:\n    1 / 0\n"
        f"except ZeroDivisionError as error:\n    reports.report_failure({name!r}, error)\n"
    )
    environment = {**os.environ, "DUITE_ADDR": server.address}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    assert groups(server.address)[reports.id_of(name)].count == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_made_by_fork_reports_what_is_its_own(server, name):
    program = (
        "import os\nfrom duite import reports\n"
        f"reports.report_failures_to({server.address!r})\n"
        f"reports.report_failure({name + '-parent'!r}, ValueError())\n"
        "if os.fork():\n    assert os.wait()[1] == 0\n"
        f"else:\n    reports.report_failure({name + '-child'!r}, ValueError())\n"
        "    os._exit(reports.flush_reports(30))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    found = groups(server.address)
    counts = [found[reports.id_of(f"{name}-{who}")].count for who in ("parent", "child")]
    assert counts == [1, 1]
