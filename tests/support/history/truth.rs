//! Checks against what is known from elsewhere: every version that ever was, other watchers, the
//! clock.

use std::{collections::BTreeMap, fmt};

use super::{Change, Checked, Frame, Start, Stream, View, ensure, replay, replay_in_epochs};

/// Every version of every key, by epoch: what a simulation knows from the journal.
#[derive(Clone, Debug)]
pub(crate) struct Versions<V>(BTreeMap<String, BTreeMap<String, Vec<(i64, Option<V>)>>>);

impl<V> Default for Versions<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: Clone> Versions<V> {
    /// From `revision` on, in this epoch, `key` is `value`; `None`: it is gone.
    pub(crate) fn put(&mut self, epoch: &str, key: &str, revision: i64, value: Option<V>) {
        if !self.0.contains_key(epoch) {
            self.0.insert(epoch.to_owned(), BTreeMap::new());
        }
        let keys = self.0.get_mut(epoch).expect("it was put there");
        if !keys.contains_key(key) {
            keys.insert(key.to_owned(), Vec::new());
        }
        let versions = keys.get_mut(key).expect("it was put there");
        match versions.last_mut() {
            // A commit may write a key more than once: its last word counts.
            Some(last) if last.0 == revision => last.1 = value,
            _ => versions.push((revision, value)),
        }
    }

    /// The keys that stand at a revision, each with its value and the revision of that.
    pub(crate) fn at(&self, epoch: &str, revision: i64) -> impl Iterator<Item = (&str, &V, i64)> {
        let keys = self.0.get(epoch).into_iter().flatten();
        keys.filter_map(move |(key, versions)| {
            let later = versions.partition_point(|version| version.0 <= revision);
            let (at, value) = versions.get(later.checked_sub(1)?)?;
            Some((key.as_str(), value.as_ref()?, *at))
        })
    }

    /// All versions of all keys of all epochs.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, &[(i64, Option<V>)])> {
        self.0.iter().flat_map(|(epoch, keys)| {
            keys.iter()
                .map(move |(key, versions)| (epoch.as_str(), key.as_str(), versions.as_slice()))
        })
    }
}

/// *Atomic cut*: a view that is told complete at a revision is what was committed up to exactly
/// there, key by key and to the revision of each: nothing later, nothing missing, nothing that was
/// deleted, no half of a commit. `shown` is what the watch makes of a key; `None`: not watched.
pub(crate) fn complete_views_are_the_truth<V: Clone + PartialEq + fmt::Debug>(
    streams: &[Stream<V>],
    truth: &Versions<V>,
    shown: impl Fn(&str, &V) -> Option<V>,
) -> Checked {
    replay_in_epochs(streams, |epoch, at, view| {
        let mut count = 0;
        for (key, value, revision) in truth.at(epoch, at) {
            let Some(value) = shown(key, value) else {
                continue;
            };
            count += 1;
            let held = view.get(key);
            ensure(held == Some(&(value.clone(), revision)), || {
                format!(
                    "at revision {at} {key} is {value:?} of revision {revision}, and the view holds {held:?}"
                )
            })?;
        }
        ensure(view.len() == count, || {
            let stands: Vec<_> = truth.at(epoch, at).map(|(key, ..)| key).collect();
            let extra = view.keys().find(|key| !stands.contains(&key.as_str()));
            format!("at revision {at} the view holds {extra:?}, which is not there")
        })
    })
    .map(|_| ())
}

/// *Atomic cut*, for a watch that began with what changes from then on: what it holds at a complete
/// position stands there, to the revision.
pub(crate) fn partial_views_are_true<V: Clone + PartialEq + fmt::Debug>(
    streams: &[Stream<V>],
    truth: &Versions<V>,
    shown: impl Fn(&str, &V) -> Option<V>,
) -> Checked {
    replay_in_epochs(streams, |epoch, at, view| {
        let stands: BTreeMap<&str, (V, i64)> = truth
            .at(epoch, at)
            .filter_map(|(key, value, revision)| Some((key, (shown(key, value)?, revision))))
            .collect();
        for (key, held) in view {
            let stand = stands.get(key.as_str());
            ensure(stand == Some(held), || {
                format!("at revision {at} {key} is {stand:?}, and the view holds {held:?}")
            })?;
        }
        Ok(())
    })
    .map(|_| ())
}

/// *Atomic cut*, where nobody knows the truth: all who watch the same hold the same at the same
/// revision, whatever way they came there.
pub(crate) fn views_agree_where_they_meet<V: Clone + PartialEq + fmt::Debug>(
    watchers: &[&[Stream<V>]],
) -> Checked {
    let mut first: BTreeMap<(String, i64), View<V>> = BTreeMap::new();
    for streams in watchers {
        replay_in_epochs(streams, |epoch, at, view| {
            let known = first.entry((epoch.to_owned(), at));
            let known = known.or_insert_with(|| view.clone());
            ensure(known == view, || {
                let differs = known
                    .iter()
                    .find(|(key, held)| view.get(*key) != Some(held));
                format!("at revision {at} two watchers hold different views: {differs:?}")
            })
        })?;
    }
    Ok(())
}

/// *Ordered*: a delta brings only what changed after the position it starts from, and nothing from
/// beyond the position it ends at; a bookmark therefore never runs ahead of what it stands for.
pub(crate) fn changes_lie_between_positions<V>(streams: &[Stream<V>]) -> Checked {
    for stream in streams {
        let mut parts: Vec<&Change<V>> = Vec::new();
        for frame in &stream.frames {
            let Frame::Delta { base, at, changes } = frame else {
                parts.clear();
                continue;
            };
            parts.extend(changes.iter().filter(|change| change.revision > 0));
            for change in &parts {
                let beyond = at.is_some_and(|at| change.revision > at);
                ensure(change.revision > *base && !beyond, || {
                    format!(
                        "{} of revision {} came with a delta from {base} to {at:?}",
                        change.key, change.revision
                    )
                })?;
            }
            if at.is_some() {
                parts.clear();
            }
        }
    }
    Ok(())
}

/// *Resumable*: a stream opened with a token goes on from there and does not begin anew, unless it
/// is excused: the token was of another epoch, or older than the history that is kept.
pub(crate) fn fresh_tokens_resume<V>(streams: &[Stream<V>], excused: &[bool]) -> Checked {
    for (number, stream) in streams.iter().enumerate() {
        let Some(from) = stream.resumed_from else {
            continue;
        };
        if excused.get(number).copied().unwrap_or(false) {
            continue;
        }
        for frame in &stream.frames {
            let anew = match frame {
                Frame::Opened { start, at, .. } => *start != Start::Resumed || *at != from,
                Frame::Snapshot(_) | Frame::Reset => true,
                _ => false,
            };
            ensure(!anew, || {
                let number = number + 1;
                format!("stream {number} had a good token of revision {from} and began anew")
            })?;
        }
    }
    Ok(())
}

/// *Bookmarked*: whoever reads hears something at least every heartbeat. `heard` are the times of a
/// stream's frames and, last, of its end, in milliseconds.
pub(crate) fn silence_is_broken(heard: &[u64], longest_ms: u64) -> Checked {
    for pair in heard.windows(2) {
        let silence = pair[1].saturating_sub(pair[0]);
        ensure(silence <= longest_ms, || {
            format!(
                "nothing was heard for {silence} ms from {} on, at most {longest_ms} ms are promised",
                pair[0]
            )
        })?;
    }
    Ok(())
}

/// Where a task was seen to have succeeded, and what its last progress was.
#[derive(Clone, Debug)]
pub(crate) struct Success<V> {
    pub(crate) epoch: String,
    pub(crate) revision: i64,
    /// The key of its progress, and what was written last: one of these, where its worker cannot
    /// know which of two leases counted.
    pub(crate) key: String,
    pub(crate) progress: Vec<V>,
}

/// *Terminal after progress*: whoever could see that a task succeeded sees its last progress.
pub(crate) fn success_comes_after_the_last_progress<V: Clone + PartialEq + fmt::Debug>(
    states: &[Stream<V>],
    successes: &[Success<V>],
) -> Checked {
    replay_in_epochs(states, |epoch, at, view| {
        for success in successes {
            if success.epoch != epoch || success.revision > at {
                continue;
            }
            let held = view.get(&success.key).map(|held| &held.0);
            ensure(held.is_some_and(|held| success.progress.contains(held)), || {
                format!(
                    "{} ends with one of {:?} and succeeded at revision {}; a view at revision {at} holds {held:?}",
                    success.key, success.progress, success.revision
                )
            })?;
        }
        Ok(())
    })
    .map(|_| ())
}

/// *Monotonic*: the values of a key that only grow never shrink in what a watcher is shown: a lease
/// that is over writes nothing more, a count loses nothing.
pub(crate) fn growing_values_never_shrink<V: Clone + Ord + fmt::Debug>(
    streams: &[Stream<V>],
    grows: impl Fn(&str) -> bool,
) -> Checked {
    let mut seen: BTreeMap<(String, String), (V, i64)> = BTreeMap::new();
    replay_in_epochs(streams, |epoch, at, view| {
        for (key, (value, revision)) in view.iter().filter(|(key, _)| grows(key)) {
            let place = (epoch.to_owned(), key.clone());
            let before = seen.insert(place, (value.clone(), *revision));
            ensure(
                before.as_ref().is_none_or(|(before, _)| before <= value),
                || format!("at revision {at} {key} is {value:?}, it was {before:?}"),
            )?;
        }
        Ok(())
    })
    .map(|_| ())
}

/// *Exactly-once effect*, of single requests that may be sent twice: what was acknowledged counts,
/// nothing counts twice.
pub(crate) fn acknowledged_requests_count_once(
    what: &str,
    sent: i64,
    acknowledged: i64,
    counted: i64,
) -> Checked {
    ensure((acknowledged..=sent).contains(&counted), || {
        format!("{what}: {sent} were sent and {acknowledged} acknowledged, {counted} count")
    })
}

/// *Chained*, at the client: the program's own view holds what the frames it was sent add up to.
pub(crate) fn client_views_follow<V: Clone>(
    streams: &[Stream<V>],
    held: &BTreeMap<String, i64>,
) -> Checked {
    let mut complete = View::new();
    replay(streams, |_, view| {
        complete.clone_from(view);
        Ok(())
    })?;
    for (key, (_, revision)) in &complete {
        ensure(held.get(key) == Some(revision), || {
            format!(
                "{key} was sent at revision {revision}, the client holds {:?}",
                held.get(key)
            )
        })?;
    }
    let extra = held.keys().find(|key| !complete.contains_key(*key));
    ensure(extra.is_none(), || {
        format!("the client holds {extra:?}, which it was not sent")
    })
}
