//! StateService, but for its streams.

use bytes::Bytes;
use duite::proto::v1::{self as pb, key_update::Operation};

use crate::sandbox::{
    PARENT, STATE, Sandbox, add, entries, expect, integer, output, put, refusal, text, update,
};

const REQUEST: &str = "f4b3a1c2-0000-4000-8000-000000000001";

fn request(updates: Vec<pb::KeyUpdate>) -> pb::UpdateStateRequest {
    pb::UpdateStateRequest {
        name: STATE.into(),
        updates,
        ..Default::default()
    }
}

fn get() -> pb::GetStateRequest {
    pb::GetStateRequest {
        name: STATE.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_was_written_is_read_in_the_order_of_keys() {
    let mut server = Sandbox::new().await;
    let updates = vec![put("b", text("x")), add("a", 1), put("c", integer(3))];
    let written = server.update(updates).await.unwrap();
    assert_eq!(written.rejected, []);
    let position = written.position.unwrap();
    let fresh = pb::GetStateRequest {
        min_position: position.resume_token,
        ..get()
    };
    let read = server.states.get_state(fresh).await.unwrap().into_inner();
    let state = read.state.unwrap();
    let expected = [("a", integer(1)), ("b", text("x")), ("c", integer(3))];
    assert_eq!(entries(&state), expected);
    assert_eq!(state.revision, position.revision);
    assert_eq!(state.entries[0].source, "client");

    let some = pb::GetStateRequest {
        keys: vec!["c".into(), "nobody".into(), "c".into()],
        inline_limit_bytes: 1,
        ..get()
    };
    let read = server.states.get_state(some).await.unwrap().into_inner();
    assert_eq!(entries(&read.state.unwrap()), [("c", Bytes::new())]);
}

#[tokio::test]
async fn keys_are_rejected_one_by_one_and_the_call_is_well() {
    let mut server = Sandbox::new().await;
    let updates = vec![
        put(&"k".repeat(257), integer(1)),
        put("", integer(1)),
        put("damaged", Bytes::from_static(b"\xff")),
        update("nothing", Operation::Delete(false)),
        put("good", text("x")),
        add("good", 1),
    ];
    let written = server.update(updates).await.unwrap();
    let rejected = written.rejected.iter();
    let mut reasons: Vec<_> = rejected.map(|key| key.reason.as_str()).collect();
    reasons.sort_unstable();
    let invalid = [
        "KEY_INVALID",
        "KEY_INVALID",
        "TYPE_MISMATCH",
        "VALUE_INVALID",
        "VALUE_INVALID",
    ];
    assert_eq!(reasons, invalid);
    let mut rejected = written.rejected.iter();
    assert!(rejected.all(|key| key.sequence == 0 && key.key.len() <= 256));
    assert_eq!(
        entries(&server.state().await.unwrap()),
        [("good", text("x"))]
    );
    let all_bad = server.update(vec![put("", integer(1))]).await.unwrap();
    assert_eq!(all_bad.rejected.len(), 1);
    let large = request(vec![put("k", text(&"x".repeat(1 << 20)))]);
    assert_eq!(
        refusal(server.states.update_state(large).await),
        "VALUE_TOO_LARGE"
    );
}

#[tokio::test]
async fn a_request_id_takes_effect_once_and_an_expected_revision_is_checked() {
    let mut server = Sandbox::new().await;
    let mut once = request(vec![add("n", 1)]);
    once.request_id = REQUEST.into();
    for _ in 0..3 {
        server.states.update_state(once.clone()).await.unwrap();
    }
    let state = server.state().await.unwrap();
    assert_eq!(entries(&state), [("n", integer(1))]);

    let mut expecting = request(vec![put("n", integer(7))]);
    expecting.expected_revision = state.revision + 100;
    let refused = server.states.update_state(expecting.clone()).await;
    assert_eq!(refusal(refused), "REVISION_MISMATCH");
    expecting.expected_revision = state.revision;
    server.states.update_state(expecting).await.unwrap();
    assert_eq!(entries(&server.state().await.unwrap()), [("n", integer(7))]);
}

#[tokio::test]
async fn a_lease_names_the_source_and_fences_its_writer_off() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let mut leased = request(vec![put("k", integer(1))]);
    leased.lease_token = lease.lease_token.clone();
    server.states.update_state(leased.clone()).await.unwrap();
    let state = server.state().await.unwrap();
    assert_eq!(state.entries[0].source, lease.task.as_ref().unwrap().name);
    server.finish(output(&lease, b"")).await;
    assert_eq!(
        refusal(server.states.update_state(leased.clone()).await),
        "LEASE_LOST"
    );
    leased.name = "namespaces/other/states/s".into();
    assert_eq!(
        refusal(server.states.update_state(leased).await),
        "FIELD_INVALID"
    );
}

#[tokio::test]
async fn a_state_is_deleted_once_and_only_the_named_incarnation() {
    let mut server = Sandbox::new().await;
    server.update(vec![put("k", integer(1))]).await.unwrap();
    let delete = |uid: &str| pb::DeleteStateRequest {
        name: STATE.into(),
        uid: uid.into(),
    };
    let refused = server.states.delete_state(delete(REQUEST)).await;
    assert_eq!(refusal(refused), "STATE_NOT_FOUND");
    let uid = server.state().await.unwrap().uid;
    server.states.delete_state(delete(&uid)).await.unwrap();
    let refused = server.states.delete_state(delete("")).await;
    assert_eq!(refusal(refused), "STATE_NOT_FOUND");
    assert!(server.state().await.is_err());
}

#[tokio::test]
async fn states_are_listed_in_pages_that_share_a_position() {
    let mut server = Sandbox::new().await;
    for name in ["b", "a", "c"] {
        let request = pb::UpdateStateRequest {
            name: format!("{PARENT}/states/{name}"),
            ..request(vec![put("k", integer(1))])
        };
        server.states.update_state(request).await.unwrap();
    }
    let list = |page_token: String| pb::ListStatesRequest {
        parent: PARENT.into(),
        page_size: 2,
        page_token,
    };
    let first = server
        .states
        .list_states(list(String::new()))
        .await
        .unwrap()
        .into_inner();
    server.update(vec![add("n", 1)]).await.unwrap();
    let second = list(first.next_page_token);
    let second = server
        .states
        .list_states(second)
        .await
        .unwrap()
        .into_inner();
    let pages = [first.states, second.states].concat();
    let names: Vec<_> = pages.into_iter().map(|state| state.name).collect();
    assert_eq!(
        names,
        ["a", "b", "c", "s"].map(|name| format!("{PARENT}/states/{name}"))
    );
    assert_eq!(first.position, second.position);
    assert_eq!(second.next_page_token, "");
}

#[tokio::test]
async fn the_monitor_tells_what_it_did() {
    let mut server = Sandbox::new().await;
    server.update(vec![add("n", 1)]).await.unwrap();
    server.update(vec![add("n", 1)]).await.unwrap();
    let monitor = pb::GetMonitorRequest { name: STATE.into() };
    let answer = server
        .states
        .get_monitor(monitor)
        .await
        .unwrap()
        .into_inner();
    let monitor = answer.monitor.unwrap();
    assert_eq!((monitor.merged_batches, monitor.journal_entries), (2, 2));
    assert_eq!((monitor.entries_since_snapshot, monitor.writers), (2, 0));
    assert_eq!(monitor.last_revision, answer.position.unwrap().revision);
    // Two within a moment: the average has only begun to rise.
    let (merges, batches) = (monitor.merges_per_second, monitor.batches_per_second);
    assert!(
        merges > 0.0 && merges <= 0.4 && batches == merges,
        "{monitor:?}"
    );
    let list = pb::ListStatesRequest {
        parent: PARENT.into(),
        ..Default::default()
    };
    let list = server.states.list_states(list).await.unwrap().into_inner();
    let listed = list.states[0].monitor.unwrap();
    assert_eq!(listed.merged_batches, 2);
    assert_eq!(server.state().await.unwrap().monitor, None);
}

fn settings(merge_millis: i64, retention_seconds: i64) -> pb::UpdateStateSettingsRequest {
    let duration = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    pb::UpdateStateSettingsRequest {
        name: STATE.into(),
        settings: Some(pb::StateSettings {
            merge_interval: duration(
                merge_millis / 1_000,
                i32::try_from(merge_millis % 1_000 * 1_000_000).unwrap(),
            ),
            retention: duration(retention_seconds, 0),
        }),
    }
}

#[tokio::test]
async fn settings_are_set_as_a_whole_and_create_the_state() {
    let mut server = Sandbox::new().await;
    let set = server.states.update_state_settings(settings(200, 3_600));
    let set = set.await.unwrap().into_inner();
    let (state, expected) = (set.state.unwrap(), settings(200, 3_600).settings);
    assert_eq!((&state.settings, state.name.as_str()), (&expected, STATE));
    assert_eq!(state.revision, set.position.unwrap().revision);
    server.update(vec![put("k", integer(1))]).await.unwrap();
    let state = server.state().await.unwrap();
    assert_eq!(state.settings, expected);
    assert_eq!(entries(&state), [("k", integer(1))]);
    let none = pb::UpdateStateSettingsRequest {
        settings: Some(pb::StateSettings::default()),
        ..settings(0, 0)
    };
    server.states.update_state_settings(none).await.unwrap();
    let again = server.state().await.unwrap();
    assert_eq!(again.settings, Some(pb::StateSettings::default()));
    // A compare-and-set is about keys.
    assert_eq!(again.revision, state.revision);
}

#[tokio::test]
async fn wrong_settings_name_their_reason() {
    let mut server = Sandbox::new().await;
    let wrong = [
        settings(-1, 0),
        settings(-5_000, 0),
        settings(5_001, 0),
        settings(0, -1),
        pb::UpdateStateSettingsRequest {
            settings: None,
            ..settings(0, 0)
        },
        pb::UpdateStateSettingsRequest {
            name: "s".into(),
            ..settings(0, 0)
        },
    ];
    for request in wrong {
        let reason = refusal(server.states.update_state_settings(request.clone()).await);
        expect(reason, "FIELD_INVALID", &request);
    }
    assert_eq!(
        refusal(server.states.get_state(get()).await),
        "STATE_NOT_FOUND"
    );
    server
        .states
        .update_state_settings(settings(5_000, 0))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_answer_that_does_not_fit_says_what_to_do() {
    let mut server = Sandbox::new().await;
    for n in 0..5 {
        let value = text(&"x".repeat(1_000_000));
        server
            .update(vec![put(&format!("k{n}"), value)])
            .await
            .unwrap();
    }
    assert_eq!(
        refusal(server.states.get_state(get()).await),
        "VALUE_TOO_LARGE"
    );
    let stubs = pb::GetStateRequest {
        inline_limit_bytes: 1_000,
        ..get()
    };
    let read = server.states.get_state(stubs).await.unwrap().into_inner();
    assert_eq!(read.state.unwrap().entries.len(), 5);
}

#[tokio::test]
async fn wrong_reads_name_their_reason() {
    let mut server = Sandbox::new().await;
    let states = &mut server.states;
    let named = |name: &str| pb::GetStateRequest {
        name: name.into(),
        ..get()
    };
    let junk = Bytes::from_static(b"junk");
    let wrong = [
        (get(), "STATE_NOT_FOUND"),
        (named("s"), "FIELD_INVALID"),
        (named("namespaces/no/states/s"), "NAMESPACE_NOT_FOUND"),
        (
            pb::GetStateRequest {
                inline_limit_bytes: -1,
                ..get()
            },
            "FIELD_INVALID",
        ),
        (
            pb::GetStateRequest {
                min_position: junk,
                ..get()
            },
            "RESUME_TOKEN_MALFORMED",
        ),
    ];
    for (request, expected) in wrong {
        let reason = refusal(states.get_state(request.clone()).await);
        expect(reason, expected, &request);
    }
    let monitor = pb::GetMonitorRequest { name: STATE.into() };
    assert_eq!(
        refusal(states.get_monitor(monitor).await),
        "STATE_NOT_FOUND"
    );
    let list = pb::ListStatesRequest {
        parent: PARENT.into(),
        page_token: "x".into(),
        ..Default::default()
    };
    assert_eq!(
        refusal(states.list_states(list).await),
        "PAGE_TOKEN_MISMATCH"
    );
}

#[tokio::test]
async fn wrong_writes_name_their_reason() {
    let mut server = Sandbox::new().await;
    let good = || request(vec![put("k", integer(1))]);
    let junk = Bytes::from_static(b"junk");
    let wrong = [
        (request(Vec::new()), "FIELD_INVALID"),
        (
            pb::UpdateStateRequest {
                name: "s".into(),
                ..good()
            },
            "FIELD_INVALID",
        ),
        (
            pb::UpdateStateRequest {
                request_id: "me".into(),
                ..good()
            },
            "FIELD_INVALID",
        ),
        (
            pb::UpdateStateRequest {
                expected_revision: -1,
                ..good()
            },
            "FIELD_INVALID",
        ),
        (
            pb::UpdateStateRequest {
                lease_token: junk,
                ..good()
            },
            "LEASE_TOKEN_MALFORMED",
        ),
    ];
    for (request, expected) in wrong {
        let reason = refusal(server.states.update_state(request.clone()).await);
        expect(reason, expected, &request);
    }
    let delete = pb::DeleteStateRequest {
        name: STATE.into(),
        uid: "me".into(),
    };
    assert_eq!(
        refusal(server.states.delete_state(delete).await),
        "FIELD_INVALID"
    );
}
