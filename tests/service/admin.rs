//! Health, reflection, and what the server says of itself.

use duite::{
    proto::v1 as pb,
    service::{SERVICES, admin_routes},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::sandbox::{PARENT, Sandbox, connect, refusal};

#[tokio::test]
async fn health_flips_for_the_server_and_for_each_service() {
    let (routes, control) = admin_routes().await;
    let mut health = HealthClient::new(connect(routes).await);
    for (serving, expected) in [
        (false, ServingStatus::NotServing),
        (true, ServingStatus::Serving),
        (false, ServingStatus::NotServing),
    ] {
        if serving {
            control.set_serving().await;
        } else {
            control.set_not_serving().await;
        }
        for service in SERVICES.into_iter().chain([""]) {
            let service = service.to_owned();
            let answer = health.check(HealthCheckRequest { service }).await.unwrap();
            assert_eq!(answer.into_inner().status(), expected);
        }
    }
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let (routes, _control) = admin_routes().await;
    let mut reflection = ServerReflectionClient::new(connect(routes).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = futures_util::stream::iter([request]);
    let answers = reflection.server_reflection_info(requests).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|known| known.name).collect();
    for service in SERVICES {
        assert!(names.iter().any(|name| name == service), "{names:?}");
    }
}

#[tokio::test]
async fn the_server_tells_its_limits_its_jobs_and_its_workers() {
    let mut server = Sandbox::new().await;
    let info = server
        .system
        .get_server_info(pb::GetServerInfoRequest {})
        .await;
    let info = info.unwrap().into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((info.max_key_bytes, info.max_keys_per_state), (256, 10_000));
    assert_eq!(info.store_epoch, server.engine.epoch().to_string());

    let jobs = server
        .system
        .list_background_jobs(pb::ListBackgroundJobsRequest {})
        .await;
    let jobs = jobs.unwrap().into_inner().jobs;
    let job = jobs.iter().find(|job| job.kind == "monitor").unwrap();
    assert_eq!(job.name, "monitor of default");

    server.leased("t").await;
    let request = pb::ListWorkersRequest {
        parent: PARENT.into(),
        ..Default::default()
    };
    let workers = server.system.list_workers(request.clone()).await.unwrap();
    let workers = workers.into_inner().workers;
    assert_eq!(
        (workers[0].worker_id.as_str(), workers[0].leases),
        ("worker", 1)
    );
    assert_eq!(workers[0].task_types, ["echo"]);

    let wrong = pb::ListWorkersRequest {
        page_size: -1,
        ..request.clone()
    };
    assert_eq!(
        refusal(server.system.list_workers(wrong).await),
        "FIELD_INVALID"
    );
    let unknown = pb::ListWorkersRequest {
        parent: "namespaces/nobody".into(),
        ..request
    };
    assert_eq!(
        refusal(server.system.list_workers(unknown).await),
        "NAMESPACE_NOT_FOUND"
    );
}
