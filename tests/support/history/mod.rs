//! What clients saw, and whether it keeps what is promised: one function per promise.
//!
//! Clients record while the server is killed and comes back. Afterwards each function takes what it
//! needs of their histories, and of what the server says at the end, and returns what is broken.
//! `blackbox/{history,tasks,truth}_tests.rs` show each of them failing on a history that was tampered
//! with.

mod tasks;
mod truth;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub(crate) use tasks::*;
pub(crate) use truth::*;

/// What is broken, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) type Checked = Result<(), Violation>;

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Violation(problem()))
    }
}

/// One request for a task, and every answer to it.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) request_id: String,
    /// Name and uid, as each acknowledgement told them.
    pub(crate) acknowledged: Vec<(String, String)>,
}

/// An acknowledged task stands, the same request always means the same task, and nothing stands
/// that nobody asked for.
pub(crate) fn acknowledged_tasks_stand_once(
    submissions: &[Submission],
    listed: &[(String, String)],
) -> Checked {
    let mut standing = BTreeMap::new();
    for (name, uid) in listed {
        let twice = standing.insert(name, uid);
        ensure(twice.is_none(), || format!("{name} is listed twice"))?;
    }
    let mut asked_for = BTreeSet::new();
    let mut unanswered = 0;
    for submission in submissions {
        let Some(first) = submission.acknowledged.first() else {
            unanswered += 1;
            continue;
        };
        let id = &submission.request_id;
        for again in &submission.acknowledged {
            ensure(again == first, || {
                format!("request {id} was answered with {first:?} and then with {again:?}")
            })?;
        }
        let (name, uid) = first;
        ensure(standing.get(name) == Some(&uid), || {
            format!("{name} (uid {uid}) was acknowledged and is not there")
        })?;
        ensure(asked_for.insert(name), || {
            format!("{name} was given for two requests, one of them {id}")
        })?;
    }
    let (asked, stand) = (asked_for.len(), standing.len());
    ensure(stand >= asked && stand <= asked + unanswered, || {
        format!("{stand} tasks stand, {asked} were acknowledged and {unanswered} asked for in vain")
    })
}

/// What one writer knows of its batches, which are 1, 2, 3, …
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) name: String,
    pub(crate) sent: i64,
    pub(crate) acknowledged: i64,
    /// Each time a stream was opened: sent and acknowledged so far, and where the server stood.
    pub(crate) opened: Vec<(i64, i64, i64)>,
}

/// What a state says of one writer whose every batch puts its own number and adds 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    /// The number that was put last.
    pub(crate) last: i64,
    /// The sum of what was added.
    pub(crate) sum: i64,
}

/// Acknowledged batches are in effect and nothing is that was not sent; each is in effect once.
pub(crate) fn acknowledged_batches_count_once(
    writers: &[Writer],
    effects: &BTreeMap<String, Effect>,
    total: i64,
) -> Checked {
    for writer in writers {
        let name = &writer.name;
        for (sent, acknowledged, position) in &writer.opened {
            ensure((acknowledged..=sent).contains(&position), || {
                format!(
                    "{name} was opened at {position} with {acknowledged} acknowledged and {sent} sent"
                )
            })?;
        }
        let none = Effect { last: 0, sum: 0 };
        let effect = effects.get(name).copied().unwrap_or(none);
        ensure(effect.last == effect.sum, || {
            format!(
                "{name}: batches up to {} took effect {} times",
                effect.last, effect.sum
            )
        })?;
        let (acknowledged, sent) = (writer.acknowledged, writer.sent);
        ensure((acknowledged..=sent).contains(&effect.last), || {
            format!(
                "{name} stands at {}, with {acknowledged} acknowledged and {sent} sent",
                effect.last
            )
        })?;
    }
    let sum: i64 = effects.values().map(|effect| effect.sum).sum();
    ensure(sum == total, || {
        format!("all writers share a total of {total}, and their own sums make {sum}")
    })
}

/// A change of one key, or of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change<V> {
    pub(crate) key: String,
    /// `None`: it is gone.
    pub(crate) value: Option<V>,
    /// 0 where the wire does not tell it: a task that was removed.
    pub(crate) revision: i64,
}

/// How a stream began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Snapshot,
    Resumed,
    /// Nothing of what stood before: a part by choice.
    Live,
}

/// A frame of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame<V> {
    Opened {
        start: Start,
        epoch: String,
        at: i64,
    },
    Snapshot(Vec<Change<V>>),
    Synced(i64),
    Delta {
        base: i64,
        at: Option<i64>,
        changes: Vec<Change<V>>,
    },
    Bookmark(i64),
    Reset,
    Closing,
}

/// One stream of a watcher, from its call to its end.
#[derive(Clone, Debug)]
pub(crate) struct Stream<V> {
    /// The revision of the token it was opened with.
    pub(crate) resumed_from: Option<i64>,
    pub(crate) frames: Vec<Frame<V>>,
}

/// What a watcher holds: each key's value and revision.
pub(crate) type View<V> = BTreeMap<String, (V, i64)>;

/// The position of a frame after which the view is complete.
pub(crate) fn complete_at<V>(frame: &Frame<V>) -> Option<i64> {
    match frame {
        Frame::Synced(at) | Frame::Bookmark(at) => Some(*at),
        Frame::Delta { at, .. } => *at,
        _ => None,
    }
}

/// Within an epoch the positions of a watcher never go back, over all its streams, and neither
/// does the revision of a key.
pub(crate) fn revisions_never_go_back<V>(streams: &[Stream<V>]) -> Checked {
    let mut epoch = String::new();
    let mut told = 0;
    let mut keys: BTreeMap<&str, i64> = BTreeMap::new();
    for frame in streams.iter().flat_map(|stream| &stream.frames) {
        if let Frame::Opened { epoch: opened, .. } = frame
            && *opened != epoch
        {
            epoch.clone_from(opened);
            told = 0;
            keys.clear();
        }
        if let Some(at) = complete_at(frame) {
            ensure(at >= told, || {
                format!("revision {at} was told after {told}")
            })?;
            told = at;
        }
        let (Frame::Snapshot(changes) | Frame::Delta { changes, .. }) = frame else {
            continue;
        };
        for change in changes.iter().filter(|change| change.revision > 0) {
            let held = keys.entry(&change.key).or_default();
            ensure(change.revision >= *held, || {
                format!(
                    "{} went from revision {held} back to {}",
                    change.key, change.revision
                )
            })?;
            *held = change.revision;
        }
    }
    Ok(())
}

/// Every delta starts from the position held, all parts of one from the same.
pub(crate) fn deltas_chain<V>(streams: &[Stream<V>]) -> Checked {
    for stream in streams {
        let mut held = None;
        for frame in &stream.frames {
            match frame {
                Frame::Opened {
                    start: Start::Resumed | Start::Live,
                    at,
                    ..
                } => held = Some(*at),
                Frame::Opened { .. } | Frame::Reset => held = None,
                Frame::Delta { base, .. } => ensure(held == Some(*base), || {
                    format!("a delta from revision {base} came to a view at {held:?}")
                })?,
                _ => {}
            }
            held = complete_at(frame).or(held);
        }
    }
    Ok(())
}

/// A stream opened with a token goes on from there, in the same epoch, without a snapshot.
pub(crate) fn tokens_resume<V>(streams: &[Stream<V>]) -> Checked {
    let mut known = None;
    for (number, stream) in streams.iter().enumerate() {
        let number = number + 1;
        for frame in &stream.frames {
            let fresh = match frame {
                Frame::Opened { start, epoch, at } => {
                    let same = known.get_or_insert_with(|| epoch.clone());
                    ensure(same == epoch, || {
                        format!("stream {number} is of epoch {epoch}, the one before of {same}")
                    })?;
                    if let Some(from) = stream.resumed_from {
                        ensure(*start == Start::Snapshot || *at == from, || {
                            format!("stream {number} was resumed from {from} and opened at {at}")
                        })?;
                    }
                    *start == Start::Snapshot
                }
                Frame::Snapshot(_) | Frame::Reset => true,
                _ => false,
            };
            ensure(stream.resumed_from.is_none() || !fresh, || {
                format!(
                    "stream {number} had the token of {:?} and began anew",
                    stream.resumed_from
                )
            })?;
        }
    }
    Ok(())
}

/// Folds what a watcher was sent, as a client does, and shows each complete view to `look`.
pub(crate) fn replay<V: Clone>(
    streams: &[Stream<V>],
    mut look: impl FnMut(i64, &View<V>) -> Checked,
) -> Result<View<V>, Violation> {
    replay_in_epochs(streams, |_, at, view| look(at, view))
}

/// The same, and says in which epoch.
pub(crate) fn replay_in_epochs<V: Clone>(
    streams: &[Stream<V>],
    mut look: impl FnMut(&str, i64, &View<V>) -> Checked,
) -> Result<View<V>, Violation> {
    let mut view = View::new();
    let mut epoch = "";
    for frame in streams.iter().flat_map(|stream| &stream.frames) {
        if let Frame::Opened { epoch: opened, .. } = frame {
            epoch = opened;
        }
        match frame {
            // Only who holds nothing begins with what changes from then on.
            Frame::Opened {
                start: Start::Snapshot | Start::Live,
                ..
            }
            | Frame::Reset => view.clear(),
            Frame::Snapshot(changes) | Frame::Delta { changes, .. } => {
                for change in changes {
                    match &change.value {
                        Some(value) => {
                            view.insert(change.key.clone(), (value.clone(), change.revision))
                        }
                        None => view.remove(&change.key),
                    };
                }
            }
            _ => {}
        }
        if let Some(at) = complete_at(frame) {
            look(epoch, at, &view)?;
        }
    }
    Ok(view)
}

/// What a watcher holds at the end is what the server says, to the revision.
pub(crate) fn view_ends_as<V: Clone + PartialEq + fmt::Debug>(
    streams: &[Stream<V>],
    truth: &View<V>,
) -> Checked {
    let view = replay(streams, |_, _| Ok(()))?;
    for (key, stands) in truth {
        let held = view.get(key);
        ensure(held == Some(stands), || {
            format!("{key} is {stands:?}, and the watcher holds {held:?}")
        })?;
    }
    let extra = view.keys().find(|key| !truth.contains_key(*key));
    ensure(extra.is_none(), || {
        format!("the watcher holds {extra:?}, which is not there")
    })
}

/// A complete view shows whole batches: of each writer whose batches put their number and add 1,
/// both or neither, and of all writers together the same total.
pub(crate) fn views_show_whole_batches(
    streams: &[Stream<i64>],
    effects: impl Fn(&View<i64>) -> (BTreeMap<String, Effect>, i64),
) -> Checked {
    replay(streams, |at, view| {
        let (effects, total) = effects(view);
        for (writer, effect) in &effects {
            ensure(effect.last == effect.sum, || {
                format!("at revision {at} half of a batch of {writer} is to be seen: {effect:?}")
            })?;
        }
        let sum: i64 = effects.values().map(|effect| effect.sum).sum();
        ensure(sum == total, || {
            format!("at revision {at} the total is {total} and the sums make {sum}")
        })
    })
    .map(|_| ())
}

/// Once a task was seen with a terminal status, it is never seen with another.
pub(crate) fn terminal_statuses_stay<V: Copy + PartialEq + fmt::Debug>(
    streams: &[Stream<V>],
    is_terminal: impl Fn(V) -> bool,
) -> Checked {
    let mut ended: BTreeMap<&str, V> = BTreeMap::new();
    for frame in streams.iter().flat_map(|stream| &stream.frames) {
        let (Frame::Snapshot(changes) | Frame::Delta { changes, .. }) = frame else {
            continue;
        };
        for change in changes {
            let Some(status) = change.value else { continue };
            if let Some(end) = ended.get(change.key.as_str()) {
                ensure(*end == status, || {
                    format!("{} was {end:?} and is {status:?}", change.key)
                })?;
            }
            if is_terminal(status) {
                ended.insert(&change.key, status);
            }
        }
    }
    Ok(())
}

/// A worker's outcome that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Finish<V> {
    pub(crate) task: String,
    pub(crate) attempt: i32,
    pub(crate) status: V,
}

/// An acknowledged outcome is how the task ended, and no other attempt's was acknowledged.
pub(crate) fn acknowledged_outcomes_stand<V: Copy + PartialEq + fmt::Debug>(
    finishes: &[Finish<V>],
    tasks: &BTreeMap<String, (i32, V)>,
) -> Checked {
    let mut seen: BTreeMap<&str, i32> = BTreeMap::new();
    for Finish {
        task,
        attempt,
        status,
    } in finishes
    {
        let other = seen.insert(task, *attempt);
        ensure(other.is_none_or(|other| other == *attempt), || {
            format!("outcomes of attempts {other:?} and {attempt} of {task} were acknowledged")
        })?;
        let stands = tasks.get(task);
        ensure(stands == Some(&(*attempt, *status)), || {
            format!(
                "attempt {attempt} of {task} was acknowledged as {status:?}, the task stands as {stands:?}"
            )
        })?;
    }
    Ok(())
}
