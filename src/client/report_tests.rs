//! Reports on their way to a fake server.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use tonic::Status;

use super::*;
use crate::{
    client::fake::Fake,
    proto::v1::{Failure, ReportFailuresResponse},
    runtime::CAPACITY,
};

type Calls = Arc<Mutex<Vec<Vec<FailureReport>>>>;

fn report(number: usize) -> FailureReport {
    FailureReport {
        report_id: number.to_string(),
        task_type: "mesh".to_owned(),
        failure: Some(Failure::default()),
    }
}

/// A server that answers the n-th call as `answer` says.
fn server(answer: impl Fn(usize) -> Result<(), Status> + Send + Sync + 'static) -> (Client, Calls) {
    let calls = Calls::default();
    let seen = Arc::clone(&calls);
    let fake = Fake {
        report_failures: Some(Box::new(move |request| {
            let mut seen = seen.lock();
            seen.push(request.reports);
            answer(seen.len()).map(|()| ReportFailuresResponse::default())
        })),
        ..Fake::default()
    };
    (fake.serve(), calls)
}

#[tokio::test(start_paused = true)]
async fn reports_that_come_together_go_together_a_hundred_at_most() {
    let (client, calls) = server(|_| Ok(()));
    let (sink, reports) = Sink::new(CAPACITY);
    (0..150).for_each(|number| sink.take(report(number)));
    let sender = Sender::new(client, Arc::clone(&sink), PATIENCE);
    tokio::spawn(async move { sender.run(&mut { reports }).await });
    sink.flush().await;
    let sizes: Vec<usize> = calls.lock().iter().map(Vec::len).collect();
    assert_eq!(sizes, [100, 50]);
    assert_eq!((sink.left(), sink.dropped()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_gets_the_same_ids_when_it_is_back() {
    let (client, calls) = server(|call| {
        if call < 7 {
            return Err(Status::unavailable("starting"));
        }
        Ok(())
    });
    let (sink, reports) = Sink::new(CAPACITY);
    (0..3).for_each(|number| sink.take(report(number)));
    let sender = Sender::new(client, Arc::clone(&sink), PATIENCE);
    tokio::spawn(async move { sender.run(&mut { reports }).await });
    sink.flush().await;
    let calls = calls.lock();
    assert_eq!(calls.len(), 7);
    let ids: BTreeSet<&str> = calls
        .iter()
        .flatten()
        .map(|report| &*report.report_id)
        .collect();
    assert_eq!(ids, BTreeSet::from(["0", "1", "2"]));
    assert_eq!(sink.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refuses_or_never_takes_is_counted_and_given_up() {
    for status in [Status::unimplemented("old"), Status::unavailable("gone")] {
        let (client, _) = server(move |_| Err(status.clone()));
        let (sink, reports) = Sink::new(CAPACITY);
        sink.take(report(1));
        let sender = Sender::new(client, Arc::clone(&sink), PATIENCE);
        tokio::spawn(async move { sender.run(&mut { reports }).await });
        sink.flush().await;
        assert_eq!((sink.left(), sink.dropped()), (0, 1));
    }
}
