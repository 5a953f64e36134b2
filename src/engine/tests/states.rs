use prost::Message;

use crate::{
    domain::{
        NamespaceId, Reason, Revision, StateId, Uid,
        state::{Op, Settings},
    },
    proto::v1,
};

use super::{
    super::{
        command::UpdateRequest,
        intake::{Directive, PushNews},
    },
    Sandbox, batch, frame, integer, put, succeeded, token,
};

#[tokio::test]
async fn updates_create_a_state_and_a_repeat_with_the_same_request_id_does_nothing() {
    let sandbox = Sandbox::new().await;
    for _ in 0..3 {
        let request = UpdateRequest {
            state: StateId::trusted("s"),
            ops: vec![super::op(1, "n", Op::Add(integer(5)))],
            rejected: Vec::new(),
            request_id: Some(Uid(9)),
            expected: None,
            lease: None,
            source: "client".into(),
        };
        sandbox.namespace.update(request).await.unwrap();
    }
    assert_eq!(sandbox.number("s", "n"), 5);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn an_update_that_expects_another_revision_is_refused() {
    let sandbox = Sandbox::new().await;
    let revision = sandbox
        .update("s", vec![put("n", 1)])
        .await
        .unwrap()
        .revision;
    let expecting = |expected| UpdateRequest {
        state: StateId::trusted("s"),
        ops: vec![put("n", 2)],
        rejected: Vec::new(),
        request_id: None,
        expected: Some(expected),
        lease: None,
        source: "client".into(),
    };
    assert!(sandbox.namespace.update(expecting(revision)).await.is_ok());
    let error = sandbox
        .namespace
        .update(expecting(revision))
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::RevisionMismatch);
    assert_eq!(error.metadata["found"], revision.next().to_string());
}

#[tokio::test]
async fn pushed_batches_are_acknowledged_and_duplicates_and_gaps_are_told() {
    let sandbox = Sandbox::new().await;
    let opened = sandbox.open("s", 3, None).await.unwrap();
    assert_eq!(opened.last_sequence, 0);
    let session = opened.claim();
    let push = |number| batch(number, vec![("n", Op::Add(integer(1)))]);
    sandbox
        .namespace
        .push(&session, &frame((1..=4).map(push)))
        .unwrap();
    let news = session.news().await.unwrap();
    assert!(
        matches!(news, PushNews::Ack { sequence: 4, .. }),
        "{news:?}"
    );
    sandbox
        .namespace
        .push(&session, &frame([push(3), push(7), push(8)]))
        .unwrap();
    assert!(matches!(
        session.news().await.unwrap(),
        PushNews::Ack { sequence: 4, .. }
    ));
    assert_eq!(
        session.news().await.unwrap(),
        PushNews::Rewind { expected: 5 }
    );
    sandbox
        .namespace
        .push(&session, &frame((5..=8).map(push)))
        .unwrap();
    assert!(matches!(
        session.news().await.unwrap(),
        PushNews::Ack { sequence: 8, .. }
    ));
    assert_eq!(sandbox.number("s", "n"), 8);
    assert!(session.settled());
}

#[tokio::test]
async fn a_writer_resumes_behind_what_is_durable_and_a_forgotten_one_is_told() {
    let sandbox = Sandbox::new().await;
    let push = |number| batch(number, vec![("n", Op::Add(integer(1)))]);
    let session = sandbox.open("s", 3, None).await.unwrap().claim();
    sandbox
        .namespace
        .push(&session, &frame([push(1), push(2)]))
        .unwrap();
    session.news().await.unwrap();
    let sandbox = sandbox.kill_and_restart().await;
    let opened = sandbox.open("s", 3, None).await.unwrap();
    assert_eq!(opened.last_sequence, 2);
    let stranger = sandbox.open("s", 4, None).await.unwrap().claim();
    let error = sandbox
        .namespace
        .push(&stranger, &frame([push(7)]))
        .unwrap_err();
    assert_eq!(error.reason, Reason::WriterExpired);
}

#[tokio::test]
async fn a_writer_whose_stream_broke_opens_again_before_its_batches_are_merged() {
    let sandbox = Sandbox::new().await;
    let push = |number| batch(number, vec![("n", Op::Add(integer(1)))]);
    let broken = sandbox.open("s", 3, None).await.unwrap().claim();
    sandbox
        .namespace
        .push(&broken, &frame((1..=4).map(push)))
        .unwrap();
    broken.news().await.unwrap();
    // Nothing is awaited from here to the opening: the monitor finds both at once.
    sandbox
        .namespace
        .push(&broken, &frame((5..=8).map(push)))
        .unwrap();
    sandbox.namespace.leave(&broken);
    let opened = sandbox.open("s", 3, None).await.unwrap();
    let missing = opened.last_sequence + 1..=12;
    let session = opened.claim();
    sandbox
        .namespace
        .push(&session, &frame(missing.map(push)))
        .unwrap();
    while !session.settled() {
        session.news().await.unwrap();
    }
    assert_eq!(sandbox.number("s", "n"), 12);
}

#[tokio::test]
async fn only_the_newest_stream_of_a_writer_writes() {
    let sandbox = Sandbox::new().await;
    let older = sandbox.open("s", 3, None).await.unwrap().claim();
    let newer = sandbox.open("s", 3, None).await.unwrap().claim();
    assert_eq!(
        older.news().await.unwrap_err().reason,
        Reason::WriterTakenOver
    );
    assert!(
        sandbox
            .namespace
            .push(&older, &frame([batch(1, Vec::new())]))
            .is_err()
    );
    sandbox
        .namespace
        .push(&newer, &frame([batch(1, vec![("n", Op::Put(integer(1)))])]))
        .unwrap();
    assert!(matches!(
        newer.news().await.unwrap(),
        PushNews::Ack { sequence: 1, .. }
    ));
}

/// A client that ignores its window is slowed by HTTP/2: its stream is read no further.
#[tokio::test]
async fn a_full_window_has_room_again_when_it_is_durable() {
    let sandbox = Sandbox::new().await;
    let session = sandbox.open("s", 3, None).await.unwrap().claim();
    let faults = sandbox.store.faults();
    faults.shut_gate();
    // Four of them fit into the window, five do not.
    let push = |number| {
        let kind = Some(v1::value::Kind::Text("x".repeat(1_000_000)));
        let value = v1::Value { kind }.encode_to_vec();
        batch(number, vec![("text", Op::Put(value.into()))])
    };
    let frame = |number| frame([push(number)]);
    for number in 1..=4 {
        sandbox.namespace.push(&session, &frame(number)).unwrap();
    }
    session.room().await;
    sandbox.namespace.push(&session, &frame(5)).unwrap();
    faults.until_held(1).await;
    let room = futures_util::FutureExt::now_or_never(session.room());
    assert_eq!(room, None);
    faults.open_gate();
    session.room().await;
}

#[tokio::test]
async fn a_namespace_whose_journal_is_slow_keeps_no_other_waiting() {
    let sandbox = Sandbox::new().await;
    let slow = NamespaceId::trusted("slow");
    let other = sandbox.engine.namespace(&slow).await.unwrap();
    let faults = sandbox.store.faults();
    faults.shut_gate_of(&slow);
    let held = tokio::spawn(async move {
        other
            .set_state(StateId::trusted("s"), Settings::default())
            .await
    });
    faults.until_held(1).await;
    for number in 0..10 {
        sandbox.update("s", vec![put("n", number)]).await.unwrap();
    }
    assert!(!held.is_finished());
    faults.open_gate();
    held.await.unwrap().unwrap();
}

/// What happens in real time: an interval that passes by the server's own timer.
#[tokio::test(start_paused = true)]
async fn held_batches_are_acknowledged_when_the_interval_is_over() {
    let sandbox = Sandbox::new().await;
    let settings = Settings {
        merge_interval_us: 500_000,
        ..Settings::default()
    };
    let state = StateId::trusted("s");
    sandbox.namespace.set_state(state, settings).await.unwrap();
    let session = sandbox.open("s", 3, None).await.unwrap().claim();
    let push = |number| batch(number, vec![("n", Op::Add(integer(1)))]);
    let mut merges = Vec::new();
    for number in 1..=3 {
        sandbox
            .namespace
            .push(&session, &frame([push(number)]))
            .unwrap();
        assert!(matches!(
            session.news().await.unwrap(),
            PushNews::Ack { sequence, .. } if sequence == number
        ));
        merges.push(tokio::time::Instant::now());
    }
    let waits = merges.windows(2).map(|pair| pair[1] - pair[0]);
    let interval = std::time::Duration::from_millis(500);
    assert!(
        waits
            .into_iter()
            .all(|wait| wait >= interval && wait < 2 * interval)
    );
    // What is held is merged before the server ends.
    sandbox.namespace.push(&session, &frame([push(4)])).unwrap();
    sandbox.engine.stop().await.unwrap();
    assert_eq!(sandbox.number("s", "n"), 4);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn settings_outlive_a_restart_and_create_the_state() {
    let sandbox = Sandbox::new().await;
    let settings = Settings {
        merge_interval_us: 7,
        retention_us: 9_000_000,
        set_us: 0,
    };
    let state = StateId::trusted("s");
    sandbox
        .namespace
        .set_state(state.clone(), settings)
        .await
        .unwrap();
    sandbox.update("s", vec![put("n", 1)]).await.unwrap();
    let sandbox = sandbox.kill_and_restart().await;
    let found = sandbox
        .namespace
        .read_state(&state, |slot, _| slot.state.settings())
        .unwrap();
    assert_eq!(
        (found.merge_interval_us, found.retention_us),
        (7, 9_000_000)
    );
    sandbox
        .namespace
        .delete_state(state.clone(), None)
        .await
        .unwrap();
    sandbox.update("s", vec![put("n", 1)]).await.unwrap();
    let found = sandbox
        .namespace
        .read_state(&state, |slot, _| slot.state.settings())
        .unwrap();
    assert_eq!(found, Settings::default());
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn a_rejected_key_does_not_hold_up_its_writer() {
    let sandbox = Sandbox::new().await;
    sandbox.update("s", vec![put("n", i64::MAX)]).await.unwrap();
    let session = sandbox.open("s", 3, None).await.unwrap().claim();
    let ops = vec![("n", Op::Add(integer(1))), ("m", Op::Put(integer(1)))];
    sandbox
        .namespace
        .push(&session, &frame([batch(1, ops)]))
        .unwrap();
    let PushNews::Ack {
        sequence: 1,
        rejected,
        ..
    } = session.news().await.unwrap()
    else {
        panic!()
    };
    assert_eq!(
        (rejected[0].key.as_str(), rejected[0].reason.as_str()),
        ("n", "OVERFLOW")
    );
    assert_eq!(sandbox.number("s", "m"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_lease_is_lost_can_push_no_more() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    let session = sandbox
        .open("s", 3, Some(held.clone()))
        .await
        .unwrap()
        .claim();
    sandbox
        .until(|mirror| mirror.tasks.rows().all(|row| row.task.running().is_none()))
        .await;
    let _ = sandbox.namespace.push(
        &session,
        &frame([batch(1, vec![("n", Op::Put(integer(1)))])]),
    );
    assert_eq!(
        session.news().await.unwrap(),
        PushNews::Directive(Directive::LeaseLost)
    );
    assert_eq!(session.news().await.unwrap_err().reason, Reason::LeaseLost);
    assert_eq!(
        sandbox.open("s", 4, Some(held)).await.unwrap_err().reason,
        Reason::LeaseLost
    );
    assert!(!sandbox.view("s").contains_key("n"));
}

#[tokio::test]
async fn the_end_of_a_task_waits_for_the_batches_it_names() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    let session = sandbox
        .open("s", 3, Some(held.clone()))
        .await
        .unwrap()
        .claim();
    let mark = crate::domain::task::WriterMark {
        state: "s".into(),
        writer_id: Uid(3).to_bytes(),
        sequence: 2,
    };
    let row = sandbox
        .finish(&held, succeeded(Vec::new()), vec![mark])
        .await
        .unwrap();
    assert!(!row.task.status().is_terminal());
    let push = |number| batch(number, vec![("n", Op::Add(integer(1)))]);
    sandbox
        .namespace
        .push(&session, &frame([push(1), push(2)]))
        .unwrap();
    sandbox
        .until(|mirror| {
            mirror
                .tasks
                .rows()
                .all(|row| row.task.status().is_terminal())
        })
        .await;
    assert_eq!(sandbox.number("s", "n"), 2);
    assert!(!sandbox.get("t").task.flush_incomplete);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn a_deleted_state_is_gone_and_begins_anew_with_the_next_update() {
    let sandbox = Sandbox::new().await;
    sandbox.update("s", vec![put("n", 1)]).await.unwrap();
    let state = StateId::trusted("s");
    sandbox
        .namespace
        .delete_state(state.clone(), None)
        .await
        .unwrap();
    assert!(sandbox.view("s").is_empty());
    let error = sandbox
        .namespace
        .delete_state(state.clone(), None)
        .await
        .unwrap_err();
    assert_eq!(error.reason, Reason::StateNotFound);
    sandbox.update("s", vec![put("m", 2)]).await.unwrap();
    assert_eq!(sandbox.view("s").len(), 1);
    sandbox.assert_replay_equals_live().await;
}

#[tokio::test]
async fn snapshots_keep_a_busy_state_small_in_the_journal() {
    let sandbox = Sandbox::new().await;
    for number in 0..3_000 {
        sandbox
            .update("s", vec![put(&format!("key-{}", number % 10), number)])
            .await
            .unwrap();
    }
    let (entries, head) = sandbox.namespace.read(|mirror| {
        (
            mirror.states[&StateId::trusted("s")].entries.len(),
            mirror.head,
        )
    });
    assert!(entries < 2_000, "{entries} entries");
    assert!(head > Revision(3_000));
    sandbox.assert_replay_equals_live().await;
}

/// So that whatever an earlier attempt still has on the way is skipped, wherever it is merged.
#[tokio::test]
async fn a_writer_under_a_new_lease_is_opened_only_when_the_state_knows_its_fence() {
    let sandbox = Sandbox::new().await;
    sandbox.create("t").await;
    let held = token(&sandbox.lease(1, 1).await[0]);
    sandbox.open("s", 3, Some(held.clone())).await.unwrap();
    let task = sandbox.get("t").task.uid();
    let known = sandbox.namespace.read(|mirror| {
        let slot = mirror.states.get(&StateId::trusted("s"));
        slot.map_or(0, |slot| slot.state.fence(&task))
    });
    assert_eq!(known, held.fence);
}
