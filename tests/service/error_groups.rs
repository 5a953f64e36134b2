//! ErrorService: what is counted, read, listed, watched and refused.

use bytes::Bytes;
use duite::{
    domain::{Revision, Uid},
    engine::token::ResumeToken,
    proto::v1::{
        self as pb, error_service_client::ErrorServiceClient, failure::Category,
        watch_errors_response::Frame, watch_opened::Start, watch_reset::Reason,
    },
};
use tonic::{Streaming, transport::Channel};

use crate::sandbox::{PARENT, Sandbox, expect, name, refusal};

const TRACE: &str = r#"Traceback (most recent call last):
  File "/app/solver.py", line 10, in step
    return json.loads(x)
  File "/usr/lib/python3.12/json/__init__.py", line 346, in loads
json.decoder.JSONDecodeError: Expecting value
"#;

fn failure(name: &str) -> pb::Failure {
    pb::Failure {
        category: Category::Application as i32,
        r#type: name.into(),
        message: format!("{name} happened"),
        stack_trace: TRACE.into(),
        ..Default::default()
    }
}

fn uuid(number: usize) -> String {
    format!("33333333-3333-4333-8333-{number:012}")
}

fn report(number: usize, name: &str) -> pb::FailureReport {
    pb::FailureReport {
        report_id: uuid(number),
        task_type: "solve".into(),
        failure: Some(failure(name)),
    }
}

fn reports(reports: Vec<pb::FailureReport>) -> pb::ReportFailuresRequest {
    pb::ReportFailuresRequest {
        parent: PARENT.into(),
        reports,
    }
}

fn list(page_size: i32, page_token: &str) -> pb::ListErrorGroupsRequest {
    pb::ListErrorGroupsRequest {
        parent: PARENT.into(),
        page_size,
        page_token: page_token.into(),
    }
}

fn get(fingerprint: &str) -> pb::GetErrorGroupRequest {
    pb::GetErrorGroupRequest {
        parent: PARENT.into(),
        fingerprint: fingerprint.into(),
    }
}

fn watch(resume_token: Bytes) -> pb::WatchErrorsRequest {
    pb::WatchErrorsRequest {
        parent: PARENT.into(),
        options: Some(pb::WatchOptions {
            resume_token,
            ..Default::default()
        }),
    }
}

/// A server, and a client of its errors.
async fn server() -> (Sandbox, ErrorServiceClient<Channel>) {
    let server = Sandbox::new().await;
    let errors = ErrorServiceClient::new(server.channel.clone());
    (server, errors)
}

async fn groups(errors: &mut ErrorServiceClient<Channel>) -> Vec<pb::ErrorGroup> {
    let page = errors.list_error_groups(list(0, "")).await.unwrap();
    page.into_inner().groups
}

#[tokio::test]
async fn a_failed_attempt_is_found_in_its_group_with_the_task_and_the_place() {
    let (mut server, mut errors) = server().await;
    let lease = server.leased("t").await;
    let failed = pb::TaskOutcome {
        lease_token: lease.lease_token.clone(),
        outcome: Some(pb::task_outcome::Outcome::Failure(failure(
            "JSONDecodeError",
        ))),
        ..Default::default()
    };
    // Sent twice, counted once.
    server.finish(failed.clone()).await;
    server.finish(failed).await;
    let all = groups(&mut errors).await;
    let [group] = &all[..] else { panic!("{all:?}") };
    assert_eq!(
        (group.task_type.as_str(), group.failure_type.as_str()),
        ("echo", "JSONDecodeError")
    );
    assert_eq!(
        (group.location.as_str(), group.count),
        ("solver.py:step", 1)
    );
    assert_eq!(group.last_task, name("t"));
    assert_eq!(group.first_time, group.last_time);
    let last = group.last_failure.as_ref().unwrap();
    assert_eq!(last.message, "JSONDecodeError happened");
    let found = errors.get_error_group(get(&group.fingerprint)).await;
    let found = found.unwrap().into_inner();
    assert_eq!(found.group.as_ref(), Some(group));
    assert_eq!(found.tasks, [name("t")]);
    assert!(found.position.unwrap().revision >= group.revision);
}

#[tokio::test]
async fn a_report_is_counted_once_and_cut_to_what_a_group_keeps() {
    let (_server, mut errors) = server().await;
    let mut large = report(1, "boom");
    large.failure.as_mut().unwrap().stack_trace = TRACE.repeat(1_000);
    for _ in 0..3 {
        let request = reports(vec![large.clone(), report(2, "boom")]);
        errors.report_failures(request).await.unwrap();
    }
    let cancel = pb::FailureReport {
        failure: Some(pb::Failure {
            category: Category::Cancelled as i32,
            ..failure("boom")
        }),
        ..report(3, "boom")
    };
    errors.report_failures(reports(vec![cancel])).await.unwrap();
    errors.report_failures(reports(vec![large])).await.unwrap();
    let all = groups(&mut errors).await;
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].count, all[0].last_task.as_str()), (2, ""));
    let large = report(4, "boom");
    let large = pb::FailureReport {
        failure: Some(pb::Failure {
            stack_trace: "x".repeat(100 << 10),
            location: "solver.py:step".into(),
            ..large.failure.unwrap()
        }),
        ..large
    };
    errors.report_failures(reports(vec![large])).await.unwrap();
    let all = groups(&mut errors).await;
    assert_eq!((all.len(), all[0].count), (1, 3));
    let stack = &all[0].last_failure.as_ref().unwrap().stack_trace;
    assert!(stack.len() <= 16 << 10 && stack.contains("… (cut, "));
}

#[tokio::test]
async fn a_list_goes_by_fingerprints_page_by_page_from_one_position() {
    let (_server, mut errors) = server().await;
    for call in 0..3 {
        let all = (0..10).map(|number| report(call * 10 + number, &format!("e{call}-{number}")));
        errors
            .report_failures(reports(all.collect()))
            .await
            .unwrap();
    }
    let (mut token, mut seen, mut position) = (String::new(), Vec::new(), None);
    loop {
        let page = errors.list_error_groups(list(7, &token)).await.unwrap();
        let page = page.into_inner();
        assert!(page.groups.len() <= 7);
        let at = page.position.unwrap().revision;
        assert_eq!(*position.get_or_insert(at), at);
        seen.extend(page.groups.into_iter().map(|group| group.fingerprint));
        // What comes meanwhile moves no page.
        let request = reports(vec![report(100, "e0-0")]);
        errors.report_failures(request).await.unwrap();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 30);
    assert!(seen.is_sorted());
}

#[tokio::test]
async fn a_page_of_large_groups_fits_a_message() {
    let (_server, mut errors) = server().await;
    let large = |number: usize| {
        let mut report = report(number, &format!("e{number}"));
        let failure = report.failure.as_mut().unwrap();
        failure.location = "x".into();
        failure.stack_trace = "x".repeat(20 << 10);
        failure.message = "x".repeat(20 << 10);
        report
    };
    for call in 0..6 {
        let all = (0..50).map(|number| large(call * 50 + number));
        errors
            .report_failures(reports(all.collect()))
            .await
            .unwrap();
    }
    let (mut token, mut seen, mut pages) = (String::new(), 0, 0);
    loop {
        let page = errors.list_error_groups(list(1_000, &token)).await.unwrap();
        let page = page.into_inner();
        (seen, pages) = (seen + page.groups.len(), pages + 1);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 300);
    assert!(pages > 1);
}

type Frames = Streaming<pb::WatchErrorsResponse>;

async fn next(frames: &mut Frames) -> Frame {
    frames.message().await.unwrap().unwrap().frame.unwrap()
}

async fn opened(
    errors: &mut ErrorServiceClient<Channel>,
    token: Bytes,
) -> (Frames, pb::WatchOpened) {
    let mut frames = errors
        .watch_errors(watch(token))
        .await
        .unwrap()
        .into_inner();
    match next(&mut frames).await {
        Frame::Opened(opened) => (frames, opened),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_watch_brings_a_snapshot_then_deltas_and_resumes() {
    let (_server, mut errors) = server().await;
    let first = reports(vec![report(1, "a"), report(2, "b")]);
    errors.report_failures(first).await.unwrap();
    let (mut frames, start) = opened(&mut errors, Bytes::new()).await;
    assert_eq!(start.start(), Start::Snapshot);
    let Frame::Snapshot(chunk) = next(&mut frames).await else {
        panic!("no snapshot")
    };
    assert_eq!(chunk.groups.len(), 2);
    let Frame::Synced(synced) = next(&mut frames).await else {
        panic!("not synced")
    };
    let again = reports(vec![report(3, "a")]);
    errors.report_failures(again).await.unwrap();
    let Frame::Delta(delta) = next(&mut frames).await else {
        panic!("no delta")
    };
    assert_eq!(delta.base_revision, synced.position.unwrap().revision);
    let [changed] = &delta.changed[..] else {
        panic!("{delta:?}")
    };
    assert_eq!((changed.failure_type.as_str(), changed.count), ("a", 2));
    let position = delta.position.unwrap();
    assert_eq!(position.revision, changed.revision);
    drop(frames);
    let later = reports(vec![report(4, "c"), report(5, "b")]);
    errors.report_failures(later).await.unwrap();
    let (mut frames, start) = opened(&mut errors, position.resume_token.clone()).await;
    assert_eq!(start.start(), Start::Resumed);
    let Frame::Delta(delta) = next(&mut frames).await else {
        panic!("no delta")
    };
    let mut counts: Vec<_> = delta
        .changed
        .iter()
        .map(|g| (&*g.failure_type, g.count))
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [("b", 2), ("c", 1)]);
    // From the position of a list as well.
    let page = errors.list_error_groups(list(0, "")).await.unwrap();
    let token = page.into_inner().position.unwrap().resume_token;
    let (_, start) = opened(&mut errors, token).await;
    assert_eq!(start.start(), Start::Resumed);
}

#[tokio::test]
async fn a_token_of_another_life_or_another_watch_resets() {
    let (server, mut errors) = server().await;
    let request = reports(vec![report(1, "a")]);
    errors.report_failures(request).await.unwrap();
    let token = |epoch: Uid, filter| {
        let revision = Revision(1);
        ResumeToken {
            epoch,
            revision,
            filter,
        }
        .encode()
    };
    for (token, reason) in [
        (token(Uid(99), None), Reason::EpochChanged),
        (token(server.engine.epoch(), Some(7)), Reason::FilterChanged),
    ] {
        let (mut frames, start) = opened(&mut errors, token).await;
        assert_eq!(start.start(), Start::Snapshot);
        let Frame::Reset(reset) = next(&mut frames).await else {
            panic!("no reset")
        };
        assert_eq!(reset.reason(), reason);
        let Frame::Snapshot(chunk) = next(&mut frames).await else {
            panic!("no snapshot")
        };
        assert_eq!(chunk.groups.len(), 1);
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_reason() {
    let (mut server, mut errors) = server().await;
    server.create("t").await;
    let many = (0..101).map(|number| report(number, "a")).collect();
    let wrong = |change: fn(&mut pb::FailureReport)| {
        let mut one = report(1, "a");
        change(&mut one);
        vec![report(2, "a"), one]
    };
    for refused in [
        Vec::new(),
        many,
        wrong(|report| report.report_id = "7".into()),
        wrong(|report| report.report_id.clear()),
        wrong(|report| report.task_type.clear()),
        wrong(|report| report.task_type = "a b".into()),
        wrong(|report| report.failure = None),
    ] {
        let request = reports(refused);
        let reason = refusal(errors.report_failures(request.clone()).await);
        expect(reason, "FIELD_INVALID", &request);
    }
    // None of a refused call is counted.
    assert!(groups(&mut errors).await.is_empty());
    let unknown = "0".repeat(32);
    for (fingerprint, reason) in [
        ("", "FIELD_INVALID"),
        ("xyz", "FIELD_INVALID"),
        (unknown.as_str(), "ERROR_GROUP_NOT_FOUND"),
    ] {
        let refused = refusal(errors.get_error_group(get(fingerprint)).await);
        expect(refused, reason, &fingerprint);
    }
    for (size, token, reason) in [(-1, "", "FIELD_INVALID"), (0, "x", "PAGE_TOKEN_MISMATCH")] {
        let refused = refusal(errors.list_error_groups(list(size, token)).await);
        expect(refused, reason, &(size, token));
    }
    let refused = errors.watch_errors(watch(Bytes::from_static(b"x"))).await;
    assert_eq!(refusal(refused), "RESUME_TOKEN_MALFORMED");
}

#[tokio::test]
async fn what_only_reads_makes_no_namespace_and_a_report_does() {
    let (_server, mut errors) = server().await;
    let nobody = "namespaces/nobody";
    let read = pb::ListErrorGroupsRequest {
        parent: nobody.into(),
        ..list(0, "")
    };
    let refused = refusal(errors.list_error_groups(read.clone()).await);
    assert_eq!(refused, "NAMESPACE_NOT_FOUND");
    let watched = pb::WatchErrorsRequest {
        parent: nobody.into(),
        ..watch(Bytes::new())
    };
    let refused = refusal(errors.watch_errors(watched).await);
    assert_eq!(refused, "NAMESPACE_NOT_FOUND");
    let request = pb::ReportFailuresRequest {
        parent: nobody.into(),
        ..reports(vec![report(1, "a")])
    };
    errors.report_failures(request).await.unwrap();
    let page = errors.list_error_groups(read).await.unwrap();
    assert_eq!(page.into_inner().groups.len(), 1);
}
