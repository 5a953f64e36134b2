//! The lanes against two streams that lose, delay and cut what is sent, each in its own time.

use std::collections::VecDeque;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::{
    client::{
        decode_value,
        push_core::tests::{Model, any_update},
    },
    proto::v1::{KeyUpdate, UpdateBatch, UpdateBatches, value::Kind},
};

const NOW: Timestamp = Timestamp {
    seconds: 1,
    nanos: 0,
};
const LARGE: usize = 40;

fn opened(last_sequence: i64, batches: i32, bytes: i64) -> PushOpened {
    PushOpened {
        last_sequence,
        window: Some(PushWindow {
            max_unacked_batches: batches,
            max_unacked_bytes: bytes,
        }),
        ..PushOpened::default()
    }
}

fn lanes() -> Lanes {
    let mut lanes = Lanes::new(1 << 20, LARGE);
    for lane in Lane::ALL {
        let _ = lanes.on_opened(lane, &opened(0, 8, 1 << 20), NOW).unwrap();
    }
    lanes
}

fn large(key: &str, value: i64) -> Update {
    Update::put(key, format!("{value:0>50}"))
}

/// The keys that a lane sends next.
fn sends(lanes: &mut Lanes, lane: Lane) -> Vec<Vec<String>> {
    let keys = |batch: UpdateBatch| batch.updates.into_iter().map(|update| update.key).collect();
    frame(lanes, lane).into_iter().map(keys).collect()
}

fn frame(lanes: &mut Lanes, lane: Lane) -> Vec<UpdateBatch> {
    let (frame, _) = lanes.next_frame(lane, NOW);
    let decode = |frame| UpdateBatches::decode(frame).unwrap().batches;
    frame.map(decode).unwrap_or_default()
}

fn flush(lanes: &mut Lanes, updates: Vec<Update>) {
    let _ = lanes.flush(updates, NOW);
}

fn ack(lanes: &mut Lanes, lane: Lane, sequence: i64) -> Ready {
    lanes.on_ack(lane, sequence, None, NOW)
}

#[test]
fn a_large_value_on_its_way_delays_no_other_key() {
    let mut lanes = lanes();
    flush(
        &mut lanes,
        vec![large("preview", 1), Update::put("step", 1)],
    );
    assert_eq!(sends(&mut lanes, Lane::Large), [["preview", "step"]]);
    flush(&mut lanes, vec![Update::put("progress", 2)]);
    assert_eq!(sends(&mut lanes, Lane::Small), [["progress"]]);
    // What went with the large value waits for it, and for nothing does anything else wait.
    flush(&mut lanes, vec![Update::put("step", 3)]);
    flush(
        &mut lanes,
        vec![Update::put("step", 4), Update::put("loss", 4)],
    );
    flush(&mut lanes, vec![Update::put("progress", 5)]);
    assert_eq!(sends(&mut lanes, Lane::Small), [["progress"]]);
    assert_eq!(lanes.unsettled_batches(), 4);
    assert!(ack(&mut lanes, Lane::Large, 1).small);
    assert_eq!(sends(&mut lanes, Lane::Small), [["loss", "step"]]);
    assert_eq!(lanes.counters().folded, 1);
}

#[test]
fn a_large_value_waits_for_what_was_flushed_of_its_own_keys_before() {
    let mut lanes = lanes();
    flush(&mut lanes, vec![Update::put("step", 1)]);
    flush(&mut lanes, vec![Update::put("progress", 1)]);
    flush(&mut lanes, vec![large("preview", 1)]);
    assert_eq!(sends(&mut lanes, Lane::Large), [["preview"]]);
    flush(
        &mut lanes,
        vec![large("preview", 2), Update::put("step", 2)],
    );
    assert!(sends(&mut lanes, Lane::Large).is_empty());
    // A key that is pending there is pending as a whole.
    flush(&mut lanes, vec![Update::put("step", 3)]);
    assert_eq!(sends(&mut lanes, Lane::Small), [["step"], ["progress"]]);
    assert!(ack(&mut lanes, Lane::Small, 1).large);
    assert_eq!(sends(&mut lanes, Lane::Large), [["preview", "step"]]);
}

#[test]
fn what_waits_and_a_later_large_value_of_the_same_key_do_not_wait_for_each_other() {
    let mut lanes = lanes();
    flush(&mut lanes, vec![large("a", 1), Update::put("k", 1)]);
    flush(
        &mut lanes,
        vec![Update::put("k", 2), Update::put("other", 2)],
    );
    flush(&mut lanes, vec![large("b", 3), Update::put("k", 3)]);
    assert_eq!(sends(&mut lanes, Lane::Large), [["a", "k"]]);
    assert!(sends(&mut lanes, Lane::Small).is_empty());
    assert!(ack(&mut lanes, Lane::Large, 1).small);
    assert_eq!(sends(&mut lanes, Lane::Small), [["k", "other"]]);
    assert!(sends(&mut lanes, Lane::Large).is_empty());
    assert!(ack(&mut lanes, Lane::Small, 1).large);
    assert_eq!(sends(&mut lanes, Lane::Large), [["b", "k"]]);
    let _ = ack(&mut lanes, Lane::Large, 2);
    assert!(lanes.is_settled());
}

#[test]
fn a_steady_flow_of_small_values_does_not_hold_a_large_one_back() {
    let mut lanes = lanes();
    for step in 0..8 {
        flush(&mut lanes, vec![Update::put("step", step)]);
    }
    // The window is full: what comes is pending.
    flush(&mut lanes, vec![Update::put("step", 8)]);
    flush(
        &mut lanes,
        vec![large("preview", 8), Update::put("step", 8)],
    );
    let mut acked = 0;
    let sent = (0..100).find(|step| {
        flush(&mut lanes, vec![Update::put("progress", *step)]);
        acked += frame(&mut lanes, Lane::Small).len() as i64;
        let _ = ack(&mut lanes, Lane::Small, acked);
        !sends(&mut lanes, Lane::Large).is_empty()
    });
    assert!(sent.is_some_and(|step| step <= 2), "{sent:?}");
}

/// A loop that sets a picture and then, together, removes the one before and tells its step; each
/// picture is acknowledged `lag` iterations later. Gives what the small lane has sent of `step`.
fn pictures_and_steps(lanes: &mut Lanes, steps: i64, lag: i64) -> usize {
    let mut told = 0;
    let mut small = 0;
    for step in 1..=steps {
        flush(lanes, vec![large(&format!("frame{step}"), step)]);
        let before = Update::delete(format!("frame{}", step - 1));
        flush(lanes, vec![before, Update::put("step", step)]);
        frame(lanes, Lane::Large);
        let _ = ack(lanes, Lane::Large, (step - lag).max(0));
        for batch in sends(lanes, Lane::Small) {
            small += 1;
            told += usize::from(batch.contains(&"step".to_owned()));
        }
        let _ = ack(lanes, Lane::Small, small);
    }
    told
}

#[test]
fn what_waits_for_large_values_is_seen_while_more_of_them_come_without_end() {
    let mut lanes = lanes();
    // Two rounds of what is on its way, at most.
    assert!(pictures_and_steps(&mut lanes, 60, 3) >= 60 / 6 - 1);
    assert!(lanes.lane(Lane::Large).acked() < lanes.lane(Lane::Large).numbered());
}

#[test]
fn what_waits_is_two_heaps_at_most_and_sealed_in_their_order() {
    let mut lanes = lanes();
    for step in 1..=3 {
        let key = format!("frame{step}");
        flush(&mut lanes, vec![large(&key, step)]);
        flush(
            &mut lanes,
            vec![Update::delete(key), Update::put("step", step)],
        );
    }
    frame(&mut lanes, Lane::Large);
    assert_eq!(lanes.unsettled_batches(), 5);
    lanes.finish(NOW);
    assert!(sends(&mut lanes, Lane::Small).is_empty());
    let _ = ack(&mut lanes, Lane::Large, 1);
    assert_eq!(sends(&mut lanes, Lane::Small), [["frame1", "step"]]);
    let _ = ack(&mut lanes, Lane::Large, 2);
    assert!(sends(&mut lanes, Lane::Small).is_empty());
    let _ = ack(&mut lanes, Lane::Large, 3);
    let last = frame(&mut lanes, Lane::Small);
    assert_eq!(last[0].updates.len(), 3);
    assert!(last[0].r#final);
}

#[test]
fn what_a_large_value_waits_for_does_not_move_on_with_later_ones() {
    // A loop that sets a key that is new each time, and then removes it with its next picture.
    let mut lanes = lanes();
    let (mut small, mut sent) = (VecDeque::new(), Vec::new());
    let mut count = 0;
    for step in 1..=60_i64 {
        flush(&mut lanes, vec![Update::put(format!("meta{step}"), step)]);
        flush(
            &mut lanes,
            vec![
                large("preview", step),
                Update::delete(format!("meta{step}")),
            ],
        );
        sent.extend(sends(&mut lanes, Lane::Large));
        let _ = ack(&mut lanes, Lane::Large, sent.len() as i64);
        count += sends(&mut lanes, Lane::Small).len() as i64;
        small.push_back(count);
        if small.len() > 3 {
            let acked = small.pop_front().unwrap();
            let _ = ack(&mut lanes, Lane::Small, acked);
        }
    }
    assert!(sent.len() > 5, "{sent:?}");
}

#[test]
fn of_large_values_the_latest_wins_and_memory_stays_bounded() {
    let mut lanes = Lanes::new(8 << 20, LARGE_VALUE_BYTES);
    let _ = lanes.on_opened(Lane::Large, &opened(0, 1024, 64 << 20), NOW);
    let image = |step: u8| {
        Update::put(
            "preview",
            crate::client::blob("image/png", vec![step; 700_000]),
        )
    };
    for step in 0..=200 {
        flush(&mut lanes, vec![image(step)]);
        assert!(lanes.held_bytes() < LARGE_WINDOW_BYTES + 800_000);
    }
    assert_eq!(frame(&mut lanes, Lane::Large).len(), 1);
    assert!(frame(&mut lanes, Lane::Large).is_empty());
    let _ = ack(&mut lanes, Lane::Large, 1);
    let batches = frame(&mut lanes, Lane::Large);
    assert_eq!(batches[0].updates, [image(200).into_wire()]);
    assert_eq!(batches[0].folded_flushes, 199);
    let _ = ack(&mut lanes, Lane::Large, 2);
    assert_eq!(lanes.held_bytes(), 0);
}

#[test]
fn what_waits_for_a_large_value_is_bounded_too() {
    let mut lanes = Lanes::new(1000, LARGE);
    flush(
        &mut lanes,
        vec![large("preview", 1), Update::put("loss", 0.0)],
    );
    let _ = lanes.on_opened(Lane::Large, &opened(0, 1, 1000), NOW);
    let _ = frame(&mut lanes, Lane::Large);
    for _ in 0..10_000 {
        flush(&mut lanes, vec![Update::add("loss", 0.5)]);
    }
    assert!(lanes.held_bytes() < 2000, "{}", lanes.held_bytes());
    assert!(lanes.counters().overflows > 0);
    assert_eq!(lanes.counters().flushes, 10_001);
}

#[test]
fn finishing_marks_the_last_batch_of_each_lane_that_was_used() {
    let mut used = lanes();
    flush(&mut used, vec![Update::put("step", 1)]);
    used.finish(NOW);
    let last = |lanes: &mut Lanes, lane| frame(lanes, lane).last().map(|batch| batch.r#final);
    assert_eq!(last(&mut used, Lane::Small), Some(true));
    assert_eq!(last(&mut used, Lane::Large), None);
    let mut both = lanes();
    flush(&mut both, vec![large("preview", 1), Update::put("step", 1)]);
    flush(&mut both, vec![Update::put("step", 2)]);
    both.finish(NOW);
    assert_eq!(both.lane(Lane::Small).last_sequence(), 1);
    // It has its number, and still does not overtake.
    assert_eq!(last(&mut both, Lane::Small), None);
    assert_eq!(last(&mut both, Lane::Large), Some(true));
    assert!(ack(&mut both, Lane::Large, 2).small);
    assert_eq!(last(&mut both, Lane::Small), Some(true));
}

/// One lane's way to the server: what is sent arrives in its own time, or not at all.
#[derive(Debug, Default)]
struct Way {
    sent: VecDeque<UpdateBatch>,
    taken: Vec<UpdateBatch>,
    /// Batches that the server took of writers which it has forgotten since.
    forgotten: u64,
    acks: VecDeque<i64>,
    is_open: bool,
}

impl Way {
    fn break_off(&mut self) {
        self.sent.clear();
        self.acks.clear();
        self.is_open = false;
    }

    /// The next batch arrives: what it changes, if it is new.
    fn take(&mut self) -> Option<Vec<KeyUpdate>> {
        let batch = self.sent.pop_front()?;
        let last = self.taken.len() as i64;
        self.acks.push_back(last.max(batch.sequence));
        if batch.sequence <= last {
            assert_eq!(batch, self.taken[batch.sequence as usize - 1]);
            return None;
        }
        assert_eq!(batch.sequence, last + 1);
        self.taken.push(batch.clone());
        Some(batch.updates)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Flush(Vec<Update>),
    Seal,
    Open(Lane, i32, i64),
    Send(Lane),
    Take(Lane),
    Ack(Lane),
    Break(Lane),
    /// The server forgets the lane's writer, once it has acknowledged all that it took.
    Forget(Lane),
}

fn any_lane() -> impl Strategy<Value = Lane> {
    prop::sample::select(Lane::ALL.to_vec())
}

fn any_step(updates: impl Strategy<Value = Vec<Update>>) -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => updates.prop_map(Step::Flush),
        1 => Just(Step::Seal),
        3 => (any_lane(), 1..5, 50..500_i64)
            .prop_map(|(lane, batches, bytes)| Step::Open(lane, batches, bytes)),
        7 => any_lane().prop_map(Step::Send),
        7 => any_lane().prop_map(Step::Take),
        7 => any_lane().prop_map(Step::Ack),
        1 => any_lane().prop_map(Step::Break),
        1 => any_lane().prop_map(Step::Forget),
    ]
}

fn some_large() -> impl Strategy<Value = Vec<Update>> {
    let key = prop::sample::select(vec!["a", "b", "c"]);
    let large = key.prop_map(|key| large(key, 7));
    prop::collection::vec(prop_oneof![4 => any_update(), 1 => large], 0..4)
}

/// Carries out the steps, then lets everything arrive. `applied` is told what becomes visible.
fn run(
    steps: Vec<Step>,
    mut flushed: impl FnMut(&[Update]),
    mut applied: impl FnMut(&[KeyUpdate]),
) {
    let mut lanes = Lanes::new(1 << 20, LARGE);
    let mut ways = [Way::default(), Way::default()];
    let mut take = |way: &mut Way| {
        if let Some(updates) = way.take() {
            applied(&updates);
        }
    };
    for step in steps {
        match step {
            Step::Flush(updates) => {
                flushed(&updates);
                flush(&mut lanes, updates);
            }
            Step::Seal => lanes.seal(NOW),
            Step::Open(lane, batches, bytes) => {
                let way = &mut ways[lane as usize];
                way.break_off();
                way.is_open = true;
                lanes.on_disconnect(lane);
                let opened = opened(way.taken.len() as i64, batches, bytes);
                let _ = lanes.on_opened(lane, &opened, NOW).unwrap();
            }
            Step::Send(lane) => {
                let sent = frame(&mut lanes, lane);
                assert!(sent.is_empty() || ways[lane as usize].is_open);
                ways[lane as usize].sent.extend(sent);
            }
            Step::Take(lane) => take(&mut ways[lane as usize]),
            Step::Ack(lane) => {
                if let Some(sequence) = ways[lane as usize].acks.pop_front() {
                    let _ = ack(&mut lanes, lane, sequence);
                }
            }
            Step::Break(lane) => {
                ways[lane as usize].break_off();
                lanes.on_disconnect(lane);
            }
            Step::Forget(lane) => {
                let way = &mut ways[lane as usize];
                let taken = way.forgotten + way.taken.len() as u64;
                if lanes.lane(lane).acked() == taken {
                    way.break_off();
                    way.taken.clear();
                    way.forgotten = taken;
                    lanes.restart_writer(lane, Uuid::new_v4());
                }
            }
        }
    }
    lanes.finish(NOW);
    for lane in Lane::ALL {
        let way = &mut ways[lane as usize];
        way.break_off();
        lanes.on_disconnect(lane);
        let opened = opened(way.taken.len() as i64, 2, 200);
        let _ = lanes.on_opened(lane, &opened, NOW).unwrap();
    }
    while !lanes.is_settled() {
        let before = lanes.unacked_batches();
        for lane in Lane::ALL {
            let way = &mut ways[lane as usize];
            way.sent.extend(frame(&mut lanes, lane));
            while !way.sent.is_empty() {
                take(way);
            }
            let _ = ack(&mut lanes, lane, way.taken.len() as i64);
        }
        assert!(lanes.unacked_batches() < before, "a deadlock: {lanes:?}");
    }
    for way in &ways {
        let last = way.taken.last();
        assert!(last.is_none_or(|batch| batch.r#final));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn over_both_lanes_every_flush_takes_effect_once_and_each_key_in_order(
        steps in prop::collection::vec(any_step(some_large()), 0..100)
    ) {
        let (mut server, mut expected) = (Model::default(), Model::default());
        let flushed = |updates: &[Update]| {
            let wire: Vec<_> = updates.iter().cloned().map(Update::into_wire).collect();
            expected.apply(&wire);
        };
        run(steps, flushed, |updates| server.apply(updates));
        prop_assert_eq!(server, expected);
    }

    #[test]
    fn over_both_lanes_a_flush_is_seen_whole_or_not_at_all(
        steps in prop::collection::vec(any_step(numbered_puts()), 0..100)
    ) {
        // The n-th flush puts n into each of its keys.
        let mut count = 0;
        let steps = steps.into_iter().map(|step| match step {
            Step::Flush(updates) => {
                count += 1;
                let number = |update: Update| match update.operation.weight() > LARGE {
                    true => large(&update.key, count),
                    false => Update::put(update.key, count.to_string()),
                };
                Step::Flush(updates.into_iter().map(number).collect())
            }
            step => step,
        }).collect();
        let flushes = std::cell::RefCell::new(Vec::new());
        let mut seen: BTreeMap<String, i64> = BTreeMap::new();
        let flushed = |updates: &[Update]| {
            let keys = updates.iter().map(|update| update.key.clone());
            flushes.borrow_mut().push(keys.collect::<Vec<_>>());
        };
        run(steps, flushed, |updates| {
            for update in updates {
                let Some(crate::proto::v1::key_update::Operation::Put(value)) = &update.operation
                else { panic!("only puts were flushed") };
                let Some(Kind::Text(text)) = decode_value(value).unwrap().kind else {
                    panic!("only texts were put")
                };
                let old = seen.insert(update.key.clone(), text.parse().unwrap());
                assert!(old < Some(text.parse().unwrap()), "{} went back", update.key);
            }
            for (keys, number) in flushes.borrow().iter().zip(1_i64..) {
                let mut reached = keys.iter().map(|key| seen.get(key) >= Some(&number));
                let first = reached.next();
                assert!(reached.all(|next| Some(next) == first), "flush {number} is half seen");
            }
        });
    }
}

fn numbered_puts() -> impl Strategy<Value = Vec<Update>> {
    let key = || prop::sample::select(vec!["a", "b", "c", "d", "e"]);
    let some = |most| prop::collection::btree_set(key(), 1..most);
    let small = some(4).prop_map(|keys| keys.into_iter().map(|key| Update::put(key, 0)).collect());
    let mixed = (some(3), key()).prop_map(|(mut keys, first)| {
        keys.remove(first);
        let rest = keys.into_iter().map(|key| Update::put(key, 0));
        std::iter::once(large(first, 0)).chain(rest).collect()
    });
    prop_oneof![3 => small, 1 => mixed]
}
