//! The data folder.
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | locked while a process has the folder open; holds its pid for the error message |
//! | `FORMAT` | the format and its version |
//! | `EPOCH` | a UUID: the life within which revisions compare |
//! | `IN_USE` | the durability that the folder is in use with; gone after a clean end |
//! | `journal/` | fjall's; in a folder of its own since fjall has a file `lock`, which some file systems take for ours |
//!
//! While a backup is restored into it there is a file `RESTORING` too, and nobody else opens it.
//!
//! They are made in this order. Where `journal/` stands, the folder is complete; where it does
//! not, nothing was ever stored, and making it starts again.
//!
//! A folder that was in use with a durability that may lose what was answered, and was not closed
//! in order, gets a new epoch when it is opened: the last revisions may be lost and be issued anew.
//! Nothing else that stands is ever replaced.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    domain::{Epoch, Uid},
    journal::{Durability, OpenError},
};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const EPOCH: &str = "EPOCH";
const IN_USE: &str = "IN_USE";
const RESTORING: &str = "RESTORING";
const JOURNAL: &str = "journal";
const UNFINISHED_JOURNAL: &str = "journal.new";
/// What a small file is called until it is whole.
const UNFINISHED_FILE: &str = "new";
/// Names that may stand in a folder that becomes ours; the last is every ext4 volume's.
const TOLERATED: [&str; 6] = [
    LOCK,
    RESTORING,
    EPOCH,
    UNFINISHED_JOURNAL,
    UNFINISHED_FILE,
    "lost+found",
];

/// What we write and read.
const CURRENT_FORMAT: &str = "duite-journal 2";

/// How a data folder was left by whoever had it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// In order.
    Closed,
    /// Not in order; everything answered is there.
    Open,
    /// Not in order, with a durability that may have lost what was answered: the next start opens
    /// a new epoch.
    Doubtful,
}

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
        Self::claim_any(path, false)
    }

    /// Claims a folder that is missing or empty, for a restore.
    pub(super) fn claim_empty(path: &Path) -> Result<Self, OpenError> {
        let held = match fs::read_dir(path) {
            Ok(entries) => entries
                .filter_map(|entry| Some(entry.ok()?.file_name()))
                .find(|name| name != "lost+found"),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(io_error(path, "list it", &error)),
        };
        if let Some(held) = held {
            return Err(OpenError::Io {
                path: path.display().to_string(),
                problem: format!(
                    "is not empty, it holds {held:?}: a backup is restored into a new folder"
                ),
            });
        }
        make(path)?;
        write_whole(path, RESTORING, "")
            .map_err(|error| io_error(path, &format!("write its file {RESTORING}"), &error))?;
        Self::claim_any(path, true)
    }

    fn claim_any(path: &Path, restoring: bool) -> Result<Self, OpenError> {
        let fails = |doing: &str, error: &io::Error| io_error(path, doing, error);
        make(path)?;
        // Before anything is written there: a wrong --data must leave a folder as it was.
        let names = fs::read_dir(path)
            .and_then(|entries| {
                let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
                names.collect::<io::Result<Vec<_>>>()
            })
            .map_err(|error| fails("list it", &error))?;
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        if has(RESTORING) && !restoring {
            return Err(OpenError::Io {
                path: path.display().to_string(),
                problem:
                    "holds an unfinished restore: remove the folder and restore the backup again"
                        .into(),
            });
        }
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

    /// Claims a folder that stands; nothing is made.
    pub(super) fn claim_standing(path: &Path) -> Result<Self, OpenError> {
        match path.join(FORMAT).try_exists() {
            Ok(true) => Self::claim(path),
            Ok(false) => Err(OpenError::Io {
                path: path.display().to_string(),
                problem: format!(
                    "is no data folder, it has no file {FORMAT}: name one with --data"
                ),
            }),
            Err(error) => Err(io_error(path, "look into it", &error)),
        }
    }

    /// How it was left.
    pub(super) fn left(&self) -> Result<Left, OpenError> {
        match fs::read(self.path.join(IN_USE)) {
            // What cannot be read was written by nobody who keeps promises.
            Ok(text) => match String::from_utf8_lossy(&text).trim().parse() {
                Ok(Durability::Sync) => Ok(Left::Open),
                Ok(_) | Err(_) => Ok(Left::Doubtful),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Left::Closed),
            Err(error) => Err(self.io(&format!("read its file {IN_USE}"), &error)),
        }
    }

    /// Notes that it is in use, with a new epoch where the last end may have lost something.
    pub(super) fn take_up(&mut self, durability: Durability) -> Result<(), OpenError> {
        // The epoch first: whoever comes after a crash between the two makes another.
        if self.left()? == Left::Doubtful {
            let epoch = uuid::Uuid::new_v4();
            self.write(EPOCH, &epoch.to_string())?;
            tracing::warn!(
                epoch.old = %self.epoch,
                epoch.new = %epoch,
                "the store was not closed in order and may have lost its last writes: a new epoch begins"
            );
            self.epoch = Uid(epoch.as_u128());
        }
        self.write(IN_USE, &durability.to_string())
    }

    /// Notes that it was closed in order: everything is on the disk.
    pub(super) fn put_down(&self) -> Result<(), OpenError> {
        fs::remove_file(self.path.join(IN_USE))
            .and_then(|()| sync_folder(&self.path))
            .map_err(|error| self.io(&format!("remove its file {IN_USE}"), &error))
    }

    fn write(&self, name: &str, content: &str) -> Result<(), OpenError> {
        write_whole(&self.path, name, content)
            .map_err(|error| self.io(&format!("write its file {name}"), &error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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

/// Makes the folder where there is none.
fn make(path: &Path) -> Result<(), OpenError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_folder(path.parent().unwrap_or(path))
            .map_err(|error| io_error(path, "sync its parent folder", &error)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io_error(path, "create it", &error)),
    }
}

/// Lets a folder into which a backup was restored be opened.
pub(super) fn finish_restore(path: &Path) -> Result<(), OpenError> {
    fs::remove_file(path.join(RESTORING))
        .and_then(|()| sync_folder(path))
        .map_err(|error| io_error(path, &format!("remove its file {RESTORING}"), &error))
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
