"""The writer's side of PushState without a network."""

import random

import pytest

from duite import _push_core as push
from duite._encode import ADD, DELETE, MAX, MIN, Operation, Operations, Wire
from duite._fold import fold_in
from duite._push_core import PushCore, WriterLost
from duite._values import from_value
from duite.v1 import state_service_pb2 as pb

WINDOW = (4, 1 << 20)


def opened(fold=True, window=WINDOW, last=0) -> PushCore:
    core = PushCore(fold)
    core.on_opened(last, *window)
    return core


def flush(core: PushCore, **entries) -> None:
    plain = not any(isinstance(value, Operation) for value in entries.values())
    heavy = sum(len(value) for value in entries.values() if isinstance(value, bytes))
    core.flush(entries, heavy, plain)


def send(core: PushCore, most=None) -> list[pb.UpdateBatch]:
    """What goes out now, as the server reads it."""
    first, ready = core.take()
    generation = core.generation
    batches, sizes = [], []
    for sequence, batch in enumerate(ready[:most], first):
        body = batch.encode(b"\x08\x01")
        message = pb.UpdateBatch.FromString(body)
        message.sequence = sequence
        batches.append(message)
        sizes.append(len(body))
    assert core.sent(generation, sizes)
    return batches


def numbers(batches) -> list[int]:
    return [batch.sequence for batch in batches]


def keys(batch) -> dict:
    return {update.key: from_value(update.put) for update in batch.updates}


def test_a_flush_becomes_a_batch_where_the_window_has_room():
    core = opened()
    flush(core, a=1)
    assert [(b.sequence, keys(b), b.folded_flushes) for b in send(core)] == [(1, {"a": 1}, 0)]
    flush(core, a=2)
    assert numbers(send(core)) == [2]
    core.on_ack(2)
    assert core.is_settled


def test_nothing_is_sent_before_the_stream_is_opened():
    core = PushCore()
    flush(core, a=1)
    assert core.take() == (0, [])
    core.on_opened(0, *WINDOW)
    assert numbers(send(core)) == [1]


def test_flushes_fold_while_the_window_is_full_and_say_how_many():
    core = opened(window=(1, 1 << 20))
    flush(core, a=0)
    send(core)
    for n in range(5):
        flush(core, a=n, b=-n)
    assert send(core) == []
    core.on_ack(1)
    (batch,) = send(core)
    assert (batch.sequence, keys(batch), batch.folded_flushes) == (2, {"a": 4, "b": -4}, 4)
    core.on_ack(2)
    counters = core.counters
    assert (counters.flushes, counters.acked_flushes, counters.acked_batches) == (6, 6, 2)


def test_without_folding_each_flush_is_a_batch_until_too_many_wait(monkeypatch):
    monkeypatch.setattr(push, "MAX_WAITING", 3)
    core = opened(fold=False, window=(2, 1 << 20))
    for n in range(2):
        flush(core, a=n)
    assert [keys(batch) for batch in send(core)] == [{"a": 0}, {"a": 1}]
    for n in range(2, 7):
        flush(core, a=n)
    assert core.counters.overflows == 2
    core.on_ack(2)
    assert [keys(batch) for batch in send(core)] == [{"a": 2}, {"a": 3}]
    core.on_ack(4)
    (last,) = send(core)
    assert (keys(last), last.folded_flushes) == ({"a": 6}, 2)


def test_after_a_break_the_same_bytes_are_sent_again_from_where_the_server_stands():
    core = opened(fold=False)
    for n in range(3):
        flush(core, a=n)
    before = send(core)
    core.on_disconnect()
    flush(core, a=9)
    core.on_opened(1, *WINDOW)
    after = send(core)
    assert after[:2] == before[1:]
    assert numbers(after) == [2, 3, 4]
    assert core.counters.resent == 2


def test_a_rewind_sends_again_from_there():
    core = opened(fold=False)
    for n in range(3):
        flush(core, a=n)
    send(core)
    core.on_rewind(2)
    assert numbers(send(core)) == [2, 3]
    with pytest.raises(WriterLost):
        core.on_rewind(9)


def test_a_frame_that_was_overtaken_by_a_rewind_is_thrown_away():
    core = opened(fold=False)
    flush(core, a=1)
    send(core)
    flush(core, a=2)
    core.take()
    generation = core.generation
    core.on_rewind(1)
    assert not core.sent(generation, [10])
    assert numbers(send(core)) == [1, 2]


def test_a_server_with_another_memory_of_the_writer_means_a_new_writer():
    core = opened(fold=False)
    for n in range(3):
        flush(core, a=n)
    send(core)
    core.on_ack(2)
    core.on_disconnect()
    for last in (1, 4):
        with pytest.raises(WriterLost):
            core.on_opened(last, *WINDOW)
    writer = core.writer
    assert core.restart_writer() == 1
    assert core.writer != writer
    core.on_opened(0, *WINDOW)
    assert [(b.sequence, keys(b)) for b in send(core)] == [(1, {"a": 2})]


def test_the_window_counts_bytes_too_but_never_wedges_the_writer():
    core = opened(fold=False, window=(4, 10))
    flush(core, a="x" * 100)
    flush(core, a=2)
    assert numbers(send(core, most=1)) == [1]
    assert send(core) == []
    core.on_ack(1)
    assert numbers(send(core)) == [2]


def test_a_draining_server_is_sent_nothing_more():
    core = opened()
    flush(core, a=1)
    send(core)
    core.on_drain()
    flush(core, a=2)
    assert send(core) == []
    assert not core.is_drained
    core.on_ack(1)
    assert core.is_drained


def test_the_last_batch_is_marked_and_goes_beyond_a_full_window():
    core = opened(window=(1, 1 << 20))
    flush(core, a=1)
    send(core)
    flush(core, a=2)
    core.finish()
    (last,) = send(core)
    assert (last.final, keys(last)) == (True, {"a": 2})
    core.on_ack(2)
    assert core.is_settled


def test_a_writer_that_is_done_with_nothing_left_sends_an_empty_last_batch():
    core = opened()
    flush(core, a=1)
    send(core)
    core.finish()
    (last,) = send(core)
    assert (last.final, len(last.updates)) == (True, 0)


def test_a_flush_after_the_last_batch_begins_a_new_writer_once_that_is_durable():
    core = opened()
    writer = core.writer
    flush(core, a=1)
    core.finish()
    send(core)
    flush(core, a=2)
    assert send(core) == []
    assert not core.begin_again()
    core.on_ack(1)
    assert core.begin_again()
    assert core.writer != writer
    core.on_opened(0, *WINDOW)
    assert [(b.sequence, keys(b), b.final) for b in send(core)] == [(1, {"a": 2}, False)]


def test_sealing_numbers_what_waits_so_that_its_mark_can_be_given():
    core = PushCore()
    flush(core, a=1)
    assert core.last_sequence == 0
    core.seal()
    assert core.last_sequence == 1
    flush(core, a=2)
    core.seal()
    assert core.last_sequence == 2


def test_a_batch_is_never_too_large_and_flushes_stay_whole():
    core = PushCore()
    for n in range(12):
        # Two values that were flushed together, 120 KB each.
        flush(core, **{f"a{n}": Wire(b"x" * 120_000), f"b{n}": Wire(b"y" * 120_000)})
    core.seal()
    assert len(core.numbered) > 1
    for batch in core.numbered:
        names = set(batch.entries or ())
        assert all(
            (f"b{name[1:]}" if name[0] == "a" else f"a{name[1:]}") in names for name in names
        )
        assert len(batch.encode(b"")) < 1 << 20


def test_what_waits_is_bounded_by_the_keys():
    core = PushCore()
    for n in range(3000):
        flush(core, **{f"k{n % 7}": Wire(b"x" * 50_000)})
    held = sum(len(value) for segment in core.segments for value in segment.entries.values())
    assert len(core.segments) <= push.MAX_SEGMENTS
    assert held <= push.MAX_SEGMENTS * (1 << 20)
    core.seal()
    assert all(len(batch.encode(b"")) < 1 << 20 for batch in core.numbered)


def test_a_flush_larger_than_a_batch_is_cut_by_keys():
    core = opened(window=(100, 64 << 20))
    flush(core, **{f"k{n}": Wire(b"\x2a\x80\xf1\x04" + b"x" * 80_000) for n in range(40)})
    batches = send(core)
    assert len(batches) > 1
    assert all(batch.ByteSize() < 1 << 20 for batch in batches)
    assert [name for batch in batches for name in keys(batch)] == [f"k{n}" for n in range(40)]
    core.on_ack(batches[-1].sequence)
    assert core.counters.acked_flushes == 1


def test_what_waits_for_the_other_lane_is_not_sent_before_and_keeps_its_turn():
    core = PushCore(most_segments=2)
    core.on_opened(0, *WINDOW)
    core.flush({"a": 1}, 0, True, after=5)
    core.flush({"a": 2}, 0, True, after=7)
    core.flush({"a": 3}, 0, True, after=9)
    assert send(core) == []
    core.reached = 5
    assert [keys(batch) for batch in send(core)] == [{"a": 1}]
    core.reached = 9
    assert [keys(batch) for batch in send(core)] == [{"a": 3}]


def apply(value, operation):
    """What a key holds after an operation, as the server has it."""
    if not isinstance(operation, Operation):
        return operation
    if operation is DELETE:
        return None
    operand = operation.operand
    if value is None:
        return operand
    if type(value) is not type(operand):
        return value
    if operation.kind == ADD:
        return value + operand
    return max(value, operand) if operation.kind == MAX else min(value, operand)


@pytest.mark.parametrize("seed", range(30))
def test_folding_gives_what_the_row_of_operations_would_have_given(seed):
    rng = random.Random(seed)
    for _ in range(50):
        row = []
        for _ in range(rng.randrange(1, 8)):
            kind = rng.choice(["put", "text", "delete", ADD, MAX, MIN])
            number = rng.randrange(-5, 5)
            row.append(
                number if kind == "put" else "text" if kind == "text"
                else DELETE if kind == "delete" else Operation(kind, number)
            )  # fmt: skip
        folded = {}
        for operation in row:
            fold_in(folded, {"k": operation})
        for start in (None, 3, "text"):
            wanted = got = start
            for operation in row:
                wanted = apply(wanted, operation)
            left = folded["k"]
            for operation in left if type(left) is Operations else [left]:
                got = apply(got, operation)
            assert got == wanted, (row, folded)


def test_sums_that_overflow_are_left_to_the_server():
    folded = {}
    for _ in range(2):
        fold_in(folded, {"n": Operation(ADD, 2**62)})
    assert len(folded["n"]) == 2
