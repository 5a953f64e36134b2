//! Workers that ask for tasks and never renew.
//!
//! A lease that nobody renews is over after half its period, and costs the task no attempt: whoever
//! got it may never have known. But a worker whose renewals do not arrive, while its questions do,
//! would take tasks for ever, each for some seconds. So it is counted how often in a row an instance
//! got something and did not renew it; after a few times it is given nothing for a while, each time
//! for longer. The first renewal ends that. It is in memory only: after a start everyone is trusted.

use std::{collections::HashMap, time::Duration};

use super::{super::timers::Timer, Core};
use crate::domain::{TaskId, Uid};

/// So often in a row nothing is said of it.
const PATIENCE: u32 = 3;
/// The first time aside; it doubles with each further lease that is not renewed.
const FIRST_REST: Duration = Duration::from_secs(4);
/// The longest.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What is known of one instance.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// Leases in a row that it did not renew, those given at a time counted once.
    times: u32,
    /// When the last of them was over: what was given before is the same silence.
    since: Duration,
    /// It is given nothing until then.
    until: Duration,
}

/// Instances that did not renew what they got last; of those that are known to be there.
#[derive(Debug, Default)]
pub(super) struct Aside {
    silent: HashMap<Uid, Silence>,
}

impl Aside {
    /// It did not renew a lease that was given then. Says until when it is given nothing, where that
    /// is new, and whether it is the first time.
    fn note(&mut self, uid: Uid, given: Duration, now: Duration) -> Option<(Duration, bool)> {
        let silence = self.silent.entry(uid).or_insert(Silence {
            times: 0,
            since: Duration::ZERO,
            until: Duration::ZERO,
        });
        if silence.times > 0 && given < silence.since {
            return None;
        }
        silence.times = silence.times.saturating_add(1);
        silence.since = now;
        let beyond = silence.times.checked_sub(PATIENCE)?;
        let rest = FIRST_REST.saturating_mul(1_u32.checked_shl(beyond).unwrap_or(u32::MAX));
        silence.until = now + rest.min(LONGEST_REST);
        Some((silence.until, beyond == 0))
    }

    /// It renewed, or is gone.
    pub(super) fn forget(&mut self, uid: Uid) -> bool {
        self.silent.remove(&uid).is_some()
    }

    /// Whether it is given nothing now.
    pub(super) fn has(&self, uid: Uid, now: Duration) -> bool {
        self.silent
            .get(&uid)
            .is_some_and(|silence| now < silence.until)
    }
}

impl Core {
    /// The lease on a task, given then, is over, and nobody has renewed it.
    pub(super) fn note_unaccepted(&mut self, id: &TaskId, given: Duration) {
        let (Some(row), _) = self.find_task(id) else {
            return;
        };
        let Some(attempt) = row.task.running() else {
            return;
        };
        let uid = attempt.instance();
        let Some((until, first)) = self.aside.note(uid, given, self.now.mono) else {
            return;
        };
        self.set_timer(until, Timer::Aside);
        if first {
            tracing::warn!(
                worker.id = %attempt.worker_id,
                worker.instance = %uid,
                leases = PATIENCE,
                "a worker takes tasks and renews no lease: it is given none for a while; look whether its RenewLeases calls arrive"
            );
        }
    }

    /// An instance renewed.
    pub(super) fn no_longer_aside(&mut self, uid: Uid) {
        self.match_due |= self.aside.forget(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_comes_with_the_third_silence_and_doubles_to_a_minute() {
        let mut aside = Aside::default();
        let (mut now, mut rests) = (Duration::from_secs(100), Vec::new());
        for _ in 0..9 {
            let given = now;
            now += Duration::from_secs(4);
            let rest = aside.note(Uid(1), given, now);
            // What was given at the same time is the same silence.
            assert_eq!(aside.note(Uid(1), given, now), None);
            let until = rest.map_or(now, |(until, _)| until);
            assert_eq!(
                aside.has(Uid(1), until - Duration::from_nanos(1)),
                until > now
            );
            assert!(!aside.has(Uid(1), until));
            rests.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(rests, [0, 0, 4, 8, 16, 32, 60, 60, 60]);
        assert!(!aside.has(Uid(2), now));
        assert!(aside.forget(Uid(1)) && !aside.forget(Uid(1)));
    }
}
