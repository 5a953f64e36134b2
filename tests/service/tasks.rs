//! TaskService.

use std::collections::BTreeSet;

use duite::proto::v1::{self as pb, task::Status};

use crate::sandbox::{PARENT, Sandbox, echo, item_reason, name, output, reason, refusal};

fn create(id: &str) -> pb::CreateTaskRequest {
    pb::CreateTaskRequest {
        parent: PARENT.into(),
        task_id: id.into(),
        task: Some(echo()),
        ..Default::default()
    }
}

fn batch(requests: Vec<pb::CreateTaskRequest>) -> pb::BatchCreateTasksRequest {
    pb::BatchCreateTasksRequest {
        parent: PARENT.into(),
        requests,
    }
}

fn with_input(id: &str, bytes: usize) -> pb::CreateTaskRequest {
    let mut request = create(id);
    request.task.as_mut().unwrap().input = Some(pb::Payload {
        data: vec![7; bytes].into(),
        ..Default::default()
    });
    request
}

#[tokio::test]
async fn a_task_is_submitted_leased_renewed_finished_and_read() {
    let mut server = Sandbox::new().await;
    let task = server.create("t").await;
    assert_eq!((&task.name, task.status()), (&name("t"), Status::Queued));
    assert_eq!(task.queue, "default");
    assert_eq!(task.policy.unwrap().max_attempts, 3);

    let lease = server.lease().await.remove(0);
    assert_eq!(lease.valid_for.unwrap().seconds, 4);
    assert_eq!(lease.renew_interval.unwrap().seconds, 2);
    assert_eq!(lease.task.as_ref().unwrap().attempt, 1);
    let status = server.renew(&lease.lease_token).await;
    assert_eq!(status.disposition(), pb::lease_status::Disposition::Held);
    assert_eq!(status.valid_for.unwrap().seconds, 8);

    let finished = server.finish(output(&lease, b"done")).await;
    let pb::outcome_result::Result::Task(task) = finished else {
        panic!("{finished:?}")
    };
    assert_eq!(task.status(), Status::Succeeded);
    let task = server.get("t").await.unwrap();
    assert_eq!(task.status(), Status::Succeeded);
    assert_eq!(&task.output.unwrap().data[..], b"done");
    assert_eq!(task.attempts.len(), 1);
    assert!(task.end_time.is_some() && task.expire_time.is_some());
}

#[tokio::test]
async fn creating_twice_makes_one_task_and_another_body_is_refused() {
    let mut server = Sandbox::new().await;
    let mut request = create("");
    request.request_id = "f4b3a1c2-0000-4000-8000-000000000001".into();
    let first = server.tasks.create_task(request.clone()).await.unwrap();
    let again = server.tasks.create_task(request.clone()).await.unwrap();
    assert_eq!(first.into_inner(), again.into_inner());
    request.task.as_mut().unwrap().priority = 5;
    let refused = server.tasks.create_task(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    assert_eq!(reason(&refused), "TASK_EXISTS");
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_each_item_stands_by_itself() {
    let mut server = Sandbox::new().await;
    let mut wrong = create("b");
    wrong.task = None;
    let request = batch(vec![create("a"), wrong, create("a"), create("c")]);
    let response = server
        .tasks
        .batch_create_tasks(request)
        .await
        .unwrap()
        .into_inner();
    let results = response
        .results
        .into_iter()
        .map(|item| match item.result.unwrap() {
            pb::create_task_result::Result::Task(task) => task.name,
            pb::create_task_result::Result::Error(error) => item_reason(&error),
        });
    let results: Vec<_> = results.collect();
    assert_eq!(
        results,
        [name("a"), "FIELD_INVALID".into(), name("a"), name("c")]
    );
    let get = pb::GetTaskRequest {
        name: name("c"),
        min_position: response.position.unwrap().resume_token,
    };
    assert!(server.tasks.get_task(get).await.is_ok());
}

#[tokio::test]
async fn a_full_batch_is_answered_and_its_leases_come_in_messages_that_fit() {
    let mut server = Sandbox::new().await;
    let heavy = |n| with_input(&format!("t{n}"), 4 << 10);
    let mut server_side = 0;
    for part in 0..2 {
        let requests = (0..900).map(|n| heavy(part * 900 + n)).collect();
        let response = server
            .tasks
            .batch_create_tasks(batch(requests))
            .await
            .unwrap();
        server_side += response.into_inner().results.len();
    }
    assert_eq!(server_side, 1_800);
    let mut leases = server.lease().await;
    // A thousand were asked for; what did not fit went back to the queue.
    assert!((500..1_000).contains(&leases.len()), "{}", leases.len());
    let input = leases[0].task.as_ref().unwrap().input.as_ref().unwrap();
    assert_eq!(input.data.len(), 4 << 10);
    while leases.len() < 1_800 {
        let more = server.lease().await;
        assert!(!more.is_empty());
        leases.extend(more);
    }
    let distinct: BTreeSet<_> = leases.iter().map(|lease| &lease.lease_token).collect();
    assert_eq!(distinct.len(), 1_800);
}

#[tokio::test]
async fn heavy_data_is_given_where_it_is_asked_for_and_told_by_its_size_elsewhere() {
    static NINES: [u8; 1_025] = [9; 1_025];
    let mut server = Sandbox::new().await;
    let left_out = |payload: &Option<pb::Payload>| {
        let payload = payload.as_ref().unwrap();
        let omitted = payload.metadata.get("duite.omitted_bytes").cloned();
        (payload.data.len(), omitted)
    };
    for (bytes, listed) in [
        (64, (64, None)),
        (65, (0, Some("65".to_owned()))),
        (1 << 20, (0, Some("1048576".to_owned()))),
    ] {
        let id = format!("t{bytes}");
        let request = with_input(&id, bytes);
        let input = request.task.as_ref().unwrap().input.clone();
        let made = server.tasks.create_task(request).await.unwrap();
        assert_eq!(left_out(&made.into_inner().task.unwrap().input), listed);
        assert_eq!(server.get(&id).await.unwrap().input, input);
        let lease = server.lease().await.remove(0);
        assert_eq!(lease.task.as_ref().unwrap().input, input);
        server.finish(output(&lease, &[])).await;
    }
    for (bytes, listed) in [
        (1 << 10, (1 << 10, None)),
        (1_025, (0, Some("1025".to_owned()))),
    ] {
        let id = format!("o{bytes}");
        server.create(&id).await;
        let lease = server.lease().await.remove(0);
        let data = &NINES[..bytes];
        let finished = server.finish(output(&lease, data)).await;
        let pb::outcome_result::Result::Task(task) = finished else {
            panic!("{finished:?}")
        };
        assert_eq!(left_out(&task.output), listed);
        let list = pb::ListTasksRequest {
            parent: PARENT.into(),
            page_size: 1,
            ..Default::default()
        };
        let page = server.tasks.list_tasks(list).await.unwrap().into_inner();
        assert_eq!(left_out(&page.tasks[0].output), listed);
        let whole = server.get(&id).await.unwrap();
        assert_eq!(left_out(&whole.output), (bytes, None));
        assert_eq!(whole.output.unwrap().data, data);
    }
}

#[tokio::test]
async fn a_list_of_heavy_tasks_comes_in_smaller_pages_and_misses_none() {
    let mut server = Sandbox::new().await;
    for n in 0..300 {
        let mut request = create(&format!("t{n}"));
        let labels = (0..64).map(|n| (format!("{n:0>128}"), "v".repeat(256)));
        request.task.as_mut().unwrap().labels = labels.collect();
        server.tasks.create_task(request).await.unwrap();
    }
    let mut request = pb::ListTasksRequest {
        parent: PARENT.into(),
        page_size: 1_000,
        ..Default::default()
    };
    let (mut names, mut positions) = (BTreeSet::new(), Vec::new());
    loop {
        let page = server
            .tasks
            .list_tasks(request.clone())
            .await
            .unwrap()
            .into_inner();
        names.extend(page.tasks.into_iter().map(|task| task.name));
        positions.push(page.position);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), 300);
    assert!(positions.len() > 1);
    assert!(
        positions.windows(2).all(|pair| pair[0] == pair[1]),
        "{positions:?}"
    );
}

#[tokio::test]
async fn a_trace_comes_from_the_call_where_the_task_has_none() {
    let mut server = Sandbox::new().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut request = tonic::Request::new(create("t"));
    request
        .metadata_mut()
        .insert("traceparent", trace.parse().unwrap());
    server.tasks.create_task(request).await.unwrap();
    let task = server.get("t").await.unwrap();
    assert_eq!(task.trace_context.unwrap().traceparent, trace);
}

#[tokio::test]
async fn a_cancelled_task_stays_cancelled_and_a_finished_one_cannot_be() {
    let mut server = Sandbox::new().await;
    server.create("t").await;
    let cancel = |id: &str| pb::CancelTaskRequest {
        name: name(id),
        ..Default::default()
    };
    for _ in 0..2 {
        let response = server.tasks.cancel_task(cancel("t")).await.unwrap();
        let task = response.into_inner().task.unwrap();
        assert_eq!(task.status(), Status::Cancelled);
    }
    let lease = server.leased("u").await;
    server.finish(output(&lease, b"")).await;
    assert_eq!(
        refusal(server.tasks.cancel_task(cancel("u")).await),
        "TASK_TERMINAL"
    );
}

#[tokio::test]
async fn wrong_reads_name_their_reason() {
    let mut server = Sandbox::new().await;
    // Version, another epoch, revision 1.
    let other_epoch = b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x63\0\0\0\0\0\0\0\x01";
    let long = name(&"x".repeat(129));
    let wrong: [(&str, &'static [u8], &str); 6] = [
        (&name("nobody"), b"", "TASK_NOT_FOUND"),
        ("t", b"", "FIELD_INVALID"),
        (&long, b"", "FIELD_INVALID"),
        ("namespaces/no/tasks/t", b"", "NAMESPACE_NOT_FOUND"),
        (&name("t"), b"junk", "RESUME_TOKEN_MALFORMED"),
        (&name("t"), other_epoch, "EPOCH_CHANGED"),
    ];
    for (name, min_position, expected) in wrong {
        let get = pb::GetTaskRequest {
            name: name.into(),
            min_position: min_position.into(),
        };
        assert_eq!(
            refusal(server.tasks.get_task(get).await),
            expected,
            "{name}"
        );
    }
    let list = pb::ListTasksRequest {
        parent: PARENT.into(),
        ..Default::default()
    };
    let negative = pb::ListTasksRequest {
        page_size: -1,
        ..list.clone()
    };
    assert_eq!(
        refusal(server.tasks.list_tasks(negative).await),
        "FIELD_INVALID"
    );
    let token = pb::ListTasksRequest {
        page_token: "x".into(),
        ..list.clone()
    };
    assert_eq!(
        refusal(server.tasks.list_tasks(token).await),
        "PAGE_TOKEN_MISMATCH"
    );
    let filter = pb::ListTasksRequest {
        filter: Some(pb::TaskFilter {
            statuses: vec![99],
            ..Default::default()
        }),
        ..list
    };
    assert_eq!(
        refusal(server.tasks.list_tasks(filter).await),
        "FIELD_INVALID"
    );
}

#[tokio::test]
async fn wrong_writes_name_their_reason() {
    let mut server = Sandbox::new().await;
    let mut keyed = create("t");
    keyed.task.as_mut().unwrap().fairness_key = "a b".into();
    let mut orphan = create("t");
    orphan.parent = String::new();
    let wrong = [
        (keyed, "FIELD_INVALID"),
        (orphan, "FIELD_INVALID"),
        (create("a b"), "FIELD_INVALID"),
        (with_input("t", (1 << 20) + 1), "VALUE_TOO_LARGE"),
    ];
    for (request, expected) in wrong {
        assert_eq!(refusal(server.tasks.create_task(request).await), expected);
    }
    let none = batch(Vec::new());
    assert_eq!(
        refusal(server.tasks.batch_create_tasks(none).await),
        "FIELD_INVALID"
    );
    let many = batch(vec![create("t"); 1_001]);
    assert_eq!(
        refusal(server.tasks.batch_create_tasks(many).await),
        "FIELD_INVALID"
    );
    let cancel = pb::CancelTaskRequest {
        name: name("nobody"),
        ..Default::default()
    };
    assert_eq!(
        refusal(server.tasks.cancel_task(cancel.clone()).await),
        "TASK_NOT_FOUND"
    );
    let rambling = pb::CancelTaskRequest {
        reason: "x".repeat(2_000),
        ..cancel
    };
    assert_eq!(
        refusal(server.tasks.cancel_task(rambling).await),
        "FIELD_INVALID"
    );
}
