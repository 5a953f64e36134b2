//! The demo's temporary folder: data and logs, outside the tree that is digested.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::Error;

/// How much of a log is shown when something goes wrong.
const TAIL_BYTES: u64 = 3000;

/// Removed when dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct Scratch {
    folder: TempDir,
    /// Where the folder lies, and the manifest will.
    pub(super) parent: PathBuf,
}

impl Scratch {
    /// A new folder that is not inside `root`.
    pub(super) fn outside(root: &Path) -> Result<Self, Error> {
        Self::in_first_of(&candidates(root), root)
    }

    /// A new folder in the system's place for temporary files.
    pub(super) fn anywhere() -> Result<Self, Error> {
        let folder = std::env::temp_dir();
        let failed = |source| {
            let folder = folder.display();
            Error::io(format!("create a folder in {folder} (TMPDIR)"), source)
        };
        create_in(folder.canonicalize().map_err(failed)?).map_err(failed)
    }

    fn in_first_of(candidates: &[PathBuf], root: &Path) -> Result<Self, Error> {
        let mut tried = Vec::new();
        for parent in candidates {
            match outside(parent, root) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => tried.push(format!("{}: {error}", parent.display())),
            }
        }
        Err(Error::NoScratch {
            root: root.to_owned(),
            tried: tried.join("; "),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(super) fn log(&self, process: &str) -> PathBuf {
        self.path().join(format!("{process}.log"))
    }

    /// Leaves it where it is.
    pub(super) fn keep(&mut self) {
        self.folder.disable_cleanup(true);
    }
}

/// The system's own place first.
fn candidates(root: &Path) -> Vec<PathBuf> {
    let mut candidates = vec![std::env::temp_dir()];
    if cfg!(unix) {
        candidates.push("/var/tmp".into());
    }
    candidates.extend(root.parent().map(Path::to_owned));
    if cfg!(target_os = "linux") {
        candidates.push("/dev/shm".into());
    }
    candidates
}

fn outside(parent: &Path, root: &Path) -> io::Result<Scratch> {
    let parent = parent.canonicalize()?;
    if parent.starts_with(root) {
        return Err(io::Error::other("it lies inside"));
    }
    create_in(parent)
}

fn create_in(parent: PathBuf) -> io::Result<Scratch> {
    let folder = tempfile::Builder::new()
        .prefix("duite-demo-")
        .tempdir_in(&parent)?;
    Ok(Scratch { folder, parent })
}

/// The end of a log, for people.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    match read() {
        Ok(tail) if tail.is_empty() => "(nothing)".to_owned(),
        Ok(tail) => tail,
        Err(error) => format!("(unreadable: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_inside_the_tree_is_passed_over() {
        let tree = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let root = tree.path().canonicalize().unwrap();
        let inside = root.join("tmp");
        std::fs::create_dir(&inside).unwrap();
        let places = [inside.clone(), other.path().to_owned()];
        let scratch = Scratch::in_first_of(&places, &root).unwrap();
        assert!(!scratch.path().starts_with(&root));
        let error = Scratch::in_first_of(&[inside], &root).unwrap_err();
        assert!(error.to_string().contains("it lies inside"), "{error}");
    }

    #[test]
    fn it_is_removed_unless_it_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let places = [parent.path().to_owned()];
        let new = || Scratch::in_first_of(&places, Path::new("/nonexistent")).unwrap();
        let removed = new();
        let path = removed.path().to_owned();
        drop(removed);
        assert!(!path.exists());
        let mut kept = new();
        kept.keep();
        let path = kept.path().to_owned();
        drop(kept);
        assert!(path.exists());
    }
}
