//! What goes to standard output: text for people, or JSON for programs.
//!
//! JSON is protobuf's own mapping of the message that the API answers with, one object per line, so
//! that what is true of the API's documentation is true of the output.

use std::{
    fmt::Display,
    io::{self, Write as _},
    sync::LazyLock,
};

use clap::ValueEnum;
use comfy_table::{Cell, Table, presets};
use console::{Term, truncate_str};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::{Error, error::Exit};
use crate::proto::DESCRIPTOR_SET;

/// The form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For people; it may change with any version
    #[default]
    Text,
    /// For programs: the API's messages, one JSON object per line
    Json,
}

static MESSAGES: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTOR_SET).expect("the descriptor set was made by a compiler")
});

/// A message of package `duite.v1` as one line of JSON.
pub(super) fn json<M: Message>(message_type: &str, message: &M) -> Result<String, Error> {
    let wrong = |problem: &dyn Display| {
        Error::failed(format!("{message_type} has no form in JSON: {problem}"))
    };
    let full = format!("duite.v1.{message_type}");
    let descriptor = MESSAGES
        .get_message_by_name(&full)
        .ok_or_else(|| wrong(&"there is no such message"))?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| wrong(&error))?;
    let mut line = Vec::new();
    message
        .serialize_with_options(
            &mut serde_json::Serializer::new(&mut line),
            &SerializeOptions::new(),
        )
        .map_err(|error| wrong(&error))?;
    String::from_utf8(line).map_err(|error| wrong(&error))
}

/// Writes `text` and a line feed to standard output.
pub(super) fn line(text: impl Display) -> Result<(), Error> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output, at once. Whoever reads it may leave, as `head` does: then there
/// is nothing more to do and nothing is wrong.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::new(Exit::Quiet, "nobody reads standard output"),
        _ => Error::failed(format!("cannot write to standard output: {error}")),
    })
}

/// A message as a line of JSON on standard output.
pub(super) fn json_line<M: Message>(message_type: &str, message: &M) -> Result<(), Error> {
    line(json(message_type, message)?)
}

/// A table without lines, its columns two spaces apart.
pub(super) fn table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.map(Cell::new));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Each line cut to the terminal that standard output is; whole where it is none.
pub(super) fn fitted(text: &str) -> String {
    let term = Term::stdout();
    if !term.is_term() {
        return text.to_owned();
    }
    let width = usize::from(term.size().1);
    let lines: Vec<_> = text
        .lines()
        .map(|line| truncate_str(line, width, "…"))
        .collect();
    lines.join("\n")
}

/// The table's text; no line ends in spaces.
pub(super) fn trimmed(table: &Table) -> String {
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::encode_value,
        proto::v1::{SharedState, StateEntry, Task},
    };

    #[test]
    fn a_message_is_the_api_s_own_json_with_values_decoded() {
        let state = SharedState {
            name: "namespaces/default/states/s".to_owned(),
            entries: vec![StateEntry {
                key: "n".to_owned(),
                value: encode_value(&7.into()),
                mod_revision: 5,
                ..StateEntry::default()
            }],
            ..SharedState::default()
        };
        assert_eq!(
            json("SharedState", &state).unwrap(),
            r#"{"name":"namespaces/default/states/s","entries":[{"key":"n","value":{"integer":"7"},"modRevision":"5"}]}"#
        );
        assert_eq!(json("Task", &Task::default()).unwrap(), "{}");
        assert!(json("Tusk", &Task::default()).is_err());
    }

    #[test]
    fn a_table_is_aligned_and_ends_no_line_in_spaces() {
        let mut table = table(["ID", "STATUS"]);
        table.add_row(["a-long-id", "ok"]);
        table.add_row(["b", ""]);
        assert_eq!(trimmed(&table), "ID         STATUS\na-long-id  ok\nb");
    }
}
