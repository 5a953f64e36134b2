//! The data folder under real conditions: killed, torn, damaged, full, read-only, backed up.

mod backup;
mod disk;

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use duite::proto::v1::{
    self as pb, watch_reset, watch_state_response::Frame, watch_tasks_response,
};
use tonic::{Code, Status, transport::Channel};

use crate::{
    support::{Server, command, run},
    wire::{self, PARENT, States, Tasks, put},
};

const STATE: &str = "numbers";

async fn connected(server: &Server) -> Channel {
    wire::connect(&server.addr()).await.unwrap()
}

/// Writes to the state; gives the token of what was written.
async fn write(channel: &Channel, number: i64) -> Result<Bytes, Status> {
    let request = wire::update(STATE, vec![put(format!("key-{}", number % 10), number)]);
    let response = States::new(channel.clone()).update_state(request).await?;
    let position = response.into_inner().position;
    Ok(position.expect("a write has a position").resume_token)
}

async fn create(channel: &Channel, task_id: &str) -> Result<(), Status> {
    let request = pb::CreateTaskRequest {
        parent: PARENT.to_owned(),
        task_id: task_id.to_owned(),
        task: Some(pb::Task {
            r#type: "work".to_owned(),
            ..pb::Task::default()
        }),
        ..pb::CreateTaskRequest::default()
    };
    Tasks::new(channel.clone()).create_task(request).await?;
    Ok(())
}

/// A reading that wants to be at least as new as the token.
async fn read_at(channel: &Channel, min_position: Bytes) -> Result<pb::GetStateResponse, Status> {
    let request = pb::GetStateRequest {
        name: wire::state_name(STATE),
        min_position,
        ..pb::GetStateRequest::default()
    };
    let response = States::new(channel.clone()).get_state(request).await?;
    Ok(response.into_inner())
}

/// What a watch from the token is told first, and whether it is told to start anew.
async fn watch_from(channel: &Channel, resume_token: Bytes) -> (pb::WatchOpened, bool) {
    let request = pb::WatchStateRequest {
        names: vec![wire::state_name(STATE)],
        options: Some(pb::WatchOptions {
            resume_token,
            ..pb::WatchOptions::default()
        }),
        ..pb::WatchStateRequest::default()
    };
    let mut states = States::new(channel.clone());
    let mut frames = states.watch_state(request).await.unwrap().into_inner();
    let mut opened = None;
    loop {
        let frame = frames.message().await.unwrap().expect("it goes on").frame;
        match frame.expect("a frame that this version knows") {
            Frame::Opened(found) => opened = Some(found),
            Frame::Reset(reset) => {
                assert_eq!(reset.reason(), watch_reset::Reason::EpochChanged);
                return (opened.expect("it comes first"), true);
            }
            _ => return (opened.expect("it comes first"), false),
        }
    }
}

/// The same for tasks: the reset is what matters.
async fn tasks_are_reset(channel: &Channel, resume_token: Bytes) -> bool {
    let request = pb::WatchTasksRequest {
        parent: PARENT.to_owned(),
        options: Some(pb::WatchOptions {
            resume_token,
            ..pb::WatchOptions::default()
        }),
        ..pb::WatchTasksRequest::default()
    };
    let mut tasks = Tasks::new(channel.clone());
    let mut frames = tasks.watch_tasks(request).await.unwrap().into_inner();
    loop {
        let frame = frames.message().await.unwrap().expect("it goes on").frame;
        match frame.expect("a frame that this version knows") {
            watch_tasks_response::Frame::Opened(_) => {}
            watch_tasks_response::Frame::Reset(_) => return true,
            _ => return false,
        }
    }
}

fn epoch(server: &Server) -> (String, String) {
    let info = server.run(["info", "-o", "json"]).expect(0).json();
    let text = |name: &str| info[0][name].as_str().unwrap().to_owned();
    (text("storeEpoch"), text("durability"))
}

// Connections must go on while this thread waits for the server to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_epoch_begins_where_an_unclean_end_may_have_lost_something() {
    for (durability, killed, same) in [
        ("none", true, false),
        ("interval:5", true, false),
        ("none", false, true),
        ("sync", true, true),
    ] {
        let mut server = Server::start_with(["--durability", durability]);
        let before = epoch(&server);
        assert_eq!(before.1, durability);
        let channel = connected(&server).await;
        let mut token = Bytes::new();
        for number in 0..20 {
            token = write(&channel, number).await.unwrap();
        }
        if killed {
            server.kill9();
        } else {
            assert!(server.stop().success());
        }
        server.restart_elsewhere();
        let what = format!("{durability}, killed: {killed}");
        assert_eq!(epoch(&server).0 == before.0, same, "{what}");

        let channel = connected(&server).await;
        let read = read_at(&channel, token.clone()).await;
        let (opened, reset) = watch_from(&channel, token.clone()).await;
        assert_eq!(opened.store_epoch == before.0, same, "{what}");
        assert_eq!(reset, !same, "{what}");
        assert_eq!(tasks_are_reset(&channel, token).await, !same, "{what}");
        match read {
            Ok(read) => {
                assert!(same, "{what}");
                assert_eq!(read.state.unwrap().entries.len(), 10);
            }
            Err(status) => {
                assert!(!same, "{what}: {status:?}");
                assert_eq!(status.code(), Code::Aborted);
                assert_eq!(wire::reason(&status), "EPOCH_CHANGED");
            }
        }
        // The system was not stopped, so what it had is there all the same.
        let state = wire::get_state(&channel, STATE).await.state.unwrap();
        assert_eq!(state.entries.len(), 10);
        // And the new epoch stays.
        let now = epoch(&server).0;
        assert!(server.stop().success());
        server.restart_elsewhere();
        assert_eq!(epoch(&server).0, now);
    }
}

/// The journal file that is written to, and how much of it is.
fn active_file(data: &Path) -> (PathBuf, usize) {
    let files = fs::read_dir(data.join("journal")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|found| found == "jnl"));
    let file = files.max().unwrap();
    let bytes = fs::read(&file).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (file, written)
}

#[tokio::test]
async fn after_a_torn_last_write_everything_before_it_is_there() {
    let mut server = Server::start();
    let channel = connected(&server).await;
    for number in 0..30 {
        create(&channel, &format!("task-{number}")).await.unwrap();
    }
    server.kill9();
    let (file, written) = active_file(&server.data());
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_len(written as u64 - 3).unwrap();
    server.restart_elsewhere();
    let tasks = wire::list_tasks(&connected(&server).await).await;
    // The last group: the last task, since each was waited for.
    assert_eq!(tasks.len(), 29);
    let task = |number: usize| wire::task_name(&format!("task-{number}"));
    assert!((0..29).all(|number| tasks.iter().any(|found| found.name == task(number))));
}

#[tokio::test]
async fn a_flipped_bit_is_refused_at_the_start_with_its_place() {
    let mut server = Server::start();
    let channel = connected(&server).await;
    for number in 0..30 {
        create(&channel, &format!("task-{number}")).await.unwrap();
    }
    server.kill9();
    let (file, _) = active_file(&server.data());
    let mut bytes = fs::read(&file).unwrap();
    let place = bytes.windows(7).position(|found| found == b"task-17");
    bytes[place.unwrap()] ^= 0x10;
    fs::write(file, bytes).unwrap();
    let data = server.data();
    let data = data.to_str().unwrap();
    let start = [
        "server",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    // Again and again, not only the first time.
    for _ in 0..2 {
        run(command(start).args(["--data", data])).expect(1).says([
            "error: entry 18 of namespace default cannot be read",
            "damaged in the batch at byte",
            "restore the folder from a backup",
        ]);
    }
    run(&mut command(["journal", "check", "--data", data]))
        .expect(1)
        .says(["entry 18 of namespace default", "duite journal restore"]);
}

#[tokio::test]
async fn a_folder_is_checked_and_dumped_when_nobody_uses_it() {
    let mut server = Server::start_with(["--durability", "none"]);
    let channel = connected(&server).await;
    create(&channel, "first").await.unwrap();
    for number in 0..5 {
        write(&channel, number).await.unwrap();
    }
    let data = server.data();
    let data = data.to_str().unwrap().to_owned();
    let journal = |arguments: &[&str]| {
        let mut command = command(["journal"]);
        run(command.args(arguments).args(["--data", &data]))
    };
    journal(&["check"]).expect(1).says([
        &format!("in use by process {}", server.pid()),
        "duite journal backup FILE",
    ]);
    let before = epoch(&server).0;
    server.kill9();

    let checked = journal(&["check"]).expect(0).stdout;
    assert!(checked.contains(&before), "{checked}");
    assert!(checked.contains("begins a new epoch"), "{checked}");
    let checked = journal(&["check", "-o", "json"]).expect(0).json();
    assert_eq!(checked[0]["new_epoch_at_start"], true);
    assert_eq!(checked[1]["namespace"], "default");
    assert_eq!(checked[1]["head"], 6);

    let dumped = journal(&["dump"]).expect(0).stdout;
    let lines: Vec<_> = dumped.lines().collect();
    assert_eq!(lines.len(), 6, "{dumped}");
    assert!(
        lines[0].starts_with("default 1 task first ") && lines[0].contains("QUEUED"),
        "{dumped}"
    );
    assert!(
        lines[5].starts_with("default 6 state-delta numbers "),
        "{dumped}"
    );
    let dumped = journal(&[
        "dump",
        "-o",
        "json",
        "--from",
        "5",
        "--namespace",
        "default",
    ]);
    let dumped = dumped.expect(0).json();
    assert_eq!(dumped.len(), 2);
    assert_eq!(dumped[1]["kind"], "state-delta");
    let full = journal(&["dump", "--full", "--from", "6"]).expect(0).stdout;
    assert!(full.contains("StateDelta"), "{full}");
    journal(&["dump", "--namespace", "other"])
        .expect(1)
        .says(["there is no namespace other", "there are: default"]);

    // To look changed nothing: the new epoch is the server's to begin.
    server.restart_elsewhere();
    assert_ne!(epoch(&server).0, before);
    run(&mut command([
        "journal",
        "check",
        "--data",
        "/no/such/folder",
    ]))
    .expect(1)
    .says(["/no/such/folder", "is no data folder", "--data"]);
}
