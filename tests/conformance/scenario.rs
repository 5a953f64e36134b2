//! What the clients must print.

use crate::support::Output;

pub(crate) const PATH: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/conformance/scenario.txt"
);
pub(crate) const TEXT: &str = include_str!("scenario.txt");

/// The lines that are steps.
pub(crate) fn steps() -> impl Iterator<Item = &'static str> {
    let is_step = |line: &&str| !line.is_empty() && !line.starts_with(['#', '>']);
    TEXT.lines().filter(is_step)
}

/// What a client prints for each step.
fn expected() -> impl Iterator<Item = &'static str> {
    TEXT.lines().filter_map(|line| line.strip_prefix("> "))
}

/// Panics, with the steps that differ, unless a client printed what the scenario says.
pub(crate) fn compare(said: &Output) {
    let mut lines = said.stdout.lines();
    let mut wrong = Vec::new();
    for (step, expected) in steps().zip(expected()) {
        let line = lines.next().unwrap_or("nothing");
        if !expected.split(" or ").any(|allowed| line == allowed) {
            wrong.push(format!("{step}\n  expected {expected}\n  it said  {line}"));
        }
    }
    wrong.extend(lines.map(|line| format!("beyond the scenario: {line}")));
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), said.stderr);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn every_step_of_the_scenario_has_the_line_that_is_expected_of_it() {
    let mut last = 0;
    let lines: Vec<&str> = TEXT
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    for pair in lines.chunks(2) {
        last += 1;
        let [step, expected] = pair else {
            panic!("`{pair:?}` has no line that is expected");
        };
        assert!(!step.starts_with('>'), "`{step}` follows another");
        let begins = format!("> {last} ");
        assert!(expected.starts_with(&begins), "`{step}` is number {last}");
    }
}
