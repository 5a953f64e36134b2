//! The check at the end: what the shared state counted against the list of files that was fixed at
//! the start.

use std::{ops::Range, path::Path};

use super::{
    board::Totals,
    files::Listed,
    path,
    slice::{Outcome, SliceOutput},
};

/// What became of the list.
#[derive(Debug, Default)]
pub(super) struct Verdict<'a> {
    /// The manifest's lines, in the list's order.
    pub(super) lines: Vec<(&'a str, &'a Path)>,
    /// What the shared state has to say.
    pub(super) expected: Totals,
    pub(super) changed: Vec<String>,
    pub(super) vanished: Vec<String>,
    pub(super) unreadable: Vec<String>,
    /// What does not agree. Empty: all is well.
    pub(super) problems: Vec<String>,
}

/// Compares. The list decides how many files and bytes there must be, but for those files whose
/// change is itself reported.
pub(super) fn check<'a>(
    files: &'a [Listed],
    slices: &[Range<usize>],
    outputs: &'a [SliceOutput],
    counted: Totals,
) -> Verdict<'a> {
    let mut verdict = Verdict::default();
    verdict.expected.slices = slices.len() as u64;
    if outputs.len() != slices.len() {
        let problem = format!("{} outputs of {} slices", outputs.len(), slices.len());
        verdict.problems.push(problem);
    }
    for (index, (slice, output)) in slices.iter().zip(outputs).enumerate() {
        let listed = &files[slice.clone()];
        if listed.len() != output.files.len() {
            verdict.problems.push(format!(
                "slice {index} lists {} files and reports {}",
                listed.len(),
                output.files.len()
            ));
        }
        for (file, outcome) in listed.iter().zip(&output.files) {
            verdict.take(file, outcome);
        }
    }
    let reported = verdict.lines.len() + verdict.vanished.len() + verdict.unreadable.len();
    if reported != files.len() {
        let problem = format!("{} files were listed, {reported} reported", files.len());
        verdict.problems.push(problem);
    }
    for (what, counted, expected) in [
        ("files_done", counted.files, verdict.expected.files),
        ("bytes_done", counted.bytes, verdict.expected.bytes),
        ("slices_done", counted.slices, verdict.expected.slices),
    ] {
        if counted != expected {
            let problem = format!("{what} is {counted}, the list of files says {expected}");
            verdict.problems.push(problem);
        }
    }
    verdict
}

impl<'a> Verdict<'a> {
    fn take(&mut self, file: &'a Listed, outcome: &'a Outcome) {
        let name = path::encode(&file.path);
        match outcome {
            Outcome::Digest {
                sha256,
                bytes,
                changed,
            } => {
                self.lines.push((sha256, &file.path));
                self.expected.files += 1;
                if *changed {
                    self.expected.bytes += bytes;
                    self.changed
                        .push(format!("{name} ({} bytes, then {bytes})", file.size));
                } else {
                    self.expected.bytes += file.size;
                    if *bytes != file.size {
                        self.problems.push(format!(
                            "{name} has {} bytes, of which {bytes} were digested",
                            file.size
                        ));
                    }
                }
            }
            Outcome::Vanished => self.vanished.push(name),
            Outcome::Unreadable { error } => self.unreadable.push(format!("{name}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(count: usize) -> Vec<Listed> {
        let files = (0..count).map(|index| Listed {
            path: format!("{index}").into(),
            size: 10,
            modified_ns: 1,
        });
        files.collect()
    }

    fn digest(bytes: u64, changed: bool) -> Outcome {
        Outcome::Digest {
            sha256: "ab".to_owned(),
            bytes,
            changed,
        }
    }

    fn outputs(slices: &[&[Outcome]]) -> Vec<SliceOutput> {
        let outputs = slices.iter().map(|files| SliceOutput {
            files: files.to_vec(),
        });
        outputs.collect()
    }

    const fn totals(files: u64, bytes: u64, slices: u64) -> Totals {
        Totals {
            files,
            bytes,
            slices,
        }
    }

    #[test]
    fn figures_that_agree_are_accepted() {
        let files = listed(3);
        let same = digest(10, false);
        let outputs = outputs(&[&[same.clone(), same.clone()], &[same]]);
        let verdict = check(&files, &[0..2, 2..3], &outputs, totals(3, 30, 2));
        assert!(verdict.problems.is_empty(), "{:?}", verdict.problems);
        assert_eq!(verdict.lines.len(), 3);
    }

    #[test]
    fn what_changed_or_went_is_said_and_is_no_problem() {
        let files = listed(4);
        let outputs = outputs(&[&[
            digest(12, true),
            Outcome::Vanished,
            Outcome::Unreadable {
                error: "no".to_owned(),
            },
            digest(10, false),
        ]]);
        let slices = std::slice::from_ref(&(0..4));
        let verdict = check(&files, slices, &outputs, totals(2, 22, 1));
        assert!(verdict.problems.is_empty(), "{:?}", verdict.problems);
        assert_eq!(verdict.changed, ["0 (10 bytes, then 12)"]);
        assert_eq!(
            (verdict.vanished, verdict.unreadable.len()),
            (vec!["1".to_owned()], 1)
        );
        assert_eq!(verdict.lines.len(), 2);
    }

    #[test]
    fn any_figure_that_is_off_by_one_is_a_problem() {
        let files = listed(1);
        let outputs = outputs(&[&[digest(10, false)]]);
        for wrong in [totals(2, 10, 1), totals(1, 9, 1), totals(1, 10, 2)] {
            let verdict = check(&files, std::slice::from_ref(&(0..1)), &outputs, wrong);
            assert_eq!(verdict.problems.len(), 1, "{:?}", verdict.problems);
        }
    }

    #[test]
    fn a_file_without_a_line_or_with_other_bytes_is_a_problem() {
        let files = listed(2);
        let one = outputs(&[&[digest(10, false)]]);
        let slices = std::slice::from_ref(&(0..2));
        assert!(
            !check(&files, slices, &one, totals(1, 10, 1))
                .problems
                .is_empty()
        );
        assert!(
            !check(&files, slices, &[], totals(0, 0, 1))
                .problems
                .is_empty()
        );
        let short = outputs(&[&[digest(9, false), digest(10, false)]]);
        assert!(
            !check(&files, slices, &short, totals(2, 19, 1))
                .problems
                .is_empty()
        );
    }
}
