//! Whose pushed batches are merged in the next group: in turn between states, and no sooner than a
//! state's merge interval.
//!
//! *Turns.* A state takes at most its share of a group while others wait, and whoever fits into its
//! state's share is in the next group whatever the others have. What does not fit comes after them,
//! in order of arrival; the first of it is taken in any case, so that it moves on as well. A
//! session's batches are folded into one part, which is never cut: so a state may go over its share
//! by one window.
//!
//! *Intervals.* A session whose state was merged less than its interval ago is held, out of the
//! line, until a timer lets it in again. It goes on folding what comes within its window. Only
//! push streams wait: not those whose writer is done (a `final` batch, a closed or broken stream),
//! nor those a finishing task waits for, nor unary updates and contributions.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    super::{intake::Session, timers::Timer},
    Core, MAX_GROUP_BYTES, Work,
    group::{Group, Settle},
    states::near_full,
};
use crate::{
    domain::{
        Entry, Revision, StateId, Uid,
        state::{Settings, StateDelta},
        task::Phase,
    },
    engine::{command::Reply, mirror::Mirror},
    journal::Draft,
};

/// However many states wait, each may take so much.
const MIN_SHARE_BYTES: usize = 64 << 10;
/// States that are deleted in one go for their retention; more wait for the next upkeep.
const MAX_EXPIRED: usize = 1_000;

/// A state that was merged less than its interval ago.
#[derive(Debug)]
pub(super) struct Pause {
    until: Duration,
    /// Sessions with something to merge, each once.
    held: Vec<Arc<Session>>,
}

impl Pause {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl Core {
    /// One part per writer that has pushed, as far as turns and intervals let them; the rest comes
    /// first next time. A state's parts share one delta.
    pub(super) fn plan_intake(&mut self, group: &mut Group) {
        let line = self.shared.intake.take_dirty().into_iter();
        let mut line: Vec<_> = line
            .filter_map(|session| {
                let bytes = session.waiting()?;
                Some((session, bytes))
            })
            .collect();
        if !self.draining && !self.pauses.is_empty() {
            line.retain(|(session, _)| !self.hold(session));
        }
        let share = share(&line);
        let (mut large, mut later) = (Vec::new(), Vec::new());
        let mut merged = Vec::new();
        for (session, bytes) in line {
            if group.is_heavy() || group.bytes_of(&session.state) + bytes > share {
                large.push(session);
            } else {
                self.plan_turn(session, group, &mut merged, &mut later);
            }
        }
        let mut first = true;
        for session in large {
            // What is folded weighs less than what came, so there may be room all the same.
            if first || (!group.is_heavy() && group.bytes_of(&session.state) < share) {
                first &= !self.plan_turn(session, group, &mut merged, &mut later);
            } else {
                later.push(session);
            }
        }
        for (state, interval) in merged {
            // What the budget cut off belongs to this merge and follows at once.
            if !later.iter().any(|session| session.state == state) {
                self.pause(state, interval);
            }
        }
        self.shared.intake.put_back(later);
    }

    /// Plans a session, or puts it off; says which.
    fn plan_turn(
        &mut self,
        session: Arc<Session>,
        group: &mut Group,
        merged: &mut Vec<(StateId, Duration)>,
        later: &mut Vec<Arc<Session>>,
    ) -> bool {
        let interval = {
            let mirror = self.shared.mirror.read();
            let mut lease = session.lease.iter();
            if !group.takes_parts(&session.state)
                || lease.any(|(token, _)| group.has_task(&token.task))
                || near_full(&mirror, group, &session.state)
            {
                later.push(session);
                return false;
            }
            merge_interval(&mirror, &session.state)
        };
        if !interval.is_zero() && !session.is_urgent() {
            merged.push((session.state.clone(), interval));
        }
        self.plan_session(session, group);
        true
    }

    /// Whether a session has to wait for its state's interval; it is then held, and whoever writes
    /// under a lease has shown that it lives.
    fn hold(&mut self, session: &Arc<Session>) -> bool {
        if session.is_urgent() || !self.pauses.contains_key(&session.state) {
            return false;
        }
        if let Some((token, _)) = &session.lease {
            self.keep_alive(token);
        }
        if session.hold()
            && let Some(pause) = self.pauses.get_mut(&session.state)
        {
            pause.held.push(session.clone());
        }
        true
    }

    fn pause(&mut self, state: StateId, interval: Duration) {
        let until = self.now.mono + interval;
        if self.pauses.contains_key(&state) {
            return;
        }
        self.set_timer(until, Timer::Merge(state.clone()));
        let held = Vec::new();
        self.pauses.insert(state, Pause { until, held });
    }

    pub(super) fn pause_over(&mut self, state: &StateId) {
        let now = self.now.mono;
        if self.pauses.get(state).is_some_and(|p| p.until <= now) {
            self.release(state);
        }
    }

    /// Lets the sessions of a state into the line again.
    pub(super) fn release(&mut self, state: &StateId) {
        if let Some(pause) = self.pauses.remove(state) {
            pause.held.iter().for_each(|session| session.step_out());
            self.shared.intake.put_back(pause.held);
        }
    }

    pub(super) fn release_all(&mut self) {
        let states: Vec<_> = self.pauses.keys().cloned().collect();
        states.iter().for_each(|state| self.release(state));
    }

    /// A finishing task waits for this writer.
    pub(super) fn hurry_writer(&self, writer: &[u8]) {
        if let Some(writer) = Uid::from_bytes(writer) {
            self.shared.intake.hurry_writer(writer);
        }
    }

    /// Whether a finishing task waits for this writer.
    pub(super) fn awaits(&self, writer: Uid) -> bool {
        let mirror = self.shared.mirror.read();
        let id = writer.to_bytes();
        self.finishing.keys().any(|task| {
            let row = mirror.tasks.get(task);
            row.is_some_and(|row| match &row.task.phase {
                Some(Phase::Finishing(finishing)) => {
                    finishing.marks.iter().any(|mark| mark.writer_id == id)
                }
                _ => false,
            })
        })
    }

    /// Settings are an entry of the state like any other, before the group's deltas.
    pub(super) fn plan_settings(
        &mut self,
        state: StateId,
        settings: Settings,
        reply: Reply<Revision>,
        group: &mut Group,
    ) -> Option<Work> {
        if !group.takes_parts(&state) {
            return Some(Work::Settings {
                state,
                settings,
                reply,
            });
        }
        let delta = StateDelta {
            state: state.to_string(),
            create_uid: Uid(self.random.u128(..)).to_bytes(),
            time_us: self.now.wall_us,
            parts: Vec::new(),
            settings: Some(Settings {
                set_us: self.now.wall_us,
                ..settings
            }),
        };
        let draft = Draft {
            entry: Entry::StateDelta(delta),
            expect: None,
            supersedes: Vec::new(),
        };
        group.rewrite(state.clone(), false);
        group.push(draft, Settle::Settings(state, reply));
        None
    }

    /// Deletes a state for its retention. Where something is planned for it, somebody writes to it
    /// after all; what the writer's streams hold begins it anew.
    pub(super) fn plan_expiry(&mut self, state: StateId, group: &mut Group) {
        let mirror = self.shared.mirror.read();
        let Some(slot) = mirror.states.get(&state) else {
            return;
        };
        if !group.is_untouched(&state) || !self.has_expired(&slot.state) {
            return;
        }
        tracing::info!(state.id = %state, "state deleted: nobody has written to it for its retention");
        let draft = Draft {
            entry: Entry::StateSnapshot(slot.state.deletion(self.now.wall_us)),
            expect: slot.entries.last().copied(),
            supersedes: slot.superseded_by_deletion(),
        };
        drop(mirror);
        group.rewrite(state, true);
        group.push(draft, Settle::Nothing);
    }

    /// Work for states whose retention is over.
    pub(super) fn expired(&self, mirror: &Mirror) -> impl Iterator<Item = Work> {
        let states = mirror.states.iter();
        let expired = states.filter(move |(_, slot)| self.has_expired(&slot.state));
        expired
            .take(MAX_EXPIRED)
            .map(|(state, _)| Work::Expire(state.clone()))
    }

    fn has_expired(&self, state: &crate::domain::state::State) -> bool {
        let retention = state.settings().retention_us;
        state.alive()
            && retention > 0
            && state.touched_us().saturating_add_unsigned(retention) <= self.now.wall_us
            && self.wall_is_settled(Duration::from_micros(retention))
    }
}

fn merge_interval(mirror: &Mirror, state: &StateId) -> Duration {
    let slot = mirror.states.get(state).filter(|slot| slot.state.alive());
    slot.map_or(Duration::ZERO, |slot| {
        Duration::from_micros(slot.state.settings().merge_interval_us)
    })
}

/// What a state may take of a group while all these wait.
fn share(line: &[(Arc<Session>, usize)]) -> usize {
    let most = MAX_GROUP_BYTES / MIN_SHARE_BYTES;
    let mut states = HashSet::new();
    let mut last = None;
    for (session, _) in line {
        // Sessions of one state often stand together.
        if last != Some(&session.state) {
            states.insert(&session.state);
            last = Some(&session.state);
        }
        if states.len() >= most {
            break;
        }
    }
    MAX_GROUP_BYTES / states.len().clamp(1, most)
}
