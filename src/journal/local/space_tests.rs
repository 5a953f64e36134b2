//! Blocks are packed, damage in them is found, and what is dead in them takes no room for ever.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use fjall::Readable;
use tempfile::TempDir;

use super::{blocks::SLACK, tests::open, *};
use crate::{
    domain::{
        Entry,
        entry::{Horizon, TaskRemoved},
    },
    journal::conformance::{namespace, plain, replayed, superseding, task},
};

fn inner(store: &LocalStore, name: &str) -> Arc<Namespace> {
    let opened = store.opened.lock();
    Arc::clone(&opened.as_ref().unwrap().namespaces[&namespace(name)])
}

/// Keys and sizes of all records, and how many of them are marked.
fn records(store: &LocalStore, name: &str) -> (BTreeMap<u64, usize>, usize) {
    let namespace = inner(store, name);
    let snapshot = namespace.database.snapshot();
    let records = snapshot.iter(&namespace.spaces.entries).map(|guard| {
        let (key, value) = guard.into_inner().unwrap();
        (u64::from_be_bytes(key[..].try_into().unwrap()), value.len())
    });
    let records = records.collect();
    let marks = snapshot.iter(&namespace.spaces.marks).count();
    (records, marks)
}

fn record(number: u64, step: &str) -> Entry {
    task(
        &format!("task-{number}"),
        &format!("{step}{}", "x".repeat(150)),
    )
}

fn removed(number: u64) -> Entry {
    Entry::TaskRemoved(TaskRemoved {
        id: format!("task-{number}"),
        ..TaskRemoved::default()
    })
}

/// Tasks in groups: created, leased, finished and removed, and the removals forgotten. One in
/// `keep` stays where it is for ever.
async fn live(journal: &dyn Journal, tasks: u64, keep: u64) -> Vec<Revision> {
    let mut stay = Vec::new();
    let mut stand = BTreeMap::new();
    // Steps overlap, as they do, and not in groups of one size.
    let mut horizon = Vec::new();
    for first in (0..tasks + 300).step_by(30) {
        let mut group = Vec::new();
        let mut numbers = Vec::new();
        for (step, behind) in ["created", "leased", "finished", "removed"]
            .iter()
            .zip([0, 30, 70, 210])
        {
            for number in (first..first + 30).filter_map(|number| number.checked_sub(behind)) {
                if number >= tasks || (behind > 0 && number % keep == 0) {
                    continue;
                }
                let entry = match *step {
                    "removed" => removed(number),
                    step => record(number, step),
                };
                let old: Vec<u64> = stand.get(&number).copied().into_iter().collect();
                group.push(superseding(entry, &old));
                numbers.push(number);
            }
        }
        let appended = journal.append(group).await.unwrap();
        for (number, new) in numbers.into_iter().zip(appended.committed) {
            stand.insert(number, new.revision.0);
            match new.entry {
                Entry::TaskRemoved(_) => horizon.push(new.revision.0),
                _ if number % keep == 0 => stay.push(new.revision),
                _ => {}
            }
        }
        if horizon.len() > 100 {
            let forgets = superseding(Entry::Horizon(Horizon { revision: 1 }), &horizon);
            let appended = journal.append(vec![forgets]).await.unwrap();
            horizon = vec![appended.committed[0].revision.0];
        }
    }
    let forgets = superseding(Entry::Horizon(Horizon { revision: 1 }), &horizon);
    stay.push(journal.append(vec![forgets]).await.unwrap().committed[0].revision);
    stay
}

#[tokio::test]
async fn a_group_of_small_entries_is_a_few_records() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let group = (0..1_000).map(|number| plain(record(number, "created")));
    journal.append(group.collect()).await.unwrap();
    let (found, marks) = records(&store, "a");
    assert!(found.len() <= 60, "{}", found.len());
    assert!(found.values().all(|&bytes| bytes <= 4_000));
    assert_eq!(marks, 0);
    // One of each block, and then all.
    let keys: Vec<u64> = found.keys().map(|key| key + 1).collect();
    let group = vec![superseding(Entry::Horizon(Horizon { revision: 1 }), &keys)];
    journal.append(group).await.unwrap();
    let (touched, marks) = records(&store, "a");
    assert_eq!((touched.len(), marks), (found.len() + 1, found.len()));
    let all: Vec<u64> = (1..=1_000).collect();
    let group = vec![superseding(Entry::Horizon(Horizon { revision: 2 }), &all)];
    journal.append(group).await.unwrap();
    let (left, marks) = records(&store, "a");
    assert_eq!((left.len(), marks), (2, 0));
}

#[tokio::test]
async fn dead_bytes_stay_in_proportion_to_live_ones() {
    for keep in [3, 7, 40] {
        let folder = TempDir::new().unwrap();
        let mut store = open(&folder).unwrap();
        let journal = Store::open(&store, &namespace("a")).unwrap();
        let stay = live(journal.as_ref(), 3_000, keep).await;
        for _ in 0..2 {
            let journal = Store::open(&store, &namespace("a")).unwrap();
            let (entries, _) = replayed(journal.as_ref());
            assert!(
                entries
                    .iter()
                    .map(|entry| entry.revision)
                    .eq(stay.iter().copied())
            );
            let alive: usize = entries.iter().map(|entry| entry.bytes).sum();
            let (found, marks) = records(&store, "a");
            let bytes: usize = found.values().sum();
            let most = 4 * alive + usize::try_from(2 * SLACK).unwrap();
            assert!(bytes <= most, "{bytes} of {alive}");
            assert!(marks <= found.len());
            let space = {
                let namespace = inner(&store, "a");
                let tail = namespace.tail.lock();
                tail.known.as_ref().unwrap().blocks.space()
            };
            assert!(space.blocks <= found.len() as u64, "{space:?}");
            let read = journal.read_many(stay.clone()).await.unwrap();
            assert!(read.into_iter().map(Option::unwrap).eq(entries));
            drop(store);
            store = open(&folder).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lives_is_read_while_blocks_are_written_anew() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let (known, mut seen) = tokio::sync::watch::channel(Vec::new());
    let reader = tokio::spawn({
        let journal = Arc::clone(&journal);
        async move {
            let mut rounds = 0;
            while seen.changed().await.is_ok() {
                let wanted: Vec<Revision> = seen.borrow_and_update().clone();
                for _ in 0..3 {
                    let read = journal.read_many(wanted.clone()).await.unwrap();
                    for (revision, read) in wanted.iter().zip(read) {
                        assert_eq!(read.map(|read| read.revision), Some(*revision));
                    }
                }
                rounds += 1;
            }
            rounds
        }
    });
    let mut stay = Vec::new();
    let mut old = Vec::new();
    for round in 0..200 {
        let group = (0..40).map(|number| plain(record(round * 40 + number, "created")));
        let mut group: Vec<_> = group.collect();
        group[0].supersedes = std::mem::take(&mut old);
        let appended = journal.append(group).await.unwrap();
        for (number, new) in appended.committed.iter().enumerate() {
            match number % 19 {
                5 => stay.push(new.revision),
                _ => old.push(new.revision),
            }
        }
        known.send_replace(stay.clone());
    }
    drop(known);
    assert!(reader.await.unwrap() > 0);
    let (found, _) = records(&store, "a");
    assert!(found.contains_key(&stay[0].0), "it was written anew");
}

/// The tables that hold entries.
fn tables(folder: &TempDir) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.path().join("data/journal/keyspaces")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

#[tokio::test]
async fn a_flipped_bit_in_a_block_is_found_and_named() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let group = (0..1_000).map(|number| plain(record(number, "created")));
    journal.append(group.collect()).await.unwrap();
    inner(&store, "a")
        .spaces
        .entries
        .rotate_memtable_and_wait()
        .unwrap();
    drop(journal);
    drop(store);
    let mut flipped = 0;
    for path in tables(&folder) {
        let mut bytes = fs::read(&path).unwrap();
        let wanted = b"task-700";
        let place = bytes
            .windows(wanted.len())
            .position(|window| window == wanted);
        if let Some(place) = place {
            bytes[place + 3] ^= 1;
            fs::write(&path, bytes).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let mut read = Vec::new();
    let error = journal
        .replay(&mut |entry| read.push(entry.revision.0))
        .unwrap_err();
    let OpenError::Damaged {
        revision, problem, ..
    } = error
    else {
        panic!("{error}");
    };
    // fjall's block of 32 KiB is damaged as a whole: what is before it is read.
    assert!((1..revision.0).eq(read), "{revision}");
    assert!((500..=701).contains(&revision.0), "{revision}");
    assert!(problem.contains("Checksum"), "{problem}");
}

#[tokio::test]
async fn a_group_whose_page_never_reached_the_disk_was_never_written() {
    const PAGE: usize = 4_096;
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    journal
        .append(vec![plain(record(0, "first"))])
        .await
        .unwrap();
    let group = (0..500).map(|number| plain(record(number, "second")));
    journal.append(group.collect()).await.unwrap();
    drop(journal);
    drop(store);
    let path = folder.path().join("data/journal/0.jnl");
    let whole = fs::read(&path).unwrap();
    let written = whole.iter().rposition(|&byte| byte != 0).unwrap();
    let pages = written / PAGE;
    assert!(pages > 20);
    for page in 1..pages {
        let mut bytes = whole.clone();
        bytes[page * PAGE..(page + 1) * PAGE].fill(0);
        fs::write(&path, bytes).unwrap();
        fs::write(folder.path().join("data/IN_USE"), "sync\n").unwrap();
        let store = open(&folder).unwrap();
        let journal = Store::open(&store, &namespace("a")).unwrap();
        let (entries, head) = replayed(journal.as_ref());
        assert_eq!(
            (entries.len(), head),
            (1, Revision(1)),
            "without page {page}"
        );
    }
}

#[tokio::test]
async fn marks_and_blocks_that_do_not_fit_are_named() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let group = (0..100).map(|number| plain(record(number, "created")));
    journal.append(group.collect()).await.unwrap();
    let (found, _) = records(&store, "a");
    let keys: Vec<u64> = found.keys().copied().collect();
    let namespace = inner(&store, "a");
    let damaged = |namespace: &Namespace| {
        let error = namespace.scan(&mut |_, _| {}).unwrap_err();
        let OpenError::Damaged {
            revision, problem, ..
        } = error
        else {
            panic!("{error}");
        };
        (revision.0, problem)
    };
    let mut mark = namespace.marks();
    mark.extend_from_slice(&(keys[1] + 1).to_be_bytes());
    namespace.spaces.marks.insert(mark.clone(), [1]).unwrap();
    let (revision, problem) = damaged(&namespace);
    assert_eq!(revision, keys[1] + 1);
    assert!(problem.contains("is missing"), "{problem}");
    namespace.spaces.marks.remove(mark).unwrap();
    namespace
        .spaces
        .entries
        .insert((keys[1] + 1).to_be_bytes(), b"\x0a\x00\x00")
        .unwrap();
    let (revision, problem) = damaged(&namespace);
    assert_eq!(revision, keys[1] + 1);
    assert!(problem.contains("block before"), "{problem}");
}

#[tokio::test]
async fn a_damaged_block_is_left_as_it_is_and_harms_no_group() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let group = (0..200).map(|number| plain(record(number, "created")));
    journal.append(group.collect()).await.unwrap();
    let (found, _) = records(&store, "a");
    let keys: Vec<u64> = found.keys().copied().collect();
    let namespace = inner(&store, "a");
    let damaged = keys[2];
    let entries = &namespace.spaces.entries;
    entries.insert(damaged.to_be_bytes(), b"junk").unwrap();
    // One of each block lives.
    let old: Vec<u64> = (1..=200).filter(|old| !keys.contains(old)).collect();
    for (number, old) in old.chunks(20).enumerate() {
        let horizon = Entry::Horizon(Horizon {
            revision: number as u64,
        });
        let appended = journal
            .append(vec![superseding(horizon, old)])
            .await
            .unwrap();
        assert_eq!(appended.outcomes, [Ok(Revision(201 + number as u64))]);
    }
    let wanted: Vec<_> = keys.iter().map(|&key| Revision(key)).collect();
    let others: Vec<_> = wanted
        .iter()
        .copied()
        .filter(|old| old.0 != damaged)
        .collect();
    let read = journal.read_many(others).await.unwrap();
    assert!(read.iter().all(Option::is_some));
    assert!(journal.read_many(wanted).await.is_err());
    let (left, _) = records(&store, "a");
    assert_eq!(left[&damaged], 4);
    assert!(left.values().filter(|&&bytes| bytes < 1_000).count() > keys.len() / 2);
    let error = namespace.scan(&mut |_, _| {}).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { revision, .. } if revision.0 == damaged));
}
