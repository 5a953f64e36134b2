//! The list of files, fixed at the start: everything regular under a folder that no `.gitignore`
//! excludes.

use std::{
    fs::Metadata,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use ignore::{DirEntry, WalkBuilder};
use tokio_util::sync::CancellationToken;

use super::{Error, path};

/// One file as it was when the list was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Relative to the folder.
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) modified_ns: i64,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Sorted by path.
    pub(super) files: Vec<Listed>,
    pub(super) symlinks: u64,
    /// Sockets, pipes, devices.
    pub(super) special: u64,
    /// Folders, files and ignore rules that could not be read, and why.
    pub(super) unreadable: Vec<String>,
}

impl Listing {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// When a file was changed last, in nanoseconds since 1970; 0 where the system does not tell.
pub(super) fn modified_ns(metadata: &Metadata) -> i64 {
    let since = metadata.modified().ok().map(|time| {
        time.duration_since(UNIX_EPOCH).map_or_else(
            |before| -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
            |after| i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
        )
    });
    i64::try_from(since.unwrap_or_default()).unwrap_or(i64::MAX)
}

/// Walks `root`. Hidden files count, `.git` does not, and no symbolic link is followed. Inside a
/// git tree the `.gitignore` files above `root` count as they do for git; elsewhere those from
/// `root` on.
pub(super) fn walk(root: &Path, stop: &CancellationToken) -> Result<Listing, Error> {
    let in_git = root.ancestors().any(|folder| folder.join(".git").exists());
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(in_git)
        .parents(in_git)
        .follow_links(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    let mut listing = Listing::default();
    for entry in walk {
        if stop.is_cancelled() {
            return Err(Error::Interrupted);
        }
        match entry {
            Ok(entry) => listing.take(root, &entry),
            Err(error) => listing.unreadable.push(error.to_string()),
        }
    }
    listing
        .files
        .sort_unstable_by(|one, other| path::to_bytes(&one.path).cmp(&path::to_bytes(&other.path)));
    Ok(listing)
}

impl Listing {
    fn take(&mut self, root: &Path, entry: &DirEntry) {
        if let Some(error) = entry.error() {
            // A line of an ignore file that is no pattern: the others count.
            self.unreadable.push(error.to_string());
        }
        let Some(kind) = entry.file_type() else {
            return;
        };
        if kind.is_dir() {
            return;
        }
        if kind.is_symlink() {
            self.symlinks += 1;
            return;
        }
        if !kind.is_file() {
            self.special += 1;
            return;
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) => {
                self.unreadable.push(error.to_string());
                return;
            }
        };
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
        self.files.push(Listed {
            path: path.to_owned(),
            size: metadata.len(),
            modified_ns: modified_ns(&metadata),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn names(root: &Path) -> Vec<String> {
        let listing = walk(root, &CancellationToken::new()).unwrap();
        let names = listing.files.iter().map(|file| path::encode(&file.path));
        names.collect()
    }

    #[test]
    fn gitignore_counts_outside_a_git_tree_and_hidden_files_do_too() {
        let folder = tree(&[
            (".gitignore", "target/\n*.log\n"),
            (".hidden", "x"),
            ("a.txt", "abc"),
            ("a.log", "no"),
            ("target/out", "no"),
            ("sub/.gitignore", "secret\n"),
            ("sub/secret", "no"),
            ("sub/kept", "y"),
            (".ignore", "a.txt"),
        ]);
        assert_eq!(
            names(folder.path()),
            [
                ".gitignore",
                ".hidden",
                ".ignore",
                "a.txt",
                "sub/.gitignore",
                "sub/kept"
            ]
        );
        let listing = walk(folder.path(), &CancellationToken::new()).unwrap();
        let listed = listing.files.iter().find(|file| file.size == 3).unwrap();
        assert!(listed.modified_ns > 0);
    }

    #[test]
    fn rules_above_the_folder_count_inside_a_git_tree_alone() {
        let folder = tree(&[
            (".gitignore", "*.tmp\n"),
            ("sub/a.tmp", "x"),
            ("sub/b", "x"),
        ]);
        let sub = folder.path().join("sub");
        assert_eq!(names(&sub), ["a.tmp", "b"]);
        fs::create_dir(folder.path().join(".git")).unwrap();
        fs::write(folder.path().join(".git/HEAD"), "x").unwrap();
        assert_eq!(names(&sub), ["b"]);
        assert_eq!(names(folder.path()), [".gitignore", "sub/b"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_are_counted_and_not_followed() {
        let folder = tree(&[("a", "x"), ("d/b", "x")]);
        std::os::unix::fs::symlink("d", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let listing = walk(folder.path(), &CancellationToken::new()).unwrap();
        assert_eq!((listing.symlinks, listing.special), (2, 1));
        assert_eq!(listing.files.len(), 2);
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_said() {
        let gone = Path::new("/nonexistent-folder");
        let listing = walk(gone, &CancellationToken::new()).unwrap();
        assert!(listing.files.is_empty());
        assert!(listing.unreadable[0].contains("nonexistent-folder"));
    }
}
