//! What the disk allows: entries appended and synced, by hand and through fjall.

use std::{
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use super::super::{Error, measure::Latency, wait};

/// How the entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Store {
    /// `write` and `fdatasync` on one file.
    File,
    /// fjall, keys increasing, one batch and one sync a commit.
    Fjall,
    /// The same, each batch also deleting an equal number of earlier entries.
    FjallDeleting,
}

#[derive(Debug, Clone)]
pub(in super::super) struct DiskRate {
    pub(in super::super) entries_per_s: f64,
    /// Of one commit.
    pub(in super::super) commit: Latency,
}

/// One writer, `entries_per_commit` entries of `entry_bytes`, commit after commit for `duration`.
pub(in super::super) async fn measure(
    store: Store,
    folder: &Path,
    entries_per_commit: u64,
    entry_bytes: usize,
    duration: Duration,
) -> Result<DiskRate, Error> {
    let folder = tempfile::Builder::new()
        .prefix("disk-")
        .tempdir_in(folder)
        .map_err(|source| Error::io(format!("create a folder in {}", folder.display()), source))?;
    let work = tokio::task::spawn_blocking(move || match store {
        Store::File => append(folder.path(), entries_per_commit, entry_bytes, duration),
        Store::Fjall => through_fjall(
            folder.path(),
            entries_per_commit,
            entry_bytes,
            duration,
            false,
        ),
        Store::FjallDeleting => through_fjall(
            folder.path(),
            entries_per_commit,
            entry_bytes,
            duration,
            true,
        ),
    });
    // A stalled disk must not stall the whole run for ever.
    let limit = duration + Duration::from_secs(60);
    wait::at_most(limit, "a measurement of the disk", async {
        work.await.map_err(|_| Error::Panicked)?
    })
    .await
}

fn append(
    folder: &Path,
    entries: u64,
    bytes: usize,
    duration: Duration,
) -> Result<DiskRate, Error> {
    let failed = |source| Error::io(format!("append to a log in {}", folder.display()), source);
    let mut file = File::create(folder.join("log")).map_err(failed)?;
    let commit = vec![b'x'; bytes * entries as usize];
    commits(entries, duration, |_| {
        file.write_all(&commit)
            .and_then(|()| file.sync_data())
            .map_err(failed)
    })
}

fn through_fjall(
    folder: &Path,
    entries: u64,
    bytes: usize,
    duration: Duration,
    deleting: bool,
) -> Result<DiskRate, Error> {
    let database = Database::builder(folder.join("fjall")).open()?;
    let journal = database.keyspace("journal", KeyspaceCreateOptions::default)?;
    let value = vec![b'x'; bytes];
    commits(entries, duration, |number| {
        let mut batch = database.batch();
        for position in number * entries..(number + 1) * entries {
            batch.insert(&journal, position.to_be_bytes(), value.as_slice());
            if deleting && number > 0 {
                batch.remove(&journal, (position - entries).to_be_bytes());
            }
        }
        batch.commit()?;
        Ok(database.persist(PersistMode::SyncData)?)
    })
}

/// Calls `commit` with 0, 1, 2, … until `duration` has passed.
fn commits(
    entries: u64,
    duration: Duration,
    mut commit: impl FnMut(u64) -> Result<(), Error>,
) -> Result<DiskRate, Error> {
    let begun = Instant::now();
    let mut latency = Latency::new();
    let mut number = 0;
    while begun.elapsed() < duration {
        let started = Instant::now();
        commit(number)?;
        latency.record(started.elapsed());
        number += 1;
    }
    let entries_per_s = (number * entries) as f64 / begun.elapsed().as_secs_f64();
    Ok(DiskRate {
        entries_per_s,
        commit: latency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_way_of_writing_has_a_rate_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        for store in [Store::File, Store::Fjall, Store::FjallDeleting] {
            let rate = measure(store, folder.path(), 4, 300, Duration::from_millis(50))
                .await
                .unwrap();
            assert!(rate.entries_per_s > 0.0, "{store:?}");
            assert!(rate.commit.p50_us().is_some(), "{store:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_an_error_with_its_name() {
        let missing = Path::new("/nonexistent/bench");
        let result = measure(Store::File, missing, 1, 300, Duration::from_millis(1)).await;
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/bench")
        );
    }

    #[test]
    fn the_rate_counts_entries_not_commits() {
        let rate = commits(50, Duration::from_millis(100), |_| {
            std::thread::park_timeout(Duration::from_millis(5));
            Ok(())
        });
        // At most 20 commits of 5 ms fit, give or take one that returns early.
        let rate = rate.unwrap().entries_per_s;
        assert!((50.0..=25_000.0).contains(&rate), "{rate}");
    }
}
