//! The writer's state machine against a server that takes what it is sent, loses connections and
//! acknowledgements, and remembers every batch by its number.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    client::value::decode_value,
    proto::v1::{KeyUpdate, key_update::Operation, value::Kind},
};

const NOW: Timestamp = Timestamp {
    seconds: 0,
    nanos: 0,
};

fn opened(last_sequence: i64, batches: i32, bytes: i64) -> PushOpened {
    let window = PushWindow {
        max_unacked_batches: batches,
        max_unacked_bytes: bytes,
    };
    PushOpened {
        last_sequence,
        window: Some(window),
        ..PushOpened::default()
    }
}

fn open_core(batches: i32) -> PushCore {
    let mut core = PushCore::new(Uuid::from_u128(1), 1 << 20);
    core.on_opened(&opened(0, batches, 1 << 20)).unwrap();
    core
}

fn sequences(frame: Option<Vec<UpdateBatch>>) -> Vec<i64> {
    frame
        .unwrap_or_default()
        .iter()
        .map(|batch| batch.sequence)
        .collect()
}

#[test]
fn what_is_ready_goes_out_in_one_frame() {
    let mut core = open_core(10);
    for index in 0..3 {
        core.flush(vec![Update::put("k", index)], NOW);
    }
    assert_eq!(sequences(core.next_frame(NOW)), [1, 2, 3]);
    assert_eq!(core.next_frame(NOW), None);
}

#[test]
fn a_full_window_folds_what_has_no_number_and_says_how_much() {
    let mut core = open_core(1);
    core.flush(vec![Update::put("k", 0)], NOW);
    assert_eq!(sequences(core.next_frame(NOW)), [1]);
    for index in 1..=1000 {
        core.flush(vec![Update::put("k", index)], NOW);
    }
    assert_eq!(core.next_frame(NOW), None);
    assert!(core.held_bytes() < 500, "memory is bounded by the keys");
    core.on_ack(1, None);
    let frame = core.next_frame(NOW).unwrap();
    assert_eq!(frame.len(), 1);
    assert_eq!((frame[0].sequence, frame[0].folded_flushes), (2, 999));
    assert_eq!(frame[0].updates, [Update::put("k", 1000).into_wire()]);
}

#[test]
fn the_writers_last_batch_needs_no_room_in_the_window() {
    let mut core = open_core(1);
    core.flush(vec![Update::put("k", 0)], NOW);
    assert_eq!(sequences(core.next_frame(NOW)), [1]);
    core.flush(vec![Update::put("k", 1)], NOW);
    core.finish(NOW);
    let last = core.next_frame(NOW).expect("the server merges it at once");
    assert_eq!((last[0].sequence, last[0].r#final), (2, true));
    // But it overtakes nothing that has to wait for room.
    let mut core = open_core(1);
    core.flush(vec![Update::put("k", 0)], NOW);
    assert_eq!(sequences(core.next_frame(NOW)), [1]);
    core.flush(vec![Update::put("k", 1)], NOW);
    core.seal(NOW);
    core.finish(NOW);
    assert_eq!(core.next_frame(NOW), None);
    core.on_ack(1, None);
    assert_eq!(sequences(core.next_frame(NOW)), [2, 3]);
}

#[test]
fn after_a_reconnect_what_is_not_durable_goes_out_again_unchanged() {
    let mut core = open_core(10);
    for index in 0..4 {
        core.flush(vec![Update::put("k", index)], NOW);
    }
    let first = core.next_frame(NOW).unwrap();
    core.on_disconnect();
    core.flush(vec![Update::put("late", 1)], NOW);
    assert_eq!(
        core.next_frame(NOW),
        None,
        "nothing is sent before the stream is open"
    );
    core.on_opened(&opened(2, 10, 1 << 20)).unwrap();
    let again = core.next_frame(NOW).unwrap();
    assert_eq!(again[..2], first[2..]);
    assert_eq!(again[2].sequence, 5);
    assert_eq!(core.counters().resent, 2);
}

#[test]
fn a_rewind_sends_from_the_expected_number() {
    let mut core = open_core(10);
    for index in 0..4 {
        core.flush(vec![Update::put("k", index)], NOW);
    }
    core.next_frame(NOW).unwrap();
    core.on_rewind(3).unwrap();
    assert_eq!(sequences(core.next_frame(NOW)), [3, 4]);
    core.on_ack(3, None);
    assert_eq!(
        core.on_rewind(2),
        Err(WriterLost),
        "batch 2 is no longer held"
    );
}

#[test]
fn a_shrunken_window_holds_back_what_was_numbered() {
    let mut core = open_core(10);
    for index in 0..3 {
        core.flush(vec![Update::put("k", index)], NOW);
    }
    let window = PushWindow {
        max_unacked_batches: 0,
        max_unacked_bytes: 0,
    };
    core.on_ack(0, Some(&window));
    assert_eq!(
        sequences(core.next_frame(NOW)),
        [1],
        "one batch may always go"
    );
    core.on_ack(1, None);
    assert_eq!(sequences(core.next_frame(NOW)), [2]);
}

#[test]
fn a_server_that_forgot_what_it_acknowledged_needs_a_new_writer() {
    let mut core = open_core(10);
    for index in 0..3 {
        core.flush(vec![Update::put("k", index)], NOW);
    }
    core.next_frame(NOW).unwrap();
    core.on_ack(2, None);
    core.on_disconnect();
    assert_eq!(core.on_opened(&opened(0, 10, 1 << 20)), Err(WriterLost));
    assert_eq!(core.restart_writer(Uuid::from_u128(2)), 1);
    core.on_opened(&opened(0, 10, 1 << 20)).unwrap();
    let frame = core.next_frame(NOW).unwrap();
    assert_eq!(frame[0].sequence, 1);
    assert_eq!(frame[0].updates, [Update::put("k", 2).into_wire()]);
}

#[test]
fn a_new_writer_sends_what_was_unacknowledged_under_new_numbers() {
    let mut core = open_core(10);
    for step in 0..4 {
        core.flush(vec![Update::put("step", step)], NOW);
    }
    let before = core.next_frame(NOW).unwrap();
    core.on_ack(2, None);
    assert_eq!(core.restart_writer(Uuid::from_u128(9)), 2);
    core.on_opened(&opened(0, 10, 1 << 20)).unwrap();
    let after = core.next_frame(NOW).unwrap();
    for (number, (old, new)) in (1..).zip(before[2..].iter().zip(&after)) {
        assert_eq!((new.sequence, &new.updates), (number, &old.updates));
    }
    assert_eq!((core.numbered(), core.acked()), (4, 2));
}

#[test]
fn a_drain_sends_nothing_more_and_ends_with_the_last_ack() {
    let mut core = open_core(10);
    core.flush(vec![Update::put("k", 1)], NOW);
    core.next_frame(NOW).unwrap();
    core.on_drain();
    core.flush(vec![Update::put("k", 2)], NOW);
    assert_eq!(core.next_frame(NOW), None);
    assert!(!core.is_drained());
    core.on_ack(1, None);
    assert!(core.is_drained());
    assert!(!core.is_settled());
}

#[test]
fn sealing_gives_everything_a_number_and_finishing_marks_the_last() {
    let mut core = PushCore::new(Uuid::from_u128(1), 1 << 20);
    core.flush(vec![Update::put("k", 1)], NOW);
    assert_eq!(core.last_sequence(), 0);
    core.seal(NOW);
    assert_eq!(core.last_sequence(), 1);
    core.finish(NOW);
    core.on_opened(&opened(0, 10, 1 << 20)).unwrap();
    let frame = core.next_frame(NOW).unwrap();
    assert_eq!((frame[0].r#final, frame[1].r#final), (false, true));
    assert!(frame[1].updates.is_empty());
    core.on_ack(2, None);
    assert!(core.is_settled());
}

#[test]
fn a_large_pending_batch_is_cut_to_what_a_batch_may_weigh() {
    let mut core = PushCore::new(Uuid::from_u128(1), 64 << 20);
    let text = "x".repeat(300 << 10);
    for index in 0..10 {
        core.flush(vec![Update::put(format!("k{index}"), text.as_str())], NOW);
    }
    core.on_opened(&opened(0, 100, 64 << 20)).unwrap();
    let mut keys = 0;
    while let Some(frame) = core.next_frame(NOW) {
        assert!(frame.iter().map(Message::encoded_len).sum::<usize>() <= MAX_FRAME_BYTES);
        keys += frame.iter().map(|batch| batch.updates.len()).sum::<usize>();
    }
    assert_eq!(keys, 10);
}

#[test]
fn over_its_bound_what_is_pending_is_squeezed_and_counted() {
    let mut core = PushCore::new(Uuid::from_u128(1), 200);
    for _ in 0..10_000 {
        core.flush(vec![Update::add("loss", 0.25)], NOW);
    }
    assert!(core.counters().overflows > 0);
    assert!(core.held_bytes() < 1000, "{}", core.held_bytes());
    core.on_opened(&opened(0, 10, 1 << 20)).unwrap();
    let mut state = Model::default();
    for batch in core.next_frame(NOW).unwrap() {
        state.apply(&batch.updates);
    }
    assert_eq!(state.keys["loss"], Kind::Number(2500.0));
}

/// What a state does with operations, as the design has it: the reference for the folding.
#[derive(Debug, Default, Clone, PartialEq)]
pub(in crate::client) struct Model {
    pub(in crate::client) keys: BTreeMap<String, Kind>,
}

impl Model {
    pub(in crate::client) fn apply(&mut self, updates: &[KeyUpdate]) {
        for update in updates {
            let value = |bytes| decode_value(bytes).unwrap().kind.unwrap();
            let old = self.keys.get(&update.key);
            let new = match update.operation.as_ref().unwrap() {
                Operation::Put(bytes) => Some(value(bytes)),
                Operation::Delete(_) => {
                    self.keys.remove(&update.key);
                    None
                }
                Operation::Add(bytes) => combine(old, value(bytes), i64::checked_add, |a, b| a + b),
                Operation::Max(bytes) => {
                    combine(old, value(bytes), |a, b| Some(a.max(b)), f64::max)
                }
                Operation::Min(bytes) => {
                    combine(old, value(bytes), |a, b| Some(a.min(b)), f64::min)
                }
            };
            if let Some(new) = new {
                self.keys.insert(update.key.clone(), new);
            }
        }
    }
}

fn combine(
    old: Option<&Kind>,
    operand: Kind,
    integers: impl Fn(i64, i64) -> Option<i64>,
    numbers: impl Fn(f64, f64) -> f64,
) -> Option<Kind> {
    match (old, operand) {
        (None, operand @ (Kind::Integer(_) | Kind::Number(_))) => Some(operand),
        (Some(Kind::Integer(a)), Kind::Integer(b)) => integers(*a, b).map(Kind::Integer),
        (Some(Kind::Number(a)), Kind::Number(b)) => Some(Kind::Number(numbers(*a, b))),
        _ => None,
    }
}

/// The server's side: takes batches in order, exactly once each.
#[derive(Debug, Default)]
struct Server {
    state: Model,
    taken: Vec<UpdateBatch>,
    /// Acknowledgements that are on their way on the current stream.
    acks: Vec<i64>,
}

impl Server {
    fn take(&mut self, batch: &UpdateBatch) {
        let last = self.taken.len() as i64;
        if batch.sequence <= last {
            assert_eq!(
                *batch,
                self.taken[batch.sequence as usize - 1],
                "a batch has changed"
            );
        } else {
            assert_eq!(batch.sequence, last + 1, "a gap without a lost frame");
            self.state.apply(&batch.updates);
            self.taken.push(batch.clone());
        }
        self.acks.push(self.taken.len() as i64);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Flush(Vec<Update>),
    Seal,
    Open {
        batches: i32,
        bytes: i64,
    },
    /// The server takes this many batches of the next frame; a cut frame is a lost connection.
    Send {
        taken: usize,
    },
    Ack,
    Rewind {
        back: usize,
    },
    Disconnect,
}

pub(in crate::client) fn any_update() -> impl Strategy<Value = Update> {
    let key = prop::sample::select(vec!["a", "b", "c"]);
    let integer = -5..5_i64;
    let number = prop::sample::select(vec![0.1, 0.2, 0.7, 3.0, -1.5]);
    prop_oneof![
        (key.clone(), integer.clone()).prop_map(|(key, value)| Update::put(key, value)),
        (key.clone(), number.clone()).prop_map(|(key, value)| Update::put(key, value)),
        key.clone().prop_map(|key| Update::put(key, "text")),
        key.clone().prop_map(Update::delete),
        (key.clone(), integer.clone()).prop_map(|(key, value)| Update::add(key, value)),
        (key.clone(), number.clone()).prop_map(|(key, value)| Update::add(key, value)),
        (key.clone(), integer.clone()).prop_map(|(key, value)| Update::max(key, value)),
        (key.clone(), number.clone()).prop_map(|(key, value)| Update::max(key, value)),
        (key.clone(), integer).prop_map(|(key, value)| Update::min(key, value)),
        (key, number).prop_map(|(key, value)| Update::min(key, value)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(any_update(), 0..4).prop_map(Step::Flush),
        1 => Just(Step::Seal),
        2 => (1..5, 50..500_i64).prop_map(|(batches, bytes)| Step::Open { batches, bytes }),
        4 => (0..8_usize).prop_map(|taken| Step::Send { taken }),
        3 => Just(Step::Ack),
        1 => (0..4_usize).prop_map(|back| Step::Rewind { back }),
        1 => Just(Step::Disconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_is_lost_on_the_way_every_flush_takes_effect_once_and_in_order(
        steps in prop::collection::vec(any_step(), 0..80)
    ) {
        let mut core = PushCore::new(Uuid::from_u128(1), 1 << 20);
        let mut server = Server::default();
        let mut expected = Model::default();
        let mut is_open = false;
        for step in steps {
            match step {
                Step::Flush(updates) => {
                    let wire: Vec<_> = updates.iter().cloned().map(Update::into_wire).collect();
                    expected.apply(&wire);
                    core.flush(updates, NOW);
                }
                Step::Seal => core.seal(NOW),
                Step::Open { batches, bytes } => {
                    core.on_disconnect();
                    server.acks.clear();
                    core.on_opened(&opened(server.taken.len() as i64, batches, bytes)).unwrap();
                    is_open = true;
                }
                Step::Send { taken } => {
                    let Some(frame) = core.next_frame(NOW) else { continue };
                    prop_assert!(is_open);
                    for batch in frame.iter().take(taken) {
                        server.take(batch);
                    }
                    if taken < frame.len() {
                        core.on_disconnect();
                        server.acks.clear();
                        is_open = false;
                    }
                }
                Step::Ack => {
                    if !server.acks.is_empty() {
                        core.on_ack(server.acks.remove(0), None);
                    }
                }
                Step::Rewind { back } => {
                    // Further back than what is held is refused, and then nothing changes.
                    let expected = server.taken.len().saturating_sub(back) as i64 + 1;
                    if is_open {
                        let _ = core.on_rewind(expected);
                    }
                }
                Step::Disconnect => {
                    core.on_disconnect();
                    server.acks.clear();
                    is_open = false;
                }
            }
        }
        core.finish(NOW);
        core.on_disconnect();
        core.on_opened(&opened(server.taken.len() as i64, 2, 100)).unwrap();
        while !core.is_settled() {
            for batch in core.next_frame(NOW).expect("what is not settled can be sent") {
                server.take(&batch);
            }
            core.on_ack(server.taken.len() as i64, None);
        }
        prop_assert!(server.taken.last().is_some_and(|batch| batch.r#final));
        prop_assert_eq!(server.state, expected);
    }
}
