//! A backup saved from a running server, and a data folder made of one.

use std::{
    io::{BufWriter, Write as _},
    path::Path,
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::time::timeout;

use super::source::{read, time, wrong_file};
use crate::{
    cli::{Error, output},
    client::Client,
    journal::backup::{self, Summary},
};

/// How long the server may send nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// Saves a backup; an older file of that name stands until the new one was verified.
pub(super) async fn save(client: &Client, path: &Path, json: bool) -> Result<(), Error> {
    let wrong = |doing: &str, error: &std::io::Error| {
        Error::failed(format!("cannot {doing} {}: {error}", path.display()))
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(Error::usage(format!(
            "{} is a folder: name a file to save the backup to",
            path.display()
        )));
    }
    let mut parts = client.backup_journal().await?;
    // Beside it, so that it can take its place; gone where anything fails.
    let file = NamedTempFile::with_prefix_in(".duite-backup-", folder)
        .map_err(|error| wrong("make a file beside", &error))?;
    let mut out = BufWriter::new(file);
    loop {
        let part = timeout(PATIENCE, parts.next()).await.map_err(|_| {
            Error::failed(format!(
                "the server sent nothing for {PATIENCE:?}: try again"
            ))
        })?;
        let Some(part) = part else { break };
        out.write_all(&part?)
            .map_err(|error| wrong("write", &error))?;
    }
    let file = out
        .into_inner()
        .map_err(|error| wrong("write", error.error()))?;
    file.as_file()
        .sync_all()
        .map_err(|error| wrong("sync", &error))?;
    // What is on the disk, not what was meant to be.
    let summary = read(file.path(), &mut |_| Ok(())).map_err(|error| wrong_file(path, &error))?;
    file.persist(path)
        .map_err(|error| wrong("rename to", &error.error))?;
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| wrong("sync the folder of", &error))?;
    said("saved to", path, &summary, &summary.epoch.to_string(), json)
}

/// Makes a new data folder of a backup.
pub(super) async fn restore(file: &Path, data: &Path, json: bool) -> Result<(), Error> {
    let (summary, epoch) = backup::restore(file, data)
        .await
        .map_err(|error| wrong_file(file, &error))?;
    said("restored to", data, &summary, &epoch.to_string(), json)
}

fn said(what: &str, path: &Path, summary: &Summary, epoch: &str, json: bool) -> Result<(), Error> {
    let heads = summary.namespaces.iter();
    if json {
        return output::line(json!({
            "path": path.display().to_string(),
            "time": time(summary.time_us),
            "epoch": epoch,
            "bytes": summary.bytes,
            "namespaces": heads
                .map(|(id, entries, head)| {
                    json!({"namespace": id.to_string(), "entries": entries, "head": head.0})
                })
                .collect::<Vec<_>>(),
        }));
    }
    output::line(format!(
        "{what} {}: backup of {}, {} entries in {} namespaces, {} bytes, epoch {epoch}",
        path.display(),
        time(summary.time_us),
        summary.entries(),
        summary.namespaces.len(),
        summary.bytes,
    ))
}
