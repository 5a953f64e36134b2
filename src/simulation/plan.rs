//! What the world does next, drawn from its seed.

use bytes::Bytes;
use prost::Message;

use super::{
    call::{PARENT, Purpose, Request, get, state_name},
    event::Event,
    history::{Change, Frame, Start, Stream},
    truth::seen,
    watcher::{Place, Watcher, Wish},
    worker::{integer, seconds},
    world::{STEP_LANE, World},
    writer::Writer,
};
use crate::{
    engine::token::ResumeToken,
    journal::Fault,
    proto::v1::{
        DeleteStateRequest, GetStateResponse, KeyFilter, KeyUpdate, Position, QueueSettings,
        UpdateQueueRequest, UpdateStateRequest, Value, WatchOptions, key_update::Operation,
        value::Kind,
    },
};

/// The states; the last is deleted again and again.
pub(super) const STATES: [&str; 3] = ["s0", "s1", "s2"];
const DELETED: &str = "s2";
/// The queues, whose settings change all the time.
pub(super) const QUEUES: [&str; 2] = ["default", "q1"];
const WRITERS: usize = 4;
const MOST_WATCHERS: usize = 9;
/// In one of so many seeds values are large enough to make a frame overflow.
const LARGE_IN: u64 = 25;

impl World {
    /// Who is there from the beginning.
    pub(super) fn populate(&mut self) {
        for index in 0..WRITERS {
            let id = self.rng.u128(..);
            let state = STATES[index % STATES.len()];
            self.writers
                .push(Writer::new(format!("w{index}"), state, id, None));
        }
        let all = Wish::States {
            names: STATES.to_vec(),
            filter: KeyFilter::default(),
            inline_limit: 0,
        };
        for wish in [all, Wish::Tasks] {
            let options = WatchOptions {
                heartbeat_interval: seconds(10),
                ..Default::default()
            };
            self.join(Watcher::new(wish, options, None));
        }
        self.connect_workers();
        self.net.post(STEP_LANE, 1, Event::Step);
    }

    /// One step of the plan, and when the next one is.
    pub(super) async fn step(&mut self) {
        if self.steps_left == 0 {
            return;
        }
        self.steps_left -= 1;
        self.steps += 1;
        match self.rng.u32(..1_000) {
            0..402 => {
                let index = self.rng.usize(..WRITERS);
                self.flush(index);
            }
            402..405 => self.kill_a_worker(),
            405..420 => self.change_a_queue(),
            420..500 => self.count_one(),
            500..580 => self.update_something(),
            580..600 => self.delete_state(),
            600..650 => self.submit(),
            650..720 => self.ask_for_work(),
            720..730 => self.cancel_some(),
            730..760 => self.watch_something(),
            760..775 => self.close_some_watcher(),
            775..790 => self.go_back(),
            790..795 => self.use_a_foreign_token(),
            795..815 => self.read_something(),
            815..825 => self.watch_from_a_write(),
            825..895 => self.cut(),
            895..915 => self.slow_down(),
            915..930 => self.take_a_backup(),
            930..950 => self.spoil_the_journal(),
            950..962 => {
                self.counts.add("fault: kill", 1);
                self.crash().await;
            }
            962..970 => {
                if self.server.is_up() {
                    self.counts.add("fault: restart in order", 1);
                    self.restart_in_order().await;
                }
            }
            970..974 => {
                let older = self.rng.bool();
                self.change_epoch(older).await;
            }
            974..980 => self.give_back(),
            _ => self.write_large(),
        }
        let wait_ms = match self.rng.u32(..1_000) {
            0..900 => self.rng.u64(1..30),
            900..970 => self.rng.u64(30..1_000),
            970..995 => self.rng.u64(1_000..20_000),
            // Long enough for history to be forgotten.
            995..997 => self.rng.u64(300_000..720_000),
            _ => 1,
        };
        self.net.post(STEP_LANE, wait_ms, Event::Step);
    }

    /// Pauses a queue, lets it go on, or sets how much may run.
    fn change_a_queue(&mut self) {
        let queue = QUEUES[self.rng.usize(..QUEUES.len())];
        let settings = QueueSettings {
            paused: self.rng.u8(..4) == 0,
            max_running: [0, 1, 2, 4][self.rng.usize(..4)],
            max_running_per_key: [0, 1, 2][self.rng.usize(..3)],
        };
        self.counts.add("queue: settings changed", 1);
        let request = UpdateQueueRequest {
            name: format!("{PARENT}/queues/{queue}"),
            settings: Some(settings),
            ..Default::default()
        };
        self.call(Request::SetQueue(request), Purpose::Forget);
    }

    /// A request that adds 1, whatever becomes of its repeats.
    fn count_one(&mut self) {
        self.requests.0 += 1;
        let updates = vec![update("requests", Operation::Add(integer(1)))];
        let request_id = self.random_uuid();
        self.call(
            Request::Update(UpdateStateRequest {
                name: state_name("s1"),
                updates,
                request_id,
                ..Default::default()
            }),
            Purpose::Count,
        );
    }

    fn update_something(&mut self) {
        let state = STATES[self.rng.usize(..STATES.len())];
        let number = self.rng.i64(0..1_000_000);
        let updates = match self.rng.u8(..3) {
            0 => vec![
                update("pair/a", Operation::Put(integer(number))),
                update("pair/b", Operation::Put(integer(number))),
            ],
            1 => vec![update("free", Operation::Put(integer(number)))],
            _ => vec![update("free", Operation::Delete(true))],
        };
        let expected_revision = match self.rng.u8(..4) {
            0 => self
                .places
                .last()
                .map_or(0, |place| place.position.revision),
            _ => 0,
        };
        let request_id = if self.rng.bool() {
            self.random_uuid()
        } else {
            String::new()
        };
        let request = UpdateStateRequest {
            name: state_name(state),
            updates,
            request_id,
            expected_revision,
            ..Default::default()
        };
        self.call(Request::Update(request), Purpose::Forget);
    }

    fn delete_state(&mut self) {
        let request = DeleteStateRequest {
            name: state_name(DELETED),
            uid: String::new(),
        };
        self.call(Request::Delete(request), Purpose::Forget);
    }

    /// Values that make deltas outweigh their state, and in some seeds a frame overflow.
    fn write_large(&mut self) {
        let state = STATES[self.rng.usize(..STATES.len())];
        let (keys, bytes) = if self.seed.is_multiple_of(LARGE_IN) {
            (15, 60_000)
        } else {
            (1, self.rng.usize(1_000..9_000))
        };
        let first = self.rng.usize(..3) * keys;
        let letter = self.rng.lowercase();
        let updates = (first..first + keys).map(|key| {
            let text = letter.to_string().repeat(bytes);
            let kind = Some(Kind::Text(text));
            let value = Value { kind }.encode_to_vec();
            update(&format!("large/{key}"), Operation::Put(value.into()))
        });
        let request = UpdateStateRequest {
            name: state_name(state),
            updates: updates.collect(),
            ..Default::default()
        };
        self.call(Request::Update(request), Purpose::Forget);
    }

    // Watches.

    pub(super) fn join(&mut self, watcher: Watcher) {
        self.watchers.push(watcher);
        self.connect_watcher(self.watchers.len() - 1);
    }

    fn is_crowded(&self) -> bool {
        self.watchers
            .iter()
            .filter(|watcher| !watcher.closed)
            .count()
            >= MOST_WATCHERS
    }

    fn wish(&mut self) -> Wish {
        if self.rng.u8(..8) == 0 {
            return Wish::Tasks;
        }
        let count = self.rng.usize(1..=STATES.len());
        let mut names = STATES.to_vec();
        self.rng.shuffle(&mut names);
        names.truncate(count);
        let filter = match self.rng.u8(..4) {
            0 => KeyFilter {
                exact: vec!["pair/a".to_owned(), "pair/b".to_owned(), "total".to_owned()],
                prefixes: Vec::new(),
            },
            1 => KeyFilter {
                exact: vec!["free".to_owned()],
                prefixes: vec!["tmp/".to_owned(), "progress/".to_owned()],
            },
            _ => KeyFilter::default(),
        };
        Wish::States {
            names,
            filter,
            inline_limit: [0, 0, 2_000][self.rng.usize(..3)],
        }
    }

    fn options(&mut self) -> WatchOptions {
        let min_delta_ms = [0, 0, 100, 8_000][self.rng.usize(..4)];
        WatchOptions {
            heartbeat_interval: seconds([5, 15, 60][self.rng.usize(..3)]),
            min_delta_interval: Some(prost_types::Duration {
                seconds: min_delta_ms / 1_000,
                nanos: i32::try_from(min_delta_ms % 1_000 * 1_000_000).expect("below a second"),
            }),
            fail_if_compacted: self.rng.u8(..4) == 0,
            updates_only: self.rng.u8(..6) == 0,
            ..Default::default()
        }
    }

    fn watch_something(&mut self) {
        if self.is_crowded() {
            return;
        }
        let mut options = self.options();
        if self.rng.u8(..3) == 0
            && let Some(place) = self.places.last()
        {
            options
                .min_position
                .clone_from(&place.position.resume_token);
        }
        let wish = self.wish();
        self.join(Watcher::new(wish, options, None));
    }

    fn close_some_watcher(&mut self) {
        let index = self.rng.usize(..self.watchers.len());
        // The first two see everything.
        if index < 2 {
            return;
        }
        self.watchers[index].closed = true;
        if let Some(conn) = self.watchers[index].conn.take() {
            self.hang_up(conn);
        }
    }

    /// Somebody comes back with the token of one who has gone or is still there, from wherever
    /// that one was; later perhaps than the history that is kept.
    fn go_back(&mut self) {
        if self.is_crowded() {
            return;
        }
        let index = self.rng.usize(..self.watchers.len());
        let watcher = &self.watchers[index];
        let Some(place) = watcher.place.clone().filter(|_| !watcher.wrong_filter) else {
            return;
        };
        let fork = watcher.fork(&place);
        self.join(fork);
    }

    fn use_a_foreign_token(&mut self) {
        let places = self
            .watchers
            .iter()
            .filter_map(|watcher| match &watcher.wish {
                // One that asked for the same as is asked for here is no foreigner.
                Wish::States { filter, .. } if filter.exact != ["total"] => watcher.place.clone(),
                _ => None,
            });
        // One that a read gave starts any watch.
        let places = places.filter(|place| {
            let token = ResumeToken::decode(&place.position.resume_token);
            token.is_ok_and(|token| token.filter.is_some())
        });
        let places: Vec<_> = places.collect();
        if places.is_empty() || self.is_crowded() {
            return;
        }
        let place = &places[self.rng.usize(..places.len())];
        let options = WatchOptions {
            fail_if_compacted: false,
            ..self.options()
        };
        let wish = Wish::States {
            names: vec!["s1", "s0"],
            filter: KeyFilter {
                exact: vec!["total".to_owned()],
                prefixes: Vec::new(),
            },
            inline_limit: 0,
        };
        self.join(Watcher::new(wish, options, Some(place)).with_wrong_filter());
    }

    /// Reads a state, to watch it from there.
    fn read_something(&mut self) {
        let state = STATES[self.rng.usize(..STATES.len())];
        let min_position = match (self.rng.u8(..3), self.places.is_empty()) {
            (0, false) => {
                let place = &self.places[self.rng.usize(..self.places.len())];
                place.position.resume_token.clone()
            }
            _ => Bytes::new(),
        };
        self.call(get(state, min_position), Purpose::WatchFrom);
    }

    /// Goes on from what was read.
    pub(super) fn watch_from(&mut self, read: GetStateResponse) {
        let Some(place) = self.place(read.position) else {
            return;
        };
        if self.is_crowded() {
            return;
        }
        let state = read.state.expect("an answer has its state");
        let name = crate::client::short_name(&state.name);
        let name = STATES.into_iter().find(|known| *known == name);
        let name = name.expect("it was asked for");
        let entries = state.entries.into_iter().map(|entry| Change {
            key: format!("{name}/{}", entry.key),
            value: Some(seen(&entry.value)),
            revision: entry.mod_revision,
        });
        let at = place.position.revision;
        let read = Stream {
            resumed_from: None,
            frames: vec![
                Frame::Opened {
                    start: Start::Snapshot,
                    epoch: place.epoch.clone(),
                    at,
                },
                Frame::Snapshot(entries.collect()),
                Frame::Synced(at),
            ],
        };
        let wish = Wish::States {
            names: vec![name],
            filter: KeyFilter::default(),
            inline_limit: 0,
        };
        let options = self.options();
        let mut watcher = Watcher::new(wish, options, Some(&place));
        watcher.streams.push(read);
        watcher.excused.push(false);
        watcher.read_before = true;
        self.join(watcher);
    }

    /// Sees what changes after a write, and nothing before it.
    fn watch_from_a_write(&mut self) {
        if self.places.is_empty() || self.is_crowded() {
            return;
        }
        let place = self.places[self.rng.usize(..self.places.len())].clone();
        let (wish, options) = (self.wish(), self.options());
        let mut watcher = Watcher::new(wish, options, Some(&place));
        watcher.partial = true;
        self.join(watcher);
    }

    pub(super) fn note_place(&mut self, position: Option<Position>) {
        let place = self.place(position);
        self.places.extend(place);
    }

    fn place(&self, position: Option<Position>) -> Option<Place> {
        let position = position?;
        let token = ResumeToken::decode(&position.resume_token).ok()?;
        Some(Place {
            epoch: token.epoch.to_string(),
            told_ms: self.net.now_ms(),
            position,
        })
    }

    // The disk.

    fn take_a_backup(&mut self) {
        self.backup = Some(self.server.disk.backup());
    }

    fn spoil_the_journal(&mut self) {
        let fault = match self.rng.u8(..4) {
            0 => Fault::UnknownCommitted,
            1 => Fault::UnknownLost,
            _ => Fault::Refuse,
        };
        if self.server.is_up() {
            self.server.disk.next_append(fault);
        }
    }
}

pub(super) fn update(key: &str, operation: Operation) -> KeyUpdate {
    KeyUpdate {
        key: key.to_owned(),
        operation: Some(operation),
    }
}
