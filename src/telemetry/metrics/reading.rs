//! What is asked of the rest of the server when somebody collects: nothing is kept up to date for
//! it in between.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Instruments that are read soon after each other are told the same: one collection asks once.
const READ_TOGETHER: Duration = Duration::from_millis(200);

/// What is so at the moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Namespaces that are open.
    pub namespaces: Vec<NamespaceReading>,
    /// Background jobs by kind.
    pub jobs: Vec<JobReading>,
    /// Tasks and jobs of the server that have not ended.
    pub pending: u64,
    /// Bytes free on the disk of the data folder; none: nobody knows.
    pub disk_free: Option<u64>,
    /// Bytes of the journal.
    pub journal_bytes: Option<u64>,
    /// How often a large value was at hand.
    pub value_hits: u64,
    /// How often it had to be read back.
    pub value_misses: u64,
    /// Bytes of large values at hand.
    pub value_bytes: u64,
}

/// A namespace at the moment.
#[derive(Clone, Debug, Default)]
pub struct NamespaceReading {
    /// Its id.
    pub name: String,
    /// Tasks that are kept, by status.
    pub tasks: Vec<(&'static str, u64)>,
    /// Its queues.
    pub queues: Vec<QueueReading>,
    /// What reading its journal took at the start.
    pub replay: Duration,
}

/// A queue at the moment.
#[derive(Clone, Debug, Default)]
pub struct QueueReading {
    /// Its name.
    pub name: String,
    /// Tasks that are ready and wait.
    pub depth: u64,
    /// How long that one has waited that waits longest.
    pub oldest: Duration,
}

/// The background jobs of a kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobReading {
    /// What they are for.
    pub kind: &'static str,
    /// Those that run.
    pub running: u64,
    /// How often one failed or panicked.
    pub failures: u64,
    /// How often one was started again.
    pub restarts: u64,
}

type Source = Arc<dyn Fn(&mut Reading) + Send + Sync>;

/// Who is asked, and what they said last.
#[derive(Default)]
pub(super) struct Readings {
    sources: Mutex<Vec<Source>>,
    last: Mutex<Option<(Instant, Arc<Reading>)>>,
}

impl Readings {
    pub(super) fn add(&self, source: impl Fn(&mut Reading) + Send + Sync + 'static) {
        self.sources.lock().push(Arc::new(source));
    }

    /// Nobody is asked any more.
    pub(super) fn clear(&self) {
        self.sources.lock().clear();
    }

    /// The next one asks anew.
    pub(super) fn renew(&self) {
        *self.last.lock() = None;
    }

    pub(super) fn get(&self) -> Arc<Reading> {
        let mut last = self.last.lock();
        if let Some((at, reading)) = &*last
            && at.elapsed() < READ_TOGETHER
        {
            return reading.clone();
        }
        let mut reading = Reading::default();
        let sources = self.sources.lock().clone();
        for source in sources {
            source(&mut reading);
        }
        let reading = Arc::new(reading);
        *last = Some((Instant::now(), reading.clone()));
        reading
    }
}

impl fmt::Debug for Readings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readings").finish_non_exhaustive()
    }
}
