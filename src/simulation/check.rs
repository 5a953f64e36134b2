//! The end of a run: everybody comes to rest, and what was recorded is held against each promise.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{
    call::{PARENT, Purpose, Reply, Request, get, state_name},
    disk::Log,
    failures,
    history::{self, Effect, Frame, Success, View},
    plan::STATES,
    queues::limits_are_kept,
    runs::standing,
    truth::{Seen, Truth, fold, seen, task_seen},
    watcher::{Watcher, Wish},
    worker::integer,
    world::World,
};
use crate::{
    client::short_name,
    domain::{Entry, NamespaceId},
    engine::token::ResumeToken,
    proto::v1::{
        KeyUpdate, ListTasksRequest, UpdateStateRequest, key_update::Operation,
        task::Status as TaskStatus,
    },
};

/// In virtual time: nothing that is to come takes longer.
const PATIENCE_MS: u64 = 240_000;
/// On top of a heartbeat: transport, pacing of deltas, a large journal delay.
const SLACK_MS: u64 = 12_000;

impl World {
    /// Nothing goes wrong any more: every writer is heard, every watcher sees the present.
    pub(super) async fn come_to_rest(&mut self) {
        self.calm = true;
        self.server.disk.be_fast();
        for id in 0..self.conns.len() {
            self.read_on(id);
        }
        let settled = |world: &World| {
            let mut free = world
                .writers
                .iter()
                .filter(|writer| writer.leased.is_none());
            free.all(|writer| writer.gone || writer.side.is_settled())
                && world.attempts.iter().all(|attempt| attempt.is_over())
                && world.server.is_up()
        };
        if !self.run_until(PATIENCE_MS, settled).await {
            let waiting = self
                .writers
                .iter()
                .filter(|writer| !writer.gone && !writer.side.is_settled());
            let waiting: Vec<_> = waiting.map(|writer| writer.name.as_str()).collect();
            let problem =
                format!("not everything flushed was acknowledged in the end: {waiting:?}");
            return self.broken(problem);
        }
        // Whatever ends by itself, ends.
        let until = self.net.now_ms() + 20_000;
        self.run_until(PATIENCE_MS, move |world| world.net.now_ms() >= until)
            .await;
        for state in STATES {
            let request_id = self.random_uuid();
            let marker = KeyUpdate {
                key: "marker".to_owned(),
                operation: Some(Operation::Put(integer(1))),
            };
            let request = UpdateStateRequest {
                name: state_name(state),
                updates: vec![marker],
                request_id,
                ..Default::default()
            };
            self.call(Request::Update(request), Purpose::Marker);
        }
        let marked = |world: &World| world.marked.len() == STATES.len();
        if !self.run_until(PATIENCE_MS, marked).await {
            return self.broken("a call was never answered in the end".to_owned());
        }
        let last = self.marked.iter().copied().max();
        let present = move |watcher: &Watcher| watcher.closed || watcher.revision() >= last;
        if !self
            .run_until(PATIENCE_MS, move |world| world.watchers.iter().all(present))
            .await
        {
            let late = self.watchers.iter().position(|watcher| !present(watcher));
            let held = late.map(|late| self.watchers[late].revision());
            let problem = format!("watcher {late:?} never came to see revision {last:?}: {held:?}");
            self.broken(problem);
        }
        for state in STATES {
            self.call(get(state, bytes::Bytes::new()), Purpose::Final);
        }
        let list = ListTasksRequest {
            parent: PARENT.to_owned(),
            page_size: 1_000,
            ..Default::default()
        };
        self.call(Request::List(list), Purpose::Final);
        let read = |world: &World| world.finals.len() == STATES.len() + 1;
        if !self.run_until(PATIENCE_MS, read).await {
            self.broken("a state cannot be read in the end".to_owned());
        }
    }

    /// A mirror folded anew from what the journal holds is the live one.
    pub(super) async fn replay_is_the_same(&mut self) {
        let namespace = NamespaceId::trusted("default");
        let handle = |world: &World| {
            world
                .server
                .engine()
                .and_then(|e| e.existing(&namespace).ok())
        };
        let live = handle(self).expect("the server is up");
        self.server.stop().await;
        self.server.start().await;
        let again = handle(self).expect("the server is up");
        let same = live.read(|live| again.read(|replayed| live == replayed));
        if !same {
            self.broken("a replay of the journal is not what stood before".to_owned());
        }
    }

    /// Holds what was recorded against every promise.
    pub(super) fn check(&mut self) {
        let log = self.server.disk.log();
        let truth = match fold(&log) {
            Ok(truth) => truth,
            Err(problem) => return self.broken(problem),
        };
        self.count_cases(&log, &truth);
        if let Err(problem) = limits_are_kept(&log, &mut self.counts) {
            return self.broken(problem);
        }
        if let Err(problem) = failures::are_counted_once(&log, &mut self.counts) {
            return self.broken(problem);
        }
        if let Err(violation) = self.promises(&truth) {
            self.broken(violation.0);
        }
    }

    fn count_cases(&mut self, log: &Log, truth: &Truth) {
        let (refused, unknown) = self.server.disk.failures();
        let mut deleted = None;
        let mut forgotten = 0;
        for ((epoch, revision), entry) in log {
            let past = match entry {
                Entry::TaskRemoved(_) => {
                    deleted = Some((*epoch, *revision));
                    None
                }
                Entry::StateSnapshot(snapshot) if !snapshot.alive => {
                    deleted = Some((*epoch, *revision));
                    None
                }
                Entry::StateSnapshot(snapshot) => Some(snapshot.horizon),
                Entry::Horizon(horizon) => Some(horizon.revision),
                _ => None,
            };
            // Deleted before the horizon, and other things after it.
            forgotten += u64::from(past.is_some_and(|past| past > 0) && deleted.is_some());
        }
        let writers = self.writers.iter();
        let (folded, resent) = writers.fold((0, 0), |(folded, resent), writer| {
            (folded + writer.side.folded(), resent + writer.side.resent())
        });
        let cancelled = truth.tasks.all().filter(|(_, _, versions)| {
            let last = versions.last().and_then(|version| version.1);
            last.is_some_and(|seen| seen.number % 100 == TaskStatus::Cancelled as i64)
        });
        let cancelled = cancelled.count() as u64;
        for (kind, count) in [
            ("fault: journal refused", refused),
            ("fault: journal outcome unknown", unknown),
            ("case: compaction on top of a delete", forgotten),
            (
                "case: snapshot compared with its deltas",
                truth.snapshots_compared,
            ),
            ("push: flushes folded", folded),
            ("push: batches sent again", resent),
            ("task: cancelled", cancelled),
        ] {
            self.counts.add(kind, count);
        }
    }

    fn promises(&self, truth: &Truth) -> history::Checked {
        let (epoch, standing) = self.present(truth)?;
        self.effects_count_once(&standing)?;
        self.tasks_stand(truth, &epoch)?;
        let successes = self.successes();
        for (number, watcher) in self.watchers.iter().enumerate() {
            self.watcher_was_told_the_truth(watcher, truth, &successes)
                .map_err(|violation| {
                    history::Violation(format!(
                        "watcher {number} ({:?}): {violation}",
                        watcher.wish
                    ))
                })?;
        }
        let everything: Vec<_> = self
            .watchers
            .iter()
            .filter(|watcher| !watcher.partial && watcher.sees_whole_states())
            .filter(|watcher| STATES.iter().all(|state| watcher.watches(state)))
            .map(|watcher| watcher.streams.as_slice())
            .collect();
        history::views_agree_where_they_meet(&everything)
    }

    /// What the server says at the end is what was committed.
    fn present(&self, truth: &Truth) -> Result<(String, View<i64>), history::Violation> {
        let mut standing = View::new();
        let mut epoch = String::new();
        for read in &self.finals {
            let Reply::Get(read) = read else { continue };
            let position = read.position.as_ref().expect("an answer has its position");
            let token = ResumeToken::decode(&position.resume_token).expect("a token of ours");
            epoch = token.epoch.to_string();
            let state = read.state.as_ref().expect("an answer has its state");
            let name = short_name(&state.name);
            let held: View<Seen> = state
                .entries
                .iter()
                .map(|entry| {
                    let key = format!("{name}/{}", entry.key);
                    (key, (seen(&entry.value), entry.mod_revision))
                })
                .collect();
            let prefix = format!("{name}/");
            let stands: View<Seen> = truth
                .states
                .at(&epoch, position.revision)
                .filter(|(key, ..)| key.starts_with(&prefix))
                .map(|(key, value, revision)| (key.to_owned(), (*value, revision)))
                .collect();
            if held != stands {
                let differs = stands
                    .iter()
                    .find(|(key, entry)| held.get(*key) != Some(entry));
                return Err(history::Violation(format!(
                    "{name} is not read as it was written: {differs:?}"
                )));
            }
            let numbers = held.into_iter();
            standing.extend(numbers.map(|(key, (seen, at))| (key, (seen.number, at))));
        }
        Ok((epoch, standing))
    }

    fn effects_count_once(&self, standing: &View<i64>) -> history::Checked {
        for state in STATES {
            let (effects, total) = self.effects(state, standing);
            let writers: Vec<_> = self
                .writers
                .iter()
                .filter(|writer| writer.state == state)
                .map(|writer| writer.history())
                .collect();
            // What a deletion took is gone: there only the sums must agree.
            if state == "s2" {
                sums_agree(&effects, total)?;
                continue;
            }
            history::acknowledged_batches_count_once(&writers, &effects, total)?;
            for writer in self
                .writers
                .iter()
                .filter(|w| w.state == state && w.leased.is_none())
            {
                let effect = effects.get(&writer.name).map_or(0, |effect| effect.last);
                if !writer.gone && effect != writer.flushes {
                    return Err(history::Violation(format!(
                        "{} settled with {} flushes and {effect} are in effect",
                        writer.name, writer.flushes
                    )));
                }
            }
        }
        let counted = standing.get("s1/requests").map_or(0, |held| held.0);
        let acknowledged = if self.lossy { 0 } else { self.requests.1 };
        history::acknowledged_requests_count_once(
            "requests",
            self.requests.0,
            acknowledged,
            counted,
        )
    }

    /// What the writers of a state did, and their total.
    fn effects(&self, state: &str, view: &View<i64>) -> (BTreeMap<String, Effect>, i64) {
        let at = |key: &str| view.get(&format!("{state}/{key}")).map_or(0, |held| held.0);
        let writers = self.writers.iter().filter(|writer| writer.state == state);
        let effects = writers.map(|writer| {
            let effect = Effect {
                last: at(&format!("last/{}", writer.name)),
                sum: at(&format!("sum/{}", writer.name)),
            };
            (writer.name.clone(), effect)
        });
        (effects.collect(), at("total"))
    }

    fn tasks_stand(&self, truth: &Truth, epoch: &str) -> history::Checked {
        let lists = self.finals.iter().filter_map(|reply| match reply {
            Reply::List(list) => Some(list),
            _ => None,
        });
        let Some(list) = lists.last() else {
            return Ok(());
        };
        let kept = |task: &&crate::proto::v1::Task| {
            task.labels.get("kept").is_some_and(|kept| kept == "true")
        };
        let listed: Vec<_> = list
            .tasks
            .iter()
            .filter(kept)
            .map(|task| (task.name.clone(), task.uid.clone()))
            .collect();
        history::acknowledged_tasks_stand_once(&self.submissions, &listed)?;
        let ends: BTreeMap<_, _> = list
            .tasks
            .iter()
            .map(|task| (task.name.clone(), (task.attempt, task.status)))
            .collect();
        let finishes: Vec<_> = self
            .attempts
            .iter()
            .filter_map(|attempt| attempt.finish.clone())
            .filter(|finish| ends.contains_key(&finish.task))
            .collect();
        history::acknowledged_outcomes_stand(&finishes, &ends)?;
        self.leases_hold(&list.tasks)?;
        for task in &list.tasks {
            let name = short_name(&task.name);
            let held = task_seen(task.status, task.attempt, !task.flush_incomplete);
            let stands = truth.tasks.at(epoch, i64::MAX);
            let stands = stands.into_iter().find(|(id, ..)| *id == name);
            if stands.is_none_or(|(_, stands, at)| *stands != held || at != task.revision) {
                return Err(history::Violation(format!(
                    "{name} is listed as {held:?}, and was written as {stands:?}"
                )));
            }
        }
        self.successes_contribute_once(truth, epoch)
    }

    /// What the workers recorded of their runs.
    fn leases_hold(&self, tasks: &[crate::proto::v1::Task]) -> history::Checked {
        let runs = self.runs();
        let stand: BTreeMap<String, history::Standing> = tasks
            .iter()
            .map(|task| (task.name.clone(), standing(task)))
            .collect();
        history::no_task_runs_under_two_valid_leases(&runs)?;
        history::attempts_rise_to_their_limit(&runs, &stand)?;
        history::cancels_converge(&self.crew.cancels, &runs, &stand)?;
        if self.lossy {
            // What was given back, or given out, may be so no more.
            return Ok(());
        }
        history::leases_are_given_once(&runs)?;
        history::released_attempts_cost_nothing(&runs, &stand)
    }

    fn successes_contribute_once(&self, truth: &Truth, epoch: &str) -> history::Checked {
        let ended = |version: &(i64, Option<Seen>)| {
            version
                .1
                .is_some_and(|seen| seen.number % 100 == TaskStatus::Succeeded as i64)
        };
        let all = truth.tasks.all().filter(|(of, ..)| *of == epoch);
        let succeeded = all
            .filter(|(_, _, versions)| versions.iter().any(ended))
            .count() as i64;
        let done = truth.states.at(epoch, i64::MAX);
        let done = done.into_iter().find(|(key, ..)| *key == "s0/done");
        let done = done.map_or(0, |(_, seen, _)| seen.number);
        // In an epoch before this one tasks may have been removed.
        let earlier = self.epochs > 1;
        let kept = if earlier {
            done >= succeeded
        } else {
            done == succeeded
        };
        if kept {
            return Ok(());
        }
        Err(history::Violation(format!(
            "{succeeded} tasks succeeded and {done} contributions count"
        )))
    }

    /// Where watchers saw that a task had succeeded, with all its progress.
    fn successes(&self) -> Vec<Success<Seen>> {
        let mut successes = Vec::new();
        for watcher in &self.watchers {
            if !matches!(watcher.wish, Wish::Tasks) {
                continue;
            }
            for stream in &watcher.streams {
                let mut epoch = "";
                for frame in &stream.frames {
                    let (Frame::Snapshot(changes) | Frame::Delta { changes, .. }) = frame else {
                        if let Frame::Opened { epoch: opened, .. } = frame {
                            epoch = opened;
                        }
                        continue;
                    };
                    for change in changes {
                        successes.extend(self.success(epoch, change));
                    }
                }
            }
        }
        successes
    }

    fn success(&self, epoch: &str, change: &history::Change<Seen>) -> Option<Success<Seen>> {
        let Seen { number, bytes: 1 } = change.value? else {
            // Its progress was waited for in vain, and the task says so.
            return None;
        };
        if number % 100 != TaskStatus::Succeeded as i64 {
            return None;
        }
        let attempt = i32::try_from(number / 100).ok()?;
        let done = self.done.iter();
        let done = done.filter(|done| done.task == change.key && done.attempt == attempt);
        let done: Vec<_> = done.collect();
        Some(Success {
            epoch: epoch.to_owned(),
            revision: change.revision,
            key: done.first()?.key.clone(),
            progress: done
                .iter()
                .map(|done| seen(&integer(done.progress)))
                .collect(),
        })
    }

    fn watcher_was_told_the_truth(
        &self,
        watcher: &Watcher,
        truth: &Truth,
        successes: &[Success<Seen>],
    ) -> history::Checked {
        let streams = &watcher.streams;
        let shown = |key: &str, value: &Seen| watcher.wish.shown(key, value);
        let tasks = matches!(watcher.wish, Wish::Tasks);
        let versions = if tasks { &truth.tasks } else { &truth.states };
        history::revisions_never_go_back(streams)?;
        history::deltas_chain(streams)?;
        history::changes_lie_between_positions(streams)?;
        history::fresh_tokens_resume(streams, &watcher.excused)?;
        for (heartbeat_ms, heard) in &watcher.heard {
            if let Some(heard) = heard
                && *heartbeat_ms > 0
            {
                history::silence_is_broken(heard, heartbeat_ms + SLACK_MS)?;
            }
        }
        if watcher.partial {
            history::partial_views_are_true(streams, versions, shown)?;
        } else {
            history::complete_views_are_the_truth(streams, versions, shown)?;
            if !watcher.read_before && !watcher.closed {
                history::client_views_follow(streams, &watcher.view())?;
            }
        }
        if tasks {
            return in_each_epoch(streams, |streams| {
                history::terminal_statuses_stay(streams, |seen: Seen| {
                    seen.number % 100 >= TaskStatus::Succeeded as i64
                })
            });
        }
        history::growing_values_never_shrink(streams, |key| {
            key.contains("/progress/") || (!key.starts_with("s2/") && key.contains("/sum/"))
        })?;
        if watcher.partial || !watcher.sees_whole_states() {
            return Ok(());
        }
        if watcher.watches("s0") {
            history::success_comes_after_the_last_progress(streams, successes)?;
        }
        self.batches_are_whole(watcher)
    }

    fn batches_are_whole(&self, watcher: &Watcher) -> history::Checked {
        history::replay(&watcher.streams, |at, view| {
            let numbers: View<i64> = view
                .iter()
                .filter(|(key, _)| !key.contains("/large/"))
                .map(|(key, (seen, revision))| (key.clone(), (seen.number, *revision)))
                .collect();
            for state in STATES.into_iter().filter(|state| watcher.watches(state)) {
                let pair = |side: &str| numbers.get(&format!("{state}/pair/{side}"));
                if pair("a") != pair("b") {
                    return Err(history::Violation(format!(
                        "at revision {at} half of a pair of {state} is to be seen"
                    )));
                }
                let (effects, total) = self.effects(state, &numbers);
                sums_agree(&effects, total)?;
                let half = effects.values().any(|effect| effect.last != effect.sum);
                if half && state != "s2" {
                    return Err(history::Violation(format!(
                        "at revision {at} half of a batch in {state} is to be seen: {effects:?}"
                    )));
                }
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Everything that was recorded, in one number; no identifiers that are drawn elsewhere.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for watcher in &self.watchers {
            for stream in &watcher.streams {
                stream.resumed_from.hash(&mut hasher);
                format!("{:?}", stream.frames.len()).hash(&mut hasher);
                for frame in &stream.frames {
                    format!("{frame:?}").hash(&mut hasher);
                }
            }
            watcher.heard.hash(&mut hasher);
        }
        for writer in &self.writers {
            format!("{:?}", writer.history()).hash(&mut hasher);
        }
        self.net.now_ms().hash(&mut hasher);
        self.counts.table().hash(&mut hasher);
        hasher.finish()
    }
}

fn sums_agree(effects: &BTreeMap<String, Effect>, total: i64) -> history::Checked {
    let sum: i64 = effects.values().map(|effect| effect.sum).sum();
    if sum == total {
        return Ok(());
    }
    Err(history::Violation(format!(
        "all writers share a total of {total}, and their own sums make {sum}"
    )))
}

/// Checks the streams of each epoch by themselves: history begins anew with it.
fn in_each_epoch(
    streams: &[history::Stream<Seen>],
    check: impl Fn(&[history::Stream<Seen>]) -> history::Checked,
) -> history::Checked {
    let epoch = |stream: &history::Stream<Seen>| {
        stream.frames.iter().find_map(|frame| match frame {
            Frame::Opened { epoch, .. } => Some(epoch.clone()),
            _ => None,
        })
    };
    let opened: Vec<_> = streams
        .iter()
        .filter(|s| epoch(s).is_some())
        .cloned()
        .collect();
    opened
        .chunk_by(|a, b| epoch(a) == epoch(b))
        .try_for_each(check)
}

impl Watcher {
    fn sees_whole_states(&self) -> bool {
        match &self.wish {
            Wish::States {
                filter,
                inline_limit,
                ..
            } => filter.exact.is_empty() && filter.prefixes.is_empty() && *inline_limit == 0,
            Wish::Tasks => false,
        }
    }

    fn watches(&self, state: &str) -> bool {
        match &self.wish {
            Wish::States { names, .. } => names.contains(&state),
            Wish::Tasks => false,
        }
    }
}
