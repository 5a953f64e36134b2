//! The writer's side of PushState as a pure state machine: no clock, no network, no lock.
//!
//! A flush becomes a numbered batch at once where the window has room; else it folds into what is
//! *pending*, which has no number and gets one when room comes. A numbered batch never changes: it
//! is sent, and sent again after a reconnect or a rewind, until an acknowledgement or the opening
//! of a stream says that it is durable. So it is encoded once, when it gets its number.
//!
//! A queue has two such writers, its lanes (see `lanes`). What keeps the order of a key that moves
//! from one to the other is a *barrier*: what is pending gets no number, and what was numbered all
//! the same is not sent, before the other lane has that many batches acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;
use uuid::Uuid;

use super::{
    push_fold::{Chunk, Pending, weight_of},
    update::Update,
};
use crate::proto::v1::{PushOpened, PushWindow, UpdateBatch, UpdateBatches};

/// The API's limit for one UpdateBatches frame.
const MAX_FRAME_BYTES: usize = 1 << 20;
/// What a batch may weigh until the server says.
const DEFAULT_BATCH_BYTES: usize = 1 << 20;
/// Tag, length and the batch's own fields.
const BATCH_ENVELOPE: usize = 32;
/// Before each batch of an UpdateBatches stands its field's key, and its length.
const BATCHES_FIELD: u8 = 1 << 3 | 2;

/// What has happened so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) flushes: u64,
    pub(super) batches: u64,
    pub(super) sent: u64,
    pub(super) resent: u64,
    pub(super) acked: u64,
    pub(super) folded: u64,
    pub(super) split: u64,
    pub(super) overflows: u64,
    pub(super) writer_restarts: u64,
}

impl Counters {
    pub(super) fn add(&mut self, other: &Self) {
        self.flushes += other.flushes;
        self.batches += other.batches;
        self.sent += other.sent;
        self.resent += other.resent;
        self.acked += other.acked;
        self.folded += other.folded;
        self.split += other.split;
        self.overflows += other.overflows;
        self.writer_restarts += other.writer_restarts;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No stream, or one that the server has not opened yet.
    Offline,
    Open,
    /// The server goes away: what was sent is waited for, nothing more is sent.
    Draining,
}

/// The server's memory of this writer and ours do not meet: a new writer has to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WriterLost;

#[derive(Debug)]
struct Numbered {
    sequence: i64,
    /// An UpdateBatches of this one batch.
    encoded: Bytes,
    weight: usize,
    /// The writer's last: nothing comes after it.
    last: bool,
    sent: bool,
    /// Not sent before the other lane has so many batches acknowledged.
    after: u64,
}

impl Numbered {
    fn encode(batch: &UpdateBatch) -> Bytes {
        let mut encoded = Vec::with_capacity(batch.encoded_len() + BATCH_ENVELOPE);
        encoded.push(BATCHES_FIELD);
        batch
            .encode_length_delimited(&mut encoded)
            .expect("a Vec grows as needed");
        encoded.into()
    }

    fn decode(&self) -> UpdateBatch {
        let batches = UpdateBatches::decode(self.encoded.clone());
        let mut batches = batches.expect("it was encoded here").batches;
        batches.pop().expect("one batch was encoded")
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct PushCore {
    writer: Uuid,
    next_sequence: i64,
    unacked: VecDeque<Numbered>,
    unacked_bytes: usize,
    /// `unacked[..cursor]` went out on this stream, weighing `in_flight_bytes`.
    cursor: usize,
    in_flight_bytes: usize,
    pending: Pending,
    pending_limit: usize,
    phase: Phase,
    window_batches: usize,
    window_bytes: usize,
    /// The window is never larger than this, whatever the server allows.
    most_bytes: usize,
    batch_bytes: usize,
    /// See the module.
    barrier: u64,
    /// Batches that the other lane has acknowledged.
    reached: u64,
    counters: Counters,
}

impl PushCore {
    pub(super) fn new(writer: Uuid, pending_limit: usize) -> Self {
        Self {
            writer,
            next_sequence: 1,
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            cursor: 0,
            in_flight_bytes: 0,
            pending: Pending::default(),
            pending_limit,
            phase: Phase::Offline,
            window_batches: 1,
            window_bytes: 1,
            most_bytes: usize::MAX,
            batch_bytes: DEFAULT_BATCH_BYTES,
            barrier: 0,
            reached: 0,
            counters: Counters::default(),
        }
    }

    /// Never has more than `bytes` numbered, or else a single batch: what comes meanwhile folds.
    pub(super) fn with_most_bytes(self, bytes: usize) -> Self {
        Self {
            most_bytes: bytes,
            ..self
        }
    }

    pub(super) fn writer(&self) -> Uuid {
        self.writer
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The last number that was handed out; 0 before the first.
    pub(super) fn last_sequence(&self) -> i64 {
        self.next_sequence - 1
    }

    /// Batches that ever got a number, and those of them that are known to be durable. Other than
    /// sequences, these counts go on when the writer starts anew.
    pub(super) fn numbered(&self) -> u64 {
        self.counters.batches
    }

    pub(super) fn acked(&self) -> u64 {
        self.counters.acked
    }

    /// Whether something waits for a number.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether an update of this key waits for a number.
    pub(super) fn is_pending(&self, key: &str) -> bool {
        self.pending.contains(key)
    }

    /// Which batch is the last unacknowledged one to touch one of these keys, by its count; none
    /// that is not above `above`. It decodes what it looks at.
    pub(super) fn last_touching(&self, updates: &[Update], above: u64) -> Option<u64> {
        let counts = (self.acked() + 1..).zip(&self.unacked);
        let counts: Vec<_> = counts.filter(|(count, _)| *count > above).collect();
        let touches = |held: &Numbered| {
            let batch = held.decode();
            let mut keys = batch.updates.iter().map(|update| &update.key);
            keys.any(|key| updates.iter().any(|update| update.key == *key))
        };
        let mut latest = counts.into_iter().rev();
        latest
            .find(|(_, held)| touches(held))
            .map(|(count, _)| count)
    }

    /// What is pending, and what gets its number from here on, waits for so many acknowledged
    /// batches of the other lane.
    pub(super) fn set_barrier(&mut self, barrier: u64) {
        self.barrier = barrier;
    }

    /// The other lane has so many batches acknowledged.
    pub(super) fn set_reached(&mut self, reached: u64) {
        self.reached = reached;
    }

    /// Whether something waits for the other lane.
    pub(super) fn is_blocked(&self) -> bool {
        let next = self.unacked.get(self.cursor);
        (self.has_pending() && self.barrier > self.reached)
            || next.is_some_and(|next| next.after > self.reached)
    }

    /// Numbered batches that are not known to be durable.
    pub(super) fn unacked_batches(&self) -> usize {
        self.unacked.len()
    }

    /// The same, with what is pending as one more.
    pub(super) fn unsettled_batches(&self) -> usize {
        self.unacked.len() + usize::from(!self.pending.is_empty())
    }

    /// Bytes that are held: numbered and not acknowledged, and pending.
    pub(super) fn held_bytes(&self) -> usize {
        self.unacked_bytes + self.pending.weight()
    }

    /// Whether everything that was flushed is durable.
    pub(super) fn is_settled(&self) -> bool {
        self.unacked.is_empty() && self.pending.is_empty()
    }

    /// Whether something waits for an acknowledgement on this stream.
    pub(super) fn is_in_flight(&self) -> bool {
        self.cursor > 0
    }

    /// Takes one flush.
    pub(super) fn flush(&mut self, updates: Vec<Update>, now: Timestamp) {
        self.counters.flushes += 1;
        let weight = updates
            .iter()
            .map(|update| weight_of(&update.key, &update.operation))
            .sum();
        let is_free = self.pending.is_empty() && self.barrier <= self.reached;
        if is_free && weight <= self.batch_bytes && self.has_room(weight) {
            let updates = updates.into_iter().map(Update::into_wire).collect();
            self.number(Chunk { updates, weight }, 0, now, false);
            return;
        }
        if !self.pending.is_empty() {
            self.counters.folded += 1;
        }
        self.pending.fold_in(updates);
        self.bound_pending();
        self.number_pending_where_room(now);
    }

    /// Takes flushes that have waited elsewhere, folded.
    pub(super) fn absorb(&mut self, waited: Pending, now: Timestamp) {
        let flushes = waited.flushes() as u64;
        self.counters.flushes += flushes;
        self.counters.folded += flushes.saturating_sub(u64::from(self.pending.is_empty()));
        self.pending.merge(waited);
        self.bound_pending();
        self.number_pending_where_room(now);
    }

    fn bound_pending(&mut self) {
        if self.pending.weight() > self.pending_limit {
            self.counters.overflows += 1;
            self.pending.squeeze();
        }
    }

    /// Numbers everything that was flushed, room or not, so that its mark can be given to others.
    pub(super) fn seal(&mut self, now: Timestamp) {
        self.number_pending(now, false);
    }

    /// The same, and marks the last batch as the writer's last.
    pub(super) fn finish(&mut self, now: Timestamp) {
        if self.pending.is_empty() {
            self.number(Chunk::default(), 0, now, true);
        } else {
            self.number_pending(now, true);
        }
    }

    /// What is to be sent now, if anything: everything that is ready, up to the frame's limit.
    /// It is an encoded UpdateBatches.
    pub(super) fn next_encoded_frame(&mut self, now: Timestamp) -> Option<Bytes> {
        if self.phase != Phase::Open {
            return None;
        }
        self.number_pending_where_room(now);
        let first = self.cursor;
        let mut bytes = 0;
        while let Some(next) = self.unacked.get_mut(self.cursor) {
            // The writer's last batch goes beyond a window that is full: the server merges at once
            // what is final, and need not be waited for until then.
            let fits_window = self.cursor == 0
                || (self.cursor < self.window_batches
                    && self.in_flight_bytes + next.weight <= self.window_bytes)
                || (next.last
                    && self.cursor <= self.window_batches
                    && self.in_flight_bytes <= self.window_bytes);
            let fits_frame = self.cursor == first || bytes + next.weight <= MAX_FRAME_BYTES;
            if !fits_window || !fits_frame || next.after > self.reached {
                break;
            }
            if next.sent {
                self.counters.resent += 1;
            } else {
                self.counters.sent += 1;
                next.sent = true;
            }
            bytes += next.weight;
            self.in_flight_bytes += next.weight;
            self.cursor += 1;
        }
        let frame = self.unacked.range(first..self.cursor);
        match frame.len() {
            0 => None,
            1 => frame.map(|only| only.encoded.clone()).next(),
            _ => {
                let length = frame.clone().map(|held| held.encoded.len()).sum();
                let mut joined = Vec::with_capacity(length);
                frame.for_each(|held| joined.extend_from_slice(&held.encoded));
                Some(joined.into())
            }
        }
    }

    /// The same, decoded.
    #[cfg(test)]
    pub(super) fn next_frame(&mut self, now: Timestamp) -> Option<Vec<UpdateBatch>> {
        let frame = self.next_encoded_frame(now)?;
        let batches = UpdateBatches::decode(frame).expect("it was encoded here");
        Some(batches.batches)
    }

    /// The server has opened the stream and says what it has of this writer.
    pub(super) fn on_opened(&mut self, opened: &PushOpened) -> Result<(), WriterLost> {
        let first_held = self.next_sequence - self.unacked.len() as i64;
        if opened.last_sequence + 1 < first_held || opened.last_sequence >= self.next_sequence {
            return Err(WriterLost);
        }
        self.restart_from_the_first();
        self.drop_acked(opened.last_sequence);
        self.set_window(opened.window.as_ref());
        if let Ok(bytes @ 1..) = usize::try_from(opened.max_batch_bytes) {
            self.batch_bytes = bytes.min(DEFAULT_BATCH_BYTES);
        }
        self.phase = Phase::Open;
        Ok(())
    }

    /// Everything up to `sequence` is durable.
    pub(super) fn on_ack(&mut self, sequence: i64, window: Option<&PushWindow>) {
        self.drop_acked(sequence.min(self.next_sequence - 1));
        self.set_window(window);
    }

    /// The server saw a gap and wants everything from `expected` again.
    pub(super) fn on_rewind(&mut self, expected: i64) -> Result<(), WriterLost> {
        let first_held = self.next_sequence - self.unacked.len() as i64;
        if expected < first_held || expected > self.next_sequence {
            return Err(WriterLost);
        }
        self.cursor = self.cursor.min((expected - first_held) as usize);
        self.in_flight_bytes = self
            .unacked
            .iter()
            .take(self.cursor)
            .map(|held| held.weight)
            .sum();
        Ok(())
    }

    /// The stream is gone; everything not acknowledged goes out again on the next.
    pub(super) fn on_disconnect(&mut self) {
        self.phase = Phase::Offline;
        self.restart_from_the_first();
    }

    /// The server goes away: nothing more is sent on this stream.
    pub(super) fn on_drain(&mut self) {
        self.phase = Phase::Draining;
    }

    /// Whether the server goes away and has acknowledged everything that was sent.
    pub(super) fn is_drained(&self) -> bool {
        self.phase == Phase::Draining && self.cursor == 0
    }

    /// Starts as another writer; what was numbered and not acknowledged is numbered again, from 1.
    /// Says how many batches those are: the old writer may have brought some of them home.
    pub(super) fn restart_writer(&mut self, writer: Uuid) -> usize {
        self.on_disconnect();
        self.counters.writer_restarts += 1;
        self.writer = writer;
        self.next_sequence = 1;
        for held in &mut self.unacked {
            let mut batch = held.decode();
            batch.sequence = self.next_sequence;
            held.sequence = self.next_sequence;
            held.encoded = Numbered::encode(&batch);
            self.next_sequence += 1;
        }
        self.unacked.len()
    }

    fn restart_from_the_first(&mut self) {
        self.cursor = 0;
        self.in_flight_bytes = 0;
    }

    fn drop_acked(&mut self, sequence: i64) {
        while let Some(first) = self.unacked.front() {
            if first.sequence > sequence {
                break;
            }
            self.counters.acked += 1;
            self.unacked_bytes -= first.weight;
            if self.cursor > 0 {
                self.cursor -= 1;
                self.in_flight_bytes -= first.weight;
            }
            self.unacked.pop_front();
        }
    }

    fn set_window(&mut self, window: Option<&PushWindow>) {
        if let Some(window) = window {
            // A window is never nothing: that would wedge the writer.
            self.window_batches = usize::try_from(window.max_unacked_batches)
                .unwrap_or(1)
                .max(1);
            let bytes = usize::try_from(window.max_unacked_bytes).unwrap_or(1);
            self.window_bytes = bytes.min(self.most_bytes).max(1);
        }
    }

    fn has_room(&self, weight: usize) -> bool {
        let fits = self.unacked.len() < self.window_batches
            && self.unacked_bytes + weight + BATCH_ENVELOPE <= self.window_bytes;
        self.phase == Phase::Open && (fits || self.unacked.is_empty())
    }

    /// What is pending gets its number where there is room, and is sent once the other lane has come
    /// as far as the barrier says now.
    pub(super) fn number_behind_the_barrier(&mut self, now: Timestamp) {
        if !self.pending.is_empty() && self.has_room(self.pending.weight().min(self.batch_bytes)) {
            self.number_pending(now, false);
        }
    }

    fn number_pending_where_room(&mut self, now: Timestamp) {
        if !self.pending.is_empty()
            && self.barrier <= self.reached
            && self.has_room(self.pending.weight().min(self.batch_bytes))
        {
            self.number_pending(now, false);
        }
    }

    fn number_pending(&mut self, now: Timestamp, last: bool) {
        let folded = self.pending.flushes().saturating_sub(1);
        let chunks = self.pending.take(self.batch_bytes);
        let count = chunks.len();
        self.counters.split += count.saturating_sub(1) as u64;
        for (index, chunk) in chunks.into_iter().enumerate() {
            let is_last = index + 1 == count;
            self.number(
                chunk,
                if is_last { folded } else { 0 },
                now,
                last && is_last,
            );
        }
    }

    fn number(&mut self, chunk: Chunk, folded: usize, now: Timestamp, last: bool) {
        let batch = UpdateBatch {
            sequence: self.next_sequence,
            updates: chunk.updates,
            source_time: Some(now),
            folded_flushes: i32::try_from(folded).unwrap_or(i32::MAX),
            r#final: last,
        };
        let weight = chunk.weight + BATCH_ENVELOPE;
        debug_assert!(batch.encoded_len() <= weight);
        self.next_sequence += 1;
        self.counters.batches += 1;
        self.unacked_bytes += weight;
        self.unacked.push_back(Numbered {
            sequence: batch.sequence,
            encoded: Numbered::encode(&batch),
            weight,
            last,
            sent: false,
            after: self.barrier,
        });
    }
}

#[cfg(test)]
#[path = "push_core_tests.rs"]
pub(super) mod tests;
