//! The queues of the test: one is open, one has limits, and one is paused now and then.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use duite::proto::v1::{self as pb, queue_service_client::QueueServiceClient};
use fastrand::Rng;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::clients::{Shared, limited};
use crate::{history::Pause, wire::PARENT};

pub(super) const OPEN: &str = "default";
pub(super) const LIMITED: &str = "limited";
pub(super) const PAUSED: &str = "paused";
pub(super) const ALL: [&str; 3] = [OPEN, LIMITED, PAUSED];
/// The limits of the one that has some, fewer than the workers would take.
pub(super) const MAX_RUNNING: i32 = 6;
pub(super) const MAX_RUNNING_PER_KEY: i32 = 2;

/// A queue for a task, and what it takes up there.
pub(super) fn choose(random: &mut Rng) -> (&'static str, String) {
    let queue = match random.u8(..8) {
        0..2 => LIMITED,
        2 => PAUSED,
        _ => OPEN,
    };
    // In the others the key limits nothing.
    let key = match random.u8(..5) {
        0 => String::new(),
        key => format!("k{key}"),
    };
    (queue, key)
}

/// Microseconds of the clock that the server stamps a lease with: it is of the same machine.
pub(super) fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.expect("it is later than 1970").as_micros();
    i64::try_from(since).expect("it is not that late")
}

/// Limits the queue that is to be limited, before anything waits in it.
pub(super) async fn limit(channel: &Channel) {
    let settings = pb::QueueSettings {
        max_running: MAX_RUNNING,
        max_running_per_key: MAX_RUNNING_PER_KEY,
        ..pb::QueueSettings::default()
    };
    update(channel, LIMITED, settings).await.expect("it is set");
}

/// Opens the queue that was paused, for good: a call that was not answered may have come late.
pub(super) async fn open(channel: &Channel) {
    let settings = pb::QueueSettings::default();
    update(channel, PAUSED, settings).await.expect("it is set");
}

async fn update(
    channel: &Channel,
    queue: &str,
    settings: pb::QueueSettings,
) -> Result<(), tonic::Status> {
    let request = pb::UpdateQueueRequest {
        name: format!("{PARENT}/queues/{queue}"),
        settings: Some(settings),
        ..pb::UpdateQueueRequest::default()
    };
    let mut queues = QueueServiceClient::new(channel.clone());
    queues.update_queue(limited(request)).await.map(drop)
}

/// Pauses and resumes one queue until nothing new is to begin. Gives the times in which it was paused
/// for sure: no call that might come late was under way.
pub(super) async fn pause_now_and_then(shared: Shared, mut random: Rng) -> Vec<Pause> {
    let mut pauses = Vec::new();
    let mut resumed_at_once = true;
    while !shared.wind_down.is_cancelled() {
        sleep(Duration::from_millis(random.u64(300..2_500))).await;
        let paused_at_once = set_paused(&shared, true).await;
        let from = wall_us();
        sleep(Duration::from_millis(random.u64(300..2_500))).await;
        let until = wall_us();
        if resumed_at_once && paused_at_once {
            pauses.push(Pause {
                queue: PAUSED.to_owned(),
                from,
                until,
            });
        }
        resumed_at_once = set_paused(&shared, false).await;
    }
    pauses
}

/// Calls until it is answered; says whether it was at the first time.
async fn set_paused(shared: &Shared, paused: bool) -> bool {
    let mut at_once = true;
    loop {
        let settings = pb::QueueSettings {
            paused,
            ..pb::QueueSettings::default()
        };
        match update(&shared.channel, PAUSED, settings).await {
            Ok(()) => {
                shared.log.line(format_args!("paused={paused}"));
                return at_once;
            }
            Err(status) => shared.excuse("UpdateQueue", &status).await,
        }
        at_once = false;
    }
}
