//! A backup of a server under load, restored elsewhere.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use duite::proto::v1::{self as pb, push_state_response::Frame};
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{STATE, connected, create, epoch, tasks_are_reset, watch_from, write};
use crate::{
    support::{Server, command, run},
    wire::{self, PARENT, States, Tasks, add, as_integer, batch},
};

/// Sends the batch `sequence`, which adds 1, and waits for its acknowledgement; says where the
/// writer stood before.
async fn push(channel: &Channel, writer: &str, sequence: i64) -> i64 {
    let frames = [
        wire::open_frame(STATE, writer),
        wire::batches_frame(vec![batch(sequence, vec![add("sum", 1)])]),
    ];
    // The stream stays open until its answer is there.
    let frames = futures_util::stream::iter(frames).chain(futures_util::stream::pending());
    let answers = States::new(channel.clone()).push_state(frames).await;
    let mut answers = answers.unwrap().into_inner();
    let mut stood = None;
    loop {
        let answer = answers.message().await.unwrap().expect("it goes on");
        match answer.frame.expect("a frame that this version knows") {
            Frame::Opened(opened) => stood = Some(opened.last_sequence),
            Frame::Ack(ack) if ack.acked_sequence >= sequence => {
                return stood.expect("it comes first");
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_everything_acknowledged_before_it() {
    let server = Server::start();
    let channel = connected(&server).await;
    let done = CancellationToken::new();
    // The last that was acknowledged, of tasks and of a writer's batches.
    let tasks = Arc::new(AtomicI64::new(-1));
    let load = {
        let (channel, done, tasks) = (channel.clone(), done.clone(), tasks.clone());
        tokio::spawn(async move {
            let mut number = 0;
            while !done.is_cancelled() {
                create(&channel, &format!("task-{number}")).await.unwrap();
                tasks.store(number, Ordering::SeqCst);
                number += 1;
            }
        })
    };
    let writer = uuid::Uuid::new_v4().to_string();
    let mut sum = 0;
    while tasks.load(Ordering::SeqCst) < 100 {
        sum += 1;
        assert_eq!(push(&channel, &writer, sum).await, sum - 1);
    }
    let token = write(&channel, 7).await.unwrap();

    let acknowledged = tasks.load(Ordering::SeqCst);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    fs::write(&file, "an older one").unwrap();
    let name = file.to_str().unwrap();
    let saved = server.run(["journal", "backup", name]).expect(0).stdout;
    assert!(saved.starts_with("saved to "), "{saved}");
    // The server went on.
    let after = tasks.load(Ordering::SeqCst);
    while tasks.load(Ordering::SeqCst) < after + 10 {
        tokio::task::yield_now().await;
    }
    done.cancel();
    load.await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let checked = run(&mut command(["journal", "check", name])).expect(0);
    assert!(checked.stdout.contains(&epoch(&server).0), "{checked:?}");
    let dumped = run(&mut command(["journal", "dump", name]))
        .expect(0)
        .stdout;
    assert!(dumped.contains(" task task-100 "), "{dumped}");

    // On another machine.
    let elsewhere = tempfile::tempdir().unwrap();
    let data = elsewhere.path().join("data");
    let data = data.to_str().unwrap();
    let restore = ["journal", "restore", name, "--data", data];
    let restored = run(&mut command(restore)).expect(0).stdout;
    assert!(restored.starts_with("restored to "), "{restored}");
    run(&mut command(restore))
        .expect(1)
        .says(["error: data folder", "is not empty, it holds"]);
    let other = Server::start_in::<&str>(elsewhere, []);
    assert_ne!(epoch(&other).0, epoch(&server).0);
    assert!(restored.contains(&epoch(&other).0), "{restored}");

    let there = connected(&other).await;
    let mut get = Tasks::new(there.clone());
    for number in 0..=acknowledged {
        let request = pb::GetTaskRequest {
            name: wire::task_name(&format!("task-{number}")),
            ..pb::GetTaskRequest::default()
        };
        let task = get.get_task(request).await.unwrap().into_inner();
        assert_eq!(task.task.unwrap().status(), pb::task::Status::Queued);
    }
    let state = wire::get_state(&there, STATE).await.state.unwrap();
    let value = |key: &str| {
        let entry = state.entries.iter().find(|entry| entry.key == key);
        as_integer(&entry.unwrap().value)
    };
    assert_eq!((value("sum"), value("key-7")), (sum, 7));
    // The writer's position came along: what it sends again counts once.
    assert_eq!(push(&there, &writer, sum).await, sum);
    let state = wire::get_state(&there, STATE).await.state.unwrap();
    let again = state.entries.iter().find(|entry| entry.key == "sum");
    assert_eq!(as_integer(&again.unwrap().value), sum);
    // And who saw the other store starts anew.
    let (opened, reset) = watch_from(&there, token.clone()).await;
    assert_eq!(opened.store_epoch, epoch(&other).0);
    assert!(reset && tasks_are_reset(&there, token).await);
    write(&there, 8).await.unwrap();
    let listed = wire::list_tasks(&there).await;
    assert!(listed.iter().all(|task| task.name.starts_with(PARENT)));
}

#[test]
fn a_backup_that_is_cut_off_or_damaged_is_recognised() {
    let server = Server::start();
    server.run(["submit", "work"]).expect(0);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let whole = path("whole");
    server.run(["journal", "backup", &whole]).expect(0);
    let bytes = fs::read(&whole).unwrap();
    let (cut, flipped, other) = (path("cut"), path("flipped"), path("other"));
    fs::write(&cut, &bytes[..bytes.len() - 10]).unwrap();
    let mut wrong = bytes.clone();
    wrong[bytes.len() / 2] ^= 1;
    fs::write(&flipped, wrong).unwrap();
    fs::write(&other, "no backup at all").unwrap();
    let data = path("data");
    for (file, says) in [
        (&cut, "was cut off at byte"),
        (&flipped, "is damaged at byte"),
        (&other, "does not begin as a duite backup"),
        (&path("missing"), "No such file"),
    ] {
        run(&mut command(["journal", "check", file]))
            .expect(1)
            .says([file, says]);
        run(&mut command(["journal", "restore", file, "--data", &data]))
            .expect(1)
            .says([file, says]);
        assert!(!fs::exists(&data).unwrap());
    }
    run(&mut command(["journal", "restore", &whole]))
        .expect(2)
        .says(["--data <DIR>"]);
    server
        .run(["journal", "backup", &path("no/such/folder")])
        .expect(1)
        .says(["cannot make a file beside", "no/such/folder"]);
    server
        .run(["journal", "backup", &path("")])
        .expect(2)
        .says(["is a folder"]);
    run(command(["journal", "backup", &path("never")]).env("DUITE_ADDR", "127.0.0.1:1"))
        .expect(69)
        .says(["no server answers at 127.0.0.1:1"]);
    assert!(!fs::exists(path("never")).unwrap());
}
