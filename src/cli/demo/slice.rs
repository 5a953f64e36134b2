//! Cuts the list into slices, one task each, and says what such a task is given and gives back.

use std::{ops::Range, path::Path};

use serde::{Deserialize, Serialize};

use super::{files::Listed, path};

/// The type of the tasks.
pub(super) const TASK_TYPE: &str = "demo.digest";
/// So many slices are wanted, so that there is something to see and to lose.
const WANTED: u64 = 48;
const MOST_FILES: u64 = 250;
const MOST_BYTES: u64 = 64 << 20;
/// Escaped by JSON at worst sixfold, this is well below the limit of a task's input.
const MOST_NAMES: u64 = 64 << 10;

/// What a task is to digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SliceInput {
    pub(super) slice: usize,
    /// As `path::encode` gives it.
    pub(super) root: String,
    pub(super) files: Vec<FileInput>,
}

/// One file of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileInput {
    /// As `path::encode` gives it, relative to the root.
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) modified_ns: i64,
}

/// What became of a slice's files, in the input's order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SliceOutput {
    pub(super) files: Vec<Outcome>,
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Digest {
        sha256: String,
        /// Really read.
        bytes: u64,
        /// It is not what it was when it was listed, or changed while it was read.
        changed: bool,
    },
    Vanished,
    Unreadable {
        error: String,
    },
}

/// The id of a slice's task, and the key of its live progress.
pub(super) fn id(slice: usize) -> String {
    format!("slice-{slice:04}")
}

impl SliceInput {
    pub(super) fn new(slice: usize, root: &Path, files: &[Listed]) -> Self {
        let files = files.iter().map(|file| FileInput {
            path: path::encode(&file.path),
            size: file.size,
            modified_ns: file.modified_ns,
        });
        Self {
            slice,
            root: path::encode(root),
            files: files.collect(),
        }
    }
}

/// Cuts the list, in order and without a gap.
pub(super) fn cut(files: &[Listed]) -> Vec<Range<usize>> {
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let most_files = (files.len() as u64).div_ceil(WANTED).clamp(1, MOST_FILES);
    let most_bytes = bytes.div_ceil(WANTED).clamp(1, MOST_BYTES);
    let mut slices = Vec::new();
    let mut start = 0;
    let (mut slice_bytes, mut slice_names) = (0, 0);
    for (index, file) in files.iter().enumerate() {
        let name = path::to_bytes(&file.path).len() as u64;
        let full = (index - start) as u64 == most_files
            || slice_bytes + file.size > most_bytes
            || slice_names + name > MOST_NAMES;
        if full && index > start {
            slices.push(start..index);
            start = index;
            (slice_bytes, slice_names) = (0, 0);
        }
        slice_bytes += file.size;
        slice_names += name;
    }
    if start < files.len() {
        slices.push(start..files.len());
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sizes: impl IntoIterator<Item = u64>) -> Vec<Listed> {
        let files = sizes.into_iter().enumerate().map(|(index, size)| Listed {
            path: format!("{index:06}").into(),
            size,
            modified_ns: 0,
        });
        files.collect()
    }

    fn assert_covers(slices: &[Range<usize>], files: &[Listed]) {
        let mut next = 0;
        for slice in slices {
            assert_eq!(slice.start, next);
            assert!(slice.end > slice.start);
            next = slice.end;
        }
        assert_eq!(next, files.len());
    }

    #[test]
    fn slices_cover_the_list_and_there_are_enough_of_them() {
        for count in [1, 2, 23, 48, 49, 300, 2000] {
            let files = files((0..count).map(|index| index % 7 * 1000));
            let slices = cut(&files);
            assert_covers(&slices, &files);
            assert!(slices.len() as u64 >= count.min(24), "{count}");
        }
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn a_large_file_has_a_slice_of_its_own() {
        let files = files([10, 1 << 40, 10, 10]);
        assert_eq!(cut(&files), [0..1, 1..2, 2..3, 3..4]);
    }

    #[test]
    fn no_slice_has_too_many_files_bytes_or_names() {
        let many = files((0..100_000).map(|_| 10));
        assert!(cut(&many).iter().all(|slice| slice.len() <= 250));
        let heavy = files((0..1000).map(|_| 10 << 20));
        assert!(cut(&heavy).iter().all(|slice| slice.len() <= 6));
        let mut long = files((0..20_000).map(|_| 1));
        for file in &mut long {
            file.path = format!("{}{}", file.path.display(), "x".repeat(4000)).into();
        }
        assert!(cut(&long).iter().all(|slice| slice.len() <= 16));
    }

    #[test]
    fn outcomes_are_the_same_after_json() {
        let output = SliceOutput {
            files: vec![
                Outcome::Vanished,
                Outcome::Unreadable {
                    error: "no".to_owned(),
                },
                Outcome::Digest {
                    sha256: "ab".to_owned(),
                    bytes: u64::MAX,
                    changed: true,
                },
            ],
        };
        let json = serde_json::to_vec(&output).unwrap();
        assert_eq!(
            serde_json::from_slice::<SliceOutput>(&json).unwrap(),
            output
        );
    }
}
