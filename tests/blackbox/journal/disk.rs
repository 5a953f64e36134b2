//! A disk that is full and one that cannot be written. They are file systems of the test's own, in
//! a mount namespace of the server's; where those cannot be made, the test says so and is over, and
//! `scripts/check` names it with what was left out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use duite::proto::v1::{self as pb, task_outcome::Outcome};
use tempfile::TempDir;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{create, write};
use crate::{
    support::{PATIENCE, Running, binary, command},
    wire::{self, PARENT, Tasks, Workers},
};

/// A server on a small file system.
struct Small {
    server: Running,
    addr: String,
    admin: String,
    /// The file system, as the server sees it and as seen from here.
    root: PathBuf,
    _folder: TempDir,
}

/// Whether file systems can be mounted here.
fn can_mount() -> bool {
    let mounted = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"])
        .output();
    let can = mounted.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("SKIPPED: this test needs the right to mount a tmpfs (unshare -m, as root)");
    }
    can
}

/// Runs `before` and then the server, in a mount namespace of their own.
fn mounted(folder: &Path, before: &str, options: &[&str]) -> Command {
    let script = format!("{before} && exec \"$0\" \"$@\"");
    let mut server = command([""; 0]);
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-m", "sh", "-c", &script])
        .arg(binary())
        .args([
            "server",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .args(options)
        .current_dir(folder);
    for (name, value) in server.env("LC_ALL", "C").get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    unshare
}

impl Small {
    fn start(megabytes: u64, reserve: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let mount = format!("mount -t tmpfs -o size={megabytes}m none disk");
        let options = ["--data", "disk/data", "--disk-reserve", reserve];
        let mut server = Running::start(&mut mounted(folder.path(), &mount, &options));
        let line = server.stdout_until("listening");
        let (grpc, admin) = line
            .strip_prefix("listening grpc=")
            .and_then(|line| line.split_once(" admin="))
            .unwrap();
        // Seen through the server's own mounts.
        let root = format!("/proc/{}/root{}", server.pid(), disk.display());
        Self {
            addr: format!("http://{grpc}"),
            admin: format!("http://{admin}"),
            root: root.into(),
            server,
            _folder: folder,
        }
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.root).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Leaves so much free.
    fn fill(&self, leave: u64) {
        let ballast = self.free().saturating_sub(leave);
        fs::write(self.root.join("ballast"), vec![1; ballast as usize]).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.root.join("ballast")).unwrap();
    }
}

/// A task whose lease outlasts a slow test.
async fn create_patient(channel: &Channel, task_id: &str) {
    let request = pb::CreateTaskRequest {
        parent: PARENT.to_owned(),
        task_id: task_id.to_owned(),
        task: Some(pb::Task {
            r#type: "work".to_owned(),
            policy: Some(pb::TaskPolicy {
                lease_duration: wire::millis(600_000),
                ..pb::TaskPolicy::default()
            }),
            ..pb::Task::default()
        }),
        ..pb::CreateTaskRequest::default()
    };
    let created = Tasks::new(channel.clone()).create_task(request).await;
    created.unwrap();
}

/// Leases a task, and accepts it: only then the lease lasts as long as it should.
async fn lease(channel: &Channel) -> pb::Lease {
    let instance = uuid::Uuid::new_v4().to_string();
    let request = pb::LeaseTasksRequest {
        parent: PARENT.to_owned(),
        task_types: vec!["work".to_owned()],
        wait: wire::millis(10_000),
        worker_id: "worker".to_owned(),
        instance_uid: instance.clone(),
        ..pb::LeaseTasksRequest::default()
    };
    let mut workers = Workers::new(channel.clone());
    let response = workers.lease_tasks(request).await;
    let mut leases = response.unwrap().into_inner().leases;
    let lease = leases.pop().expect("there is a task");
    let renewal = pb::RenewLeasesRequest {
        lease_tokens: vec![lease.lease_token.clone()],
        worker_id: "worker".to_owned(),
        instance_uid: instance,
    };
    workers.renew_leases(renewal).await.unwrap();
    lease
}

async fn get(channel: &Channel, task: &str) -> pb::task::Status {
    let request = pb::GetTaskRequest {
        name: wire::task_name(task),
        ..pb::GetTaskRequest::default()
    };
    let task = Tasks::new(channel.clone()).get_task(request).await;
    task.unwrap().into_inner().task.unwrap().status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_adds_and_takes_it_again_when_there_is_room() {
    if !can_mount() {
        return;
    }
    let mut small = Small::start(192, "64MiB");
    let channel = wire::connect(&small.addr).await.unwrap();
    create_patient(&channel, "running").await;
    let lease = lease(&channel).await;
    write(&channel, 1).await.unwrap();
    let watch = pb::WatchTasksRequest {
        parent: PARENT.to_owned(),
        ..pb::WatchTasksRequest::default()
    };
    let mut watcher = Tasks::new(channel.clone());
    let mut watched = watcher.watch_tasks(watch).await.unwrap().into_inner();

    small.fill(48 << 20);
    let started = Instant::now();
    let refused = loop {
        match create(&channel, &format!("early-{:?}", started.elapsed())).await {
            Ok(()) => assert!(started.elapsed() < PATIENCE, "it is never full"),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(wire::reason(&refused), "STORAGE_FULL");
    for part in ["nearly full", "disk/data", "--disk-reserve"] {
        assert!(refused.message().contains(part), "{refused:?}");
    }
    let details = tonic_types::StatusExt::get_details_retry_info(&refused);
    assert!(details.is_some_and(|info| info.retry_delay.is_some()));
    let refused = write(&channel, 2).await.unwrap_err();
    assert_eq!(wire::reason(&refused), "STORAGE_FULL");

    // Reads, watches and health go on, and a result is not thrown away.
    assert_eq!(get(&channel, "running").await, pb::task::Status::Running);
    let outcome = pb::TaskOutcome {
        lease_token: lease.lease_token,
        outcome: Some(Outcome::Output(pb::Payload::default())),
        ..pb::TaskOutcome::default()
    };
    let finish = pb::FinishTasksRequest {
        outcomes: vec![outcome],
        ..pb::FinishTasksRequest::default()
    };
    let mut workers = Workers::new(channel.clone());
    let finished = workers.finish_tasks(finish).await.unwrap().into_inner();
    let result = finished.results.into_iter().next().unwrap().result;
    let accepted = matches!(result, Some(pb::outcome_result::Result::Task(_)));
    assert!(accepted, "{result:?}");
    let succeeded = |frame: Option<pb::watch_tasks_response::Frame>| {
        let Some(pb::watch_tasks_response::Frame::Delta(delta)) = frame else {
            return false;
        };
        let mut changed = delta.changed.iter();
        changed.any(|task| task.status() == pb::task::Status::Succeeded)
    };
    loop {
        let frame = tokio::time::timeout(PATIENCE, watched.message()).await;
        let frame = frame.expect("the watch goes on").unwrap().unwrap();
        if succeeded(frame.frame) {
            break;
        }
    }
    let mut health = HealthClient::new(wire::connect(&small.admin).await.unwrap());
    let health = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);

    small.empty();
    let started = Instant::now();
    while let Err(status) = create(&channel, "late").await {
        assert_eq!(wire::reason(&status), "STORAGE_FULL");
        assert!(started.elapsed() < PATIENCE, "it stays full");
        // Nothing tells when the server looks again.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    write(&channel, 3).await.unwrap();
    assert_eq!(get(&channel, "late").await, pb::task::Status::Queued);
    small.server.signal(rustix::process::Signal::TERM);
    let log = small.server.rest_of_stderr();
    assert_eq!(log.matches("disk is nearly full").count(), 1, "{log}");
    assert_eq!(log.matches("has room again").count(), 1, "{log}");
    assert!(small.server.wait().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_fails_ends_the_server_with_what_to_do() {
    if !can_mount() {
        return;
    }
    let mut small = Small::start(192, "0");
    let channel = wire::connect(&small.addr).await.unwrap();
    create(&channel, "before").await.unwrap();
    small.fill(1 << 20);
    let value = "x".repeat(200 << 10);
    let failed = loop {
        let value = duite::client::encode_value(&pb::Value {
            kind: Some(pb::value::Kind::Text(value.clone())),
        });
        let update = wire::update("big", vec![wire::put_encoded("key", value)]);
        let mut states = wire::States::new(channel.clone());
        if let Err(status) = states.update_state(update).await {
            break status;
        }
    };
    // Either the answer came, or the connection went with the server.
    assert!(
        matches!(
            failed.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled
        ),
        "{failed:?}"
    );
    let log = small.server.rest_of_stderr();
    assert_eq!(small.server.wait().code(), Some(70), "{log}");
    assert!(log.contains("journal cannot be written"), "{log}");
    assert!(log.contains("No space left on device"), "{log}");
    assert!(log.contains("the server cannot go on without it"), "{log}");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_with_what_to_do() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("disk")).unwrap();
    let mount = "mount -t tmpfs none disk && mkdir disk/data && mount -o remount,ro disk";
    let mut server = mounted(folder.path(), mount, &["--data", "disk/data"]);
    crate::support::run(&mut server).expect(1).says([
        "error: data folder disk/data: cannot",
        "Read-only file system",
        "let this user write there, or choose another folder with --data",
    ]);
}
