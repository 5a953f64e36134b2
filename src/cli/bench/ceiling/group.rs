//! A bare log with group commit: everything that waits is one write and one fdatasync.
//!
//! It never lingers to let a group grow: while one group is on its way to the disk the next one
//! gathers by itself.

use std::{fs::File, io, io::Write, path::Path, thread};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait for the commit thread. The HTTP/2 stream limit keeps them far below this;
/// were it ever full, the next call would wait to enter, which is all it does anyway.
const MAX_WAITING: usize = 4_096;

/// A handle on the log; the thread behind it ends with the last handle.
#[derive(Debug, Clone)]
pub(super) struct GroupLog {
    entries: mpsc::Sender<Entry>,
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    done: oneshot::Sender<Result<(), io::ErrorKind>>,
}

/// A group that was committed, or was not.
type Committed = (
    Vec<oneshot::Sender<Result<(), io::ErrorKind>>>,
    Result<(), io::ErrorKind>,
);

impl GroupLog {
    /// Creates the log at `path`. Must be called within a runtime.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let (entries, receiver) = mpsc::channel(MAX_WAITING);
        // The whole group goes back as one message, so that the runtime is woken once, not once
        // for each entry: that wake is a system call.
        let (committed, mut groups) = mpsc::channel::<Committed>(1);
        thread::Builder::new()
            .name("group-commit".to_owned())
            .spawn(move || commit_groups(file, receiver, &committed))?;
        tokio::spawn(async move {
            while let Some((group, result)) = groups.recv().await {
                for done in group {
                    // A caller that has gone needs no answer.
                    let _ = done.send(result);
                }
            }
        });
        Ok(Self { entries })
    }

    /// Completes when `bytes` are on the disk.
    pub(super) async fn append(&self, bytes: Bytes) -> Result<(), io::ErrorKind> {
        let (done, committed) = oneshot::channel();
        let sent = self.entries.send(Entry { bytes, done }).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        committed.await.unwrap_or(Err(io::ErrorKind::BrokenPipe))
    }
}

fn commit_groups(
    mut file: File,
    mut entries: mpsc::Receiver<Entry>,
    committed: &mpsc::Sender<Committed>,
) {
    let mut buffer = Vec::new();
    while let Some(first) = entries.blocking_recv() {
        buffer.clear();
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(entry) = next {
            buffer.extend_from_slice(&entry.bytes);
            group.push(entry.done);
            next = if group.len() < MAX_WAITING {
                entries.try_recv().ok()
            } else {
                None
            };
        }
        let result = file.write_all(&buffer).and_then(|()| file.sync_data());
        let result = result.map_err(|error| error.kind());
        if committed.blocking_send((group, result)).is_err() {
            return; // the runtime has ended, and all callers with it
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn every_entry_is_in_the_file_once_its_append_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = GroupLog::create(&path).unwrap();
        let appends = (0..100_u8).map(|number| {
            let log = log.clone();
            async move { log.append(Bytes::from(vec![number; 10])).await }
        });
        assert!(
            join_all(appends)
                .await
                .into_iter()
                .all(|result| result.is_ok())
        );
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 1_000);
        for number in 0..100_u8 {
            assert_eq!(bytes.iter().filter(|byte| **byte == number).count(), 10);
        }
    }

    #[tokio::test]
    async fn a_failing_disk_fails_the_append() {
        let path = Path::new("/dev/full");
        if !path.exists() {
            return;
        }
        let log = GroupLog::create(path).unwrap();
        let result = log.append(Bytes::from_static(b"entry")).await;
        assert_eq!(result, Err(io::ErrorKind::StorageFull));
    }
}
