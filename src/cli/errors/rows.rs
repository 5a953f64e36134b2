//! Error groups in a table and in a line, the last to occur first.

use std::cmp::Reverse;

use comfy_table::{Cell, CellAlignment, Color, Table};

use super::super::{output, show};
use crate::proto::v1::ErrorGroup;

/// Digits of a fingerprint that are shown.
const FINGERPRINT_DIGITS: usize = 12;
/// A longer message is cut; a terminal cuts it earlier.
const MESSAGE_CHARS: usize = 200;
/// Longer types and places are cut.
const WORD_CHARS: usize = 48;

/// Of many groups those that occurred last.
#[derive(Debug)]
pub(super) struct Newest {
    limit: usize,
    groups: Vec<ErrorGroup>,
    dropped: bool,
}

impl Newest {
    pub(super) fn of(limit: usize) -> Self {
        Self {
            limit,
            groups: Vec::new(),
            dropped: false,
        }
    }

    pub(super) fn add(&mut self, group: ErrorGroup) {
        self.groups.push(group);
        if self.groups.len() >= self.limit.saturating_mul(2).max(1_000) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        sort(&mut self.groups);
        self.dropped |= self.groups.len() > self.limit;
        self.groups.truncate(self.limit);
    }

    /// These, and whether there are more.
    pub(super) fn sorted(mut self) -> (Vec<ErrorGroup>, bool) {
        self.cut();
        (self.groups, self.dropped)
    }
}

/// The last to occur first; what occurred at once, by fingerprint.
pub(super) fn sort<G: std::borrow::Borrow<ErrorGroup>>(groups: &mut [G]) {
    groups.sort_by(|one, other| {
        let key = |group: &ErrorGroup| {
            let time = group.last_time.as_ref();
            Reverse(time.map(|time| (time.seconds, time.nanos)))
        };
        let (one, other) = (one.borrow(), other.borrow());
        let by_time = key(one).cmp(&key(other));
        by_time.then_with(|| one.fingerprint.cmp(&other.fingerprint))
    });
}

pub(super) fn table<'a>(groups: impl IntoIterator<Item = &'a ErrorGroup>) -> Table {
    let mut table = output::table([
        "FINGERPRINT",
        "COUNT",
        "LAST",
        "TASK TYPE",
        "FAILURE",
        "LOCATION",
        "MESSAGE",
    ]);
    for group in groups {
        table.add_row([
            Cell::new(digits(&group.fingerprint)),
            Cell::new(group.count).set_alignment(CellAlignment::Right),
            Cell::new(ago(group)),
            Cell::new(show::one_line(&group.task_type, WORD_CHARS)),
            Cell::new(show::one_line(&group.failure_type, WORD_CHARS)).fg(Color::Red),
            Cell::new(show::one_line(&group.location, WORD_CHARS)),
            Cell::new(message(group)),
        ]);
    }
    table
}

/// A group in one line, as it is told where there is no terminal.
pub(super) fn line(group: &ErrorGroup) -> String {
    let mut line = format!(
        "{} {}x {}",
        digits(&group.fingerprint),
        group.count,
        show::one_line(&group.task_type, WORD_CHARS)
    );
    if !group.failure_type.is_empty() {
        let kind = show::one_line(&group.failure_type, WORD_CHARS);
        line.push_str(&format!(" {kind}"));
    }
    if !group.location.is_empty() {
        let place = show::one_line(&group.location, WORD_CHARS);
        line.push_str(&format!(" at {place}"));
    }
    match message(group) {
        text if text.is_empty() => line,
        text => format!("{line}: {text}"),
    }
}

/// As many digits as are shown.
fn digits(fingerprint: &str) -> &str {
    fingerprint.get(..FINGERPRINT_DIGITS).unwrap_or(fingerprint)
}

fn ago(group: &ErrorGroup) -> String {
    match show::since(group.last_time.as_ref()) {
        age if age.is_empty() => age,
        age => format!("{age} ago"),
    }
}

fn message(group: &ErrorGroup) -> String {
    let failure = group.last_failure.as_ref();
    failure.map_or_else(String::new, |failure| {
        show::one_line(&failure.message, MESSAGE_CHARS)
    })
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::proto::v1::Failure;

    fn group(fingerprint: &str, seconds: i64) -> ErrorGroup {
        ErrorGroup {
            fingerprint: fingerprint.repeat(32),
            last_time: Some(Timestamp { seconds, nanos: 0 }),
            ..ErrorGroup::default()
        }
    }

    #[test]
    fn of_many_groups_the_last_to_occur_are_kept_and_the_rest_is_known_of() {
        let mut newest = Newest::of(3);
        for at in 0..5_000 {
            // In no order, as fingerprints are.
            newest.add(group("a", (at * 7_919) % 5_000));
        }
        let (groups, more) = newest.sorted();
        let times: Vec<_> = groups
            .iter()
            .map(|group| group.last_time.unwrap().seconds)
            .collect();
        assert_eq!(times, [4_999, 4_998, 4_997]);
        assert!(more);
        let mut newest = Newest::of(2);
        newest.add(group("b", 1));
        newest.add(group("a", 1));
        let (groups, more) = newest.sorted();
        assert!(!more);
        assert!(groups[0].fingerprint < groups[1].fingerprint);
    }

    #[test]
    fn a_table_has_a_line_for_each_group_whatever_its_message_holds() {
        let mut one = group("3", 0);
        one.count = 12_345;
        one.task_type = "mesh".to_owned();
        one.failure_type = "ValueError".to_owned();
        one.location = "solver.py:step".to_owned();
        one.last_failure = Some(Failure {
            message: "\x1b[31mbad\tinput\x07\nsecond line".to_owned(),
            ..Failure::default()
        });
        let text = output::trimmed(&table([&one, &group("4", 9)]));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let words: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(words[..2], ["333333333333", "12345"]);
        assert!(
            lines[1].ends_with("solver.py:step  [31mbad input"),
            "{text}"
        );
        assert_eq!(
            line(&one),
            "333333333333 12345x mesh ValueError at solver.py:step: [31mbad input"
        );
        assert_eq!(line(&group("4", 9)), "444444444444 0x ");
    }
}
