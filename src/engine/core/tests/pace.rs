//! Merge intervals, retention, and turns between states.

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::{
    domain::{
        limits::{DONE_WRITER_RETENTION, WRITER_RETENTION},
        state::{KeyOp, Op, StateDelta},
        task::{Event, Outcome, WriterMark},
    },
    engine::{
        command::UpdateRequest,
        intake::{PushNews, Session, WINDOW_BYTES},
    },
    proto::v1,
};

const SECOND: Duration = Duration::from_secs(1);

/// An encoded text of so many bytes, roughly, and never more.
fn text(bytes: usize) -> Bytes {
    let kind = Some(v1::value::Kind::Text("x".repeat(bytes.saturating_sub(16))));
    v1::Value { kind }.encode_to_vec().into()
}

/// One operation that puts a value of so many bytes under a key.
fn put(sequence: u64, key: &str, bytes: usize) -> KeyOp {
    KeyOp {
        key: key.into(),
        sequence,
        op: Some(Op::Put(text(bytes))),
    }
}

/// A push stream and how far it has come.
struct Writer {
    session: Arc<Session>,
    sent: u64,
}

impl Writer {
    /// Hands in one batch; the next ones of its window have other keys, so that nothing folds.
    fn push(&mut self, bench: &Bench, bytes: usize) {
        self.push_one(bench, bytes, false);
    }

    fn push_one(&mut self, bench: &Bench, bytes: usize, is_final: bool) {
        self.sent += 1;
        let key = format!("k{}", self.sent % 128);
        let batch = v1::UpdateBatch {
            sequence: self.sent.cast_signed(),
            updates: vec![v1::KeyUpdate {
                key,
                operation: Some(v1::key_update::Operation::Put(text(bytes))),
            }],
            r#final: is_final,
            ..v1::UpdateBatch::default()
        };
        let frame = v1::UpdateBatches {
            batches: vec![batch],
        };
        let intake = &bench.core.shared.intake;
        intake.push(&self.session, &frame.encode_to_vec()).unwrap();
    }

    /// Hands in as much as its window takes, in batches of 64 KiB.
    fn fill(&mut self, bench: &Bench) {
        self.fill_to(bench, WINDOW_BYTES);
    }

    fn fill_to(&mut self, bench: &Bench, bytes: usize) {
        while self.session.waiting().unwrap_or_default() < bytes {
            self.push(bench, 64 << 10);
        }
    }

    fn is_settled(&self) -> bool {
        self.session.waiting().is_none()
    }
}

impl Bench {
    fn writer(&mut self, state: &str, writer: u128, lease: Option<LeaseToken>) -> Writer {
        let (reply, mut opened) = oneshot::channel();
        let request = OpenRequest {
            state: StateId::trusted(state),
            writer: Uid(writer),
            lease,
            source: "w".into(),
        };
        self.command(Command::OpenWriter(request, reply));
        self.settle();
        let opened = opened.try_recv().unwrap().unwrap();
        let sent = opened.last_sequence;
        let session = opened.claim();
        Writer { session, sent }
    }

    fn set(&mut self, state: &str, merge_interval: Duration, retention: Duration) {
        let (reply, mut answer) = oneshot::channel();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap();
        let settings = Settings {
            merge_interval_us: micros(merge_interval),
            retention_us: micros(retention),
            set_us: 0,
        };
        let state = StateId::trusted(state);
        self.command(Command::StateSettings {
            state,
            settings,
            reply,
        });
        self.settle();
        answer.try_recv().unwrap().unwrap();
    }

    fn send_update(
        &mut self,
        state: &str,
        bytes: usize,
    ) -> oneshot::Receiver<Result<Updated, Error>> {
        let (reply, answer) = oneshot::channel();
        let request = UpdateRequest {
            state: StateId::trusted(state),
            ops: vec![put(1, "unary", bytes)],
            rejected: Vec::new(),
            request_id: None,
            expected: None,
            lease: None,
            source: "client".into(),
        };
        self.command(Command::Update(request, reply));
        answer
    }

    /// The task's worker finishes, and names batches up to this one of writer 1 in state s.
    fn finish(&mut self, token: &LeaseToken, sequence: u64) {
        let mark = WriterMark {
            state: "s".into(),
            writer_id: Uid(1).to_bytes(),
            sequence,
        };
        let finish = Event::Finish {
            fence: token.fence,
            secret: token.secret,
            outcome: Outcome::Succeeded {
                output: None,
                contributions: Vec::new(),
            },
            marks: vec![mark],
            marks_merged: false,
        };
        let op = TaskOp {
            id: TaskId::trusted("t"),
            kind: TaskOpKind::Event(finish),
        };
        self.command(Command::Tasks {
            ops: vec![Ok(op)],
            reply: oneshot::channel().0,
        });
        self.settle();
    }

    fn stands(&self, state: &str) -> bool {
        let mirror = self.core.shared.mirror.read();
        let slot = mirror.states.get(&StateId::trusted(state));
        slot.is_some_and(|slot| slot.state.alive())
    }

    /// The time until something is to be done, and lets it pass.
    fn pass_to_deadline(&mut self) -> Duration {
        let at = self.core.next_deadline().unwrap();
        let wait = at.saturating_sub(self.now.mono);
        self.pass(wait);
        wait
    }
}

/// Makes a snapshot of the state due, which is where writers are forgotten.
fn churn(bench: &mut Bench, state: &str) {
    for _ in 0..800 {
        bench.send_update(state, 10);
        bench.settle();
    }
}

#[test]
fn a_writer_that_is_done_is_forgotten_soon_and_one_of_an_open_task_never() {
    let mut bench = Bench::new();
    let token = bench.leased(100_000 * SECOND);
    let mut writers = [
        bench.writer("s", 1, None),
        bench.writer("s", 2, None),
        bench.writer("s", 3, Some(token)),
    ];
    for (index, writer) in writers.iter_mut().enumerate() {
        writer.push_one(&bench, 10, index != 1);
    }
    bench.settle();
    for writer in &writers {
        bench.core.shared.intake.leave(&writer.session);
    }
    let known = |bench: &Bench| {
        let mirror = bench.core.shared.mirror.read();
        let state = &mirror.states[&StateId::trusted("s")].state;
        [1, 2, 3].map(|writer| state.writer(&Uid(writer)).is_some())
    };
    churn(&mut bench, "s");
    assert_eq!(known(&bench), [true, true, true]);
    bench.pass(DONE_WRITER_RETENTION + SECOND);
    churn(&mut bench, "s");
    assert_eq!(known(&bench), [false, true, true]);
    bench.pass(WRITER_RETENTION);
    churn(&mut bench, "s");
    assert_eq!(known(&bench), [false, false, true]);
}

fn deltas<'a>(entries: &'a [Entry], state: &str) -> Vec<&'a StateDelta> {
    let deltas = entries.iter().filter_map(|entry| match entry {
        Entry::StateDelta(delta) if delta.state == state => Some(delta),
        _ => None,
    });
    deltas.collect()
}

fn bytes(deltas: &[&StateDelta]) -> usize {
    let parts = deltas.iter().flat_map(|delta| &delta.parts);
    parts
        .map(|part| super::super::states::weight(&part.ops))
        .sum()
}

#[test]
fn a_state_with_an_interval_is_merged_once_in_each() {
    let mut bench = Bench::new();
    bench.set("s", SECOND, Duration::ZERO);
    let mut writers = [bench.writer("s", 1, None), bench.writer("s", 2, None)];
    let begun = bench.now.mono;
    let mut merges = Vec::new();
    // A batch of each writer every 50 ms, for ten intervals.
    for _ in 0..200 {
        writers
            .iter_mut()
            .for_each(|writer| writer.push(&bench, 10));
        let entries = bench.settle();
        let merged = deltas(&entries, "s");
        assert!(merged.len() <= 1, "{merged:?}");
        if let Some(delta) = merged.first() {
            let batches = delta.parts.iter().map(|part| part.ops.len()).sum::<usize>();
            merges.push((bench.now.mono - begun, batches));
        }
        bench.pass(Duration::from_millis(50));
    }
    let expected: Vec<_> = (0..10)
        .map(|n| (SECOND * n, if n == 0 { 2 } else { 40 }))
        .collect();
    assert_eq!(merges, expected);
}

#[test]
fn a_held_batch_is_merged_when_the_interval_is_over_though_nothing_else_arrives() {
    let mut bench = Bench::new();
    bench.set("s", SECOND, Duration::ZERO);
    let mut writer = bench.writer("s", 1, None);
    writer.push(&bench, 10);
    bench.settle();
    writer.push(&bench, 10);
    assert!(bench.settle().is_empty());
    assert!(!bench.core.is_idle());
    assert_eq!(bench.pass_to_deadline(), SECOND);
    assert_eq!(deltas(&bench.settle(), "s").len(), 1);
    assert!(writer.is_settled() && bench.core.is_idle());
}

#[test]
fn a_full_window_waits_for_the_interval_and_no_longer() {
    let mut bench = Bench::new();
    bench.set("s", SECOND, Duration::ZERO);
    let mut writer = bench.writer("s", 1, None);
    writer.push(&bench, 10);
    bench.settle();
    writer.fill(&bench);
    assert!(bench.settle().is_empty());
    bench.pass(SECOND);
    bench.settle();
    assert!(writer.is_settled());
}

#[test]
fn the_first_writer_of_a_state_that_was_quiet_does_not_wait() {
    let mut bench = Bench::new();
    bench.set("s", SECOND, Duration::ZERO);
    let mut writer = bench.writer("s", 1, None);
    for _ in 0..3 {
        writer.push(&bench, 10);
        bench.settle();
        assert!(writer.is_settled());
        bench.pass(2 * SECOND);
        bench.settle();
    }
    assert!(bench.core.pauses.is_empty());
}

#[test]
fn unary_updates_and_other_states_wait_for_no_interval() {
    let mut bench = Bench::new();
    bench.set("s", SECOND, Duration::ZERO);
    let mut writer = bench.writer("s", 1, None);
    let mut other = bench.writer("o", 2, None);
    writer.push(&bench, 10);
    bench.settle();
    writer.push(&bench, 10);
    other.push(&bench, 10);
    let mut answer = bench.send_update("s", 10);
    let entries = bench.settle();
    assert!(answer.try_recv().unwrap().is_ok());
    assert!(other.is_settled() && !writer.is_settled());
    assert_eq!(deltas(&entries, "s")[0].parts.len(), 1);
}

/// However its stream ends, nobody waits for the last batch of a writer but for the disk.
#[test]
fn a_writer_that_is_done_waits_for_no_interval() {
    for hurries in [true, false] {
        let mut bench = Bench::new();
        bench.set("s", SECOND, Duration::ZERO);
        let mut writer = bench.writer("s", 1, None);
        let mut patient = bench.writer("s", 2, None);
        writer.push(&bench, 10);
        bench.settle();
        patient.push(&bench, 10);
        writer.push(&bench, 10);
        assert!(bench.settle().is_empty());
        if hurries {
            bench.core.shared.intake.hurry(&writer.session);
        } else {
            bench.core.shared.intake.leave(&writer.session);
        }
        bench.settle();
        assert!(writer.is_settled() && !patient.is_settled());
    }
}

#[test]
fn a_finishing_task_does_not_wait_for_an_interval() {
    for late in [false, true] {
        let mut bench = Bench::new();
        bench.set("s", 10 * SECOND, Duration::ZERO);
        let token = bench.leased(8 * SECOND);
        let mut writer = bench.writer("s", 1, Some(token.clone()));
        writer.push(&bench, 10);
        bench.settle();
        if !late {
            writer.push(&bench, 10);
            assert!(bench.settle().is_empty());
        }
        bench.finish(&token, 2);
        if late {
            assert_eq!(bench.status(), Status::Running);
            writer.push(&bench, 10);
            bench.settle();
        }
        assert_eq!(bench.status(), Status::Succeeded);
        let mirror = bench.core.shared.mirror.read();
        assert!(
            !mirror
                .tasks
                .get(&TaskId::trusted("t"))
                .unwrap()
                .task
                .flush_incomplete
        );
    }
}

/// It broke off and comes back: nothing tells the monitor that it is waited for but the task.
#[test]
fn a_writer_that_opens_again_while_its_task_finishes_waits_for_no_interval() {
    let mut bench = Bench::new();
    bench.set("s", 10 * SECOND, Duration::ZERO);
    let token = bench.leased(8 * SECOND);
    let mut writer = bench.writer("s", 1, Some(token.clone()));
    writer.push(&bench, 10);
    bench.settle();
    bench.core.shared.intake.leave(&writer.session);
    bench.finish(&token, 2);
    let mut writer = bench.writer("s", 1, Some(token));
    assert_eq!(writer.sent, 1);
    writer.push(&bench, 10);
    bench.settle();
    assert_eq!(bench.status(), Status::Succeeded);
}

#[test]
fn a_held_batch_renews_the_lease_it_was_written_under() {
    let mut bench = Bench::new();
    bench.set("s", 10 * SECOND, Duration::ZERO);
    let token = bench.leased(8 * SECOND);
    let mut writer = bench.writer("s", 1, Some(token));
    writer.push(&bench, 10);
    bench.settle();
    bench.pass(6 * SECOND);
    writer.push(&bench, 10);
    bench.settle();
    bench.pass(3 * SECOND);
    bench.settle();
    assert_eq!(bench.status(), Status::Running);
}

#[test]
fn shorter_intervals_and_drains_let_go_what_is_held() {
    for drains in [true, false] {
        let mut bench = Bench::new();
        bench.set("s", 10 * SECOND, Duration::ZERO);
        let mut writer = bench.writer("s", 1, None);
        for _ in 0..2 {
            writer.push(&bench, 10);
            bench.settle();
        }
        assert!(!writer.is_settled());
        if drains {
            bench.core.drain();
            bench.settle();
        } else {
            bench.set("s", Duration::ZERO, Duration::ZERO);
        }
        assert!(writer.is_settled() && bench.core.is_idle());
    }
}

#[test]
fn settings_begin_a_state_and_leave_its_revision_alone_after_that() {
    let mut bench = Bench::new();
    bench.set("s", SECOND, Duration::ZERO);
    assert!(bench.stands("s"));
    let revision = |bench: &Bench| {
        let mirror = bench.core.shared.mirror.read();
        mirror.states[&StateId::trusted("s")].state.revision()
    };
    let created = revision(&bench);
    assert!(created > Revision::ZERO);
    bench.set("s", 2 * SECOND, Duration::ZERO);
    assert_eq!(revision(&bench), created);
}

#[test]
fn a_state_is_deleted_when_nobody_has_written_to_it_for_its_retention() {
    let mut bench = Bench::new();
    bench.send_update("kept", 10);
    bench.send_update("s", 10);
    bench.settle();
    // What was not asked of it before does not count.
    bench.pass(100 * SECOND);
    bench.set("s", Duration::ZERO, 60 * SECOND);
    bench.settle();
    assert!(bench.stands("s"));
    bench.pass(50 * SECOND);
    bench.send_update("s", 10);
    bench.settle();
    bench.pass(50 * SECOND);
    bench.settle();
    assert!(bench.stands("s"));
    bench.pass(15 * SECOND);
    bench.settle();
    assert!(!bench.stands("s") && bench.stands("kept"));
    // It begins anew without the settings.
    bench.send_update("s", 10);
    bench.settle();
    bench.pass(1_000 * SECOND);
    bench.settle();
    assert!(bench.stands("s"));
}

#[test]
fn a_small_batch_is_in_the_next_group_though_a_hundred_writers_of_another_state_are_full() {
    for each in [WINDOW_BYTES, 1 << 20] {
        let mut bench = Bench::new();
        let mut hot: Vec<_> = (1..=100).map(|id| bench.writer("hot", id, None)).collect();
        let mut small = bench.writer("small", 1_000, None);
        for _ in 0..20 {
            hot.iter_mut()
                .for_each(|writer| writer.fill_to(&bench, each));
            small.push(&bench, 100);
            let group = bench.round().unwrap();
            assert!(small.is_settled());
            // And the group is not much later for what the other state has: its share and one part.
            let taken = bytes(&deltas(&group, "hot"));
            let one_part = each + (128 << 10);
            assert!(
                taken > 0 && taken <= MAX_GROUP_BYTES / 2 + one_part,
                "{taken}"
            );
        }
        // Without others it takes a whole group.
        let alone = bench.round().unwrap();
        assert!(bytes(&deltas(&alone, "hot")) >= MAX_GROUP_BYTES - each);
    }
}

#[test]
fn a_hundred_full_states_keep_no_small_one_waiting_and_each_has_its_turn() {
    let mut bench = Bench::new();
    let mut hot: Vec<_> = (1..=100)
        .map(|id| bench.writer(&format!("hot-{id}"), id, None))
        .collect();
    let mut small = bench.writer("small", 1_000, None);
    hot.iter_mut().for_each(|writer| writer.fill(&bench));
    let mut served = HashSet::new();
    for _ in 0..100 {
        small.push(&bench, 100);
        let group = bench.round().unwrap();
        assert!(small.is_settled());
        for entry in &group {
            if let Entry::StateDelta(delta) = entry {
                served.insert(delta.state.clone());
            }
        }
        hot.iter_mut().for_each(|writer| writer.fill(&bench));
    }
    assert_eq!(served.len(), 101);
}

/// The other way round: small batches that fill every group do not starve a large one.
#[test]
fn a_full_window_moves_on_though_small_batches_fill_every_group() {
    let mut bench = Bench::new();
    let mut small: Vec<_> = (1..=300)
        .map(|id| bench.writer(&format!("small-{id}"), id, None))
        .collect();
    let mut large = bench.writer("large", 1_000, None);
    large.fill(&bench);
    small
        .iter_mut()
        .for_each(|writer| writer.push(&bench, 60 << 10));
    bench.round().unwrap();
    assert!(large.is_settled());
}

#[test]
fn unary_updates_of_one_state_keep_no_others_waiting() {
    let mut bench = Bench::new();
    let mut hot: Vec<_> = (0..100)
        .map(|_| bench.send_update("hot", 1_000_000))
        .collect();
    let mut small = bench.send_update("small", 10);
    let group = bench.round().unwrap();
    assert!(small.try_recv().unwrap().is_ok());
    assert!(bytes(&deltas(&group, "hot")) <= 3 << 20);
    bench.settle();
    assert!(
        hot.iter_mut()
            .all(|answer| answer.try_recv().unwrap().is_ok())
    );
}

/// Groups that pushes make heavy take finishing tasks along all the same.
#[test]
fn full_groups_do_not_keep_tasks_from_ending() {
    let mut bench = Bench::new();
    let token = bench.leased(8 * SECOND);
    let mut hot: Vec<_> = (1..=10).map(|id| bench.writer("s", id, None)).collect();
    bench.finish(&token, 1);
    for _ in 0..20 {
        hot.iter_mut().for_each(|writer| writer.fill(&bench));
        bench.round().unwrap();
    }
    assert_eq!(bench.status(), Status::Succeeded);
}

#[test]
fn acknowledgements_come_with_the_merge() {
    let mut bench = Bench::new();
    bench.set("s", SECOND, Duration::ZERO);
    let mut writer = bench.writer("s", 1, None);
    let acked = |writer: &Writer| {
        let news = std::pin::pin!(writer.session.news());
        match futures_util::FutureExt::now_or_never(news) {
            Some(Ok(PushNews::Ack { sequence, .. })) => Some(sequence),
            _ => None,
        }
    };
    writer.push(&bench, 10);
    bench.settle();
    assert_eq!(acked(&writer), Some(1));
    writer.push(&bench, 10);
    bench.settle();
    assert_eq!(acked(&writer), None);
    bench.pass(SECOND);
    bench.settle();
    assert_eq!(acked(&writer), Some(2));
}
