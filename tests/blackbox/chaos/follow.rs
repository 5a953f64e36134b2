//! Watchers of all tasks that resume through every loss, and keep each frame.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use duite::proto::v1::task::Status as TaskStatus;
use futures_util::StreamExt;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::records::Log;
use crate::{
    crash::{is_terminal, watchers},
    history::{Frame, Sighting, Stream, complete_at},
    wire,
};

/// The server's heartbeat is every 15 s: who hears nothing for so long has a dead connection.
const SILENCE: Duration = Duration::from_secs(40);
const RETRY: Duration = Duration::from_millis(100);

/// Watches until it holds the revision that `last` comes to name.
pub(super) async fn run(
    address: String,
    mut last: watch::Receiver<Option<i64>>,
    log: Log,
    open: Option<Arc<AtomicUsize>>,
) -> Vec<Stream<TaskStatus>> {
    let mut streams = Vec::new();
    let mut held: Option<(i64, Bytes)> = None;
    let mut not_ended = BTreeSet::new();
    loop {
        let Ok(channel) = wire::connect(&address).await else {
            sleep(RETRY).await;
            continue;
        };
        let token = held.as_ref().map_or_else(Bytes::new, |held| held.1.clone());
        let mut stream = Stream {
            resumed_from: held.as_ref().map(|held| held.0),
            frames: Vec::new(),
        };
        let opened = timeout(SILENCE, watchers::tasks(channel, token)).await;
        if let Ok(Ok(mut frames)) = opened {
            loop {
                let until = *last.borrow_and_update();
                if until.is_some() && held.as_ref().map(|held| held.0) >= until {
                    streams.push(stream);
                    return streams;
                }
                let frame = tokio::select! {
                    frame = timeout(SILENCE, frames.next()) => frame,
                    _ = last.changed() => continue,
                };
                let Ok(Some(Ok((frame, token)))) = frame else {
                    log.line(format_args!("the stream broke: {frame:?}"));
                    break;
                };
                log.line(format_args!("{frame:?}"));
                count(&frame, &mut not_ended);
                if let Some(open) = &open {
                    open.store(not_ended.len(), Ordering::Relaxed);
                }
                if let Some(at) = complete_at(&frame) {
                    held = Some((at, token.expect("a complete view has a token")));
                }
                stream.frames.push(frame);
            }
        }
        // One that was never opened has nothing to tell.
        if !stream.frames.is_empty() {
            streams.push(stream);
        }
        sleep(RETRY).await;
    }
}

fn count(frame: &Frame<TaskStatus>, not_ended: &mut BTreeSet<String>) {
    if let Frame::Snapshot(changes) | Frame::Delta { changes, .. } = frame {
        for change in changes {
            if change.value.is_none_or(is_terminal) {
                not_ended.remove(&change.key);
            } else {
                not_ended.insert(change.key.clone());
            }
        }
    }
}

/// Every task that a watch told of.
pub(super) fn sightings(streams: &[Stream<TaskStatus>]) -> Vec<Sighting<TaskStatus>> {
    let frames = streams.iter().flat_map(|stream| &stream.frames);
    let changes = frames.flat_map(|frame| match frame {
        Frame::Snapshot(changes) | Frame::Delta { changes, .. } => changes.as_slice(),
        _ => &[],
    });
    let seen = changes.filter_map(|change| {
        Some(Sighting {
            task: change.key.clone(),
            revision: change.revision,
            status: change.value?,
        })
    });
    seen.collect()
}
