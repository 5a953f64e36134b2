//! Error calls and watches over a connection in memory.

use std::sync::Arc;

use futures_util::TryStreamExt;
use parking_lot::Mutex;

use super::*;
use crate::{
    client::{
        WatchEvent,
        fake::{Fake, frames},
    },
    proto::v1::{
        ErrorChunk, ErrorDelta, Position, ReportFailuresResponse, WatchOpened, WatchSynced,
        watch_errors_response::Frame as Wire, watch_opened::Start,
    },
};

fn group(fingerprint: &str, count: i64) -> ErrorGroup {
    ErrorGroup {
        fingerprint: fingerprint.to_owned(),
        count,
        ..ErrorGroup::default()
    }
}

fn position(revision: i64) -> Option<Position> {
    Some(Position {
        revision,
        resume_token: format!("token {revision}").into(),
    })
}

#[tokio::test]
async fn all_pages_of_groups_are_read_as_one_stream() {
    let list = |request: ListErrorGroupsRequest| {
        assert_eq!(request.parent, "namespaces/default");
        let (groups, next) = match request.page_token.as_str() {
            "" => (vec![group("a", 1), group("b", 2)], "next"),
            // A page in the middle may be empty.
            "next" => (vec![], "last"),
            token => {
                assert_eq!(token, "last");
                (vec![group("c", 3)], "")
            }
        };
        Ok(ListErrorGroupsResponse {
            groups,
            next_page_token: next.to_owned(),
            position: None,
        })
    };
    let fake = Fake {
        list_error_groups: Some(Box::new(list)),
        ..Fake::default()
    };
    let groups: Vec<_> = fake.serve().error_groups().try_collect().await.unwrap();
    let seen: Vec<_> = groups.iter().map(|group| group.count).collect();
    assert_eq!(seen, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn reports_go_by_the_hundred_and_a_repeated_call_carries_the_same_ids() {
    let seen = Arc::new(Mutex::new(Vec::<ReportFailuresRequest>::new()));
    let calls = Arc::clone(&seen);
    let report = move |request: ReportFailuresRequest| {
        let mut calls = calls.lock();
        calls.push(request);
        match calls.len() {
            1 => Err(tonic::Status::unavailable("starting")),
            _ => Ok(ReportFailuresResponse {}),
        }
    };
    let fake = Fake {
        report_failures: Some(Box::new(report)),
        ..Fake::default()
    };
    let reports = (0..101).map(|number| FailureReport {
        report_id: if number == 0 { "mine" } else { "" }.to_owned(),
        task_type: format!("f{number}"),
        failure: None,
    });
    fake.serve().report_failures(reports).await.unwrap();
    let seen = seen.lock();
    let sizes: Vec<_> = seen.iter().map(|call| call.reports.len()).collect();
    assert_eq!(sizes, [100, 100, 1]);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].reports[0].report_id, "mine");
    let ids = seen[1].reports.iter().chain(&seen[2].reports);
    let ids: std::collections::BTreeSet<_> = ids.map(|report| &report.report_id).collect();
    assert_eq!(ids.len(), 101);
}

#[tokio::test]
async fn an_answer_without_a_group_is_an_error() {
    let fake = Fake {
        get_error_group: Some(Box::new(|_| Ok(GetErrorGroupResponse::default()))),
        ..Fake::default()
    };
    let error = fake.serve().error_group("ab").await.unwrap_err();
    assert_eq!(error.reason(), "ANSWER_INCOMPLETE");
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_errors_resumes_where_its_stream_broke() {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&tokens);
    let watch_errors = move |request: WatchErrorsRequest| {
        let token = request.options.unwrap_or_default().resume_token;
        asked.lock().push(token.clone());
        let opened = |start: Start, revision| {
            Wire::Opened(WatchOpened {
                start: start.into(),
                position: position(revision),
                ..WatchOpened::default()
            })
        };
        let synced = |revision| {
            Wire::Synced(WatchSynced {
                position: position(revision),
            })
        };
        let (wires, last) = if token.is_empty() {
            let groups = vec![group("a", 1), group("b", 1)];
            let snapshot = Wire::Snapshot(ErrorChunk { groups });
            let wires = vec![opened(Start::Snapshot, 5), snapshot, synced(5)];
            (wires, Some(tonic::Status::unavailable("gone")))
        } else {
            let delta = Wire::Delta(ErrorDelta {
                base_revision: 5,
                position: position(9),
                changed: vec![group("a", 7)],
                folded_commits: 6,
                more: false,
            });
            (vec![opened(Start::Resumed, 5), delta, synced(9)], None)
        };
        let responses = wires
            .into_iter()
            .map(|frame| WatchErrorsResponse { frame: Some(frame) });
        Ok(frames(responses, last))
    };
    let fake = Fake {
        watch_errors: Some(Box::new(watch_errors)),
        ..Fake::default()
    };
    let mut watch = fake.serve().watch_errors().start();
    loop {
        let event = watch.next().await.unwrap().unwrap();
        if let WatchEvent::Changed { changes, .. } = event {
            assert_eq!(changes, [group("a", 7)]);
            break;
        }
    }
    let counts: Vec<_> = watch.view().values().map(|group| group.count).collect();
    assert_eq!(counts, [7, 1]);
    assert_eq!(watch.revision(), Some(9));
    assert_eq!(*tokens.lock(), ["", "token 5"]);
}
