//! The handler of `demo.digest`: hashes the files of one slice.
//!
//! What it counts goes to the shared state with its success, as contributions: exactly once,
//! however many attempts it takes. Its live progress goes there at once, and away at the end.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    files::modified_ns,
    path,
    slice::{self, FileInput, Outcome, SliceInput, SliceOutput},
};
use crate::{
    client::Update,
    worker::{Output, TaskContext, TaskFailure},
};

/// The shared state that all tasks report to.
pub(super) const STATE: &str = "demo";
/// Live progress is for eyes.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// How long the last of it may take to arrive.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 256 << 10;

/// Digests one slice.
pub(super) async fn run(task: TaskContext, worker: String) -> Result<Output, TaskFailure> {
    let input: SliceInput = task.json()?;
    let state = task.state();
    let key = slice::id(input.slice);
    let of = i64::try_from(input.files.len()).unwrap_or(i64::MAX);
    let progress = {
        let (state, key) = (state.clone(), key.clone());
        move |files: usize, bytes: u64| {
            let now = serde_json::json!({
                "worker": worker, "files": files, "of": of, "bytes": bytes,
            });
            state.set(key.as_str(), now);
        }
    };
    let cancelled = task.cancelled();
    let output = tokio::task::spawn_blocking(move || digest(&input, &cancelled, &progress))
        .await?
        .ok_or_else(TaskFailure::cancelled)??;
    state.delete(key);
    // What is told must not wait for progress that a killed worker never sent. Nothing else
    // depends on it, so what is left after the time is left to the server.
    let _ = state.settle_within(SETTLE_WITHIN).await;

    let (files, bytes) = output.counts();
    task.contribute(
        STATE,
        [
            Update::add("files_done", files),
            Update::add("bytes_done", bytes),
            Update::add("slices_done", 1_i64),
        ],
    );
    let json = serde_json::to_vec(&output)?;
    Ok(Output::bytes("application/json", json))
}

impl SliceOutput {
    /// Files and bytes that were really hashed.
    pub(super) fn counts(&self) -> (i64, i64) {
        let hashed = self.files.iter().filter_map(|outcome| match outcome {
            Outcome::Digest { bytes, .. } => Some(*bytes),
            Outcome::Vanished | Outcome::Unreadable { .. } => None,
        });
        let (mut files, mut bytes) = (0_i64, 0_i64);
        for size in hashed {
            files += 1;
            bytes = bytes.saturating_add(i64::try_from(size).unwrap_or(i64::MAX));
        }
        (files, bytes)
    }
}

/// None when it was cancelled.
fn digest(
    input: &SliceInput,
    cancelled: &CancellationToken,
    progress: &dyn Fn(usize, u64),
) -> Option<Result<SliceOutput, TaskFailure>> {
    let wrong = |text: &str| {
        let message = format!("`{text}` is not a path as the demo writes them");
        Some(Err(TaskFailure::new("input.invalid", message).permanent()))
    };
    let Some(root) = path::decode(&input.root) else {
        return wrong(&input.root);
    };
    let mut output = SliceOutput::default();
    let (mut total, mut told) = (0, Instant::now());
    progress(0, 0);
    for file in &input.files {
        let Some(path) = path::decode(&file.path) else {
            return wrong(&file.path);
        };
        let done = output.files.len();
        let mut more = |bytes: u64| {
            total += bytes;
            if told.elapsed() >= PROGRESS_EVERY {
                progress(done, total);
                told = Instant::now();
            }
            !cancelled.is_cancelled()
        };
        output
            .files
            .push(digest_file(&root.join(path), file, &mut more)?);
    }
    Some(Ok(output))
}

/// None when `more` says to stop.
fn digest_file(
    path: &Path,
    listed: &FileInput,
    more: &mut dyn FnMut(u64) -> bool,
) -> Option<Outcome> {
    let hashed = match hash(path, more) {
        Ok(hashed) => hashed?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(Outcome::Vanished),
        Err(error) => {
            return Some(Outcome::Unreadable {
                error: error.to_string(),
            });
        }
    };
    let as_listed = (listed.size, listed.modified_ns, listed.modified_ns);
    Some(Outcome::Digest {
        sha256: hashed.sha256,
        bytes: hashed.bytes,
        changed: (hashed.bytes, hashed.modified_before, hashed.modified_after) != as_listed,
    })
}

struct Hashed {
    sha256: String,
    bytes: u64,
    modified_before: i64,
    modified_after: i64,
}

fn hash(path: &Path, more: &mut dyn FnMut(u64) -> bool) -> io::Result<Option<Hashed>> {
    // Opening a pipe that took the file's place would wait for ever.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is no longer a regular file"));
    }
    let mut file = File::open(path)?;
    let modified_before = modified_ns(&file.metadata()?);
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        bytes += read as u64;
        if !more(read as u64) {
            return Ok(None);
        }
        if read == 0 {
            break;
        }
    }
    let hex = |digest: &[u8]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Some(Hashed {
        sha256: hex(&hasher.finalize()),
        bytes,
        modified_before,
        modified_after: modified_ns(&file.metadata()?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::files::{self, Listed};

    fn slice_of(root: &Path) -> SliceInput {
        let listing = files::walk(root, &CancellationToken::new()).unwrap();
        SliceInput::new(0, root, &listing.files)
    }

    fn digest_now(input: &SliceInput) -> SliceOutput {
        digest(input, &CancellationToken::new(), &|_, _| {})
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_digest_is_the_files_own() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("abc"), "abc").unwrap();
        let output = digest_now(&slice_of(folder.path()));
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned();
        let (bytes, changed) = (3, false);
        let expected = Outcome::Digest {
            sha256,
            bytes,
            changed,
        };
        assert_eq!(output.files, [expected]);
        assert_eq!(output.counts(), (1, 3));
    }

    #[test]
    fn what_changed_vanished_or_is_no_file_any_more_is_said() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a-grown", "b-gone", "c-folder", "d-same"] {
            fs::write(folder.path().join(name), "abc").unwrap();
        }
        let input = slice_of(folder.path());
        fs::write(folder.path().join("a-grown"), "abcd").unwrap();
        fs::remove_file(folder.path().join("b-gone")).unwrap();
        fs::remove_file(folder.path().join("c-folder")).unwrap();
        fs::create_dir(folder.path().join("c-folder")).unwrap();
        let output = digest_now(&input);
        let [grown, gone, other, same] = &output.files[..] else {
            panic!("{output:?}");
        };
        let changed = |outcome: &Outcome| match outcome {
            Outcome::Digest { changed, .. } => Some(*changed),
            _ => None,
        };
        assert_eq!((changed(grown), changed(same)), (Some(true), Some(false)));
        assert_eq!(*gone, Outcome::Vanished);
        assert!(matches!(other, Outcome::Unreadable { .. }), "{other:?}");
        assert_eq!(output.counts(), (2, 7));
    }

    #[test]
    fn a_change_of_the_same_length_is_seen_by_its_time() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "abc").unwrap();
        let listed = Listed {
            path: "a".into(),
            size: 3,
            modified_ns: 1,
        };
        let output = digest_now(&SliceInput::new(0, folder.path(), &[listed]));
        assert!(matches!(
            output.files[0],
            Outcome::Digest { changed: true, .. }
        ));
    }

    #[test]
    fn a_cancelled_slice_stops_before_its_next_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "abc").unwrap();
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert!(digest(&slice_of(folder.path()), &cancelled, &|_, _| {}).is_none());
    }
}
