//! Whatever happens, a mirror folded anew from the journal equals the live one, although the
//! journal has lost everything that was superseded.

use std::time::Duration;

use proptest::prelude::*;

use crate::domain::{
    StateId, Uid,
    failure::Report,
    state::Op,
    task::{Contribution, Failure, Outcome, WriterMark},
};

use super::{
    super::command::QueueChange,
    Sandbox, batch, frame, integer, op, put, succeeded, task, token,
    values::{picture, pictured, show},
};

#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Finish(u8, u8),
    Cancel(u8),
    Update(u8, u8, i64),
    Delete(u8),
    Push(u8, u8),
    Grow(u8),
    Show(u8, u8, u8),
    PushShow(u8, u8),
    Tear(u8),
    Limit(bool, u32, u32),
    Report(u8, u8),
    Pass(u16),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..6).prop_map(Step::Create),
        6 => (0_u8..4, 0_u8..4).prop_map(|(instance, how)| Step::Finish(instance, how)),
        1 => (0_u8..6).prop_map(Step::Cancel),
        5 => (0_u8..3, 0_u8..5, -3_i64..4).prop_map(|(state, key, n)| Step::Update(state, key, n)),
        1 => (0_u8..3).prop_map(Step::Delete),
        5 => (0_u8..3, 0_u8..3).prop_map(|(state, writer)| Step::Push(state, writer)),
        1 => (0_u8..3).prop_map(Step::Grow),
        4 => (0_u8..3, 0_u8..3, 1_u8..10).prop_map(|(state, key, size)| Step::Show(state, key, size)),
        2 => (0_u8..3, 0_u8..3).prop_map(|(state, writer)| Step::PushShow(state, writer)),
        1 => (0_u8..3).prop_map(Step::Tear),
        2 => (any::<bool>(), 0_u32..3, 0_u32..2)
            .prop_map(|(paused, all, key)| Step::Limit(paused, all, key)),
        2 => (0_u8..6, 0_u8..3).prop_map(|(id, kind)| Step::Report(id, kind)),
        2 => (1_u16..900).prop_map(Step::Pass),
        1 => Just(Step::Crash),
    ]
}

async fn run(sandbox: Sandbox, step: Step) -> Sandbox {
    let state = |number: u8| format!("s{number}");
    match step {
        Step::Create(id) => {
            let mut task = task(&format!("t{id}"));
            // Some are removed as soon as they have ended, so that their ids come again.
            task.policy.retention_us = if id % 2 == 0 { 1 } else { 86_400_000_000 };
            // Each id once in either queue: nobody asks the other.
            task.queue = if id % 3 == 0 { "other" } else { "default" }.into();
            task.fairness_key = format!("f{}", id % 2);
            task.concurrency_key = format!("c{}", id / 4);
            let _ = sandbox.create_task(task).await;
        }
        Step::Finish(instance, how) => {
            let granted = sandbox.lease(u128::from(instance) + 1, 1).await;
            let Some(granted) = granted.first() else {
                return sandbox;
            };
            let held = token(granted);
            let (outcome, marks) = match how {
                0 => (
                    Outcome::Failed(Box::new(Failure {
                        retryable: true,
                        ..Failure::default()
                    })),
                    Vec::new(),
                ),
                1 => {
                    let ops = vec![op(1, "sum", Op::Add(integer(1)))];
                    (
                        succeeded(vec![Contribution {
                            state: state(instance % 3),
                            ops,
                        }]),
                        Vec::new(),
                    )
                }
                2 => {
                    let mark = WriterMark {
                        state: state(0),
                        writer_id: Uid(77).to_bytes(),
                        sequence: 1,
                    };
                    (succeeded(Vec::new()), vec![mark])
                }
                _ => (succeeded(Vec::new()), Vec::new()),
            };
            let _ = sandbox.finish(&held, outcome, marks).await;
        }
        Step::Cancel(id) => drop(sandbox.cancel(&format!("t{id}")).await),
        Step::Update(to, key, number) => {
            let key = format!("k{key}");
            let op = if number < 0 {
                op(1, &key, Op::Delete(true))
            } else {
                put(&key, number)
            };
            let _ = sandbox.update(&state(to), vec![op]).await;
        }
        Step::Delete(of) => drop(
            sandbox
                .namespace
                .delete_state(StateId::trusted(&state(of)), None)
                .await,
        ),
        Step::Push(to, writer) => {
            let Ok(opened) = sandbox
                .open(&state(to), u128::from(writer) + 100, None)
                .await
            else {
                return sandbox;
            };
            let next = opened.last_sequence + 1;
            let session = opened.claim();
            let batches = [
                batch(next, vec![("n", Op::Add(integer(1)))]),
                batch(next + 1, vec![("m", Op::Put(integer(2)))]),
            ];
            sandbox.namespace.push(&session, &frame(batches)).unwrap();
            let _ = session.news().await;
            sandbox.namespace.leave(&session);
        }
        Step::Grow(of) => {
            // Enough to make a snapshot due.
            for number in 0..3 {
                let text = super::v1::Value {
                    kind: Some(super::v1::value::Kind::Text("x".repeat(40_000))),
                };
                let value = prost::Message::encode_to_vec(&text).into();
                let _ = sandbox
                    .update(
                        &state(of),
                        vec![op(1, &format!("big{}", number % 2), Op::Put(value))],
                    )
                    .await;
            }
        }
        Step::Show(to, key, size) => {
            let value = picture(size, usize::from(size) * 100_000);
            let op = show(1, &format!("k{key}"), value);
            let _ = sandbox.update(&state(to), vec![op]).await;
        }
        Step::PushShow(to, writer) => {
            let writer = u128::from(writer) + 100;
            let Ok(opened) = sandbox.open(&state(to), writer, None).await else {
                return sandbox;
            };
            let next = opened.last_sequence + 1;
            let session = opened.claim();
            let batches = [pictured(next, 1, 500_000), pictured(next + 1, 2, 500_000)];
            sandbox.namespace.push(&session, &frame(batches)).unwrap();
            let _ = session.news().await;
            sandbox.namespace.leave(&session);
        }
        Step::Tear(to) => {
            // The process dies between a value and its delta.
            sandbox.store.faults().kill_after(1);
            let ops = vec![show(1, "k2", picture(9, 300_000))];
            let _ = sandbox.update(&state(to), ops).await;
            return sandbox.kill_and_restart().await;
        }
        Step::Limit(paused, max_running, max_running_per_key) => {
            let change = QueueChange {
                paused: Some(paused && max_running == 0),
                max_running: Some(max_running),
                max_running_per_key: Some(max_running_per_key),
            };
            let queue = if paused { "empty" } else { "default" };
            let _ = sandbox.set_queue(queue, change).await;
        }
        Step::Report(id, kind) => {
            let failure = Failure {
                r#type: kind.to_string(),
                ..Failure::default()
            };
            let report = Report::new(Uid(u128::from(id)), "report", &failure).unwrap();
            let _ = sandbox.namespace.report(vec![report]).await;
        }
        Step::Pass(seconds) => tokio::time::advance(Duration::from_secs(seconds.into())).await,
        Step::Crash => return sandbox.kill_and_restart().await,
    }
    sandbox
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn replay_after_compaction_equals_the_live_mirror(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut sandbox = Sandbox::new().await;
            for step in steps {
                sandbox = run(sandbox, step).await;
                sandbox.assert_lines_follow_the_mirror().await;
            }
            // Every value that a key refers to is in the journal, and none stays for long that
            // nobody refers to.
            let values = sandbox.stored_values();
            sandbox.namespace.read(|mirror| {
                let slots = mirror.states.values();
                let mut known: Vec<_> = slots.flat_map(|slot| slot.values.clone()).collect();
                known.sort_unstable();
                assert_eq!(known, values);
                for slot in mirror.states.values() {
                    let mut referred = slot.state.large_values();
                    assert!(referred.all(|value| values.contains(&value)));
                    let most = slot.state.size_bytes().max(4 << 20) + (4 << 20);
                    assert!(slot.dead_value_bytes() <= most, "{} bytes", slot.dead_value_bytes());
                }
            });
            sandbox.assert_replay_equals_live().await;
        });
    }
}
