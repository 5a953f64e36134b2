//! The result of a benchmark: a table for people, one JSON object for programs.

use std::io::{IsTerminal, Write};

use serde_json::{Map, Value};

use super::{Error, measure::Latency};

/// Ceilings of one run that differ by more than this show a machine that was not quiet.
const NOISE: f64 = 1.7;

/// What a benchmark found, in the order found. Each field's name ends in its unit.
#[derive(Debug)]
pub(super) struct Report {
    title: String,
    rows: Vec<Row>,
    notes: Vec<String>,
    void: Option<String>,
}

#[derive(Debug)]
struct Row {
    field: String,
    label: String,
    value: f64,
}

impl Report {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            rows: Vec::new(),
            notes: Vec::new(),
            void: None,
        }
    }

    pub(super) fn add(&mut self, field: impl Into<String>, label: impl Into<String>, value: f64) {
        self.rows.push(Row {
            field: field.into(),
            label: label.into(),
            value,
        });
    }

    /// What was added as `field`.
    pub(super) fn value(&self, field: &str) -> Option<f64> {
        self.rows
            .iter()
            .find(|row| row.field == field)
            .map(|row| row.value)
    }

    /// `p50_us` and `p99_us`, with `prefix` before both; nothing where nothing was taken.
    pub(super) fn add_latency(&mut self, prefix: &str, label: &str, latency: &Latency) {
        for percent in [50.0, 99.0] {
            if let Some(value) = latency.percentile_us(percent) {
                self.add(
                    format!("{prefix}p{percent}_us"),
                    format!("{label}, p{percent}"),
                    value,
                );
            }
        }
    }

    /// The ratio of `value` to a ceiling measured `before` and `after` it.
    pub(super) fn add_ratio(&mut self, value: f64, what: &str, before: f64, after: f64) {
        let ceiling = (before + after) / 2.0;
        self.add(
            "ceiling_before_per_s",
            format!("ceiling before: {what}"),
            before,
        );
        self.add(
            "ceiling_after_per_s",
            format!("ceiling after: {what}"),
            after,
        );
        self.add("ratio_to_ceiling", "ratio to the ceiling", value / ceiling);
        self.note_spread("ceilings", before, after);
    }

    /// Says so when two readings of the same ceiling differ too much.
    pub(super) fn note_spread(&mut self, what: &str, before: f64, after: f64) {
        let spread = before.max(after) / before.min(after);
        if spread > NOISE {
            self.note(format!(
                "the two {what} differ by {spread:.1}: the machine was not quiet, run it again"
            ));
        }
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Marks the run as void when `value` is below `least`. The first reason stays.
    pub(super) fn require(&mut self, what: &str, value: f64, least: f64) {
        if value < least && self.void.is_none() {
            self.void = Some(format!(
                "{what} reached {}/s, below the {}/s that any run must reach",
                grouped(value, 0),
                grouped(least, 0)
            ));
        }
    }

    /// Prints the report; a void one is an error then.
    pub(super) fn print(self, json: bool) -> Result<(), Error> {
        let mut text = self.table();
        if json {
            text.push_str(&format!("{}\n", self.json()));
        }
        std::io::stdout()
            .lock()
            .write_all(text.as_bytes())
            .map_err(|source| Error::io("write the report", source))?;
        self.void.map_or(Ok(()), |reason| Err(Error::Void(reason)))
    }

    fn table(&self) -> String {
        let cells: Vec<_> = self
            .rows
            .iter()
            .map(|row| (row, shown(&row.field, row.value)))
            .collect();
        let label_width = self
            .rows
            .iter()
            .map(|row| row.label.chars().count())
            .max()
            .unwrap_or(0);
        let number_width = cells
            .iter()
            .map(|(_, (number, _))| number.len())
            .max()
            .unwrap_or(0);
        let mut text = format!("{}\n", self.title);
        for (row, (number, unit)) in cells {
            let line = format!(
                "  {:<label_width$}  {number:>number_width$} {unit}",
                row.label
            );
            text.push_str(&format!("{}\n", line.trim_end()));
        }
        for note in &self.notes {
            text.push_str(&format!("  note: {note}\n"));
        }
        text
    }

    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert(
            "bench".to_owned(),
            self.title.split(':').next().unwrap_or_default().into(),
        );
        for row in &self.rows {
            object.insert(row.field.clone(), rounded(row.value));
        }
        object.insert("notes".to_owned(), self.notes.clone().into());
        object.insert("void".to_owned(), self.void.clone().into());
        Value::Object(object)
    }
}

/// Six digits are more than any measurement here holds; whole numbers stay whole.
fn rounded(value: f64) -> Value {
    let text = if value.abs() >= 1_000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.4}")
    };
    let number: f64 = text.parse().unwrap_or(value);
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return Value::from(number as i64);
    }
    Value::from(number)
}

/// The number and the unit as people read them; the unit is the end of the field's name.
fn shown(field: &str, value: f64) -> (String, &'static str) {
    let per = |what: &str| field.contains(what);
    let unit = match field {
        _ if field.ends_with("_per_s") => "/s",
        _ if field.ends_with("_per_server_cpu_s") => "/s",
        _ if field.ends_with("_us") || per("_us_per_") => "µs",
        _ if field.ends_with("_mb") => "MB",
        _ if field.ends_with("_s") => "s",
        _ if per("bytes_per_") => "bytes",
        _ => "",
    };
    let decimals = match value.abs() {
        size if size >= 1_000.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    (grouped(value, decimals), unit)
}

/// `1234567.8` as `1,234,568`.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, digits) = whole
        .strip_prefix('-')
        .map_or(("", whole), |digits| ("-", digits));
    let mut out = sign.to_owned();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// One line that says what is going on, on a terminal only.
#[derive(Debug)]
pub(super) struct Progress {
    shown: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            shown: std::io::stderr().is_terminal(),
        }
    }

    pub(super) fn step(&self, text: &str) {
        if self.shown {
            eprint!("\r\x1b[2K{text} …");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r\x1b[2K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_says_units() {
        let mut report = Report::new("push: 8 writers");
        report.add("batches_per_s", "batches", 1_234_567.8);
        report.add("p50_us", "acknowledged, p50", 512.34);
        report.add("ratio_to_ceiling", "ratio to the ceiling", 0.614);
        report.note("quiet");
        let expected = "push: 8 writers\n  \
            batches               1,234,568 /s\n  \
            acknowledged, p50         512.3 µs\n  \
            ratio to the ceiling       0.61\n  \
            note: quiet\n";
        assert_eq!(report.table(), expected);
    }

    #[test]
    fn the_json_object_has_a_field_per_row_and_says_whether_it_is_void() {
        let mut report = Report::new("push: 8 writers");
        report.add("batches_per_s", "batches", 1_234_567.8);
        report.add_ratio(50.0, "bare", 90.0, 110.0);
        assert_eq!(
            report.json().to_string(),
            r#"{"batches_per_s":1234568,"bench":"push","ceiling_after_per_s":110,"#.to_owned()
                + r#""ceiling_before_per_s":90,"notes":[],"ratio_to_ceiling":0.5,"void":null}"#
        );
    }

    #[test]
    fn a_ceiling_below_its_threshold_voids_the_run() {
        let mut report = Report::new("ceiling");
        report.require("unary at 64 in flight", 25_000.0, 25_000.0);
        assert_eq!(report.void, None);
        report.require("unary at 64 in flight", 24_999.0, 25_000.0);
        let reason = report.void.clone().unwrap();
        assert_eq!(
            reason,
            "unary at 64 in flight reached 24,999/s, below the 25,000/s that any run must reach"
        );
        let error = Error::Void(reason).to_string();
        assert!(error.starts_with("void: unary"), "{error}");
    }

    #[test]
    fn ceilings_that_differ_too_much_are_noted() {
        let notes = |before, after| {
            let mut report = Report::new("push");
            report.add_ratio(1.0, "bare", before, after);
            report.notes.len()
        };
        assert_eq!((notes(100.0, 160.0), notes(100.0, 180.0)), (0, 1));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let shown = [
            (0.5, 2),
            (999.0, 0),
            (1_000.0, 0),
            (-1_234_567.0, 0),
            (12_345.6, 1),
        ];
        let shown = shown.map(|(value, decimals)| grouped(value, decimals));
        assert_eq!(shown, ["0.50", "999", "1,000", "-1,234,567", "12,345.6"]);
    }
}
