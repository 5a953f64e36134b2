//! What a crash leaves is opened, what a failing disk leaves is refused with its place, and a store
//! that may have lost something begins a new epoch.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use fjall::PersistMode;
use tempfile::TempDir;

use super::*;
use crate::journal::conformance::{namespace, plain, replayed, task};

/// A folder with five batches, left as a killed process leaves it, or closed in order.
struct Filled {
    folder: TempDir,
    /// How much of its journal file is written.
    written: usize,
}

impl Filled {
    async fn new(durability: Durability, killed: bool) -> Self {
        Self::with(durability, killed, |_| "q".repeat(100)).await
    }

    /// With these queues: long ones are long entries.
    async fn with(durability: Durability, killed: bool, queue: impl Fn(&[u8]) -> String) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data");
        let store = LocalStore::open(&path, durability).unwrap();
        let journal = Store::open(&store, &namespace("a")).unwrap();
        for number in 0..5 {
            let id = format!("task-{number}");
            let so_far = fs::read(path.join("journal/0.jnl")).unwrap();
            let group = vec![plain(task(&id, &queue(&so_far)))];
            journal.append(group).await.unwrap();
        }
        drop(store);
        let in_use = path.join("IN_USE");
        assert!(!in_use.exists());
        if killed {
            fs::write(in_use, format!("{durability}\n")).unwrap();
        }
        let bytes = fs::read(path.join("journal/0.jnl")).unwrap();
        let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        Self { folder, written }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path().join("journal/0.jnl");
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    /// The revisions in it.
    fn open(&self) -> Result<Vec<u64>, OpenError> {
        let store = LocalStore::open(&self.path(), Durability::Sync)?;
        let journal = Store::open(&store, &namespace("a"))?;
        let (entries, _) = replayed(journal.as_ref());
        Ok(entries.iter().map(|entry| entry.revision.0).collect())
    }
}

#[tokio::test]
async fn of_a_torn_write_what_was_acknowledged_before_it_stands() {
    // Up to the whole of the last batch; in it is an entry of more than 100 bytes.
    for cut in [1, 5, 13, 60, 120] {
        let filled = Filled::new(Durability::Sync, true).await;
        filled.change(|bytes| bytes.truncate(filled.written - cut));
        assert_eq!(filled.open().unwrap(), [1, 2, 3, 4], "{cut}");
        // And it is whole again.
        assert_eq!(filled.open().unwrap(), [1, 2, 3, 4], "{cut}");
    }
}

/// What a power failure leaves of pages that were on their way to the disk.
fn lose(bytes: &mut [u8], pages: &[usize]) {
    for page in pages {
        let lost = bytes.iter_mut().skip(page * 4_096).take(4_096);
        lost.for_each(|byte| *byte = 0);
    }
}

#[tokio::test]
async fn whichever_pages_are_lost_before_a_sync_what_is_before_them_stands() {
    for durability in [
        Durability::Interval(Duration::from_secs(60)),
        Durability::None,
    ] {
        let filled = Filled::with(durability, true, |_| "q".repeat(6_000)).await;
        let original = fs::read(filled.path().join("journal/0.jnl")).unwrap();
        let mut found = Vec::new();
        for page in 0..=filled.written / 4_096 {
            for pages in [vec![page], vec![page, page + 2]] {
                fs::write(filled.path().join("IN_USE"), format!("{durability}\n")).unwrap();
                let before = fs::read_to_string(filled.path().join("EPOCH")).unwrap();
                filled.change(|bytes| {
                    bytes.clone_from(&original);
                    lose(bytes, &pages);
                });
                let revisions = filled.open().unwrap();
                let whole: Vec<u64> = (1..=revisions.len() as u64).collect();
                assert_eq!(revisions, whole, "{pages:?}");
                assert_eq!(filled.open().unwrap(), whole, "{pages:?}");
                let after = fs::read_to_string(filled.path().join("EPOCH")).unwrap();
                assert_ne!(before, after);
                found.push(whole.len());
            }
        }
        assert!(found.is_sorted(), "{found:?}");
        assert_eq!((found[0], found[found.len() - 1]), (0, 4), "{found:?}");
    }
}

#[tokio::test]
async fn with_sync_only_the_last_batch_may_miss_pages() {
    let filled = Filled::with(Durability::Sync, true, |_| "q".repeat(12_000)).await;
    let original = fs::read(filled.path().join("journal/0.jnl")).unwrap();
    let last = original.windows(6).rposition(|found| found == b"task-4");
    let last = last.unwrap() / 4_096;
    for page in 0..=filled.written / 4_096 {
        fs::write(filled.path().join("IN_USE"), "sync\n").unwrap();
        filled.change(|bytes| {
            bytes.clone_from(&original);
            lose(bytes, &[page]);
        });
        match filled.open() {
            Ok(revisions) if page > last => assert_eq!(revisions, [1, 2, 3, 4], "{page}"),
            // A known limit, see `verify`: the end of the batch before is in it too.
            Ok(revisions) => assert_eq!((page, revisions), (last, vec![1, 2, 3])),
            Err(error) => assert!(page < last, "{page}: {error}"),
        }
    }
}

#[tokio::test]
async fn what_a_value_holds_makes_no_damage_of_a_torn_write() {
    // What ends a batch, with nothing or the next behind it, and whole batches: a copy of the journal.
    let ends = "\u{3}12345678FJL\u{3}\u{1}\u{3}12345678FJL\u{3}\0".repeat(700);
    let copy = |so_far: &[u8]| {
        let text: String = so_far.iter().map(|byte| char::from(*byte & 127)).collect();
        let text = text.trim_end_matches('\0').chars();
        "begin".chars().chain(text).cycle().take(9_000).collect()
    };
    let ends: &dyn Fn(&[u8]) -> String = &|_| ends.clone();
    for queue in [ends, &copy] {
        let filled = Filled::with(Durability::Sync, true, queue).await;
        let original = fs::read(filled.path().join("journal/0.jnl")).unwrap();
        let last = original.windows(6).rposition(|found| found == b"task-4");
        let last = last.unwrap() / 4_096 + 1;
        for cut in [1, 13, 100, 4_000] {
            fs::write(filled.path().join("IN_USE"), "sync\n").unwrap();
            filled.change(|bytes| {
                bytes.clone_from(&original);
                bytes.truncate(filled.written - cut);
            });
            assert_eq!(filled.open().unwrap(), [1, 2, 3, 4], "{cut}");
        }
        fs::write(filled.path().join("IN_USE"), "sync\n").unwrap();
        filled.change(|bytes| {
            bytes.clone_from(&original);
            lose(bytes, &[last]);
        });
        assert_eq!(filled.open().unwrap(), [1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn a_flipped_bit_is_refused_with_the_place_wherever_it_is() {
    let filled = Filled::new(Durability::Sync, false).await;
    let mut named = 0;
    let original = fs::read(filled.path().join("journal/0.jnl")).unwrap();
    for place in (0..filled.written).step_by(3) {
        filled.change(|bytes| {
            bytes.clone_from(&original);
            bytes[place] ^= 1 << (place % 8);
        });
        let error = match filled.open() {
            Err(error) => error,
            // Of a batch's number in the order of all no sum is kept, and nothing is made of it.
            Ok(revisions) => {
                assert_eq!(revisions, [1, 2, 3, 4, 5], "byte {place}");
                continue;
            }
        };
        let text = error.to_string();
        assert!(text.contains("journal/0.jnl"), "{text}");
        if let OpenError::Damaged {
            namespace,
            revision,
            ..
        } = error
        {
            assert_eq!(namespace, "a");
            assert!((2..=5).contains(&revision.0), "{revision}");
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
}

#[tokio::test]
async fn a_flipped_bit_before_the_end_is_no_torn_write() {
    let filled = Filled::new(Durability::Sync, true).await;
    let mut third = None;
    filled.change(|bytes| {
        let wanted = b"task-2";
        let place = bytes.windows(6).position(|found| found == wanted);
        third = place;
        bytes[place.unwrap()] ^= 1;
    });
    let OpenError::Damaged {
        namespace,
        revision,
        problem,
    } = filled.open().unwrap_err()
    else {
        panic!("it is damaged");
    };
    assert_eq!((namespace.as_str(), revision), ("a", Revision(3)));
    assert!(problem.contains("checksum"), "{problem}");
}

#[tokio::test]
async fn a_flipped_bit_in_a_table_is_refused_when_it_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    let store = LocalStore::open(&path, Durability::Sync).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    for number in 0..50 {
        let group = vec![plain(task(&format!("task-{number}"), &"q".repeat(4_000)))];
        journal.append(group).await.unwrap();
    }
    {
        let opened = store.opened.lock();
        let keyspace = opened
            .as_ref()
            .unwrap()
            .database
            .keyspace("n.a", || unreachable!("it stands"));
        keyspace.unwrap().rotate_memtable_and_wait().unwrap();
    }
    drop(journal);
    drop(store);
    let tables = walk(&path.join("journal/keyspaces"));
    let flipped = tables.into_iter().find_map(|table| {
        let mut bytes = fs::read(&table).unwrap();
        let place = bytes.windows(7).position(|found| found == b"task-25")?;
        bytes[place + 100] ^= 4;
        fs::write(table, bytes).unwrap();
        Some(())
    });
    flipped.expect("the table has the entry");

    let store = LocalStore::open(&path, Durability::Sync).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let mut last = Revision::ZERO;
    let error = journal.replay(&mut |entry| last = entry.revision);
    let OpenError::Damaged {
        namespace,
        revision,
        ..
    } = error.unwrap_err()
    else {
        panic!("it is damaged");
    };
    assert_eq!((namespace.as_str(), revision), ("a", last.next()));
}

#[tokio::test]
async fn a_journal_file_that_is_missing_is_refused() {
    let filled = Filled::new(Durability::Sync, true).await;
    let journal = filled.path().join("journal");
    // As it is after a change of files.
    fs::rename(journal.join("0.jnl"), journal.join("3.jnl")).unwrap();
    assert_eq!(filled.open().unwrap(), [1, 2, 3, 4, 5]);
    fs::copy(journal.join("3.jnl"), journal.join("1.jnl")).unwrap();
    let error = filled.open().unwrap_err().to_string();
    assert!(error.contains("lacks file 2.jnl"), "{error}");
    fs::remove_file(journal.join("1.jnl")).unwrap();
    fs::remove_file(journal.join("3.jnl")).unwrap();
    let error = filled.open().unwrap_err().to_string();
    assert!(error.contains("has no file"), "{error}");
    assert!(!journal.join("1.jnl").exists());
}

#[tokio::test]
async fn whoever_has_enough_is_told_nothing_more_and_the_journal_goes_on() {
    let filled = Filled::new(Durability::Sync, false).await;
    let store = LocalStore::open(&filled.path(), Durability::Sync).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let mut told = 0;
    let head = journal.replay_while(&mut |_| {
        told += 1;
        match told {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!((head.unwrap(), told), (None, 2));
    // What was read of it so far is not taken for all there is.
    let appended = journal.append(vec![plain(task("b", "q"))]).await.unwrap();
    assert_eq!(appended.outcomes, [Ok(Revision(6))]);
}

#[tokio::test]
async fn a_note_of_use_that_is_no_text_keeps_no_promise() {
    let filled = Filled::new(Durability::Sync, true).await;
    fs::write(filled.path().join("IN_USE"), b"\xff\xfe").unwrap();
    let (_, left) = LocalStore::inspect(&filled.path()).unwrap();
    assert_eq!(left, Left::Doubtful);
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_never_takes_is_given_up_and_a_frozen_process_gives_up_nothing() {
    let part = COMMIT_WITHIN / COMMIT_PARTS;
    let began = tokio::time::Instant::now();
    assert_eq!(within(part, std::future::pending::<()>()).await, None);
    assert!(began.elapsed() >= COMMIT_WITHIN);
    // An hour passes at once, as for one who was stopped; then it comes.
    let (came, coming) = oneshot::channel();
    let waiting = tokio::spawn(within(part, coming));
    tokio::task::yield_now().await;
    tokio::time::advance(Duration::from_secs(3_600)).await;
    came.send(1).unwrap();
    assert_eq!(waiting.await.unwrap(), Some(Ok(1)));
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let found = entries.flat_map(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path),
            false => vec![path],
        }
    });
    found.collect()
}

#[tokio::test]
async fn only_an_unclean_end_that_may_have_lost_something_begins_a_new_epoch() {
    let interval = Durability::Interval(Duration::from_millis(50));
    for (durability, killed, same) in [
        (Durability::Sync, false, true),
        (Durability::Sync, true, true),
        (interval, false, true),
        (interval, true, false),
        (Durability::None, false, true),
        (Durability::None, true, false),
    ] {
        let filled = Filled::new(durability, killed).await;
        let epoch = || fs::read_to_string(filled.path().join("EPOCH")).unwrap();
        let before = epoch();
        // To look changes nothing.
        let (looked, left) = LocalStore::inspect(&filled.path()).unwrap();
        let expected = match (killed, same) {
            (false, _) => Left::Closed,
            (true, true) => Left::Open,
            (true, false) => Left::Doubtful,
        };
        assert_eq!(left, expected, "{durability} {killed}");
        drop(looked);
        assert_eq!(epoch(), before);
        let store = LocalStore::open(&filled.path(), Durability::Sync).unwrap();
        assert_eq!(epoch() == before, same, "{durability} {killed}");
        assert_eq!(store.epoch().to_string(), epoch().trim());
        let opened = epoch();
        drop(store);
        drop(LocalStore::open(&filled.path(), Durability::None).unwrap());
        assert_eq!(epoch(), opened, "it was closed in order");
    }
}

#[tokio::test]
async fn an_interval_syncs_what_was_answered_and_then_rests() {
    let folder = TempDir::new().unwrap();
    let interval = Durability::Interval(Duration::from_millis(20));
    let store = LocalStore::open(&folder.path().join("data"), interval).unwrap();
    let database = store.opened.lock().as_ref().unwrap().database.clone();
    let queue = Queue::default();
    let mut syncing = syncing::Syncing::new(interval);
    assert_eq!(syncing.due(), None);
    syncing.written();
    let due = syncing.due().unwrap();
    syncing.written();
    assert_eq!(syncing.due(), Some(due), "the first counts");
    syncing.sync(&queue, &database);
    assert_eq!(syncing.due(), Some(due), "it is not time");
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
    syncing.sync(&queue, &database);
    assert_eq!(syncing.due(), None);
    for durability in [Durability::Sync, Durability::None] {
        let mut never = syncing::Syncing::new(durability);
        never.written();
        assert_eq!(never.due(), None);
    }
    assert_eq!(interval.persist_mode(), PersistMode::Buffer);
    assert_eq!(Durability::None.persist_mode(), PersistMode::Buffer);
    assert_eq!(Durability::Sync.persist_mode(), PersistMode::SyncData);
}

#[tokio::test]
async fn whoever_comes_first_after_a_failed_sync_learns_that_something_may_be_lost() {
    let folder = TempDir::new().unwrap();
    let store = LocalStore::open(&folder.path().join("data"), Durability::None).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    store.queue.lose("the disk has failed".into());
    let first = journal.append(vec![plain(task("a", "q"))]).await;
    assert!(matches!(first, Err(AppendError::Unknown(_))), "{first:?}");
    let second = journal.append(vec![plain(task("a", "q"))]).await;
    assert!(matches!(second, Err(AppendError::Refused(_))), "{second:?}");
    drop(store);
    // It was not closed in order.
    let in_use = fs::read_to_string(folder.path().join("data/IN_USE"));
    assert_eq!(in_use.unwrap(), "none\n");
}

#[tokio::test]
async fn a_full_disk_refuses_and_takes_again() {
    let folder = TempDir::new().unwrap();
    let options = LocalOptions {
        disk_reserve: 1 << 60,
        ..LocalOptions::default()
    };
    let store = LocalStore::open_with(&folder.path().join("data"), options).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let shortage = journal.shortage().unwrap();
    assert!(shortage.contains("nearly full"), "{shortage}");
    let full = journal.append(vec![plain(task("a", "q"))]).await;
    assert!(matches!(full, Err(AppendError::Full(_))), "{full:?}");
    assert_eq!(replayed(journal.as_ref()).1, Revision::ZERO);
}
