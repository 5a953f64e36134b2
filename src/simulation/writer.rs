//! A writer: the client's [`PushSide`] with what its driver does, and what it knows afterwards.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    call::state_name,
    event::{ConnId, Event, Heard, Opening},
    history,
    world::{Who, World},
};
use crate::{
    client::{
        Update,
        simulated::{PushSide, reason},
    },
    proto::v1::{
        PushKeepalive, PushOpen, PushStateRequest, PushStateResponse, push_directive::Kind,
        push_state_request, push_state_response::Frame,
    },
};

/// Longest wait for a server that goes away.
const DRAIN_MS: u64 = 5_000;
const KEEPALIVE_MS: u64 = 10_000;
/// So long may something sent wait for its acknowledgement.
const ACK_DEADLINE_MS: u64 = 30_000;

/// What the state holds for a leased writer's task.
#[derive(Clone, Debug)]
pub(super) struct Leased {
    pub(super) token: Bytes,
    pub(super) key: String,
    /// Grows from lease to lease.
    pub(super) base: i64,
}

pub(super) struct Writer {
    pub(super) name: String,
    pub(super) state: &'static str,
    pub(super) side: PushSide,
    pub(super) leased: Option<Leased>,
    pub(super) conn: Option<ConnId>,
    /// No stream will be opened any more.
    pub(super) gone: bool,
    /// A restore took back what was acknowledged.
    pub(super) forgiven: bool,
    pub(super) flushes: i64,
    acknowledged: i64,
    opened: Vec<(i64, i64, i64)>,
    /// The flushes that each batch completes, from batch 1 on.
    batches: Vec<i64>,
    draining: bool,
    open: bool,
}

impl Writer {
    pub(super) fn new(name: String, state: &'static str, id: u128, leased: Option<Leased>) -> Self {
        Self {
            name,
            state,
            side: PushSide::new(Uuid::from_u128(id)),
            leased,
            conn: None,
            gone: false,
            forgiven: false,
            flushes: 0,
            acknowledged: 0,
            opened: Vec::new(),
            batches: Vec::new(),
            draining: false,
            open: false,
        }
    }

    /// The flushes that are in effect when the batches up to `sequence` are.
    fn flushes_in(&self, sequence: i64) -> i64 {
        let index = usize::try_from(sequence).unwrap_or(0);
        index.checked_sub(1).map_or(0, |last| {
            self.batches.get(last).copied().unwrap_or(self.flushes)
        })
    }

    /// Notes which flushes were numbered.
    fn note_numbers(&mut self) {
        while (self.batches.len() as i64) < self.side.last_sequence() {
            self.batches.push(self.flushes);
        }
    }

    /// What it knows, in flushes.
    pub(super) fn history(&self) -> history::Writer {
        history::Writer {
            name: self.name.clone(),
            sent: self.flushes,
            acknowledged: if self.forgiven { 0 } else { self.acknowledged },
            opened: if self.forgiven {
                Vec::new()
            } else {
                self.opened.clone()
            },
        }
    }

    /// The last progress that was written.
    pub(super) fn progress(&self) -> Option<i64> {
        let leased = self.leased.as_ref()?;
        Some(leased.base + self.flushes)
    }
}

impl World {
    /// One flush: its number, a 1 for its own sum and for everybody's, and some of what else there
    /// is to write.
    pub(super) fn flush(&mut self, index: usize) {
        let random = self.rng.u32(..);
        let writer = &mut self.writers[index];
        if writer.gone {
            return;
        }
        writer.flushes += 1;
        let mut updates = vec![
            Update::put(format!("last/{}", writer.name), writer.flushes),
            Update::add(format!("sum/{}", writer.name), 1),
            Update::add("total", 1),
        ];
        if let Some(progress) = writer.progress() {
            let key = writer.leased.as_ref().map(|leased| leased.key.clone());
            updates.push(Update::put(key.expect("it has progress"), progress));
        }
        let number = i64::from(random >> 8);
        let tmp = format!("tmp/{}", random % 5);
        match random % 16 {
            0..4 => {
                updates.push(Update::put("pair/a", number));
                updates.push(Update::put("pair/b", number));
            }
            4 => {
                updates.push(Update::delete("pair/a"));
                updates.push(Update::delete("pair/b"));
            }
            5..8 => updates.push(Update::put(tmp, number)),
            8..10 => updates.push(Update::delete(tmp)),
            10 => updates.push(Update::max("high", number)),
            11 => updates.push(Update::min("low", number)),
            // A text takes no addition: this key is rejected, the batch is not.
            12 => updates.push(Update::add("text", 1)),
            13 => updates.push(Update::put("text", "so far")),
            _ => {}
        }
        writer.side.flush(updates);
        writer.note_numbers();
        if writer.conn.is_none() {
            self.connect_writer(index);
        }
        self.pump(index);
    }

    /// Numbers all that was flushed; the mark of it.
    pub(super) fn seal(&mut self, index: usize) -> i64 {
        let writer = &mut self.writers[index];
        let mark = writer.side.seal();
        writer.note_numbers();
        self.pump(index);
        mark
    }

    pub(super) fn connect_writer(&mut self, index: usize) {
        let writer = &self.writers[index];
        if writer.gone || writer.conn.is_some() {
            return;
        }
        let open = PushOpen {
            state_name: state_name(writer.state),
            writer_id: writer.side.writer().to_string(),
            lease_token: writer
                .leased
                .as_ref()
                .map(|l| l.token.clone())
                .unwrap_or_default(),
            wanted_window: [0, 1, 4, 64][self.rng.usize(..4)],
        };
        let conn = self.connect(Who::Writer(index), Opening::Push(open));
        let writer = &mut self.writers[index];
        writer.conn = Some(conn);
        writer.draining = false;
        writer.open = false;
        // Not opened by then, it is given up.
        let lane = self.conns[conn].up.id;
        self.net.post(lane, KEEPALIVE_MS, Event::Keepalive(conn));
    }

    /// Sends what is ready.
    pub(super) fn pump(&mut self, index: usize) {
        let Some(conn) = self.writers[index].conn else {
            return;
        };
        while let Some(frame) = self.writers[index].side.next_frame() {
            self.writers[index].note_numbers();
            self.send_frame(conn, frame);
        }
    }

    fn send_frame(&mut self, conn: ConnId, frame: PushStateRequest) {
        let fault = if self.calm {
            999
        } else {
            self.rng.u32(..1_000)
        };
        // The first frame of a writer cannot be missed: above batch 1 it would be a forgotten one.
        let known = match self.conns[conn].who {
            Who::Writer(index) => self.writers[index].acknowledged > 0,
            Who::Watcher(_) | Who::Worker(_) => false,
        };
        match fault {
            0..10 if known => {
                self.counts.add("fault: frame lost", 1);
                let lane = self.conns[conn].up.id;
                self.net
                    .post(lane, ACK_DEADLINE_MS, Event::ClientNotices(conn));
                return;
            }
            10..25 => {
                self.counts.add("fault: frame sent twice", 1);
                self.conns[conn].up.send(Event::Frame(conn, frame.clone()));
            }
            25..28 => {
                self.counts.add("fault: frames stalled", 1);
                let stall_ms = self.rng.u64(1_000..20_000);
                self.conns[conn].up.stall(stall_ms);
            }
            _ => {}
        }
        self.conns[conn].up.send(Event::Frame(conn, frame));
    }

    pub(super) fn keepalive(&mut self, conn: ConnId) {
        let Who::Writer(index) = self.conns[conn].who else {
            return;
        };
        if self.writers[index].conn != Some(conn) {
            return;
        }
        if !self.writers[index].open {
            self.client_notices(conn);
            return;
        }
        let frame = Some(push_state_request::Frame::Keepalive(PushKeepalive {}));
        let lane = &mut self.conns[conn].up;
        lane.send(Event::Frame(conn, PushStateRequest { frame }));
        let id = lane.id;
        self.net.post(id, KEEPALIVE_MS, Event::Keepalive(conn));
    }

    /// The stream is gone: what is unacknowledged goes out again on the next.
    pub(super) fn writer_disconnected(&mut self, index: usize) {
        let writer = &mut self.writers[index];
        writer.conn = None;
        writer.open = false;
        writer.side.on_disconnect();
        let wait_ms = self.backoff_ms();
        self.net
            .post(2_000 + index as u32, wait_ms, Event::ConnectWriter(index));
    }

    fn leave(&mut self, index: usize) {
        let writer = &mut self.writers[index];
        writer.gone = true;
        writer.open = false;
        writer.side.on_disconnect();
        if let Some(conn) = writer.conn.take() {
            self.hang_up(conn);
        }
    }

    pub(super) fn writer_hears(&mut self, index: usize, conn: ConnId, heard: Heard) {
        match heard {
            Heard::Push(PushStateResponse { frame: Some(frame) }) => {
                self.writer_hears_frame(index, conn, frame);
            }
            Heard::End(status) => {
                let why = status.as_ref().map(reason).unwrap_or_default();
                match why.as_str() {
                    "LEASE_LOST" => {
                        self.counts.add("push: lease lost", 1);
                        self.leave(index);
                    }
                    "WRITER_EXPIRED" => self.writer_lost(index),
                    "WRITER_TAKEN_OVER" => {
                        self.counts.add("push: taken over", 1);
                        self.writer_disconnected(index);
                    }
                    ""
                    | "STREAM_BROKEN"
                    | "STREAM_DRAINING"
                    | "NOT_READY"
                    | "UNAVAILABLE"
                    | "JOURNAL_UNAVAILABLE" => self.writer_disconnected(index),
                    _ => {
                        self.broken(format!(
                            "writer {} was told {why:?}: {status:?}",
                            self.writers[index].name
                        ));
                        self.leave(index);
                    }
                }
            }
            other => panic!("a writer does not hear {other:?}"),
        }
    }

    fn writer_hears_frame(&mut self, index: usize, conn: ConnId, frame: Frame) {
        match frame {
            Frame::Opened(opened) => {
                self.counts.add("push: opened", 1);
                let writer = &mut self.writers[index];
                let position = opened.last_sequence;
                let stood = (
                    writer.flushes,
                    writer.acknowledged,
                    writer.flushes_in(position),
                );
                if writer.side.on_opened(&opened).is_err() {
                    self.writer_lost(index);
                    return;
                }
                writer.opened.push(stood);
                writer.acknowledged = stood.1.max(stood.2);
                writer.open = true;
                writer.note_numbers();
            }
            Frame::Ack(ack) => {
                self.counts.add("push: ack", 1);
                self.counts
                    .add("push: rejected key", ack.rejected.len() as u64);
                let wrong = ack.rejected.iter().find(|rejected| rejected.key != "text");
                if let Some(wrong) = wrong {
                    self.broken(format!("{} was rejected: {}", wrong.key, wrong.reason));
                }
                let writer = &mut self.writers[index];
                writer.side.on_ack(ack.acked_sequence, ack.window.as_ref());
                let acknowledged = writer.flushes_in(ack.acked_sequence);
                writer.acknowledged = writer.acknowledged.max(acknowledged);
                writer.note_numbers();
                if writer.draining && writer.side.is_drained() {
                    self.hang_up(conn);
                    self.writer_disconnected(index);
                    return;
                }
            }
            Frame::Rewind(rewind) => {
                self.counts.add("push: rewind", 1);
                let writer = &mut self.writers[index];
                if writer.side.on_rewind(rewind.expected_sequence).is_err() {
                    self.writer_lost(index);
                    return;
                }
            }
            Frame::Directive(directive) => match directive.kind() {
                Kind::CancelRequested => {
                    self.counts.add("push: cancel requested", 1);
                    self.cancel_heard(index);
                }
                Kind::LeaseLost => {
                    self.counts.add("push: lease lost", 1);
                    self.leave(index);
                    return;
                }
                Kind::Reconnect => {
                    self.counts.add("push: reconnect", 1);
                    let writer = &mut self.writers[index];
                    writer.side.on_drain();
                    writer.draining = true;
                    let drained = writer.side.is_drained();
                    let wait_ms = if drained { 1 } else { DRAIN_MS };
                    let lane = self.conns[conn].up.id;
                    self.net.post(lane, wait_ms, Event::ClientNotices(conn));
                }
                Kind::Unspecified => self.broken("a directive that says nothing".to_owned()),
            },
        }
        self.pump(index);
    }

    /// The server has forgotten the writer: only a restore may do that.
    fn writer_lost(&mut self, index: usize) {
        self.counts.add("push: writer forgotten after a restore", 1);
        if !self.writers[index].forgiven {
            let name = self.writers[index].name.clone();
            self.broken(format!("the server forgot writer {name}"));
        }
        self.leave(index);
    }
}
