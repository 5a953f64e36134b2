//! Counters without labels: one atomic each, read when somebody collects.
//!
//! What happens a million times a second is added up by whoever does it and counted here once for
//! each group, frame or append.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use opentelemetry::metrics::Meter;

macro_rules! counts {
    ($($field:ident: $name:literal, $unit:literal, $about:literal;)*) => {
        /// See the module.
        #[derive(Debug, Default)]
        pub(super) struct Counts {
            $(pub(super) $field: AtomicU64,)*
        }

        impl Counts {
            /// Makes the instruments that read them.
            pub(super) fn register(self: &Arc<Self>, meter: &Meter) {
                $({
                    let counts = self.clone();
                    meter
                        .u64_observable_counter($name)
                        .with_unit($unit)
                        .with_description($about)
                        .with_callback(move |seen| seen.observe(counts.$field.load(Relaxed), &[]))
                        .build();
                })*
            }
        }
    };
}

counts! {
    leases_lost: "duite.leases.lost", "{lease}", "Leases that ran out or were given up with their worker";
    retries: "duite.tasks.retries", "{attempt}", "Attempts that failed and are followed by another";
    suspects: "duite.tasks.suspected", "{task}", "Running tasks of whose worker nothing was heard when something should have been";
    batches_received: "duite.state.batches.received", "{batch}", "Pushed batches taken in";
    batches_merged: "duite.state.batches.merged", "{batch}", "Batches in committed deltas; a unary update is one";
    operations_received: "duite.state.operations.received", "{operation}", "Operations of the batches taken in";
    operations_merged: "duite.state.operations.merged", "{operation}", "Operations in committed deltas: what is left of those received once they are folded, and those of unary updates and contributions";
    merges: "duite.state.merges", "{merge}", "Parts of committed deltas: what one writer brought to one state in one group";
    deltas: "duite.state.deltas", "{delta}", "Deltas appended: what all writers brought to one state in one group";
    duplicates: "duite.state.batches.duplicate", "{batch}", "Pushed batches that had come already and were dropped";
    rewinds: "duite.state.rewinds", "{rewind}", "Gaps in the batches of a writer: it was told to go back";
    fenced: "duite.state.merges.fenced", "{merge}", "Parts refused because a later attempt of the task writes";
    rejected: "duite.state.keys.rejected", "{key}", "Updates of keys that were refused";
    frames: "duite.watch.frames", "{frame}", "Frames handed to watches";
    folded: "duite.watch.commits", "{commit}", "Commits that the deltas handed to watches stand for";
}

/// Adds, whatever others do.
pub(super) fn add(count: &AtomicU64, more: u64) {
    if more > 0 {
        count.fetch_add(more, Relaxed);
    }
}
