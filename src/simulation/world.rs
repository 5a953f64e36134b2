//! The world of one seed: who is in it, and what happens next.

use std::sync::Arc;

use fastrand::Rng;
use tokio::sync::Semaphore;

use super::{
    call::{Call, Purpose, Reply, Request},
    count::Counts,
    disk::Disk,
    event::{Answer, ConnId, Event, Heard, Opening},
    history,
    net::{Lane, LaneId, Net, Pace},
    runs::{Crew, Process},
    server::{Half, Server, fork},
    watcher::{Place, Watcher},
    worker::{Attempt, Done, unexpected},
    writer::Writer,
};
use crate::{
    domain::Uid,
    engine::clock,
    journal::MemoryStore,
    proto::v1::{OutcomeResult, outcome_result, push_state_response::Frame},
};

pub(super) const STEP_LANE: LaneId = 2;
const FIRST_CONN_LANE: LaneId = 10_000;
const FIRST_CALL_LANE: LaneId = 1_000_000;
/// Frames in HTTP/2's window before the reader must read.
const CREDITS: usize = 4;
/// A call without an answer is sent again after this.
const OVERDUE_MS: u64 = 3_000;

/// Whose stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Writer(usize),
    Watcher(usize),
    /// One life of a worker, for news of its leases.
    Worker(Process),
}

/// One stream between a client and the server.
pub(super) struct Conn {
    pub(super) who: Who,
    pub(super) up: Lane,
    down: Option<Lane>,
    credits: Arc<Semaphore>,
    half: Option<Half>,
    /// The client listens.
    alive: bool,
    /// What is sent this way does not arrive any more.
    up_lost: bool,
    down_lost: bool,
    /// Read slowly: credits that were not given back yet.
    slow: bool,
    unread: usize,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: Rng,
    pub(super) net: Net,
    pub(super) server: Server,
    pub(super) conns: Vec<Conn>,
    pub(super) writers: Vec<Writer>,
    pub(super) watchers: Vec<Watcher>,
    pub(super) calls: Vec<Call>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) crew: Crew,
    pub(super) submissions: Vec<history::Submission>,
    pub(super) done: Vec<Done>,
    pub(super) counts: Counts,
    pub(super) steps_left: u32,
    pub(super) steps: u64,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
    /// A restore took something back.
    pub(super) lossy: bool,
    /// No answer of an earlier life of the server counts.
    restored_in_life: u64,
    /// Single requests that each count 1: sent, acknowledged.
    pub(super) requests: (i64, i64),
    pub(super) backup: Option<MemoryStore>,
    pub(super) epochs: u128,
    /// Positions of answers.
    pub(super) places: Vec<Place>,
    pub(super) marked: Vec<i64>,
    pub(super) finals: Vec<Reply>,
    /// What is broken.
    pub(super) violations: Vec<String>,
    pace: Pace,
    /// Every event is printed.
    traced: bool,
}

impl World {
    pub(super) async fn new(seed: u64, steps: u32) -> Self {
        fastrand::seed(seed);
        clock::simulated::start();
        let mut rng = fork(seed, 0);
        let net = Net::new();
        let pace = Pace {
            usual_ms: [1, 10, 40][rng.usize(..3)],
            spike_ms: [0, 500, 3_000][rng.usize(..3)],
        };
        let mut server = Server::new(Disk::new(rng.fork()), net.clone());
        server.start().await;
        Self {
            seed,
            rng,
            net,
            server,
            conns: Vec::new(),
            writers: Vec::new(),
            watchers: Vec::new(),
            calls: Vec::new(),
            attempts: Vec::new(),
            crew: Crew::default(),
            submissions: Vec::new(),
            done: Vec::new(),
            counts: Counts::default(),
            steps_left: steps,
            steps: 0,
            calm: false,
            lossy: false,
            restored_in_life: 0,
            requests: (0, 0),
            backup: None,
            epochs: 1,
            places: Vec::new(),
            marked: Vec::new(),
            finals: Vec::new(),
            violations: Vec::new(),
            pace,
            traced: std::env::var_os("DUITE_SIM_TRACE").is_some(),
        }
    }

    pub(super) fn broken(&mut self, problem: String) {
        let now = self.net.now_ms();
        self.violations.push(format!("at {now} ms: {problem}"));
    }

    pub(super) fn random_uuid(&mut self) -> String {
        uuid::Uuid::from_u128(self.rng.u128(..)).to_string()
    }

    pub(super) fn backoff_ms(&mut self) -> u64 {
        match self.rng.u8(..10) {
            _ if self.calm => 50,
            0..7 => self.rng.u64(1..300),
            _ => self.rng.u64(300..8_000),
        }
    }

    /// Runs until `reached`, or for so long. False: it was not reached.
    pub(super) async fn run_until(
        &mut self,
        limit_ms: u64,
        reached: impl Fn(&Self) -> bool,
    ) -> bool {
        let until = self.net.now_ms() + limit_ms;
        while !reached(self) {
            if self.net.now_ms() > until {
                return false;
            }
            let event = self.net.next().await;
            self.handle(event).await;
        }
        true
    }

    async fn handle(&mut self, event: Event) {
        if self.traced {
            let event = format!("{event:?}");
            let short: String = event.chars().take(20_000_000).collect();
            eprintln!("{:>9} {short}", self.net.now_ms());
        }
        match event {
            Event::Step => self.step().await,
            Event::ConnectWriter(index) => self.connect_writer(index),
            Event::ConnectWatcher(index) => self.connect_watcher(index),
            Event::ConnectWorker(process) => self.connect_worker(process),
            Event::Arrive(conn, opening) => self.arrive(conn, opening),
            Event::Frame(conn, frame) => {
                let conn = &self.conns[conn];
                if !conn.up_lost
                    && let Some(half) = &conn.half
                    && let Some(frames) = &half.frames
                {
                    // A closed stream takes nothing, as with a reset.
                    let _ = frames.try_send(frame);
                }
            }
            Event::Hear(conn, heard) => self.hear(conn, heard),
            Event::ServerNotices(conn) => {
                if let Some(half) = self.conns[conn].half.take() {
                    half.reset();
                }
            }
            Event::ClientNotices(conn) => self.client_notices(conn),
            Event::Keepalive(conn) => self.keepalive(conn),
            Event::ReadOn(conn) => self.read_on(conn),
            Event::Call(id, request) => self.serve(id, request),
            Event::Answer(id, answer) => self.answered(id, answer),
            Event::Overdue(id) => self.overdue(id),
            Event::Work(index) => self.work(index),
            Event::Died(life) => {
                if self.server.life == life && self.server.is_up() {
                    self.crash().await;
                }
            }
            Event::Nothing => {}
            Event::Start => {
                if !self.server.is_up() {
                    self.server.start().await;
                }
            }
        }
    }

    // Streams.

    pub(super) fn connect(&mut self, who: Who, opening: Opening) -> ConnId {
        let id = self.conns.len();
        let lane = FIRST_CONN_LANE + 2 * id as LaneId;
        let make = |lane: LaneId| {
            let rng = fork(self.seed, u64::from(lane));
            Lane::new(lane, self.net.clone(), rng, self.pace)
        };
        let mut conn = Conn {
            who,
            up: make(lane),
            down: Some(make(lane + 1)),
            credits: Arc::new(Semaphore::new(CREDITS)),
            half: None,
            alive: true,
            up_lost: false,
            down_lost: false,
            slow: false,
            unread: 0,
        };
        if !self.calm && self.rng.u8(..20) == 0 {
            // So long that the next may be there before it.
            let late_ms = self.rng.u64(10..12_000);
            conn.up.stall(late_ms);
        }
        conn.up.send(Event::Arrive(id, opening));
        self.conns.push(conn);
        id
    }

    fn arrive(&mut self, id: ConnId, opening: Opening) {
        let who = self.conns[id].who;
        let overtakes = matches!(who, Who::Writer(_))
            && self
                .conns
                .iter()
                .any(|conn| conn.who == who && conn.half.is_some());
        let conn = &mut self.conns[id];
        if conn.up_lost {
            return;
        }
        if overtakes {
            self.counts.add("fault: stream overtaken by the next", 1);
        }
        let down = conn.down.take().expect("it arrives once");
        conn.half = self.server.open(id, opening, down, conn.credits.clone());
    }

    fn hear(&mut self, id: ConnId, heard: Heard) {
        let conn = &mut self.conns[id];
        if matches!(heard, Heard::End(_)) {
            conn.half = None;
        }
        if conn.down_lost {
            if let Heard::Push(response) = &heard
                && let Some(Frame::Ack(_)) = response.frame
            {
                self.counts.add("fault: acknowledgement lost", 1);
            }
            return;
        }
        if conn.slow {
            conn.unread += 1;
        } else {
            conn.credits.add_permits(1);
        }
        if !conn.alive {
            return;
        }
        if matches!(heard, Heard::End(_)) {
            conn.alive = false;
        }
        match conn.who {
            Who::Writer(index) => self.writer_hears(index, id, heard),
            Who::Watcher(index) => self.watcher_hears(index, heard),
            Who::Worker(process) => self.worker_hears(process, heard),
        }
    }

    pub(super) fn client_notices(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        if !conn.alive {
            return;
        }
        conn.alive = false;
        conn.down_lost = true;
        if conn.half.is_some() && !conn.up_lost {
            // It lets go of the stream; what it sent before may still come to the server.
            let in_ms = self.rng.u64(1..2_000);
            let lane = self.conns[id].up.id;
            self.net.post(lane, in_ms, Event::ServerNotices(id));
        }
        match self.conns[id].who {
            Who::Writer(index) => self.writer_disconnected(index),
            Who::Watcher(index) => self.watcher_disconnected(index),
            Who::Worker(process) => self.worker_disconnected(process),
        }
    }

    /// The client ends a stream and does not listen any more.
    pub(super) fn hang_up(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        conn.alive = false;
        conn.down_lost = true;
        let lane = conn.up.id;
        self.net.post(lane, 20, Event::ServerNotices(id));
    }

    /// Streams that a client and the server both hold.
    fn whole_streams(&self) -> Vec<ConnId> {
        let ids = 0..self.conns.len();
        ids.filter(|id| self.conns[*id].alive && self.conns[*id].half.is_some())
            .collect()
    }

    /// Cuts a stream, in one of three ways.
    pub(super) fn cut(&mut self) {
        let whole = self.whole_streams();
        if whole.is_empty() {
            return;
        }
        let id = whole[self.rng.usize(..whole.len())];
        if let Who::Watcher(index) = self.conns[id].who {
            self.watcher_is_deaf(index);
        }
        let (soon, late) = (self.rng.u64(1..100), self.rng.u64(100..25_000));
        let (kind, server_ms, client_ms) = match self.rng.u8(..3) {
            // What is on its way both ways is lost.
            0 => {
                self.conns[id].up_lost = true;
                self.conns[id].down_lost = true;
                let either = self.rng.u64(1..2_000);
                ("fault: connection cut", either, soon)
            }
            // The client gives up; what it sent still arrives, perhaps behind its next stream.
            1 => {
                self.conns[id].down_lost = true;
                ("fault: half-open at the server", late, soon)
            }
            // The server gives up; what it sent still arrives.
            _ => {
                self.conns[id].up_lost = true;
                ("fault: half-open at the client", soon, late)
            }
        };
        self.counts.add(kind, 1);
        let lane = self.conns[id].up.id;
        self.net.post(lane, client_ms, Event::ClientNotices(id));
        self.net.post(lane, server_ms, Event::ServerNotices(id));
    }

    /// A watcher reads slowly for a while.
    pub(super) fn slow_down(&mut self) {
        let mut whole = self.whole_streams();
        whole.retain(|id| matches!(self.conns[*id].who, Who::Watcher(_)));
        if whole.is_empty() {
            return;
        }
        let id = whole[self.rng.usize(..whole.len())];
        self.counts.add("fault: slow reader", 1);
        self.conns[id].slow = true;
        if let Who::Watcher(index) = self.conns[id].who {
            self.watcher_is_deaf(index);
        }
        let for_ms = self.rng.u64(100..60_000);
        let lane = self.conns[id].up.id;
        self.net.post(lane, for_ms, Event::ReadOn(id));
    }

    pub(super) fn read_on(&mut self, id: ConnId) {
        let conn = &mut self.conns[id];
        conn.slow = false;
        let unread = std::mem::take(&mut conn.unread);
        conn.credits.add_permits(unread);
    }

    // The server's process.

    /// The process ends at once; every connection with it.
    pub(super) async fn crash(&mut self) {
        self.server.kill().await;
        self.forget_streams();
        let in_ms = self.rng.u64(1..3_000);
        self.net.post(STEP_LANE, in_ms, Event::Start);
    }

    fn forget_streams(&mut self) {
        for id in 0..self.conns.len() {
            if self.conns[id].half.take().is_none() {
                continue;
            }
            if let Who::Watcher(index) = self.conns[id].who {
                self.watcher_is_deaf(index);
            }
            // What it had sent may still arrive, or not.
            self.conns[id].up_lost = true;
            self.conns[id].down_lost |= self.rng.bool();
            let in_ms = self.rng.u64(1..500);
            let lane = self.conns[id].up.id;
            self.net.post(lane, in_ms, Event::ClientNotices(id));
        }
    }

    pub(super) async fn restart_in_order(&mut self) {
        self.server.drain();
        let until = self.rng.u64(1..6_000);
        // Whoever reads slowly would not be told.
        self.run_for(until).await;
        self.server.stop().await;
        self.forget_streams();
        let in_ms = self.rng.u64(1..1_000);
        self.net.post(STEP_LANE, in_ms, Event::Start);
    }

    async fn run_for(&mut self, for_ms: u64) {
        let until = self.net.now_ms() + for_ms;
        // Only what is there already: no step is under way while one is taken.
        Box::pin(self.run_until(for_ms + 1, move |world| world.net.now_ms() >= until)).await;
    }

    /// The store is replaced by a copy under a new epoch: of the present, or of a time before.
    pub(super) async fn change_epoch(&mut self, older: bool) {
        self.crash().await;
        let backup = self.backup.take().filter(|_| older);
        let kind = if backup.is_some() {
            "fault: epoch changed, end lost"
        } else {
            "fault: epoch changed, nothing lost"
        };
        self.counts.add(kind, 1);
        if backup.is_some() {
            self.lossy = true;
            self.crew.restored(self.net.now_ms());
            self.restored_in_life = self.server.life + 1;
            self.requests.1 = 0;
            for writer in &mut self.writers {
                writer.forgiven = true;
            }
            for submission in &mut self.submissions {
                submission.acknowledged.clear();
            }
            for attempt in &mut self.attempts {
                attempt.finish = None;
            }
        }
        self.epochs += 1;
        let store = backup.unwrap_or_else(|| self.server.disk.backup());
        self.server.disk.restore(&store, Uid(self.epochs));
    }

    // Calls.

    pub(super) fn call(&mut self, request: Request, purpose: Purpose) {
        let id = self.calls.len();
        self.calls.push(Call {
            request,
            purpose,
            answered: false,
            tries: 0,
        });
        self.send_call(id);
    }

    fn call_lane(&self, id: usize, number: u32) -> Lane {
        let lane = FIRST_CALL_LANE + 64 * id as LaneId + number;
        let rng = fork(self.seed, u64::from(lane));
        Lane::new(lane, self.net.clone(), rng, self.pace)
    }

    fn send_call(&mut self, id: usize) {
        let call = &mut self.calls[id];
        call.tries += 1;
        let tries = call.tries;
        if tries > 1
            && let Request::Update(_) = &call.request
        {
            self.counts.add("call: request id sent again", 1);
        }
        let request = self.calls[id].request.clone();
        let fault = if self.calm { 99 } else { self.rng.u8(..100) };
        let mut lane = self.call_lane(id, 2 * (tries % 16));
        match fault {
            0..4 => self.counts.add("call: request lost", 1),
            4..9 if request.may_repeat() => {
                self.counts.add("call: sent twice", 1);
                lane.send(Event::Call(id, request.clone()));
                let mut other = self.call_lane(id, 40);
                other.send(Event::Call(id, request));
            }
            _ => lane.send(Event::Call(id, request)),
        }
        self.net.post(lane.id, OVERDUE_MS, Event::Overdue(id));
    }

    fn serve(&mut self, id: usize, request: Request) {
        let lost = !self.calm && self.rng.u8(..100) < 5;
        if lost {
            self.counts.add("call: answer lost", 1);
        }
        let lane = self.call_lane(id, 2 * (self.calls[id].tries % 16) + 1);
        self.server.call(id, request, lane, lost);
    }

    fn overdue(&mut self, id: usize) {
        let call = &self.calls[id];
        if !call.answered && call.request.may_repeat() && call.tries < 30 {
            self.send_call(id);
        }
    }

    fn answered(&mut self, id: usize, answer: Answer) {
        let Answer { life, result } = answer;
        let again = match &result {
            Ok(Reply::Finish(finish)) => finish.results.iter().any(is_to_be_repeated),
            Ok(_) => false,
            Err(status) => matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::Cancelled
            ),
        };
        if again || self.calls[id].answered || life < self.restored_in_life {
            // Nobody was there: once more when it is overdue. Or it was answered before. Or what
            // it tells was taken back meanwhile.
            return;
        }
        self.calls[id].answered = true;
        let reply = match result {
            Ok(reply) => reply,
            Err(status) => return self.refused(&status),
        };
        self.counts.add("call: answered", 1);
        let purpose = self.calls[id].purpose.clone();
        match (purpose, reply) {
            (Purpose::Count, Reply::Update(update)) => {
                self.requests.1 += 1;
                self.note_place(update.position);
            }
            (Purpose::Forget, Reply::Update(update)) => self.note_place(update.position),
            (Purpose::Forget, Reply::SetQueue(set)) => self.note_place(set.position),
            (Purpose::Forget, _) => {}
            (Purpose::WatchFrom, Reply::Get(read)) => self.watch_from(read),
            (Purpose::Submit(number), Reply::Create(answer)) => self.submitted(number, answer),
            (Purpose::Lease(process), Reply::Lease(answer)) => self.leased(process, answer),
            (Purpose::Renew(index, sent_ms), Reply::Renew(answer)) => {
                self.renewed(index, sent_ms, &answer);
            }
            (Purpose::Finish(index), Reply::Finish(answer)) => self.finished(index, answer),
            (Purpose::Release(given), Reply::Release) => self.given_back(&given),
            (Purpose::Cancel, Reply::Cancel(answer)) => self.cancelled(answer),
            (Purpose::Marker, Reply::Update(update)) => {
                let position = update.position.expect("an answer has its position");
                self.marked.push(position.revision);
            }
            (Purpose::Final, reply) => self.finals.push(reply),
            (_, reply) => unexpected(&reply),
        }
    }
}

fn is_to_be_repeated(result: &OutcomeResult) -> bool {
    let unavailable = tonic::Code::Unavailable as i32;
    matches!(&result.result, Some(outcome_result::Result::Error(error)) if error.code == unavailable)
}
