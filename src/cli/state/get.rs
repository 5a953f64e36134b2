//! `duite state get`.

use std::{fs, path::PathBuf};

use clap::Args;

use super::{
    super::{Error, error::Exit, output, show},
    Target,
};
use crate::{
    client::{Client, Value, decode_value, short_name},
    proto::v1::{SharedState, StateEntry, value::Kind},
};

/// Larger values are told by their size in a table.
const TABLE_VALUE_BYTES: i64 = 64 << 10;

/// Read a state, whole or some of its keys
///
/// One key is printed as its value alone, text without quotes; several as a table, where values
/// above 64 KiB are told by their size.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite state get job
  duite state get job progress
  duite state get job preview --out preview.png
  duite state get job -o json

Exit codes: 0 shown, 3 there is no such state or key, 69 no server.")]
pub(super) struct GetArgs {
    /// The state
    #[arg(value_name = "STATE")]
    state: Option<String>,
    /// The keys; none: all
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// Write the one key's value to a file: the bytes of a blob, the characters of a text
    #[arg(long, value_name = "FILE", requires = "keys")]
    out: Option<PathBuf>,
}

pub(super) async fn run(client: &Client, args: GetArgs, json: bool) -> Result<(), Error> {
    if args.out.is_some() && args.keys.len() != 1 {
        return Err(Error::usage("--out takes exactly one KEY"));
    }
    let target = Target::named(args.state)?;
    let keys: Vec<&str> = args.keys.iter().map(String::as_str).collect();
    // A table has no place for large values; what is printed whole needs them.
    let whole = json || keys.len() == 1;
    let inline_limit = if whole { 0 } else { TABLE_VALUE_BYTES };
    let read = client.get_state_within(&target.state, &keys, inline_limit);
    let (state, _) = read.await?;
    if let Some(missing) = missing(&state, &keys) {
        let name = short_name(&state.name);
        let message = format!("state {name} has no key `{missing}`");
        return Err(Error::new(Exit::NotFound, message)
            .hint(format!("`duite state get {name}` shows the keys there are")));
    }
    if let Some(path) = args.out {
        let value = only_value(&state)?;
        let written = match &value.kind {
            Some(Kind::Blob(blob)) => fs::write(&path, &blob.data),
            _ => fs::write(&path, show::raw(&value)),
        };
        return written
            .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())));
    }
    if json {
        return output::json_line("SharedState", &state);
    }
    match keys.as_slice() {
        [_] => output::line(show::raw(&only_value(&state)?)),
        _ => output::line(table(&state)),
    }
}

fn missing<'a>(state: &SharedState, keys: &[&'a str]) -> Option<&'a str> {
    let has = |key: &str| state.entries.iter().any(|entry| entry.key == key);
    keys.iter().find(|key| !has(key)).copied()
}

fn only_value(state: &SharedState) -> Result<Value, Error> {
    let entry = state.entries.first();
    let entry = entry.ok_or_else(|| Error::failed("the answer has no entry"))?;
    value(entry)
        .ok_or_else(|| Error::failed(format!("the value of `{}` cannot be read", entry.key)))
}

fn value(entry: &StateEntry) -> Option<Value> {
    decode_value(&entry.value).ok()
}

fn table(state: &SharedState) -> String {
    let mut table = output::table(["KEY", "VALUE", "REVISION", "SOURCE"]);
    for entry in &state.entries {
        let value = match &entry.stub {
            Some(stub) => show::stub(stub),
            None => value(entry).map_or_else(|| "?".to_owned(), |value| value.to_string()),
        };
        let revision = entry.mod_revision.to_string();
        table.add_row([
            entry.key.as_str(),
            &value,
            &revision,
            short_name(&entry.source),
        ]);
    }
    output::trimmed(&table)
}
