//! `BackupJournal`: in small parts, one at a time, and over when the server stops.

use bytes::Bytes;
use duite::{journal::backup, proto::v1 as pb};
use tonic::Streaming;

use crate::sandbox::{PARENT, Sandbox, reason, refusal};

/// A few megabytes of tasks.
async fn filled() -> Sandbox {
    let mut sandbox = Sandbox::new().await;
    for number in 0..8 {
        let request = pb::CreateTaskRequest {
            parent: PARENT.into(),
            task_id: format!("task-{number}"),
            task: Some(pb::Task {
                r#type: "echo".into(),
                input: Some(pb::Payload {
                    data: vec![number; 600 << 10].into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        sandbox.tasks.create_task(request).await.unwrap();
    }
    sandbox
}

async fn open(sandbox: &mut Sandbox) -> Streaming<pb::BackupJournalResponse> {
    let opened = sandbox.system.backup_journal(pb::BackupJournalRequest {});
    opened.await.unwrap().into_inner()
}

#[tokio::test]
async fn a_backup_comes_in_parts_of_a_mebibyte_at_most_and_is_whole() {
    let mut sandbox = filled().await;
    let mut parts = open(&mut sandbox).await;
    let mut whole = Vec::new();
    while let Some(part) = parts.message().await.unwrap() {
        assert!((1..=1 << 20).contains(&part.data.len()));
        whole.extend_from_slice(&part.data);
    }
    let summary = backup::read(whole.as_slice(), &mut |_| Ok(())).unwrap();
    assert_eq!(summary.entries(), 8);
    assert_eq!(summary.epoch, sandbox.engine.epoch());
    assert_eq!(summary.bytes, whole.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_backup_at_a_time_and_none_outlives_its_client_or_the_server() {
    let mut sandbox = filled().await;
    // It is not read, so it waits.
    let waiting = open(&mut sandbox).await;
    let second = sandbox.system.backup_journal(pb::BackupJournalRequest {});
    assert_eq!(refusal(second.await), "TOO_MANY_STREAMS");
    drop(waiting);
    let mut last = loop {
        let again = sandbox.system.backup_journal(pb::BackupJournalRequest {});
        match again.await {
            Ok(opened) => break opened.into_inner(),
            Err(status) => assert_eq!(reason(&status), "TOO_MANY_STREAMS"),
        }
    };
    sandbox.engine.drain();
    let mut cut = Vec::new();
    let ended = loop {
        match last.message().await {
            Ok(Some(part)) => cut.extend_from_slice(&part.data),
            Ok(None) => panic!("it must not seem whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), "STREAM_DRAINING");
    let cut = Bytes::from(cut);
    assert!(matches!(
        backup::read(cut.as_ref(), &mut |_| Ok(())),
        Err(backup::BackupError::CutOff(_))
    ));
}
