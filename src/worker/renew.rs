//! Renews the worker's leases on a thread of its own, with a connection of its own: a handler that
//! computes for minutes without yielding must not lose its lease for it.
//!
//! A lease that is over by this clock is lost at that moment, not at the next renewal: near the time
//! limit of an attempt the server promises less than an interval.
//!
//! Prompt cancels come over WatchLeases on the same thread. Nothing depends on that stream: every
//! renewal brings the same news.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    builder::Identity,
    lease::{Held, Leases},
};
use crate::{
    client::{Backoff, Client, Error},
    proto::v1::{
        LeaseDirective, LeaseStatus, RenewLeasesRequest, WatchLeasesRequest,
        lease_status::Disposition, watch_leases_response::Frame,
    },
    runtime::decorated,
};

/// From a panic to the next try.
const PANIC_PAUSE: Duration = Duration::from_millis(100);
/// The most that doubling it with each comes to.
const LONGEST_PANIC_PAUSE: Duration = Duration::from_secs(10);
/// What one call may name.
const MAX_TOKENS: usize = 1000;
/// A stream without a word for so long is opened anew; the server's heartbeat is 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// Starts the thread; it ends soon after `stop`.
pub(super) fn start(
    client: Client,
    identity: Identity,
    leases: Arc<Leases>,
    stop: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("duite-leases".to_owned())
        .spawn(move || {
            let run = || {
                runtime.block_on(async {
                    let client = client.on_this_runtime();
                    tokio::select! {
                        () = renew(&client, &identity, &leases) => {}
                        () = watch(&client, &identity, &leases) => {}
                        () = expire(&leases) => {}
                        () = stop.cancelled() => {}
                    }
                });
            };
            // Without it every lease is lost; what it knows is elsewhere.
            let mut pause = PANIC_PAUSE;
            while decorated("keep leases", run)().is_err() {
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PANIC_PAUSE);
            }
        })
}

async fn renew(client: &Client, identity: &Identity, leases: &Leases) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let mut due = Instant::now() + leases.renew_interval();
    loop {
        tokio::select! {
            () = leases.came.notified() => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
        let held = leases.all();
        due = Instant::now() + leases.renew_interval();
        let mut failed = false;
        for some in held.chunks(MAX_TOKENS) {
            if let Err(error) = renew_some(client, identity, leases, some).await {
                tracing::debug!(error.message = %error, leases = some.len(), "renewal failed");
                failed = true;
            }
        }
        let now = Instant::now();
        // Those that came meanwhile were not named: their first renewal is the next.
        for held in held.iter().filter(|held| held.until() <= now) {
            held.lose("it was not renewed in time");
        }
        if failed {
            due = now + backoff.next_wait();
        } else {
            backoff.reset();
        }
    }
}

/// Ends what is over.
async fn expire(leases: &Leases) {
    loop {
        let over = async {
            match leases.next_over() {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => leases.sweep(Instant::now()),
            () = leases.renewed.notified() => {}
        }
    }
}

async fn renew_some(
    client: &Client,
    identity: &Identity,
    leases: &Leases,
    held: &[Arc<Held>],
) -> Result<(), Error> {
    // A lost one is named no more: the server has said all there is to say.
    let held: Vec<_> = held
        .iter()
        .filter(|held| !held.lost.is_cancelled())
        .collect();
    if held.is_empty() {
        return Ok(());
    }
    let sent = Instant::now();
    let within = leases.renew_interval().max(Duration::from_secs(1));
    let request = RenewLeasesRequest {
        lease_tokens: held.iter().map(|held| held.token.clone()).collect(),
        worker_id: identity.worker_id.clone(),
        instance_uid: identity.instance_uid.clone(),
    };
    let answer = client
        .unary_within("RenewLeases", within, request, |request| {
            let mut workers = client.workers();
            async move { workers.renew_leases(request).await }
        })
        .await?;
    for (held, status) in held.into_iter().zip(&answer.statuses) {
        apply(held, status, sent);
    }
    leases.renewed.notify_one();
    Ok(())
}

/// What a renewal says of one lease.
fn apply(held: &Held, status: &LeaseStatus, sent: Instant) {
    let valid_for = crate::client::std_duration(status.valid_for.as_ref()).unwrap_or_default();
    match status.disposition() {
        Disposition::Lost => held.lose("the server gave the task to another attempt"),
        Disposition::CancelRequested => {
            held.extend(sent + valid_for);
            held.cancelled.cancel();
        }
        Disposition::Held | Disposition::Unspecified => held.extend(sent + valid_for),
    }
}

async fn watch(client: &Client, identity: &Identity, leases: &Leases) {
    let mut backoff = Backoff::for_streams();
    loop {
        let wait = match watch_once(client, identity, leases, &mut backoff).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::debug!(error.message = %error, "lease watch broke, resuming");
                error.retry_after().unwrap_or_default()
            }
        };
        tokio::time::sleep(wait + backoff.next_wait()).await;
    }
}

/// One stream to its end; gives what the server asks to wait before the next.
async fn watch_once(
    client: &Client,
    identity: &Identity,
    leases: &Leases,
    backoff: &mut Backoff,
) -> Result<Duration, Error> {
    const OPERATION: &str = "WatchLeases";
    let failed = |status: tonic::Status| Error::from_status(OPERATION, &status);
    let request = WatchLeasesRequest {
        parent: client.parent(),
        worker_id: identity.worker_id.clone(),
        instance_uid: identity.instance_uid.clone(),
    };
    let mut workers = client.lease_watches();
    let mut stream = workers
        .watch_leases(request)
        .await
        .map_err(failed)?
        .into_inner();
    let mut wait = Duration::ZERO;
    while let Ok(message) = tokio::time::timeout(SILENCE, stream.message()).await {
        let Some(message) = message.map_err(failed)? else {
            break;
        };
        backoff.reset();
        match message.frame {
            Some(Frame::Directive(directive)) => direct(leases, &directive),
            Some(Frame::Closing(closing)) => {
                let asked = crate::client::std_duration(closing.reconnect_after.as_ref());
                wait = asked.unwrap_or_default();
            }
            Some(Frame::Bookmark(_)) | None => {}
        }
    }
    Ok(wait)
}

fn direct(leases: &Leases, directive: &LeaseDirective) {
    // Without a token it is for the worker as a whole.
    let meant = if directive.lease_token.is_empty() {
        leases.all()
    } else {
        leases.get(&directive.lease_token).into_iter().collect()
    };
    for held in meant {
        match directive.disposition() {
            Disposition::CancelRequested => held.cancelled.cancel(),
            Disposition::Lost => held.lose(&directive.reason),
            Disposition::Held | Disposition::Unspecified => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(valid_for: Duration) -> Held {
        let until = Instant::now() + valid_for;
        Held::new(vec![1].into(), "t1".to_owned(), until, None)
    }

    fn status(disposition: Disposition, seconds: i64) -> LeaseStatus {
        let valid_for = Some(prost_types::Duration { seconds, nanos: 0 });
        LeaseStatus {
            disposition: disposition.into(),
            valid_for,
        }
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_sent_and_never_shortens() {
        let held = held(Duration::from_secs(4));
        let sent = Instant::now();
        apply(&held, &status(Disposition::Held, 8), sent);
        assert_eq!(held.until(), sent + Duration::from_secs(8));
        apply(&held, &status(Disposition::Held, 1), sent);
        assert_eq!(held.until(), sent + Duration::from_secs(8));
    }

    #[test]
    fn a_cancel_keeps_the_lease_and_a_loss_cancels_too() {
        let asked = held(Duration::from_secs(4));
        apply(
            &asked,
            &status(Disposition::CancelRequested, 8),
            Instant::now(),
        );
        assert!(asked.cancelled.is_cancelled() && !asked.lost.is_cancelled());
        let lost = held(Duration::from_secs(4));
        apply(&lost, &status(Disposition::Lost, 0), Instant::now());
        assert!(lost.cancelled.is_cancelled() && lost.lost.is_cancelled());
    }

    #[test]
    fn a_directive_without_a_token_is_for_every_lease() {
        let leases = Leases::default();
        for token in [vec![1], vec![2]] {
            let held = Held::new(token.into(), "t".to_owned(), Instant::now(), None);
            leases.insert(Arc::new(held));
        }
        let mut directive = LeaseDirective {
            lease_token: vec![2].into(),
            disposition: Disposition::CancelRequested.into(),
            reason: String::new(),
        };
        direct(&leases, &directive);
        let cancelled = |leases: &Leases| {
            leases
                .all()
                .iter()
                .filter(|held| held.cancelled.is_cancelled())
                .count()
        };
        assert_eq!(cancelled(&leases), 1);
        directive.lease_token.clear();
        direct(&leases, &directive);
        assert_eq!(cancelled(&leases), 2);
    }
}
