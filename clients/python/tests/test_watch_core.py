"""The watch's pure half against frames in order and out of it."""

import pytest

from duite._backoff import Backoff
from duite._requests import WATCH_STATE
from duite._watch_core import BrokenChain, Fold, Plan, Shown
from duite.errors import DuiteError, InvalidArgument, Unavailable
from duite.tasks import Position
from duite.v1 import common_pb2, state_service_pb2, watch_pb2
from duite.watches import StateKind

KIND = StateKind("namespaces/default/states/s", [], [], 0, lambda key: None)
START = watch_pb2.WatchOpened


def position(revision: int) -> common_pb2.Position:
    return common_pb2.Position(revision=revision, resume_token=b"token %d" % revision)


def frame(**kind) -> state_service_pb2.WatchStateResponse:
    return state_service_pb2.WatchStateResponse(**kind)


def opened(start: int, revision: int):
    return frame(opened=START(start=start, position=position(revision)))


def changes(values: dict, revision: int):
    for key, value in values.items():
        change = state_service_pb2.KeyChange(key=key, mod_revision=revision)
        if value is None:
            change.deleted = True
        else:
            change.value.integer = value
        yield change


def snapshot(values: dict, revision: int = 1):
    return frame(snapshot=state_service_pb2.StateChunk(entries=changes(values, revision)))


def synced(revision: int):
    return frame(synced=watch_pb2.WatchSynced(position=position(revision)))


def bookmark(revision: int):
    return frame(bookmark=watch_pb2.WatchBookmark(position=position(revision)))


def reset():
    return frame(reset=watch_pb2.WatchReset(reason=watch_pb2.WatchReset.REASON_COMPACTED))


def delta(base: int, to: int | None, values: dict, more: bool = False):
    it = state_service_pb2.StateDelta(
        base_revision=base, changes=changes(values, to or base), more=more, folded_commits=1
    )
    if to is not None:
        it.position.CopyFrom(position(to))
    return frame(delta=it)


class Watched:
    """A fold, and what it has told: a copy kept by the events alone has to equal the view."""

    def __init__(self, start: Position | None = None) -> None:
        self.fold = Fold(KIND, start)
        self.copy: dict = {}

    def take(self, response) -> Shown | None:
        name = response.WhichOneof("frame")
        shown = self.fold.on_frame(name, getattr(response, name))
        if shown:
            for change in shown.changes:
                if change.deleted:
                    self.copy.pop(change.key, None)
                else:
                    self.copy[change.key] = change.value
            assert self.copy == dict(shown.view)
        return shown

    def view(self) -> dict:
        return dict(self.fold.view)


@pytest.fixture
def watched() -> Watched:
    it = Watched()
    for response in (opened(START.START_SNAPSHOT, 5), snapshot({"a": 1, "b": 2}), synced(5)):
        it.take(response)
    return it


def test_a_snapshot_is_seen_whole_or_not_at_all():
    it = Watched()
    it.take(opened(START.START_SNAPSHOT, 5))
    assert it.take(snapshot({"a": 1})) is None
    assert it.view() == {}
    # Walked in order of change: what changed meanwhile comes again, deletions too.
    it.take(snapshot({"b": 2, "a": None}))
    shown = it.take(synced(7))
    assert shown
    assert it.view() == {"b": 2}
    assert it.fold.token == b"token 7"


def test_an_empty_state_is_told_once():
    it = Watched()
    it.take(opened(START.START_SNAPSHOT, 5))
    assert it.take(synced(5)).changes == []
    it.fold.on_disconnect()
    it.take(opened(START.START_RESUMED, 5))
    assert it.take(synced(5)) is None


def test_deltas_chain_through_bookmarks(watched):
    watched.take(delta(5, 6, {"a": 9}))
    watched.take(bookmark(40))
    assert watched.fold.token == b"token 40"
    assert len(watched.take(delta(40, 41, {"b": None})).changes) == 1
    assert watched.view() == {"a": 9}


def test_a_delta_in_parts_is_applied_with_its_last_part(watched):
    assert watched.take(delta(5, None, {"a": 7}, more=True)) is None
    assert watched.view()["a"] == 1
    assert len(watched.take(delta(5, 6, {"b": 8})).changes) == 2
    assert watched.view() == {"a": 7, "b": 8}


def test_an_unfinished_delta_is_forgotten_with_its_stream(watched):
    watched.take(delta(5, None, {"a": 7}, more=True))
    watched.fold.on_disconnect()
    watched.take(opened(START.START_RESUMED, 5))
    watched.take(synced(5))
    assert watched.view()["a"] == 1


def test_half_a_snapshot_is_forgotten_and_the_view_stays_until_the_next_is_whole(watched):
    watched.take(reset())
    watched.take(snapshot({"a": 3}))
    watched.take(bookmark(9))
    watched.fold.on_disconnect()
    assert watched.fold.token == b""
    assert watched.view() == {"a": 1, "b": 2}


def test_after_a_reset_the_changes_lead_from_the_old_view_to_the_new(watched):
    watched.take(reset())
    watched.take(snapshot({"a": 1}, revision=1))
    watched.take(snapshot({"c": 3}, revision=9))
    shown = watched.take(synced(9))
    # `a` is as it was.
    assert {change.key: change.deleted for change in shown.changes} == {"b": True, "c": False}


@pytest.mark.parametrize(
    "response",
    [
        delta(4, 6, {"a": 1}),
        delta(5, None, {"a": 1}),
        bookmark(4),
        snapshot({"a": 1}),
        opened(START.START_RESUMED, 3),
    ],
    ids=["other base", "no position", "back", "unannounced snapshot", "resumed elsewhere"],
)
def test_frames_that_do_not_chain_are_noticed(watched, response):
    with pytest.raises(BrokenChain):
        watched.take(response)


def test_a_delta_in_parts_is_not_cut_by_another_frame(watched):
    watched.take(delta(5, None, {"a": 7}, more=True))
    with pytest.raises(BrokenChain):
        watched.take(bookmark(6))


def test_a_watch_from_a_position_goes_on_from_there():
    it = Watched(Position(5, b"token 5"))
    it.take(opened(START.START_RESUMED, 5))
    assert len(it.take(delta(5, 6, {"a": 1})).changes) == 1
    assert it.take(synced(6)) is None


class Fixed(Backoff):
    """Waits of 1, 2, 4 seconds."""

    def __init__(self) -> None:
        super().__init__(1, 8)
        self.waits = [1, 2, 4, 8]

    def next_wait(self) -> float:
        return self.waits.pop(0)

    def reset(self) -> None:
        self.waits = [1, 2, 4, 8]


def plan(**options) -> Plan:
    return Plan(KIND, watch_pb2.WatchOptions(**options), backoff=Fixed())


def live_plan() -> Plan:
    it = plan()
    for response in (opened(START.START_SNAPSHOT, 5), snapshot({"a": 1}), synced(5)):
        it.on_frame(response)
    return it


def unavailable(**fields) -> Unavailable:
    return Unavailable("away", code="UNAVAILABLE", **fields)


def test_the_loss_of_the_server_is_told_once_and_so_is_its_return():
    it = live_plan()
    assert [it.on_end(unavailable()), it.on_end(unavailable())] == [1, 2]
    assert [notice.what for notice in it.take_notices()] == ["lost"]
    assert it.is_lost
    assert it.request().options.resume_token == b"token 5"
    it.on_frame(opened(START.START_RESUMED, 5))
    it.on_frame(synced(5))
    assert [notice.what for notice in it.take_notices()] == ["back"]
    assert (it.on_end(unavailable()), it.reconnects) == (1, 3)


def test_an_announced_end_is_no_loss_and_says_how_long_to_wait():
    it = live_plan()
    closing = watch_pb2.WatchClosing(reason=watch_pb2.WatchClosing.REASON_MAX_AGE)
    closing.reconnect_after.FromMilliseconds(1500)
    it.on_frame(frame(closing=closing))
    assert it.on_end(unavailable()) == 1.5
    assert it.take_notices() == []


def test_the_server_says_when_to_come_again():
    assert live_plan().on_end(unavailable(retry_after=3)) == 4


def test_a_token_that_is_none_any_more_is_dropped():
    it = live_plan()
    assert it.on_end(DuiteError("other", reason="EPOCH_CHANGED", code="ABORTED")) == 1
    assert it.request().options.resume_token == b""
    # And where none was given, the error is the caller's.
    with pytest.raises(InvalidArgument):
        plan().on_end(InvalidArgument("bad name", code="INVALID_ARGUMENT"))


def test_an_end_with_ok_is_a_break_unless_it_was_asked_for():
    assert live_plan().on_end(None) == 1


def test_a_stream_is_dead_after_three_heartbeats():
    it = plan()
    assert it.silence() == 10
    told = START(start=START.START_SNAPSHOT, position=position(5))
    told.heartbeat_interval.seconds = 5
    it.on_frame(frame(opened=told))
    assert it.silence() == 15
    assert it.on_silence() == 1
    # The next one has to open first.
    it.request()
    assert it.silence() == 10


def test_a_server_that_breaks_each_chain_is_asked_ever_less_often():
    it = live_plan()
    waits = []
    for _ in range(3):
        with pytest.raises(BrokenChain) as broken:
            it.on_frame(delta(99, 100, {"a": 1}))
        waits.append(it.on_broken(broken.value))
        for response in (opened(START.START_SNAPSHOT, 5), snapshot({"a": 1}), synced(5)):
            it.on_frame(response)
    assert waits == [1, 2, 4]
    it.on_frame(bookmark(6))
    assert it.on_end(unavailable()) == 1


def test_updates_only_is_asked_for_until_there_is_a_token():
    it = plan(updates_only=True)
    assert it.request().options.updates_only
    it.on_frame(opened(START.START_LIVE, 5))
    it.on_frame(synced(5))
    assert not it.request().options.updates_only


def test_an_unknown_frame_is_ignored():
    assert live_plan().on_frame(state_service_pb2.WatchStateResponse()) is None
    assert KIND.method is WATCH_STATE
