//! QueueService, and what tasks say of queues.

use duite::proto::v1::{
    self as pb, queue_service_client::QueueServiceClient, task::Status as TaskStatus,
};
use prost_types::FieldMask;
use tonic::transport::Channel;

use crate::sandbox::{PARENT, Sandbox, echo, expect, lease_request, output, refusal};

const QUEUE: &str = "namespaces/default/queues/default";

type Queues = QueueServiceClient<Channel>;

fn queues(server: &Sandbox) -> Queues {
    QueueServiceClient::new(server.channel.clone())
}

fn update(settings: pb::QueueSettings, fields: &[&str]) -> pb::UpdateQueueRequest {
    pb::UpdateQueueRequest {
        name: QUEUE.into(),
        settings: Some(settings),
        update_mask: Some(FieldMask {
            paths: fields.iter().map(ToString::to_string).collect(),
        }),
        ..Default::default()
    }
}

fn paused(paused: bool) -> pb::UpdateQueueRequest {
    let settings = pb::QueueSettings {
        paused,
        ..Default::default()
    };
    update(settings, &["paused"])
}

async fn get(queues: &mut Queues, min_position: bytes::Bytes) -> pb::Queue {
    let request = pb::GetQueueRequest {
        name: QUEUE.into(),
        min_position,
    };
    let response = queues.get_queue(request).await.unwrap().into_inner();
    assert!(response.position.is_some());
    response.queue.unwrap()
}

#[tokio::test]
async fn a_queue_is_paused_limited_read_and_listed() {
    let mut server = Sandbox::new().await;
    let mut queues = queues(&server);
    server.create("a").await;
    server.create("b").await;
    let answer = queues
        .update_queue(paused(true))
        .await
        .unwrap()
        .into_inner();
    assert!(answer.queue.unwrap().settings.unwrap().paused);
    assert!(server.lease().await.is_empty());

    let limits = pb::QueueSettings {
        max_running: 1,
        ..Default::default()
    };
    let answer = queues.update_queue(update(limits, &["max_running"])).await;
    let answer = answer.unwrap().into_inner();
    let queue = get(&mut queues, answer.position.unwrap().resume_token).await;
    let settings = queue.settings.unwrap();
    assert!(settings.paused && settings.max_running == 1);
    assert_eq!((queue.queued, queue.running), (2, 0));
    assert!(queue.oldest_wait.is_some());

    // Without a mask the settings are taken as a whole.
    let whole = queues.update_queue(update(limits, &[])).await.unwrap();
    assert!(!whole.into_inner().queue.unwrap().settings.unwrap().paused);
    let lease = server.lease().await.remove(0);
    assert!(server.lease().await.is_empty());
    server.finish(output(&lease, b"done")).await;
    assert_eq!(server.lease().await.len(), 1);

    let list = pb::ListQueuesRequest {
        parent: PARENT.into(),
        ..Default::default()
    };
    let page = queues.list_queues(list).await.unwrap().into_inner();
    assert!(page.position.is_some() && page.next_page_token.is_empty());
    let [queue] = page.queues.as_slice() else {
        panic!("{page:?}")
    };
    assert_eq!(queue.name, QUEUE);
    assert_eq!((queue.queued, queue.running, queue.succeeded), (0, 1, 1));
    assert_eq!(queue.oldest_wait, None);
}

#[tokio::test]
async fn a_task_keeps_its_keys_and_tells_its_place_while_it_waits() {
    let mut server = Sandbox::new().await;
    server.create("first").await;
    let keyed = pb::Task {
        fairness_key: "tenant".into(),
        concurrency_key: "device".into(),
        ..echo()
    };
    let mut request = pb::CreateTaskRequest {
        parent: PARENT.into(),
        task_id: "t".into(),
        task: Some(keyed),
        ..Default::default()
    };
    let created = server.tasks.create_task(request.clone()).await.unwrap();
    assert_eq!(created.into_inner().task.unwrap().queue_position, 0);
    let task = server.get("t").await.unwrap();
    assert_eq!(
        (task.fairness_key.as_str(), task.concurrency_key.as_str()),
        ("tenant", "device")
    );
    assert_eq!(task.queue_position, 2);
    // Another key is another request.
    request.task.as_mut().unwrap().concurrency_key.clear();
    assert_eq!(
        refusal(server.tasks.create_task(request).await),
        "TASK_EXISTS"
    );
    server.lease().await;
    let task = server.get("t").await.unwrap();
    assert_eq!(task.status(), TaskStatus::Running);
    assert_eq!(task.queue_position, 0);
}

#[tokio::test]
async fn one_task_of_a_tenant_is_next_beside_thousands_of_another() {
    let mut server = Sandbox::new().await;
    let of = |tenant: &str, id: String| pb::CreateTaskRequest {
        parent: PARENT.into(),
        task_id: id,
        task: Some(pb::Task {
            fairness_key: tenant.into(),
            ..echo()
        }),
        ..Default::default()
    };
    for part in 0..5 {
        let ids = (0..1_000).map(|n| format!("a{}", part * 1_000 + n));
        let request = pb::BatchCreateTasksRequest {
            parent: PARENT.into(),
            requests: ids.map(|id| of("a", id)).collect(),
        };
        server.tasks.batch_create_tasks(request).await.unwrap();
    }
    let mut lease_one = async || {
        let request = pb::LeaseTasksRequest {
            max_tasks: 1,
            ..lease_request()
        };
        let response = server.workers.lease_tasks(request).await.unwrap();
        response.into_inner().leases.remove(0).task.unwrap().name
    };
    for n in 0..3 {
        assert_eq!(lease_one().await, format!("{PARENT}/tasks/a{n}"));
    }
    let b = of("b", "b".into());
    server.tasks.create_task(b).await.unwrap();
    let next = [lease_one().await, lease_one().await];
    assert!(next.contains(&format!("{PARENT}/tasks/b")), "{next:?}");
}

#[tokio::test]
async fn wrong_requests_name_their_reason() {
    let server = Sandbox::new().await;
    let mut queues = queues(&server);
    let negative = pb::QueueSettings {
        max_running: -1,
        ..Default::default()
    };
    let wrong = [
        update(negative, &[]),
        update(negative, &["paused"]),
        update(pb::QueueSettings::default(), &["max_runing"]),
        pb::UpdateQueueRequest {
            name: "default".into(),
            ..paused(true)
        },
        pb::UpdateQueueRequest {
            request_id: "no".into(),
            ..paused(true)
        },
    ];
    for request in wrong {
        let reason = refusal(queues.update_queue(request.clone()).await);
        expect(reason, "FIELD_INVALID", &request);
    }
    let list = |parent: &str, page_size, page_token: &str| pb::ListQueuesRequest {
        parent: parent.into(),
        page_size,
        page_token: page_token.into(),
        ..Default::default()
    };
    let wrong = [
        (list("default", 0, ""), "FIELD_INVALID"),
        (list(PARENT, -1, ""), "FIELD_INVALID"),
        (list(PARENT, 0, "x"), "PAGE_TOKEN_MISMATCH"),
        (list("namespaces/nobody", 0, ""), "NAMESPACE_NOT_FOUND"),
    ];
    for (request, expected) in wrong {
        let reason = refusal(queues.list_queues(request.clone()).await);
        expect(reason, expected, &request);
    }
    let nobody = pb::GetQueueRequest {
        name: "namespaces/nobody/queues/q".into(),
        ..Default::default()
    };
    assert_eq!(
        refusal(queues.get_queue(nobody).await),
        "NAMESPACE_NOT_FOUND"
    );
}
