//! The local journal seen from outside: processes that are killed, that find the folder in use,
//! and whose disk fails. This binary runs itself as the child, with `DUITE_TEST_CHILD` naming the
//! data folder; the ignored tests at the end are what children do.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use duite::{
    domain::{Entry, NamespaceId, Revision, task::Task},
    journal::{AppendError, Draft, Durability, Journal, LocalStore, OpenError, Store},
};
use tempfile::TempDir;

const CHILD: &str = "DUITE_TEST_CHILD";
const NAMESPACES: [&str; 2] = ["a", "b"];

fn child_command(work: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture", work])
        .env(CHILD, folder)
        .stdout(Stdio::piped());
    command
}

/// The folder that this process is the child for; `None` where a person runs the ignored tests.
fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    // The test harness prints lines of its own, and one without its end before ours.
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.filter_map(|line| Some(line.unwrap().split_once("child: ")?.1.to_owned()))
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "child: {line}").unwrap();
    out.flush().unwrap();
}

fn journal(store: &LocalStore, namespace: &str) -> Arc<dyn Journal> {
    Store::open(store, &NamespaceId::parse(namespace).unwrap()).unwrap()
}

/// Entry `number` of a namespace: a size of its own, so that batches end anywhere in a page.
fn entry(number: u64) -> Entry {
    let size = usize::try_from(number * 7919 % 3000).unwrap();
    Entry::Task(Box::new(Task {
        id: format!("task-{}", number % 50),
        queue: format!("{number}-{}", "x".repeat(size)),
        ..Task::default()
    }))
}

fn replayed(store: &LocalStore, namespace: &str) -> (BTreeMap<u64, Entry>, u64) {
    let mut entries = BTreeMap::new();
    let head = journal(store, namespace).replay(&mut |found| {
        entries.insert(found.revision.0, found.entry);
    });
    (entries, head.unwrap().0)
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    let mut acknowledged = [0u64; 2];
    for round in 0..6 {
        let mut child = child_command("child_appends_until_killed", &path)
            .spawn()
            .unwrap();
        // Another number of them each time, so that the kill falls elsewhere.
        let mut lines = lines(&mut child);
        for line in lines.by_ref().take(40 + round * 17) {
            let (place, revision) = line.split_once(' ').unwrap();
            acknowledged[place.parse::<usize>().unwrap()] = revision.parse().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died counts too.
        for line in lines {
            let (place, revision) = line.split_once(' ').unwrap_or_default();
            if let (Ok(place), Ok(revision)) = (place.parse::<usize>(), revision.parse()) {
                acknowledged[place] = revision;
            }
        }

        let store = LocalStore::open(&path, Durability::Sync).unwrap();
        for (namespace, acknowledged) in NAMESPACES.into_iter().zip(acknowledged) {
            let (entries, head) = replayed(&store, namespace);
            assert!(acknowledged >= 20, "{namespace} went on: {acknowledged}");
            assert!(head >= acknowledged, "{namespace}: {head} {acknowledged}");
            // Each entry supersedes the one 50 before it, so 50 stand, and groups of 3 are whole.
            let expected = head.saturating_sub(50) + 1..=head;
            assert!(entries.keys().copied().eq(expected), "{namespace}");
            assert_eq!(head % 3, 0, "{namespace}");
            for (number, found) in entries {
                assert_eq!(found, entry(number));
            }
        }
    }
}

#[test]
fn a_folder_in_use_by_another_process_names_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    let mut child = child_command("child_appends_until_killed", &path)
        .spawn()
        .unwrap();
    lines(&mut child).next().unwrap();
    let error = LocalStore::open(&path, Durability::Sync).unwrap_err();
    let OpenError::InUse { holder, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*holder, format!("process {}", child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    LocalStore::open(&path, Durability::Sync).unwrap();
}

#[test]
fn after_a_failed_write_the_outcome_is_unknown_and_the_rest_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    // No file may grow beyond 65 MiB, and a write beyond it fails instead of killing.
    let command = child_command("child_fails_to_write", &path);
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 133120; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args())
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said: Vec<String> = lines(&mut child).collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    assert_eq!(said, ["unknown", "refused"]);

    // What was acknowledged stands, and the folder is good for more.
    let store = LocalStore::open(&path, Durability::Sync).unwrap();
    let (entries, head) = replayed(&store, "a");
    assert_eq!((entries[&1].clone(), head), (entry(1), 1));
}

#[tokio::test]
#[ignore = "what the child of other tests does"]
async fn child_appends_until_killed() {
    let Some(folder) = child_folder() else {
        return;
    };
    let store = LocalStore::open(&folder, Durability::Sync).unwrap();
    let runs = NAMESPACES
        .into_iter()
        .enumerate()
        .map(|(place, namespace)| {
            let journal = journal(&store, namespace);
            tokio::spawn(async move {
                let mut head = journal.replay(&mut |_| {}).unwrap().0;
                loop {
                    let draft = |number: u64| Draft {
                        entry: entry(number),
                        expect: Some(Revision(number.saturating_sub(50))),
                        supersedes: vec![Revision(number.saturating_sub(50))],
                    };
                    let group = (head + 1..=head + 3).map(draft).collect();
                    let appended = journal.append(group).await.unwrap();
                    let last = appended.outcomes.last().unwrap();
                    head = last.as_ref().unwrap().0;
                    say(&format!("{place} {head}"));
                }
            })
        });
    futures_util::future::join_all(runs).await;
}

#[tokio::test]
#[ignore = "what the child of another test does"]
async fn child_fails_to_write() {
    let Some(folder) = child_folder() else {
        return;
    };
    let store = LocalStore::open(&folder, Durability::Sync).unwrap();
    let journal = journal(&store, "a");
    let small = |number| Draft {
        entry: entry(number),
        expect: None,
        supersedes: Vec::new(),
    };
    journal.append(vec![small(1)]).await.unwrap();
    let large = Draft {
        entry: Entry::Task(Box::new(Task {
            id: "large".into(),
            queue: "x".repeat(1 << 20),
            ..Task::default()
        })),
        ..small(2)
    };
    for group in [vec![large; 70], vec![small(3)]] {
        match journal.append(group).await {
            Ok(appended) => say(&format!("{:?}", appended.outcomes)),
            Err(AppendError::Unknown(_)) => say("unknown"),
            Err(AppendError::Refused(_) | AppendError::Full(_)) => say("refused"),
        }
    }
}

/// Processor time of this thread, of the one that commits, and of those that fjall has.
fn processor_time() -> [Duration; 3] {
    let mut spent = [Duration::ZERO; 3];
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        let place = match read("comm").trim() {
            "duite-journal" => 1,
            name if name.starts_with("small_entries") => 0,
            _ => 2,
        };
        let ran = read("schedstat");
        let ran = ran
            .split_whitespace()
            .next()
            .map_or(0, |ran| ran.parse().unwrap());
        spent[place] += Duration::from_nanos(ran);
    }
    spent
}

/// What an entry costs, beside fjall with a record for each:
/// `cargo test --release --test journal_local -- --ignored --nocapture small`.
#[tokio::test]
#[ignore = "only meaningful in release"]
async fn small_entries_are_appended_faster_than_single_records() {
    const TASKS: u64 = 400_000;
    let record = |number: u64| {
        Entry::Task(Box::new(Task {
            id: format!("01890a5d-ac96-774b-bcce-{number:012}"),
            uid: duite::domain::Uid(u128::from(number)),
            queue: "default".into(),
            r#type: "echo".into(),
            request_digest: duite::domain::Uid(7),
            ..Task::default()
        }))
    };
    let mut buffer = Vec::new();
    record(1).encode(&mut buffer);
    println!("an entry has {} bytes", buffer.len());
    let start = Instant::now();
    for number in 0..TASKS {
        buffer.clear();
        std::hint::black_box(record(number)).encode(&mut buffer);
    }
    println!(
        "made and encoded alone: {:?} each",
        start.elapsed() / TASKS as u32
    );
    for size in [100, 1_000, 4_000] {
        let folder = TempDir::new().unwrap();
        let database = fjall::Database::builder(folder.path().join("fjall"));
        let database = database.manual_journal_persist(true).open().unwrap();
        let keyspace = database.keyspace("a", fjall::KeyspaceCreateOptions::default);
        let keyspace = keyspace.unwrap();
        let (start, before) = (Instant::now(), processor_time());
        for first in (0..TASKS).step_by(size) {
            let mut batch = database
                .batch()
                .durability(Some(fjall::PersistMode::SyncData));
            for number in first..first + size as u64 {
                batch.insert(&keyspace, number.to_be_bytes(), buffer.as_slice());
            }
            batch.commit().unwrap();
        }
        let bare = start.elapsed() / TASKS as u32;
        let since = |before: [Duration; 3]| {
            let spent = std::iter::zip(processor_time(), before);
            let spent = spent.map(|(now, before)| now.saturating_sub(before) / TASKS as u32);
            spent.collect::<Vec<_>>()
        };
        println!("bare: processor {:?}", since(before));
        let start = Instant::now();
        for _ in (0..TASKS).step_by(size) {
            let mut batch = database
                .batch()
                .durability(Some(fjall::PersistMode::SyncData));
            batch.insert(&keyspace, b"x", b"x");
            batch.commit().unwrap();
        }
        let syncs = start.elapsed() / TASKS as u32;
        drop((keyspace, database));

        let store = LocalStore::open(&folder.path().join("data"), Durability::Sync).unwrap();
        let journal = journal(&store, "a");
        let mut spent = Vec::new();
        // Created, then twice replaced.
        for step in 0..3 {
            let mut elapsed = Duration::ZERO;
            let before = processor_time();
            for first in (0..TASKS).step_by(size) {
                let draft = |number: u64| {
                    let old = (step > 0).then(|| Revision((step - 1) * TASKS + number + 1));
                    Draft {
                        entry: record(number),
                        expect: Some(old.unwrap_or(Revision::ZERO)),
                        supersedes: old.into_iter().collect(),
                    }
                };
                let group = (first..first + size as u64).map(draft).collect();
                let start = Instant::now();
                let appended = journal.append(group).await.unwrap();
                elapsed += start.elapsed();
                assert!(appended.outcomes.iter().all(Result::is_ok));
            }
            spent.push(elapsed / TASKS as u32);
            println!("ours: processor {:?}", since(before));
        }
        let start = Instant::now();
        let wanted: Vec<_> = (0..1_000)
            .map(|number| Revision(2 * TASKS + 1 + number))
            .collect();
        let read = journal.read_many(wanted).await.unwrap();
        assert!(read.iter().all(Option::is_some));
        println!(
            "groups of {size}: bare records {bare:?} each, of which syncs {syncs:?}; ours {spent:?}; 1,000 read in {:?}",
            start.elapsed()
        );
    }
}

/// What a start costs: `cargo test --release --test journal_local -- --ignored --nocapture million`.
#[tokio::test]
#[ignore = "takes a minute and is only meaningful in release"]
async fn a_million_finished_tasks_are_replayed_in_three_seconds() {
    const TASKS: u64 = 1_000_000;
    const GROUP: u64 = 1_000;
    let record = |number: u64, step: u64| {
        Entry::Task(Box::new(Task {
            id: format!("task-{number}"),
            uid: duite::domain::Uid(u128::from(number)),
            queue: format!("step-{step}"),
            state: "x".repeat(200),
            request_digest: duite::domain::Uid(7),
            ..Task::default()
        }))
    };
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        line.unwrap().split_whitespace().collect::<Vec<_>>()[1..].join(" ")
    };
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    println!("resident before: {}", resident());
    let start = Instant::now();
    let store = LocalStore::open(&path, Durability::Sync).unwrap();
    let open = journal(&store, "a");
    println!("made in {:?}, resident {}", start.elapsed(), resident());

    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for first in (0..TASKS).step_by(GROUP as usize) {
        // Submitted, leased, finished: each record supersedes the one before.
        for step in 0..3 {
            let draft = |place: u64| {
                let revision = first * 3 + step * GROUP + place + 1;
                let old = (step > 0).then(|| Revision(revision - GROUP));
                Draft {
                    entry: record(first + place, step),
                    expect: Some(old.unwrap_or(Revision::ZERO)),
                    supersedes: old.into_iter().collect(),
                }
            };
            let group = (0..GROUP).map(draft).collect();
            let commit = Instant::now();
            let appended = open.append(group).await.unwrap();
            slowest = slowest.max(commit.elapsed());
            assert!(appended.outcomes.iter().all(Result::is_ok));
        }
    }
    println!(
        "{TASKS} tasks appended three times in {:?}, slowest commit {slowest:?}, resident {}",
        start.elapsed(),
        resident()
    );
    let start = Instant::now();
    for number in 0..2_000 {
        let draft = Draft {
            entry: record(number, 9),
            expect: None,
            supersedes: Vec::new(),
        };
        open.append(vec![draft]).await.unwrap();
    }
    println!("one by one: {:?} each", start.elapsed() / 2_000);
    let start = Instant::now();
    drop(store);
    println!("closed in {:?}, resident {}", start.elapsed(), resident());
    for _ in 0..2 {
        let start = Instant::now();
        let store = LocalStore::open(&path, Durability::Sync).unwrap();
        let opened = start.elapsed();
        let mut found = 0;
        let mut bytes = 0;
        journal(&store, "a")
            .replay(&mut |entry| {
                found += 1;
                bytes += entry.bytes;
            })
            .unwrap();
        let ready = start.elapsed();
        println!(
            "opened in {opened:?}, {found} entries of {} bytes ready after {ready:?}, resident {}",
            bytes / found,
            resident()
        );
        assert_eq!(found as u64, TASKS + 2_000);
        assert!(ready < Duration::from_secs(3), "{ready:?}");
    }
}
