"""Errors by class and reason, and how a call goes on over them: without a server."""

import pickle

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from duite import errors
from duite._backoff import Backoff
from duite._call import Attempts


class Failed(grpc.RpcError):
    """What gRPC raises."""

    def __init__(self, code: grpc.StatusCode, reason: str = "", retry: float = 0) -> None:
        self._code, self._metadata = code, ()
        if reason or retry:
            details = []
            info = error_details_pb2.ErrorInfo(reason=reason, metadata={"key": "k"})
            again = error_details_pb2.RetryInfo()
            again.retry_delay.FromMilliseconds(int(retry * 1000))
            for detail in [info, *([again] if retry else [])]:
                packed = any_pb2.Any()
                packed.Pack(detail)
                details.append(packed)
            status = status_pb2.Status(code=code.value[0], details=details)
            self._metadata = (("grpc-status-details-bin", status.SerializeToString()),)

    def code(self):
        return self._code

    def details(self):
        return "said"

    def trailing_metadata(self):
        return self._metadata


CODES = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (CODES.INVALID_ARGUMENT, "FIELD_INVALID", errors.InvalidArgument),
        (CODES.NOT_FOUND, "TASK_NOT_FOUND", errors.NotFound),
        (CODES.ALREADY_EXISTS, "TASK_EXISTS", errors.AlreadyExists),
        (CODES.FAILED_PRECONDITION, "TASK_TERMINAL", errors.FailedPrecondition),
        (CODES.ABORTED, "LEASE_LOST", errors.LeaseLost),
        (CODES.ABORTED, "REVISION_MISMATCH", errors.RevisionMismatch),
        (CODES.ABORTED, "WRITER_EXPIRED", errors.WriterLost),
        (CODES.ABORTED, "EPOCH_CHANGED", errors.PositionLost),
        (CODES.OUT_OF_RANGE, "REVISION_COMPACTED", errors.PositionLost),
        (CODES.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", errors.QuotaExceeded),
        (CODES.RESOURCE_EXHAUSTED, "VALUE_TOO_LARGE", errors.ValueTooLarge),
        (CODES.UNAVAILABLE, "NOT_READY", errors.Unavailable),
        (CODES.UNIMPLEMENTED, "NOT_IMPLEMENTED", errors.Unimplemented),
        (CODES.UNAUTHENTICATED, "", errors.Unauthenticated),
        (CODES.DATA_LOSS, "", errors.InternalError),
    ],
)
def test_the_class_follows_from_the_reason_and_the_code(code, reason, kind):
    error = errors.from_rpc(Failed(code, reason), "do it")
    assert type(error) is kind
    assert (error.reason, error.code) == (reason, code.name)
    assert str(error).startswith("cannot do it: said")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.reason, str(copy)) == (kind, reason, str(error))


def test_what_the_service_adds_is_there():
    error = errors.from_rpc(Failed(CODES.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 1.5), "do it")
    assert (error.retry_after, error.metadata) == (1.5, {"key": "k"})


class Fixed(Backoff):
    """Always the same wait."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def next_wait(self) -> float:
        return 0.5


def attempts(timeout: float = 10) -> Attempts:
    return Attempts("do it", "http://here:1", timeout, 100.0, Fixed())


def test_unavailable_is_tried_again_for_some_seconds():
    it = attempts()
    # As many as it takes: gRPC itself pauses between attempts to connect.
    for now in (100, 100.5, 101, 101.5, 102, 102.9):
        assert it.after(Failed(CODES.UNAVAILABLE), now) == 0.5
    with pytest.raises(errors.Unavailable, match="http://here:1"):
        it.after(Failed(CODES.UNAVAILABLE), 103)


def test_slow_failures_end_after_four_attempts():
    it = attempts(60)
    for now in (110, 120, 130):
        it.after(Failed(CODES.UNAVAILABLE), now)
    with pytest.raises(errors.Unavailable):
        it.after(Failed(CODES.UNAVAILABLE), 140)


def test_the_service_says_when_to_try_again():
    assert attempts().after(Failed(CODES.UNAVAILABLE, "NOT_READY", 2), 100) == 2.5


def test_no_attempt_begins_after_the_deadline():
    with pytest.raises(errors.Unavailable):
        attempts(1).after(Failed(CODES.UNAVAILABLE), 100.6)
    with pytest.raises(errors.Timeout, match="within 1 s; it may still take effect"):
        attempts(1).remaining(101)
    assert attempts(1).remaining(100.25) == 0.75


@pytest.mark.parametrize(
    ("failed", "now"),
    [
        (Failed(CODES.DEADLINE_EXCEEDED), 110),
        (Failed(CODES.CANCELLED), 110),
        (Failed(CODES.CANCELLED, "DEADLINE"), 109),
    ],
)
def test_a_passed_deadline_is_a_timeout_whoever_says_it(failed, now):
    with pytest.raises(errors.Timeout) as late:
        attempts().after(failed, now)
    assert late.value.reason == "DEADLINE"


@pytest.mark.parametrize("code", [CODES.ABORTED, CODES.INTERNAL, CODES.RESOURCE_EXHAUSTED])
def test_another_code_is_not_tried_again(code):
    with pytest.raises(errors.DuiteError) as failed:
        attempts().after(Failed(code), 100)
    assert failed.value.code == code.name


def test_details_that_cannot_be_read_leave_the_error():
    failed = Failed(CODES.UNAVAILABLE)
    failed._metadata = (("grpc-status-details-bin", b"\xff"),)
    error = errors.from_rpc(failed, "read a task")
    assert isinstance(error, errors.Unavailable)
    assert (error.code, error.reason) == ("UNAVAILABLE", "")
