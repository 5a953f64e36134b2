use super::*;
use crate::domain::Reason;
use crate::engine::clock::Now;

fn request(task: pb::Task) -> pb::CreateTaskRequest {
    pb::CreateTaskRequest {
        parent: "namespaces/default".into(),
        request_id: "f4b3a1c2-0000-4000-8000-000000000001".into(),
        task: Some(task),
        ..Default::default()
    }
}

fn created(request: pb::CreateTaskRequest) -> Result<Task, Error> {
    let namespace = NamespaceId::trusted("default");
    match create(
        &namespace,
        request,
        &MetadataMap::new(),
        &Traces::default(),
        Now::read().wall_us,
    )?
    .kind
    {
        TaskOpKind::Create(new) => Ok(prost::Message::decode(new.record).unwrap()),
        TaskOpKind::Event(_) => unreachable!("create makes a creation"),
    }
}

fn echo() -> pb::Task {
    pb::Task {
        r#type: "echo".into(),
        ..Default::default()
    }
}

#[test]
fn the_same_request_makes_the_same_id_and_digest_and_another_body_another_digest() {
    let one = created(request(echo())).unwrap();
    let traced = pb::Task {
        status: 4,
        trace_context: Some(pb::TraceContext {
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            tracestate: String::new(),
        }),
        ..echo()
    };
    let again = created(request(traced)).unwrap();
    assert_eq!(
        (&one.id, &one.request_digest),
        (&again.id, &again.request_digest)
    );
    assert_ne!(one.uid, again.uid);
    assert_eq!(one.trace_context, None);
    assert!(again.trace_context.is_some());
    let other = created(request(pb::Task {
        priority: 1,
        ..echo()
    }))
    .unwrap();
    assert_eq!(one.id, other.id);
    assert_ne!(one.request_digest, other.request_digest);
}

#[test]
fn a_policy_is_resolved_and_a_request_id_keeps_the_task_for_a_day() {
    let second = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let asked = pb::Task {
        policy: Some(pb::TaskPolicy {
            retention: second,
            max_attempts: 7,
            ..Default::default()
        }),
        ..echo()
    };
    let mut request = request(asked);
    let expected = Policy {
        max_attempts: 7,
        least_retention_us: DAY_US,
        ..DEFAULTS
    };
    assert_eq!(created(request.clone()).unwrap().policy, expected);
    request.request_id.clear();
    let policy = created(request).unwrap().policy;
    assert_eq!(
        (policy.retention_us, policy.least_retention_us),
        (1_000_000, 0)
    );
}

#[test]
fn what_is_wrong_with_a_task_is_named() {
    let negative = Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    });
    let wrong = [
        (
            "task.type",
            pb::Task {
                r#type: String::new(),
                ..echo()
            },
        ),
        (
            "task.queue",
            pb::Task {
                queue: "a b".into(),
                ..echo()
            },
        ),
        (
            "task.priority",
            pb::Task {
                priority: 10,
                ..echo()
            },
        ),
        (
            "task.priority",
            pb::Task {
                priority: -1,
                ..echo()
            },
        ),
        (
            "task.name",
            pb::Task {
                name: "namespaces/default/tasks/x".into(),
                ..echo()
            },
        ),
        (
            "task.state_name",
            pb::Task {
                state_name: "namespaces/other/states/s".into(),
                ..echo()
            },
        ),
        (
            "task.labels",
            pb::Task {
                labels: [(String::new(), String::new())].into(),
                ..echo()
            },
        ),
        (
            "task.labels",
            pb::Task {
                labels: (0..65).map(|n| (n.to_string(), String::new())).collect(),
                ..echo()
            },
        ),
        (
            "task.policy.total_timeout",
            pb::Task {
                policy: Some(pb::TaskPolicy {
                    total_timeout: negative,
                    ..Default::default()
                }),
                ..echo()
            },
        ),
    ];
    for (field, task) in wrong {
        let error = created(request(task)).unwrap_err();
        assert_eq!(error.reason, Reason::FieldInvalid, "{error}");
        assert_eq!(error.metadata["field"], field, "{error}");
    }
    let keys = pb::Task {
        fairness_key: "tenant-1".into(),
        concurrency_key: "device-2".into(),
        ..echo()
    };
    let task = created(request(keys)).unwrap();
    assert_eq!(
        (task.fairness_key.as_str(), task.concurrency_key.as_str()),
        ("tenant-1", "device-2")
    );
    assert_ne!(
        task.request_digest,
        created(request(echo())).unwrap().request_digest
    );
    for field in ["task.fairness_key", "task.concurrency_key"] {
        let key = |name| {
            let wrong = if name == field { "a b" } else { "" };
            wrong.to_owned()
        };
        let wrong = pb::Task {
            fairness_key: key("task.fairness_key"),
            concurrency_key: key("task.concurrency_key"),
            ..echo()
        };
        let error = created(request(wrong)).unwrap_err();
        assert_eq!(error.metadata["field"], field, "{error}");
    }
    let input = pb::Payload {
        data: vec![0; (1 << 20) + 1].into(),
        ..Default::default()
    };
    let large = pb::Task {
        input: Some(input),
        ..echo()
    };
    assert_eq!(
        created(request(large)).unwrap_err().reason,
        Reason::ValueTooLarge
    );
}

#[test]
fn a_delay_counts_from_when_the_server_has_it_and_a_repeated_one_is_the_same_request() {
    let delayed = |seconds| pb::CreateTaskRequest {
        delay: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..request(echo())
    };
    let at = |request, now_us| {
        let namespace = NamespaceId::trusted("default");
        match create(
            &namespace,
            request,
            &MetadataMap::new(),
            &Traces::default(),
            now_us,
        )?
        .kind
        {
            TaskOpKind::Create(new) => Ok(new.task),
            TaskOpKind::Event(_) => unreachable!("create makes a creation"),
        }
    };
    let first = at(delayed(3_600), 1_000_000).unwrap();
    assert_eq!(first.schedule_us, 3_601_000_000);
    assert_eq!(first.status(), Status::Scheduled);
    let again = at(delayed(3_600), 9_000_000).unwrap();
    assert_eq!(first.request_digest, again.request_digest);
    let other = at(delayed(60), 1_000_000).unwrap();
    assert_ne!(first.request_digest, other.request_digest);
    assert_eq!(at(delayed(0), 5).unwrap().status(), Status::Queued);
    let mut both = delayed(1);
    both.task.as_mut().unwrap().schedule_time = Some(prost_types::Timestamp::default());
    for wrong in [both, delayed(-1)] {
        let error: Error = at(wrong, 5).unwrap_err();
        assert_eq!(error.reason, Reason::FieldInvalid);
        assert_eq!(error.metadata["field"], "delay");
    }
}
