//! Finishing with contributions: decided once, in effect exactly once, whatever dies between the
//! entries.

use crate::domain::{
    state::Op,
    task::{Contribution, Status},
};

use super::{Sandbox, integer, op, succeeded, token};

fn contributions() -> Vec<Contribution> {
    ["a", "b"]
        .into_iter()
        .map(|state| Contribution {
            state: state.into(),
            ops: vec![op(1, "done", Op::Add(integer(10)))],
        })
        .collect()
}

async fn until_ended(sandbox: &Sandbox) {
    sandbox
        .until(|mirror| {
            mirror
                .tasks
                .rows()
                .all(|row| row.task.status().is_terminal())
        })
        .await;
}

#[tokio::test]
async fn contributions_are_in_before_the_task_is_seen_to_have_ended() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    sandbox
        .finish(&held, succeeded(contributions()), Vec::new())
        .await
        .unwrap();
    until_ended(&sandbox).await;
    assert_eq!(
        (sandbox.number("a", "done"), sandbox.number("b", "done")),
        (10, 10)
    );
    assert_eq!(sandbox.get("t").task.status(), Status::Succeeded);
    sandbox.assert_replay_equals_live().await;
}

/// The entries are: finishing, a delta for each of two states, the end. The process is killed
/// before the first, between each two, and after the last.
#[tokio::test]
async fn a_kill_between_any_two_entries_leaves_one_decision_and_one_effect() {
    for survivors in 0..=4 {
        let sandbox = Sandbox::new().await;
        sandbox.create("t").await;
        let held = token(&sandbox.lease(1, 1).await[0]);
        sandbox.store.faults().kill_after(survivors);
        let answer = sandbox
            .finish(&held, succeeded(contributions()), Vec::new())
            .await;
        // Nothing is acknowledged that the journal does not hold.
        assert!(answer.is_err() || survivors >= 1, "{survivors}");
        if survivors == 4 {
            until_ended(&sandbox).await;
            sandbox.store.faults().kill();
        } else {
            sandbox.namespace.shared().ended.cancelled().await;
        }
        let sandbox = Sandbox::on(sandbox.store.clone()).await;
        if survivors == 0 {
            assert_eq!(sandbox.get("t").task.status(), Status::Running);
            // The worker sends the outcome again under the token it holds.
            sandbox
                .finish(&held, succeeded(contributions()), Vec::new())
                .await
                .unwrap();
        }
        until_ended(&sandbox).await;
        let sums = (sandbox.number("a", "done"), sandbox.number("b", "done"));
        assert_eq!(sums, (10, 10), "{survivors} entries survived");
        let again = sandbox
            .finish(&held, succeeded(contributions()), Vec::new())
            .await
            .unwrap();
        assert_eq!(again.task.status(), Status::Succeeded);
        assert_eq!(
            sums,
            (sandbox.number("a", "done"), sandbox.number("b", "done"))
        );
        sandbox.assert_replay_equals_live().await;
    }
}
