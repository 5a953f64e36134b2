//! `duite journal`: check, dump, backup, restore.
//!
//! - `source`: a data folder or a backup file, read from its start to its end
//! - `says`: an entry in a few words
//! - `backup`: both ways

mod backup;
mod says;
mod source;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::json;

use self::source::{Source, SourceArgs};
use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    output,
};
use crate::domain::{NamespaceId, Revision};

/// Check, read, back up and restore what a server keeps
#[derive(Args, Debug)]
pub(super) struct JournalCommand {
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Check(CheckArgs),
    Dump(DumpArgs),
    Backup(BackupArgs),
    Restore(RestoreArgs),
}

/// Read a data folder or a backup from end to end and verify it
///
/// The folder must not be in use; a backup may be checked anywhere. What a crash left behind is
/// tidied up as a start would do it; the epoch stays.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite journal check --data /var/lib/duite
  duite journal check nightly.duite

Exit codes: 0 it is whole, 1 it is damaged, in use or cannot be read.")]
struct CheckArgs {
    #[command(flatten)]
    source: SourceArgs,
}

/// Show every entry of a data folder or a backup, one line each
///
/// Columns: revision, kind, what it changes, bytes, what it says.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite journal dump --data /var/lib/duite
  duite journal dump nightly.duite --namespace default --from 1000 -o json | jq .entity

Exit codes: 0 shown, 1 it is damaged, in use or cannot be read.")]
struct DumpArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only this namespace
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// From this revision on
    #[arg(long, value_name = "REV", default_value_t = 0)]
    from: u64,
    /// All of each entry, payloads and values too
    #[arg(long)]
    full: bool,
}

/// Save a backup of a running server to a file
///
/// The server goes on. The file holds everything that was acknowledged before, is verified when it is
/// complete, and replaces an older one only then.
#[derive(Args, Debug)]
#[command(override_usage = "duite journal backup [OPTIONS] <FILE>")]
#[command(after_long_help = "\
Examples:
  duite journal backup nightly.duite
  duite journal backup nightly.duite --addr http://build-server:7643

Exit codes: 0 saved, 1 it could not be made or written, 69 no server.")]
struct BackupArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Where to save it
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Make a new data folder of a backup
///
/// Revisions are kept, but the store begins a new epoch: what came after the backup is gone, and
/// clients that saw it start afresh by themselves.
#[derive(Args, Debug)]
#[command(override_usage = "duite journal restore [OPTIONS] --data <DIR> <FILE>")]
#[command(after_long_help = "\
Examples:
  duite journal restore nightly.duite --data /var/lib/duite && duite server --data /var/lib/duite

Exit codes: 0 restored, 1 the backup is damaged or the folder cannot be made.")]
struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The data folder to make; it must not exist or be empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

impl JournalCommand {
    /// The server it speaks to.
    pub(super) fn address(&self) -> Option<&str> {
        match &self.command {
            Command::Backup(args) => Some(args.connect.address()),
            Command::Check(_) | Command::Dump(_) | Command::Restore(_) => None,
        }
    }

    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        let json = self.output.is_json();
        match self.command {
            Command::Check(args) => check(&args, json)?,
            Command::Dump(args) => dump(&args, json)?,
            Command::Backup(args) => {
                backup::save(&args.connect.client()?, &args.file, json).await?;
            }
            Command::Restore(args) => backup::restore(&args.file, &args.data, json).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Entries of a namespace as they are counted.
#[derive(Debug)]
struct Count {
    namespace: NamespaceId,
    entries: u64,
    bytes: u64,
    head: Revision,
}

fn check(args: &CheckArgs, json: bool) -> Result<(), Error> {
    let source = Source::open(&args.source)?;
    let mut counts: Vec<Count> = Vec::new();
    let heads = source.each(&mut |namespace, committed| {
        match counts.last_mut() {
            Some(count) if count.namespace == *namespace => {
                count.entries += 1;
                count.bytes += committed.bytes as u64;
            }
            _ => counts.push(Count {
                namespace: namespace.clone(),
                entries: 1,
                bytes: committed.bytes as u64,
                head: Revision::ZERO,
            }),
        }
        true
    })?;
    let counts = heads.into_iter().map(|(namespace, head)| {
        let found = counts.iter().find(|count| count.namespace == namespace);
        Count {
            entries: found.map_or(0, |count| count.entries),
            bytes: found.map_or(0, |count| count.bytes),
            namespace,
            head,
        }
    });
    if json {
        output::line(source.as_json())?;
        for count in counts {
            output::line(json!({
                "namespace": count.namespace.to_string(),
                "entries": count.entries,
                "bytes": count.bytes,
                "head": count.head.0,
            }))?;
        }
        return Ok(());
    }
    let mut table = output::table(["NAMESPACE", "ENTRIES", "BYTES", "HEAD"]);
    for count in counts {
        table.add_row([
            count.namespace.to_string(),
            count.entries.to_string(),
            count.bytes.to_string(),
            count.head.to_string(),
        ]);
    }
    output::line(format!("{source}: no damage found"))?;
    output::line(format!("\n{}", output::trimmed(&table)))
}

fn dump(args: &DumpArgs, json: bool) -> Result<(), Error> {
    let only = args
        .namespace
        .as_deref()
        .map(NamespaceId::parse)
        .transpose();
    let only = only.map_err(|error| Error::usage(format!("--namespace: {}", error.message)))?;
    let source = Source::open(&args.source)?;
    let mut written = Ok(());
    let heads = source.each(&mut |namespace, committed| {
        let wanted = only.as_ref().is_none_or(|only| only == namespace);
        if wanted && committed.revision.0 >= args.from {
            let line = says::line(namespace, &committed, args.full, json);
            written = output::line(line);
        }
        written.is_ok()
    });
    written?;
    let known = heads?;
    if let Some(only) = only
        && !known.iter().any(|(namespace, _)| *namespace == only)
    {
        let known: Vec<_> = known.iter().map(|(known, _)| known.to_string()).collect();
        return Err(
            Error::failed(format!("there is no namespace {only} in {source}"))
                .hint(format!("there are: {}", known.join(", "))),
        );
    }
    Ok(())
}
