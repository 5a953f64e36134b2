//! What is checked and dumped: a data folder that is not in use, or a backup file.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use crate::{
    cli::Error,
    domain::{NamespaceId, Revision},
    journal::{
        Committed, Left, LocalStore, OpenError, Store,
        backup::{self, BackupError, Said, Summary},
    },
};

#[derive(Args, Debug)]
pub(super) struct SourceArgs {
    /// A backup file, in place of a data folder
    #[arg(value_name = "BACKUP")]
    backup: Option<PathBuf>,
    /// The data folder of a server that is stopped
    #[arg(
        long,
        env = "DUITE_DATA",
        value_name = "DIR",
        default_value = "duite-data"
    )]
    data: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub(super) enum Source {
    /// A data folder, and how it was left.
    Folder(PathBuf, Box<LocalStore>, Left),
    /// A backup that was verified.
    Backup(PathBuf, Summary),
}

impl Source {
    /// Opens it; a backup is verified as a whole.
    pub(super) fn open(args: &SourceArgs) -> Result<Self, Error> {
        if let Some(path) = &args.backup {
            let summary = read(path, &mut |_| Ok(())).map_err(|error| wrong_file(path, &error))?;
            return Ok(Self::Backup(path.clone(), summary));
        }
        let (store, left) = LocalStore::inspect(&args.data).map_err(wrong_folder)?;
        Ok(Self::Folder(args.data.clone(), Box::new(store), left))
    }

    /// Shows every entry, namespace by namespace, until the sink has enough; says where each ends.
    pub(super) fn each(
        &self,
        sink: &mut dyn FnMut(&NamespaceId, Committed) -> bool,
    ) -> Result<Vec<(NamespaceId, Revision)>, Error> {
        match self {
            Self::Folder(_, store, _) => {
                let mut heads = Vec::new();
                for id in store.namespaces().map_err(wrong_folder)? {
                    let journal = Store::open(store.as_ref(), &id).map_err(wrong_folder)?;
                    let head = journal.replay_while(&mut |committed| match sink(&id, committed) {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    });
                    match head.map_err(wrong_folder)? {
                        Some(head) => heads.push((id, head)),
                        None => break,
                    }
                }
                Ok(heads)
            }
            Self::Backup(path, summary) => {
                let enough = || io::Error::other("enough").into();
                let mut more = true;
                let read = read(path, &mut |said| {
                    if let Said::Entry(id, committed) = said {
                        more = sink(id, *committed);
                    }
                    more.then_some(()).ok_or_else(enough)
                });
                if more {
                    read.map_err(|error| wrong_file(path, &error))?;
                }
                let heads = summary.namespaces.iter();
                Ok(heads.map(|(id, _, head)| (id.clone(), *head)).collect())
            }
        }
    }

    /// For programs.
    pub(super) fn as_json(&self) -> serde_json::Value {
        match self {
            Self::Folder(path, store, left) => json!({
                "data": path.display().to_string(),
                "epoch": store.epoch().to_string(),
                "closed": *left == Left::Closed,
                "new_epoch_at_start": *left == Left::Doubtful,
            }),
            Self::Backup(path, summary) => json!({
                "backup": path.display().to_string(),
                "epoch": summary.epoch.to_string(),
                "time": time(summary.time_us),
                "bytes": summary.bytes,
            }),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path, store, left) => {
                let left = match left {
                    Left::Closed => "closed in order",
                    Left::Open => "not closed in order, nothing acknowledged is lost",
                    Left::Doubtful => {
                        "not closed in order, the next start begins a new epoch since the last writes may be lost"
                    }
                };
                write!(
                    f,
                    "data folder {}, epoch {}, {left}",
                    path.display(),
                    store.epoch()
                )
            }
            Self::Backup(path, summary) => write!(
                f,
                "backup {} of {}, epoch {}, {} bytes",
                path.display(),
                time(summary.time_us),
                summary.epoch,
                summary.bytes
            ),
        }
    }
}

pub(super) fn time(time_us: i64) -> String {
    let since = std::time::Duration::from_micros(time_us.try_into().unwrap_or(0));
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since).to_string()
}

pub(super) fn read(
    path: &Path,
    sink: &mut dyn FnMut(Said<'_>) -> Result<(), BackupError>,
) -> Result<Summary, BackupError> {
    backup::read(BufReader::with_capacity(1 << 20, File::open(path)?), sink)
}

/// What is wrong with a backup file.
pub(super) fn wrong_file(path: &Path, error: &BackupError) -> Error {
    match error {
        // These name the folder.
        BackupError::Open(_) | BackupError::Append(_) => Error::failed(error.to_string()),
        _ => Error::failed(format!("{}: {error}", path.display())),
    }
}

fn wrong_folder(error: OpenError) -> Error {
    let hint = match &error {
        OpenError::InUse { .. } => {
            "`duite journal backup FILE` copies the store of a running server, and a backup can be checked and dumped"
        }
        OpenError::Damaged { .. } => {
            "`duite journal restore FILE --data NEW-DIR` makes a folder of a backup"
        }
        OpenError::Version { .. } | OpenError::Io { .. } => "",
    };
    let error = Error::failed(error.to_string());
    if hint.is_empty() {
        error
    } else {
        error.hint(hint)
    }
}
