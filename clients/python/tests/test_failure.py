"""Exceptions as failures."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys

import pytest

import duite
from duite.failure import failure_of
from duite.v1 import common_pb2 as pb


def raised(function, *arguments):
    try:
        function(*arguments)
    except BaseException as error:  # noqa: BLE001 - what it is is what is tested
        return error
    raise AssertionError("nothing was raised")


def chain(depth):
    if depth == 0:
        raise KeyError("root")
    try:
        chain(depth - 1)
    except Exception as error:
        raise ValueError(f"level {depth}") from error


def test_a_failure_has_type_message_stack_place_and_causes():
    failure = failure_of(raised(chain, 2))
    assert (failure.type, failure.message) == ("ValueError", "level 2")
    assert failure.location == "test_failure.py:chain"
    assert failure.runtime == f"python/{sys.version_info[0]}.{sys.version_info[1]}"
    assert failure.category == pb.Failure.CATEGORY_APPLICATION
    assert failure.retryable
    assert failure.stack_trace.startswith("Traceback (most recent call last):\n")
    assert failure.stack_trace.endswith("ValueError: level 2\n")
    assert failure.cause.message == "level 1"
    assert failure.cause.cause.type == "KeyError"
    assert not failure.cause.cause.HasField("cause")


def test_a_context_is_a_cause_unless_it_is_suppressed():
    def implicit():
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904 - that is the test

    def suppressed():
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second") from None

    assert failure_of(raised(implicit)).cause.type == "KeyError"
    assert not failure_of(raised(suppressed)).HasField("cause")


def test_causes_are_cut_off_at_eight_and_a_circle_ends():
    failure, depth = failure_of(raised(chain, 20)), 0
    while failure.HasField("cause"):
        failure, depth = failure.cause, depth + 1
    assert depth == 8
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert not failure_of(one).cause.HasField("cause")


def test_a_deep_stack_keeps_the_frame_that_failed():
    # Two that call each other: Python folds the repeated lines of one that calls itself.
    def even(number):
        if number == 0:
            raise RuntimeError("at the " + "very " * 3000 + "bottom")
        odd(number - 1)

    def odd(number):
        even(number - 1)

    failure = failure_of(raised(even, 800))
    assert len(failure.stack_trace.encode()) <= 64 << 10
    assert "cut here" in failure.stack_trace
    assert 'raise RuntimeError("at the "' in failure.stack_trace
    assert failure.location == "test_failure.py:even"


def test_the_place_is_in_the_tasks_own_code():
    failure = failure_of(raised(json.loads, "{"))
    assert failure.location == "test_failure.py:raised"


def test_a_long_message_is_cut_at_a_character_and_says_how_long_it_was():
    failure = failure_of(ValueError("ä" * 20_000))
    assert len(failure.message.encode()) <= 16 << 10
    assert failure.message.endswith("… (cut, 40000 bytes)")


def test_a_failure_with_many_large_causes_stays_within_what_the_server_keeps():
    error = cause = ValueError("x" * 100_000)
    for _ in range(8):
        cause.__cause__ = ValueError("x" * 100_000)
        cause = cause.__cause__
    assert failure_of(error).ByteSize() < 256 << 10


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))],
    ids=lambda it: type(it).__name__,
)
def test_what_ran_out_is_of_the_category_resource(error):
    assert failure_of(error).category == pb.Failure.CATEGORY_RESOURCE


def test_whether_to_try_again_is_said_by_the_exception():
    class Hopeless(Exception):
        retryable = False

    assert not failure_of(Hopeless()).retryable
    assert failure_of(Hopeless()).type == "Hopeless"
    assert not failure_of(duite.PermanentError("no")).retryable
    later = failure_of(duite.RetryLater("busy", delay=1.5))
    assert later.retryable
    assert later.retry_delay.ToMilliseconds() == 1500
    for never in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="delay"):
            duite.RetryLater("busy", delay=never)


def test_a_permanent_error_says_more():
    error = duite.PermanentError("no", type="mesh.empty", metadata={"file": "a"}, details=[1])
    for failure in (failure_of(error), failure_of(pickle.loads(pickle.dumps(error)))):
        assert (failure.type, dict(failure.metadata)) == ("mesh.empty", {"file": "a"})
        assert failure.details.data == b"[1]"
    large = failure_of(duite.PermanentError("no", details=b"x" * 70_000))
    assert (large.details.data, large.details.metadata["duite.omitted_bytes"]) == (b"", "70000")


def test_a_cancel_is_of_its_own_category_and_passes_except_exception():
    error = duite.Cancelled("enough")
    assert not isinstance(error, Exception)
    failure = failure_of(error)
    assert failure.category == pb.Failure.CATEGORY_CANCELLED
    assert not failure.retryable


def test_an_exception_that_cannot_say_itself_is_told_all_the_same():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    failure = failure_of(raised(lambda: (_ for _ in ()).throw(Broken())))
    assert failure.message == "(str() of it raised RuntimeError)"


def test_what_is_no_unicode_is_told_all_the_same():
    name = os.fsdecode(b"mesh-\xff.stl")
    error = duite.PermanentError(f"no {name}", metadata={"file": name, name: "missing"})
    failure = failure_of(error)
    assert failure.metadata == {"file": "mesh-?.stl", "mesh-?.stl": "missing"}
    assert not failure.retryable
