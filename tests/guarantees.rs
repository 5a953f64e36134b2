//! The page of guarantees names the tests that check each promise: every one of them is there, and
//! runs.

use std::{fs, path::Path};

const PAGE: &str = "docs/GUARANTEES.md";

/// A promise: its heading and what stands under it.
struct Promise<'a> {
    heading: &'a str,
    text: &'a str,
}

fn promises(page: &str) -> Vec<Promise<'_>> {
    let sections = page.split("\n### ").skip(1);
    let promises = sections.map(|section| {
        let section = section.split("\n## ").next().unwrap_or_default();
        let (heading, text) = section.split_once('\n').unwrap_or((section, ""));
        Promise { heading, text }
    });
    promises.collect()
}

/// The tests that a text names, as `FILE::TEST`.
fn named(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let tests = quoted.filter_map(|quoted| {
        let (file, test) = quoted.split_once(".rs::")?;
        let file = &quoted[..file.len() + 3];
        Some((file, test))
    });
    tests.collect()
}

/// What is wrong with a test that was named, in the text of its file.
fn problem(file: &str, source: &str, test: &str) -> Option<String> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let opening = format!("fn {test}(");
    let Some(at) = lines.iter().position(|line| line.contains(&opening)) else {
        return Some(format!("{file} has no `{test}`"));
    };
    // The suite of all journals names its tests in a macro.
    if file == "src/journal/conformance.rs" {
        let listed = lines.iter().any(|line| line.trim_end_matches(',') == test);
        return (!listed).then(|| format!("{file} does not run `{test}`"));
    }
    let before = lines[..at].iter().rev();
    let attributes: Vec<_> = before.take_while(|line| line.starts_with("#[")).collect();
    let is_test = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    if !attributes.iter().any(|line| is_test(line)) {
        return Some(format!("`{test}` of {file} is no test"));
    }
    let ignored = attributes.iter().any(|line| line.starts_with("#[ignore"));
    ignored.then(|| format!("`{test}` of {file} is ignored"))
}

#[test]
fn every_test_that_the_page_names_is_there_and_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join(PAGE)).expect("the page is there");
    let mut problems = Vec::new();
    let mut count = 0;
    for (file, test) in named(&page) {
        count += 1;
        match fs::read_to_string(root.join(file)) {
            Ok(source) => problems.extend(problem(file, &source, test)),
            Err(error) => problems.push(format!("{file} cannot be read: {error}")),
        }
    }
    assert!(count > 50, "the page names {count} tests only");
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_promise_says_what_it_means_what_not_and_what_checks_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join(PAGE)).expect("the page is there");
    let promises = promises(&page);
    assert!(promises.len() > 30, "{} promises only", promises.len());
    for Promise { heading, text } in &promises {
        for part in ["**Means.**", "**Does not mean.**"] {
            assert!(text.contains(part), "`{heading}` lacks {part}");
        }
        let checked = text.split("**Checked by.**").nth(1).unwrap_or_default();
        assert!(!named(checked).is_empty(), "`{heading}` names no test");
    }
}

#[test]
fn a_test_that_is_missing_ignored_or_none_is_found() {
    let source = "#[test]\nfn good() {}\n\n#[test]\n#[ignore = \"slow\"]\nfn slow() {}\n\n\
        fn helper() {}\n\n#[tokio::test(start_paused = true)]\nasync fn timed() {}\n";
    let of = |test| problem("src/a.rs", source, test);
    assert_eq!((of("good"), of("timed")), (None, None));
    assert!(of("goo").is_some_and(|problem| problem.contains("has no")));
    assert!(of("slow").is_some_and(|problem| problem.contains("ignored")));
    assert!(of("helper").is_some_and(|problem| problem.contains("is no test")));
    let suite = "    good_one,\n) {}\nasync fn good_one() {}\nasync fn forgotten() {}";
    let of = |test| problem("src/journal/conformance.rs", suite, test);
    assert_eq!(of("good_one"), None);
    assert!(of("forgotten").is_some_and(|problem| problem.contains("does not run")));
}
