//! The local journal keeps what every journal promises, and its folder is nobody else's.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use fjall::Readable;
use tempfile::TempDir;

use super::*;
use crate::journal::conformance::{
    Reopen, conformance, expecting, namespace, plain, replayed, task,
};

impl Reopen for TempDir {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(open(self).unwrap())
    }
}

conformance!(TempDir::new().unwrap());

pub(super) fn open(folder: &TempDir) -> Result<LocalStore, OpenError> {
    // Not the temporary folder itself, so that ours is made.
    LocalStore::open(&folder.path().join("data"), Durability::Sync)
}

fn refused(result: Result<LocalStore, OpenError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_new_folder_is_for_its_owner_only() {
    let folder = TempDir::new().unwrap();
    let _store = open(&folder).unwrap();
    let mode = fs::metadata(folder.path().join("data")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_folder_in_use_names_its_holder() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let error = refused(open(&folder));
    assert!(error.contains("in use by this process"), "{error}");
    drop(store);
    open(&folder).unwrap();
}

#[test]
fn a_folder_of_another_version_is_refused_and_left_as_it_was() {
    let folder = TempDir::new().unwrap();
    drop(open(&folder).unwrap());
    let format = folder.path().join("data/FORMAT");
    fs::write(&format, "duite-journal 1\n").unwrap();
    let error = open(&folder).unwrap_err();
    assert!(matches!(error, OpenError::Version { .. }), "{error}");
    assert!(error.to_string().contains("\"duite-journal 1\""), "{error}");
    assert_eq!(fs::read(format).unwrap(), b"duite-journal 1\n");
}

#[test]
fn a_folder_of_something_else_is_refused_and_left_as_it_was() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("thesis.tex"), "x").unwrap();
    let error = refused(open(&folder));
    assert!(error.contains("\"thesis.tex\""), "{error}");
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}

#[test]
fn an_empty_volume_is_taken() {
    let folder = TempDir::new().unwrap();
    fs::create_dir_all(folder.path().join("data/lost+found")).unwrap();
    open(&folder).unwrap();
}

#[test]
fn bad_paths_say_what_to_do() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for (path, expected) in [
        (
            folder.path().join("missing/data"),
            "create the folder that it is in first",
        ),
        (file.clone(), "it is a file"),
        (file.join("data"), "it is a file"),
        // Nobody can make folders there, root neither.
        ("/sys/duite".into(), "cannot create it"),
    ] {
        let error = refused(LocalStore::open(&path, Durability::Sync));
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn making_a_folder_goes_on_where_it_was_interrupted() {
    // What stands at each point of it, and is not yet whole.
    let steps: [&[&str]; 4] = [
        &["LOCK"],
        &["LOCK", "new"],
        &["LOCK", "FORMAT", "new"],
        &["LOCK", "FORMAT", "EPOCH", "journal.new/0.jnl"],
    ];
    for step in steps {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data");
        fs::create_dir_all(path.join("journal.new")).unwrap();
        if !step.contains(&"FORMAT") {
            fs::remove_dir(path.join("journal.new")).unwrap();
        }
        for name in step {
            let content = match *name {
                "FORMAT" => "duite-journal 2\n",
                "EPOCH" => "01890a5d-ac96-774b-bcce-b302099a8057\n",
                _ => "",
            };
            fs::write(path.join(name), content).unwrap();
        }
        open(&folder).unwrap();
        assert!(!path.join("journal.new").exists());
        open(&folder).unwrap();
    }
}

#[test]
fn a_folder_that_lost_a_file_is_not_made_anew() {
    for (name, expected) in [("EPOCH", "no file EPOCH"), ("FORMAT", "no file FORMAT")] {
        let folder = TempDir::new().unwrap();
        drop(open(&folder).unwrap());
        fs::remove_file(folder.path().join("data").join(name)).unwrap();
        let error = refused(open(&folder));
        assert!(error.contains(expected), "{error}");
    }
    let folder = TempDir::new().unwrap();
    drop(open(&folder).unwrap());
    fs::write(folder.path().join("data/EPOCH"), "nonsense").unwrap();
    let error = refused(open(&folder));
    assert!(error.contains("EPOCH is not a UUID"), "{error}");
}

#[test]
fn a_damaged_journal_is_refused() {
    let folder = TempDir::new().unwrap();
    drop(open(&folder).unwrap());
    fs::write(folder.path().join("data/journal/version"), "x").unwrap();
    let error = refused(open(&folder));
    assert!(error.contains("its journal cannot be read"), "{error}");
}

#[tokio::test]
async fn a_damaged_entry_is_named() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let group = vec![plain(task("a", "1")), plain(task("b", "1"))];
    journal.append(group).await.unwrap();
    drop(store);
    {
        let database = open_database(&folder.path().join("data/journal")).unwrap();
        let keyspace = database.keyspace("n.a", || unreachable!()).unwrap();
        keyspace.insert(2u64.to_be_bytes(), b"\xff").unwrap();
        assert_eq!(database.snapshot().len(&keyspace).unwrap(), 2);
    }
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    let mut read = Vec::new();
    let error = journal.replay(&mut |entry| read.push(entry)).unwrap_err();
    assert_eq!(read.len(), 1);
    let OpenError::Damaged {
        namespace,
        revision,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((namespace.as_str(), *revision), ("a", Revision(2)));
    let refused = journal.append(vec![plain(task("a", "2"))]).await;
    assert!(matches!(refused, Err(AppendError::Refused(_))));
}

/// Overwrites part of the second of two batches in fjall's journal with zeros, as a power failure
/// may leave it; opens the folder again.
async fn torn(from: &str, to: Option<&str>) -> Result<Vec<u64>, OpenError> {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let journal = Store::open(&store, &namespace("a")).unwrap();
    journal.append(vec![plain(task("a", "1"))]).await.unwrap();
    let queue = format!("begin{}end", "x".repeat(9_000));
    journal
        .append(vec![plain(task("b", &queue))])
        .await
        .unwrap();
    drop(store);

    let path = folder.path().join("data/journal/0.jnl");
    let mut bytes = fs::read(&path).unwrap();
    let place = |wanted: &str| {
        let mut windows = bytes.windows(wanted.len());
        windows
            .position(|window| window == wanted.as_bytes())
            .unwrap()
    };
    let (from, to) = (place(from), to.map_or(bytes.len(), place));
    bytes[from..to].fill(0);
    fs::write(&path, bytes).unwrap();
    // A folder that was closed in order has nothing torn.
    assert!(refused(open(&folder)).contains("is damaged in the batch at byte"));
    fs::write(folder.path().join("data/IN_USE"), "sync\n").unwrap();

    let store = open(&folder)?;
    let journal = Store::open(&store, &namespace("a"))?;
    let (entries, _) = replayed(journal.as_ref());
    Ok(entries.iter().map(|entry| entry.revision.0).collect())
}

#[tokio::test]
async fn a_batch_without_its_end_was_never_written() {
    assert_eq!(torn("begin", None).await.unwrap(), [1]);
}

#[tokio::test]
async fn a_last_batch_that_misses_a_page_was_never_written() {
    assert_eq!(torn("begin", Some("end")).await.unwrap(), [1]);
}

#[tokio::test]
async fn a_batch_with_a_hole_is_refused_as_damaged() {
    // Too small for a page that was lost, even in the last. What is read up to there is named.
    let error = torn("begin", Some("xxxx")).await.unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn many_namespaces_commit_at_once() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder).unwrap();
    let mut journals = Vec::new();
    for number in 0..8 {
        let name = namespace(&format!("n{number}"));
        journals.push(Store::open(&store, &name).unwrap());
    }
    let appends = journals.iter().cloned().map(|journal| {
        tokio::spawn(async move {
            for number in 0..50 {
                let group = vec![expecting(task("t", "q"), number)];
                let outcomes = journal.append(group).await.unwrap().outcomes;
                assert_eq!(outcomes, [Ok(Revision(number + 1))]);
            }
        })
    });
    for append in appends.collect::<Vec<_>>() {
        append.await.unwrap();
    }
    for journal in journals {
        assert_eq!(replayed(journal.as_ref()).1, Revision(50));
    }
}
