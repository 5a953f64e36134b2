//! The data folder.
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | locked while a process has the folder open; holds its pid for the error message |
//! | `FORMAT` | the format and its version |
//! | `EPOCH` | a UUID made with the folder: the life within which revisions compare |
//! | `journal/` | fjall's; in a folder of its own since fjall has a file `lock`, which some file systems take for ours |
//!
//! They are made in this order. Where `journal/` stands, the folder is complete; where it does
//! not, nothing was ever stored, and making it starts again. Nothing that stands is ever replaced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    domain::{Epoch, Uid},
    journal::OpenError,
};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const EPOCH: &str = "EPOCH";
const JOURNAL: &str = "journal";
const UNFINISHED_JOURNAL: &str = "journal.new";
/// What a small file is called until it is whole.
const UNFINISHED_FILE: &str = "new";
/// Names that may stand in a folder that becomes ours; the last is every ext4 volume's.
const TOLERATED: [&str; 5] = [
    LOCK,
    EPOCH,
    UNFINISHED_JOURNAL,
    UNFINISHED_FILE,
    "lost+found",
];

/// What we write and read.
const CURRENT_FORMAT: &str = "duite-journal 2";

/// A data folder, locked.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    epoch: Epoch,
    lock: File,
}

impl Folder {
    /// Makes the folder where there is none, locks it, and checks that it is ours.
    pub(super) fn claim(path: &Path) -> Result<Self, OpenError> {
        let fails = |doing: &str, error: &io::Error| io_error(path, doing, error);
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => sync_folder(path.parent().unwrap_or(path))
                .map_err(|error| fails("sync its parent folder", &error))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fails("create it", &error)),
        }
        // Before anything is written there: a wrong --data must leave a folder as it was.
        let names = fs::read_dir(path)
            .and_then(|entries| {
                let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
                names.collect::<io::Result<Vec<_>>>()
            })
            .map_err(|error| fails("list it", &error))?;
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        if !has(FORMAT) {
            let foreign = names
                .iter()
                .find(|name| !TOLERATED.iter().any(|known| name == known));
            if let Some(foreign) = foreign {
                return Err(OpenError::Io {
                    path: path.display().to_string(),
                    problem: format!(
                        "has no file {FORMAT} but holds {foreign:?}: choose an empty folder with --data, or restore {FORMAT} if this is a damaged data folder"
                    ),
                });
            }
        }

        let lock = lock(path)?;
        let format = read_or_write(path, FORMAT, || CURRENT_FORMAT.to_owned())?;
        if format != CURRENT_FORMAT {
            return Err(OpenError::Version {
                path: path.display().to_string(),
                found: format!("{:?}", format.chars().take(64).collect::<String>()),
                expected: format!("{CURRENT_FORMAT:?}"),
            });
        }
        let complete = path.join(JOURNAL).exists();
        if complete && !path.join(EPOCH).exists() {
            return Err(OpenError::Io {
                path: path.display().to_string(),
                problem: format!("has a journal but no file {EPOCH}: restore it from a backup"),
            });
        }
        let epoch = read_or_write(path, EPOCH, || uuid::Uuid::new_v4().to_string())?;
        let epoch = uuid::Uuid::parse_str(&epoch).map_err(|_| OpenError::Io {
            path: path.display().to_string(),
            problem: format!("its file {EPOCH} is not a UUID: restore it from a backup"),
        })?;
        Ok(Self {
            path: path.to_owned(),
            epoch: Uid(epoch.as_u128()),
            lock,
        })
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Where fjall is, once [`Folder::finish_journal`] made it so.
    pub(super) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// Where fjall is made: what an earlier attempt left is gone.
    pub(super) fn unfinished_journal(&self) -> Result<PathBuf, OpenError> {
        let unfinished = self.path.join(UNFINISHED_JOURNAL);
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(self.io("remove its unfinished journal.new", &error))
            }
            _ => Ok(unfinished),
        }
    }

    /// Gives the folder of the journal its name.
    pub(super) fn finish_journal(&self) -> Result<(), OpenError> {
        fs::rename(self.path.join(UNFINISHED_JOURNAL), self.journal())
            .and_then(|()| sync_folder(&self.path))
            .map_err(|error| self.io("rename journal.new to journal in it", &error))
    }

    pub(super) fn io(&self, doing: &str, error: &io::Error) -> OpenError {
        io_error(&self.path, doing, error)
    }

    pub(super) fn fjall(&self, error: &fjall::Error) -> OpenError {
        match error {
            fjall::Error::Locked => OpenError::InUse {
                path: self.name(),
                holder: "another process".into(),
            },
            fjall::Error::Io(error) => self.io("use its journal", error),
            fjall::Error::JournalRecovery(problem) => OpenError::Io {
                path: self.name(),
                problem: format!(
                    "a file of its journal is damaged, with a wrong checksum or count ({problem:?}): restore the folder from a backup"
                ),
            },
            error => OpenError::Io {
                path: self.name(),
                problem: format!("its journal cannot be read or written: {error}"),
            },
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The pid is no longer true; the lock goes with the file.
        let _ = self.lock.set_len(0);
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK))
        .map_err(|error| io_error(path, "open its file LOCK", &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(OpenError::InUse {
                path: path.display().to_string(),
                holder: match pid.trim().parse::<u32>() {
                    Ok(pid) if pid == std::process::id() => "this process".into(),
                    Ok(pid) => format!("process {pid}"),
                    // Its pid is not written yet.
                    Err(_) => "another process".into(),
                },
            });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(path, "lock it", &error)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| io_error(path, "write its file LOCK", &error))?;
    Ok(file)
}

/// Reads a small file; where there is none, writes it first.
fn read_or_write(
    folder: &Path,
    name: &str,
    content: impl FnOnce() -> String,
) -> Result<String, OpenError> {
    match fs::read(folder.join(name)) {
        Ok(found) => Ok(String::from_utf8_lossy(&found).trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let content = content();
            write_whole(folder, name, &content)
                .map_err(|error| io_error(folder, &format!("write its file {name}"), &error))?;
            Ok(content)
        }
        Err(error) => Err(io_error(folder, &format!("read its file {name}"), &error)),
    }
}

/// After a crash the file is there whole or not at all.
fn write_whole(folder: &Path, name: &str, content: &str) -> io::Result<()> {
    let unfinished = folder.join(UNFINISHED_FILE);
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{content}")?;
    file.sync_all()?;
    fs::rename(unfinished, folder.join(name))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a relative path with one part is the empty path.
    let empty = folder.as_os_str().is_empty();
    File::open(if empty { Path::new(".") } else { folder })?.sync_all()
}

fn io_error(path: &Path, doing: &str, error: &io::Error) -> OpenError {
    let advice = match error.kind() {
        ErrorKind::NotFound => ": create the folder that it is in first",
        ErrorKind::NotADirectory => ": it is a file or in one, choose a folder with --data",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            ": let this user write there, or choose another folder with --data"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ": free some space",
        _ => "",
    };
    OpenError::Io {
        path: path.display().to_string(),
        problem: format!("cannot {doing}: {error}{advice}"),
    }
}
