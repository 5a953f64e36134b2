//! A whole store in one file: what a backup writes and a restore reads.
//!
//! The file begins with the text `duite-backup 1` and a line feed. Records follow: the length of
//! what is in it (u32), its xxh3 (u64), both little-endian, and a message `Record`. First comes a
//! header, then for each namespace its name, its entries in order and its head, and at last a
//! trailer with the SHA-256 of everything before it. A file without its trailer was cut off.
//!
//! Of each namespace it holds one consistent cut; what was acknowledged before the backup began is
//! in it. Revisions are kept, but a store that is restored has another epoch: what came after the
//! backup is gone, and its revisions are issued anew.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Write},
    ops::ControlFlow,
    path::Path,
};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    AppendError, Committed, Draft, Durability, LocalOptions, LocalStore, OpenError, Store,
};
use crate::{
    domain::{Entry, Epoch, NamespaceId, Revision, Uid},
    runtime::blocking,
};

const MAGIC: &[u8; 15] = b"duite-backup 1\n";
/// Length and sum.
const FRAME_BYTES: usize = 4 + 8;
/// Longer records are not made: a state's snapshot is the largest, with some hundred MiB at most.
const MAX_RECORD_BYTES: u32 = 1 << 30;
/// What a restore appends at once.
const GROUP_BYTES: usize = 4 << 20;
const GROUP_ENTRIES: usize = 1_024;

/// One record of a backup.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Header(Header),
    /// A namespace begins.
    #[prost(string, tag = "2")]
    Namespace(String),
    #[prost(message, tag = "3")]
    Entry(StoredEntry),
    #[prost(message, tag = "4")]
    Head(Head),
    #[prost(message, tag = "5")]
    Trailer(Trailer),
}

/// Whose backup it is.
#[derive(Clone, PartialEq, Message)]
struct Header {
    /// The epoch of the store.
    #[prost(bytes = "bytes", tag = "1")]
    epoch: Bytes,
    /// When it began.
    #[prost(int64, tag = "2")]
    time_us: i64,
    /// The version that wrote it.
    #[prost(string, tag = "3")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct StoredEntry {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(bytes = "bytes", tag = "2")]
    entry: Bytes,
}

/// A namespace ends.
#[derive(Clone, Copy, PartialEq, Message)]
struct Head {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(uint64, tag = "2")]
    entries: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Trailer {
    #[prost(uint64, tag = "1")]
    namespaces: u64,
    #[prost(uint64, tag = "2")]
    entries: u64,
    #[prost(bytes = "bytes", tag = "3")]
    sha256: Bytes,
}

/// What a whole backup holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The epoch of the store it was made of.
    pub epoch: Epoch,
    /// When it was begun, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// Each namespace with its entries and its head.
    pub namespaces: Vec<(NamespaceId, u64, Revision)>,
    /// The file's size.
    pub bytes: u64,
}

impl Summary {
    /// Entries of all namespaces.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.namespaces.iter().map(|(_, entries, _)| entries).sum()
    }
}

/// Why a backup was not made, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ends before its trailer.
    #[error("the backup was cut off at byte {0}: it has no trailer; make another")]
    CutOff(u64),
    /// It is not what was written.
    #[error("the backup is damaged at byte {at}: {problem}; use another")]
    Damaged {
        /// Where the record begins.
        at: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The store cannot be read or made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Writes a backup of everything in `store`, which goes on meanwhile. Blocks. Where `out` fails it
/// ends at once.
pub fn write(
    store: &dyn Store,
    time_us: i64,
    out: &mut impl Write,
) -> Result<Summary, BackupError> {
    let mut summary = Summary {
        epoch: store.epoch(),
        time_us,
        ..Summary::default()
    };
    let mut out = Recorder::new(out)?;
    out.put(Kind::Header(Header {
        epoch: summary.epoch.to_bytes(),
        time_us,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }))?;
    for id in store.namespaces()? {
        out.put(Kind::Namespace(id.to_string()))?;
        let journal = store.open(&id)?;
        let (mut entries, mut written) = (0, Ok(()));
        let head = journal.replay_while(&mut |committed| {
            entries += 1;
            written = out.entry(&committed);
            match written {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        written?;
        let head = head?.expect("the sink breaks only where writing fails");
        out.put(Kind::Head(Head {
            revision: head.0,
            entries,
        }))?;
        summary.namespaces.push((id, entries, head));
    }
    let sha256 = out.digest.clone().finalize().to_vec().into();
    out.put(Kind::Trailer(Trailer {
        namespaces: summary.namespaces.len() as u64,
        entries: summary.entries(),
        sha256,
    }))?;
    out.out.flush()?;
    summary.bytes = out.bytes;
    Ok(summary)
}

struct Recorder<'a, W> {
    out: &'a mut W,
    digest: Sha256,
    bytes: u64,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Recorder<'a, W> {
    fn new(out: &'a mut W) -> io::Result<Self> {
        let mut recorder = Self {
            out,
            digest: Sha256::new(),
            bytes: 0,
            buffer: Vec::new(),
        };
        recorder.all(MAGIC)?;
        Ok(recorder)
    }

    fn entry(&mut self, committed: &Committed) -> io::Result<()> {
        let mut entry = Vec::with_capacity(committed.bytes);
        committed.entry.encode(&mut entry);
        self.put(Kind::Entry(StoredEntry {
            revision: committed.revision.0,
            entry: entry.into(),
        }))
    }

    fn put(&mut self, kind: Kind) -> io::Result<()> {
        let record = Record { kind: Some(kind) };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.resize(FRAME_BYTES, 0);
        // A vector grows as it must.
        let _ = record.encode(&mut buffer);
        let (frame, payload) = buffer.split_at_mut(FRAME_BYTES);
        let length = u32::try_from(payload.len()).ok();
        let length = length.filter(|length| *length <= MAX_RECORD_BYTES);
        let length = length.ok_or_else(|| io::Error::other("an entry is too large to back up"))?;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        frame[4..].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        let written = self.all(&buffer);
        self.buffer = buffer;
        written
    }

    fn all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// What a backup says, in its order.
#[derive(Debug)]
pub enum Said<'a> {
    /// An entry of a namespace.
    Entry(&'a NamespaceId, Box<Committed>),
    /// The namespace's last revision; the next one gets the one after it.
    Head(&'a NamespaceId, Revision),
}

/// Reads a backup and checks all of it, the trailer at last: what was said before is worth nothing
/// where this fails.
pub fn read(
    from: impl Read,
    sink: &mut dyn FnMut(Said<'_>) -> Result<(), BackupError>,
) -> Result<Summary, BackupError> {
    let mut from = Replayer {
        from,
        digest: Sha256::new(),
        at: 0,
    };
    let mut summary = from.header()?;
    let mut open: Option<(NamespaceId, u64, u64)> = None;
    loop {
        let at = from.at;
        let damaged = |problem: &str| BackupError::Damaged {
            at,
            problem: problem.to_owned(),
        };
        let before = from.digest.clone();
        match (from.record()?, &mut open) {
            (Kind::Namespace(name), None) => {
                let id = NamespaceId::parse(&name).map_err(|error| damaged(&error.message))?;
                open = Some((id, 0, 0));
            }
            (Kind::Entry(StoredEntry { revision, entry }), Some((id, entries, last))) => {
                if revision <= *last {
                    return Err(damaged("an entry is out of order"));
                }
                (*last, *entries) = (revision, *entries + 1);
                let bytes = entry.len();
                let entry = Entry::decode(entry);
                let committed = Committed {
                    revision: Revision(revision),
                    entry: entry.map_err(|error| {
                        damaged(&format!("revision {revision} of namespace {id}: {error}"))
                    })?,
                    bytes,
                };
                sink(Said::Entry(id, Box::new(committed)))?;
            }
            (Kind::Head(head), Some((id, entries, last))) => {
                if head.entries != *entries || head.revision < *last {
                    return Err(damaged("a namespace's head does not fit its entries"));
                }
                let head = Revision(head.revision);
                sink(Said::Head(id, head))?;
                summary.namespaces.push((id.clone(), *entries, head));
                open = None;
            }
            (Kind::Trailer(trailer), None) => {
                let right = trailer.namespaces == summary.namespaces.len() as u64
                    && trailer.entries == summary.entries()
                    && trailer.sha256 == before.finalize().as_slice();
                if !right {
                    return Err(damaged("the trailer does not fit what is before it"));
                }
                if from.from.read(&mut [0])? > 0 {
                    return Err(damaged("there is more behind the trailer"));
                }
                summary.bytes = from.at;
                return Ok(summary);
            }
            _ => return Err(damaged("a record is out of place")),
        }
    }
}

struct Replayer<R> {
    from: R,
    digest: Sha256,
    at: u64,
}

impl<R: Read> Replayer<R> {
    fn header(&mut self) -> Result<Summary, BackupError> {
        let mut magic = [0; MAGIC.len()];
        self.exact(&mut magic)?;
        let damaged = |problem: &str| BackupError::Damaged {
            at: 0,
            problem: problem.to_owned(),
        };
        if magic != *MAGIC {
            return Err(damaged("it does not begin as a duite backup of format 1"));
        }
        match self.record()? {
            Kind::Header(header) => Ok(Summary {
                epoch: Uid::from_bytes(&header.epoch)
                    .ok_or_else(|| damaged("its header has no epoch"))?,
                time_us: header.time_us,
                ..Summary::default()
            }),
            _ => Err(damaged("it has no header")),
        }
    }

    fn record(&mut self) -> Result<Kind, BackupError> {
        let at = self.at;
        let damaged = |problem: &str| BackupError::Damaged {
            at,
            problem: problem.to_owned(),
        };
        let mut length = [0; 4];
        let mut sum = [0; 8];
        self.exact(&mut length)?;
        self.exact(&mut sum)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_RECORD_BYTES {
            return Err(damaged("a record's length is wrong"));
        }
        // Grows with what is there: a wrong length costs nothing.
        let mut payload = Vec::new();
        let mut part = (&mut self.from).take(u64::from(length));
        let read = part.read_to_end(&mut payload)? as u64;
        self.at += read;
        self.digest.update(&payload);
        if read < u64::from(length) {
            return Err(BackupError::CutOff(self.at));
        }
        if xxh3_64(&payload) != u64::from_le_bytes(sum) {
            return Err(damaged("a record's checksum is wrong"));
        }
        let record = Record::decode(Bytes::from(payload));
        let kind = record.map_err(|error| damaged(&error.to_string()))?.kind;
        kind.ok_or_else(|| damaged("a record of a kind this version does not know"))
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.from
            .read_exact(bytes)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => BackupError::CutOff(self.at),
                _ => error.into(),
            })?;
        self.at += bytes.len() as u64;
        self.digest.update(bytes);
        Ok(())
    }
}

/// Makes a new data folder of the backup `file`; says what is in it and the new epoch. `path` must
/// not exist or be empty. The backup is read twice: nothing is made of a damaged one.
pub async fn restore(file: &Path, path: &Path) -> Result<(Summary, Epoch), BackupError> {
    let open = || File::open(file).map(|file| BufReader::with_capacity(1 << 20, file));
    let summary = read(open()?, &mut |_| Ok(()))?;
    let options = LocalOptions {
        durability: Durability::None,
        ..LocalOptions::default()
    };
    let store = LocalStore::create_for_restore(path, options)?;
    let epoch = store.epoch();
    // What is read is handed over in groups, since reading cannot wait for appends.
    let (groups, mut received) = tokio::sync::mpsc::channel(2);
    let reading = {
        let from = open()?;
        blocking("read a backup", move || {
            let mut group = Group::default();
            read(from, &mut |said| match said {
                Said::Entry(id, committed) => match group.add(id, *committed) {
                    Some(full) => send(&groups, full),
                    None => Ok(()),
                },
                Said::Head(id, head) => {
                    let mut last = std::mem::take(&mut group);
                    last.namespace.get_or_insert_with(|| id.clone());
                    last.head = Some(head);
                    send(&groups, last)
                }
            })
        })
    };
    while let Some(group) = received.recv().await {
        group.append(&store).await?;
    }
    let read = reading.await;
    read.map_err(|error| io::Error::other(error.to_string()))??;
    store.finish_restore()?;
    Ok((summary, epoch))
}

fn send(groups: &tokio::sync::mpsc::Sender<Group>, group: Group) -> Result<(), BackupError> {
    let sent = groups.blocking_send(group);
    sent.map_err(|_| io::Error::other("the restore has ended").into())
}

/// Entries with consecutive revisions.
#[derive(Debug, Default)]
struct Group {
    namespace: Option<NamespaceId>,
    first: u64,
    drafts: Vec<Draft>,
    bytes: usize,
    /// Of the namespace, where this is its last group.
    head: Option<Revision>,
}

impl Group {
    /// Adds an entry; gives the group before it where it does not belong to that.
    fn add(&mut self, id: &NamespaceId, committed: Committed) -> Option<Self> {
        let next = self.first + self.drafts.len() as u64;
        let belongs = self.drafts.is_empty()
            || (committed.revision.0 == next
                && self.bytes < GROUP_BYTES
                && self.drafts.len() < GROUP_ENTRIES);
        let full = (!belongs).then(|| std::mem::take(self));
        if self.drafts.is_empty() {
            self.namespace = Some(id.clone());
            self.first = committed.revision.0;
        }
        self.bytes += committed.bytes;
        self.drafts.push(Draft {
            entry: committed.entry,
            expect: None,
            supersedes: Vec::new(),
        });
        full
    }

    async fn append(self, store: &LocalStore) -> Result<(), BackupError> {
        let Some(id) = self.namespace else {
            return Ok(());
        };
        if !self.drafts.is_empty() {
            store.advance(&id, Revision(self.first - 1))?;
            Store::open(store, &id)?.append(self.drafts).await?;
        }
        if let Some(head) = self.head {
            store.advance(&id, head)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{
        MemoryStore,
        conformance::{namespace, plain, replayed, superseding, task},
    };

    async fn filled() -> MemoryStore {
        let store = MemoryStore::default();
        for name in ["a", "b"] {
            let journal = store.open(&namespace(name)).unwrap();
            for number in 0..20u64 {
                let draft = match number {
                    // The last revision is superseded by nothing that stays, so the head is beyond.
                    19 => superseding(task("t-18", "q"), &[19, 20]),
                    _ if number % 3 == 0 => superseding(task("t", "q"), &[number]),
                    _ => plain(task(&format!("t-{number}"), &"q".repeat(number as usize))),
                };
                journal.append(vec![draft]).await.unwrap();
            }
        }
        store.open(&namespace("empty")).unwrap();
        store
    }

    fn backup(store: &dyn Store) -> (Vec<u8>, Summary) {
        let mut bytes = Vec::new();
        let summary = write(store, 7, &mut bytes).unwrap();
        assert_eq!(summary.bytes, bytes.len() as u64);
        (bytes, summary)
    }

    #[tokio::test]
    async fn what_is_restored_is_what_was_backed_up_in_another_epoch() {
        let store = filled().await;
        let (bytes, summary) = backup(&store);
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = (folder.path().join("file"), folder.path().join("data"));
        std::fs::write(&file, bytes).unwrap();
        let (restored, epoch) = restore(&file, &path).await.unwrap();
        assert_eq!(restored, summary);
        assert_eq!(restored.epoch, store.epoch());
        assert_ne!(epoch, store.epoch());
        let local = LocalStore::open(&path, Durability::Sync).unwrap();
        assert_eq!(local.epoch(), epoch);
        assert_eq!(local.namespaces().unwrap(), store.namespaces().unwrap());
        for (id, ..) in summary.namespaces {
            let ours = Store::open(&local, &id).unwrap();
            let theirs = store.open(&id).unwrap();
            assert_eq!(replayed(ours.as_ref()), replayed(theirs.as_ref()));
            let ours = ours.append(vec![plain(task("new", "q"))]).await.unwrap();
            let theirs = theirs.append(vec![plain(task("new", "q"))]).await.unwrap();
            assert_eq!(ours.outcomes, theirs.outcomes);
        }
        // Not over something.
        drop(local);
        let error = restore(&file, &path).await.unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
    }

    #[tokio::test]
    async fn a_backup_that_was_cut_off_or_changed_anywhere_is_refused() {
        let (bytes, _) = backup(&filled().await);
        let check = |bytes: &[u8]| read(bytes, &mut |_| Ok(()));
        assert!(check(&bytes).is_ok());
        for length in 0..bytes.len() {
            let error = check(&bytes[..length]).unwrap_err();
            assert!(matches!(error, BackupError::CutOff(_)), "{length}: {error}");
        }
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            assert!(check(&flipped).is_err(), "byte {place}");
        }
        let longer = [bytes.as_slice(), b"x"].concat();
        let error = check(&longer).unwrap_err().to_string();
        assert!(error.contains("behind the trailer"), "{error}");
    }

    #[tokio::test]
    async fn of_a_damaged_backup_no_folder_is_made() {
        let (bytes, _) = backup(&filled().await);
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = (folder.path().join("file"), folder.path().join("data"));
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        restore(&file, &path).await.unwrap_err();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_unfinished_restore_is_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        drop(LocalStore::create_for_restore(&path, LocalOptions::default()).unwrap());
        let error = LocalStore::open(&path, Durability::Sync).unwrap_err();
        assert!(error.to_string().contains("unfinished restore"), "{error}");
    }

    #[test]
    fn a_writer_that_fails_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("no room"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = write(&MemoryStore::default(), 0, &mut Full).unwrap_err();
        assert!(error.to_string().contains("no room"), "{error}");
    }
}
