//! A watcher: the client's half of a watch with what its driver does, and every frame it was sent.

use bytes::Bytes;
use prost::Message;

use super::{
    call::{PARENT, state_name},
    event::{ConnId, Event, Heard, Opening},
    history::{Change, Frame, Start, Stream, complete_at},
    truth::{Seen, seen, task_seen},
    world::{Who, World},
};
use crate::{
    client::{
        short_name,
        simulated::{StateSide, TaskSide, reason},
    },
    proto::v1::{
        KeyChange, KeyFilter, Position, RemovedTask, StateDelta, Task, WatchClosing, WatchOpened,
        WatchOptions, WatchReset, WatchStateRequest, WatchTasksRequest, key_change, watch_closing,
        watch_opened, watch_reset, watch_state_response, watch_tasks_response,
    },
};

/// A token younger than this must be honoured: the history that is kept, less what its frame may
/// have waited for a slow reader and on its way.
const FRESH_MS: u64 = 480_000;

/// What is watched.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    States {
        names: Vec<&'static str>,
        filter: KeyFilter,
        inline_limit: usize,
    },
    Tasks,
}

impl Wish {
    /// What a watch with this wish makes of a key; `None`: it does not watch it.
    pub(super) fn shown(&self, key: &str, value: &Seen) -> Option<Seen> {
        let Self::States {
            names,
            filter,
            inline_limit,
        } = self
        else {
            return Some(*value);
        };
        let (state, key) = key.split_once('/')?;
        let all = filter.exact.is_empty() && filter.prefixes.is_empty();
        let wanted = all
            || filter.exact.iter().any(|exact| exact == key)
            || filter.prefixes.iter().any(|prefix| key.starts_with(prefix));
        if !names.contains(&state) || !wanted {
            return None;
        }
        let limit = if *inline_limit == 0 {
            64 << 10
        } else {
            *inline_limit
        };
        Some(if value.bytes > limit {
            stub(value.bytes)
        } else {
            *value
        })
    }
}

fn stub(bytes: usize) -> Seen {
    Seen { number: -1, bytes }
}

enum Side {
    States(StateSide),
    Tasks(TaskSide),
}

/// A place to resume from.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    pub(super) epoch: String,
    pub(super) told_ms: u64,
}

pub(super) struct Watcher {
    pub(super) wish: Wish,
    side: Side,
    options: WatchOptions,
    pub(super) streams: Vec<Stream<Seen>>,
    /// For each stream, whether it may begin anew in spite of its token.
    pub(super) excused: Vec<bool>,
    /// For each stream, when something was heard, with the longest silence that is promised; none
    /// where it was read slowly.
    pub(super) heard: Vec<(u64, Option<Vec<u64>>)>,
    pub(super) place: Option<Place>,
    pub(super) conn: Option<ConnId>,
    /// It began with what changed from then on.
    pub(super) partial: bool,
    /// What it holds it was not sent by its own watch: it was read, or another had it.
    pub(super) read_before: bool,
    /// It has gone.
    pub(super) closed: bool,
    /// Its token was made for another request.
    pub(super) wrong_filter: bool,
    sent_token: Option<Place>,
}

impl Watcher {
    pub(super) fn new(wish: Wish, mut options: WatchOptions, from: Option<&Place>) -> Self {
        // Whoever holds something wants all of it: see `WatchStart`.
        options.updates_only &= from.is_none();
        let position = from.map(|place| &place.position);
        let side = match &wish {
            Wish::States { names, .. } => {
                let names: Vec<_> = names.iter().map(|name| state_name(name)).collect();
                Side::States(StateSide::new(&names, position))
            }
            Wish::Tasks => Side::Tasks(TaskSide::new(position)),
        };
        Self {
            wish,
            side,
            partial: options.updates_only,
            options,
            streams: Vec::new(),
            excused: Vec::new(),
            heard: Vec::new(),
            place: from.cloned(),
            conn: None,
            read_before: false,
            closed: false,
            wrong_filter: false,
            sent_token: None,
        }
    }

    /// The same watch as another one, begun again from a place that one was at: with what it had
    /// been sent by then.
    pub(super) fn fork(&self, place: &Place) -> Self {
        let mut fork = Self::new(self.wish.clone(), self.options.clone(), Some(place));
        fork.partial = self.partial;
        fork.read_before = true;
        // What was sent after the place is not held.
        let at = Some(place.position.revision);
        let mut streams = self.streams.clone();
        while let Some(stream) = streams.last_mut() {
            let told = stream
                .frames
                .iter()
                .rposition(|frame| complete_at(frame) == at);
            if let Some(told) = told {
                stream.frames.truncate(told + 1);
                break;
            }
            streams.pop();
        }
        fork.excused = self.excused[..streams.len()].to_vec();
        fork.streams = streams;
        fork
    }

    /// A watch with a token that was made for another.
    pub(super) fn with_wrong_filter(mut self) -> Self {
        self.wrong_filter = true;
        self
    }

    pub(super) fn revision(&self) -> Option<i64> {
        match &self.side {
            Side::States(side) => side.revision(),
            Side::Tasks(side) => side.revision(),
        }
    }

    /// What the program sees: each key's revision.
    pub(super) fn view(&self) -> std::collections::BTreeMap<String, i64> {
        match &self.side {
            Side::States(side) => side.view(),
            Side::Tasks(side) => side.view(),
        }
    }

    fn token(&self) -> Bytes {
        match &self.side {
            Side::States(side) => side.token(),
            Side::Tasks(side) => side.token(),
        }
    }

    /// The request of the next stream.
    fn opening(&mut self) -> Opening {
        let token = self.token();
        self.sent_token = self.place.clone().filter(|_| !token.is_empty());
        if token.is_empty() {
            self.place = None;
        }
        let options = Some(WatchOptions {
            updates_only: self.options.updates_only && token.is_empty(),
            resume_token: token,
            ..self.options.clone()
        });
        match &self.wish {
            Wish::States {
                names,
                filter,
                inline_limit,
            } => Opening::States(WatchStateRequest {
                names: names.iter().map(|name| state_name(name)).collect(),
                keys: Some(filter.clone()),
                options,
                inline_limit_bytes: *inline_limit as i64,
            }),
            Wish::Tasks => Opening::Tasks(WatchTasksRequest {
                parent: PARENT.to_owned(),
                options,
                ..Default::default()
            }),
        }
    }
}

impl World {
    pub(super) fn connect_watcher(&mut self, index: usize) {
        let watcher = &mut self.watchers[index];
        if watcher.closed || watcher.conn.is_some() {
            return;
        }
        let opening = watcher.opening();
        let resumed_from = watcher
            .sent_token
            .as_ref()
            .map(|place| place.position.revision);
        watcher.streams.push(Stream {
            resumed_from,
            frames: Vec::new(),
        });
        watcher.excused.push(watcher.wrong_filter);
        watcher.heard.push((0, Some(Vec::new())));
        let conn = self.connect(Who::Watcher(index), opening);
        self.watchers[index].conn = Some(conn);
    }

    pub(super) fn watcher_disconnected(&mut self, index: usize) {
        let now = self.net.now_ms();
        let watcher = &mut self.watchers[index];
        watcher.conn = None;
        if let Some((_, Some(heard))) = watcher.heard.last_mut()
            && !heard.is_empty()
        {
            heard.push(now);
        }
        match &mut watcher.side {
            Side::States(side) => side.on_disconnect(),
            Side::Tasks(side) => side.on_disconnect(),
        }
        let wait_ms = self.backoff_ms();
        self.net
            .post(4_000 + index as u32, wait_ms, Event::ConnectWatcher(index));
    }

    /// The connection was cut or is not read: silence proves nothing from here on.
    pub(super) fn watcher_is_deaf(&mut self, index: usize) {
        if let Some((_, heard)) = self.watchers[index].heard.last_mut() {
            *heard = None;
        }
    }

    pub(super) fn watcher_hears(&mut self, index: usize, heard: Heard) {
        let now = self.net.now_ms();
        if let Some((_, Some(heard))) = self.watchers[index].heard.last_mut() {
            heard.push(now);
        }
        let broken = match heard {
            Heard::States(response) => {
                let frame = response.frame.clone().expect("a frame of this version");
                let Wish::States { names, .. } = &self.watchers[index].wish else {
                    panic!("a watch of tasks hears of no state");
                };
                let frame = state_frame(names, frame);
                self.note_frame(index, frame);
                match &mut self.watchers[index].side {
                    Side::States(side) => side.on_frame(response),
                    Side::Tasks(_) => unreachable!("it watches states"),
                }
            }
            Heard::Tasks(response) => {
                let frame = response.frame.clone().expect("a frame of this version");
                self.note_frame(index, task_frame(frame));
                match &mut self.watchers[index].side {
                    Side::Tasks(side) => side.on_frame(response),
                    Side::States(_) => unreachable!("it watches tasks"),
                }
            }
            Heard::End(status) => return self.watcher_told_the_end(index, status),
            Heard::Push(_) | Heard::Leases(_) => panic!("a watcher does not hear {heard:?}"),
        };
        if let Err(problem) = broken {
            self.broken(format!("watcher {index} cannot follow: {problem}"));
        }
    }

    fn watcher_told_the_end(&mut self, index: usize, status: Option<tonic::Status>) {
        let why = status.as_ref().map(reason).unwrap_or_default();
        match why.as_str() {
            "REVISION_COMPACTED" | "EPOCH_CHANGED" | "RESUME_TOKEN_MALFORMED" => {
                let kind = if why == "REVISION_COMPACTED" {
                    "watch: refused, compacted"
                } else {
                    "call: position of another epoch"
                };
                self.counts.add(kind, 1);
                // It asked to be told: it begins anew without a token.
                let watcher = &mut self.watchers[index];
                let (wish, mut options) = (watcher.wish.clone(), watcher.options.clone());
                options.min_position = Bytes::new();
                let mut anew = Watcher::new(wish, options, None);
                anew.partial |= watcher.partial;
                anew.streams = std::mem::take(&mut watcher.streams);
                anew.excused = std::mem::take(&mut watcher.excused);
                anew.heard = std::mem::take(&mut watcher.heard);
                *watcher = anew;
                // What was held goes with it.
                if let Some(stream) = watcher.streams.last_mut() {
                    stream.frames.push(Frame::Reset);
                    stream.resumed_from = None;
                }
                self.watcher_disconnected(index);
            }
            ""
            | "STREAM_BROKEN"
            | "STREAM_DRAINING"
            | "NOT_READY"
            | "UNAVAILABLE"
            | "JOURNAL_UNAVAILABLE"
            | "NAMESPACE_NOT_FOUND" => self.watcher_disconnected(index),
            _ => {
                self.broken(format!("watcher {index} was told {why:?}: {status:?}"));
                self.watcher_disconnected(index);
            }
        }
    }

    /// Keeps a frame, and what it says about the stream.
    fn note_frame(&mut self, index: usize, (frame, told): (Frame<Seen>, Told)) {
        let now = self.net.now_ms();
        let watcher = &mut self.watchers[index];
        for kind in &told.kinds {
            self.counts.add(kind, 1);
        }
        match &frame {
            Frame::Opened { epoch, start, .. } => {
                if *start == Start::Snapshot {
                    // Where it was is no place to come back to.
                    watcher.place = None;
                }
                let number = watcher.excused.len() - 1;
                if let Some(sent) = &watcher.sent_token {
                    let age = now - sent.told_ms;
                    watcher.excused[number] |= sent.epoch != *epoch || age > FRESH_MS;
                    if age > FRESH_MS {
                        self.counts.add("case: stale token", 1);
                    }
                }
                if let Some((limit, _)) = watcher.heard.last_mut() {
                    *limit = told.heartbeat_ms;
                }
                watcher.wrong_filter = false;
            }
            Frame::Reset => {
                watcher.place = None;
            }
            Frame::Delta { changes, .. } => {
                let gone = changes
                    .iter()
                    .filter(|change| change.value.is_none())
                    .count() as u64;
                self.counts.add("watch: deletion", gone);
                let caught_up = watcher.streams.last().is_some_and(|stream| {
                    stream
                        .frames
                        .iter()
                        .all(|frame| complete_at(frame).is_none())
                });
                if caught_up && watcher.sent_token.is_some() {
                    self.counts.add("case: resumed over a deletion", gone);
                }
            }
            _ => {}
        }
        let first_part = |frames: &[Frame<Seen>]| matches!(frames.last(), Some(Frame::Snapshot(_)));
        let stream = watcher.streams.last_mut().expect("it was opened");
        if matches!(frame, Frame::Snapshot(_)) && first_part(&stream.frames) {
            self.counts.add("watch: snapshot in parts", 1);
        }
        if let Some(position) = told.position {
            let epoch = stream.frames.iter().find_map(|frame| match frame {
                Frame::Opened { epoch, .. } => Some(epoch.clone()),
                _ => None,
            });
            watcher.place = Some(Place {
                position,
                epoch: epoch.unwrap_or_default(),
                told_ms: now,
            });
        }
        stream.frames.push(frame);
    }
}

/// What a frame says beside its content.
#[derive(Default)]
struct Told {
    kinds: Vec<&'static str>,
    position: Option<Position>,
    heartbeat_ms: u64,
}

fn told(kind: &'static str) -> Told {
    Told {
        kinds: vec![kind],
        ..Told::default()
    }
}

fn state_frame(names: &[&str], frame: watch_state_response::Frame) -> (Frame<Seen>, Told) {
    use watch_state_response::Frame as In;
    let stubs = std::cell::Cell::new(0);
    let changes = |changes: Vec<KeyChange>| -> Vec<Change<Seen>> {
        let changes = changes.into_iter().map(|change| Change {
            key: format!("{}/{}", names[change.target as usize], change.key),
            value: match change.change.expect("a change is one of three") {
                key_change::Change::Value(value) => Some(seen(&value)),
                key_change::Change::Deleted(_) => None,
                key_change::Change::Stub(large) => {
                    stubs.set(stubs.get() + 1);
                    Some(stub(usize::try_from(large.size_bytes).expect("a size")))
                }
            },
            revision: change.mod_revision,
        });
        changes.collect()
    };
    let (frame, mut told) = match frame {
        In::Opened(frame) => opened(frame),
        In::Snapshot(chunk) => (
            Frame::Snapshot(changes(chunk.entries)),
            told("watch: snapshot"),
        ),
        In::Synced(frame) => positioned("watch: synced", Frame::Synced, frame.position),
        In::Delta(delta) => {
            // Encoded within the frame: see `build.rs`.
            let delta = StateDelta::decode(delta).expect("a delta can be read");
            let changes = changes(delta.changes);
            self::delta(delta.base_revision, delta.position, delta.more, changes)
        }
        In::Bookmark(frame) => positioned("watch: bookmark", Frame::Bookmark, frame.position),
        In::Reset(frame) => reset(frame),
        In::Closing(frame) => closing(frame),
    };
    told.kinds
        .extend((0..stubs.get()).map(|_| "watch: large value as a stub"));
    (frame, told)
}

fn task_frame(frame: watch_tasks_response::Frame) -> (Frame<Seen>, Told) {
    use watch_tasks_response::Frame as In;
    let changes = |tasks: Vec<Task>, removed: Vec<RemovedTask>| -> Vec<Change<Seen>> {
        let changed = tasks.into_iter().map(|task| Change {
            value: Some(task_seen(task.status, task.attempt, !task.flush_incomplete)),
            revision: task.revision,
            key: short_name(&task.name).to_owned(),
        });
        let removed = removed.into_iter().map(|removed| Change {
            key: short_name(&removed.name).to_owned(),
            value: None,
            revision: 0,
        });
        changed.chain(removed).collect()
    };
    match frame {
        In::Opened(frame) => opened(frame),
        In::Snapshot(chunk) => {
            let changes = changes(chunk.tasks, Vec::new());
            (Frame::Snapshot(changes), told("watch: snapshot"))
        }
        In::Synced(frame) => positioned("watch: synced", Frame::Synced, frame.position),
        In::Delta(frame) => {
            let changes = changes(frame.changed, frame.removed);
            delta(frame.base_revision, frame.position, frame.more, changes)
        }
        In::Bookmark(frame) => positioned("watch: bookmark", Frame::Bookmark, frame.position),
        In::Reset(frame) => reset(frame),
        In::Closing(frame) => closing(frame),
    }
}

fn opened(frame: WatchOpened) -> (Frame<Seen>, Told) {
    let (start, kind) = match frame.start() {
        watch_opened::Start::Resumed => (Start::Resumed, "watch: opened resumed"),
        watch_opened::Start::Live => (Start::Live, "watch: opened live"),
        watch_opened::Start::Snapshot => (Start::Snapshot, "watch: opened with a snapshot"),
        watch_opened::Start::Unspecified => panic!("a watch says how it starts"),
    };
    let heartbeat = frame
        .heartbeat_interval
        .map_or(0, |d| d.seconds as u64 * 1_000);
    let told = Told {
        heartbeat_ms: heartbeat,
        ..told(kind)
    };
    let frame = Frame::Opened {
        start,
        at: frame.position.map_or(0, |position| position.revision),
        epoch: frame.store_epoch,
    };
    (frame, told)
}

fn positioned(
    kind: &'static str,
    frame: impl Fn(i64) -> Frame<Seen>,
    position: Option<Position>,
) -> (Frame<Seen>, Told) {
    let at = position.as_ref().map_or(0, |position| position.revision);
    let told = Told {
        position,
        ..told(kind)
    };
    (frame(at), told)
}

fn delta(
    base: i64,
    position: Option<Position>,
    more: bool,
    changes: Vec<Change<Seen>>,
) -> (Frame<Seen>, Told) {
    assert_eq!(position.is_none(), more, "the last part has the position");
    let kind = if more {
        "watch: delta in parts"
    } else {
        "watch: delta"
    };
    let at = position.as_ref().map(|position| position.revision);
    let told = Told {
        position,
        ..told(kind)
    };
    (Frame::Delta { base, at, changes }, told)
}

fn reset(frame: WatchReset) -> (Frame<Seen>, Told) {
    let kind = match frame.reason() {
        watch_reset::Reason::Compacted => "watch: reset, compacted",
        watch_reset::Reason::EpochChanged => "watch: reset, epoch changed",
        watch_reset::Reason::FilterChanged => "watch: reset, filter changed",
        watch_reset::Reason::Unspecified => panic!("a reset says why"),
    };
    (Frame::Reset, told(kind))
}

fn closing(frame: WatchClosing) -> (Frame<Seen>, Told) {
    let kind = match frame.reason() {
        watch_closing::Reason::Draining => "watch: closing, draining",
        watch_closing::Reason::MaxAge => "watch: closing, max age",
        other => panic!("{other:?} is not closed for in this version"),
    };
    (Frame::Closing, told(kind))
}
