//! Reads a printed backtrace: which part of it is the program's, and which function failed.
//!
//! The standard library prints frames as `12: path::function` and, where there is debug information,
//! `at file:line:column` below. Neither form is promised: what is not understood is kept as it is.

use std::panic::Location;

/// What runs between `panic!` and the panic hook, as it begins in a frame's name.
const MACHINERY: [&str; 8] = [
    "std::panicking",
    "core::panicking",
    "std::sys::backtrace",
    "std::backtrace",
    "rust_begin_unwind",
    "__rustc::rust_begin_unwind",
    "core::option::",
    "core::result::",
];
/// What no task's own code is part of.
const FOREIGN: [&str; 12] = [
    "std::",
    "core::",
    "alloc::",
    "tokio::",
    "futures_util::",
    "futures_core::",
    "tracing::",
    "opentelemetry::",
    "duite::runtime::",
    "__rust",
    "rust_",
    "_",
];

/// The frames from the one that failed on, without those that only tell of the failure.
pub(super) fn without_machinery(printed: &str) -> &str {
    let mut start = 0;
    let mut at = 0;
    let mut trimming = true;
    for line in printed.split_inclusive('\n') {
        if let Some(name) = frame_name(line) {
            let is_machinery = is_of(name, &MACHINERY) || name.contains("runtime::panics::");
            if !is_machinery && trimming && start > 0 {
                trimming = false;
                start = at;
            }
            // The hook itself stands above the machinery: look for the last of it.
            if trimming && is_machinery {
                start = at + line.len();
            }
        }
        at += line.len();
    }
    if trimming { printed } else { &printed[start..] }
}

/// The name of the function at `location`, else of the first that is not a library's.
pub(super) fn function_at(printed: &str, location: &Location<'_>) -> Option<String> {
    let place = format!(
        "{}:{}:",
        location.file().trim_start_matches("./"),
        location.line()
    );
    let mut name = None;
    for line in printed.lines() {
        if let Some(frame) = frame_name(line) {
            name = Some(frame);
        } else if line.trim_start().starts_with("at ") && line.contains(&place) {
            return name.map(short);
        }
    }
    let mut names = printed.lines().filter_map(frame_name);
    names.find(|name| !is_of(name, &FOREIGN)).map(short)
}

/// `file.rs:function`, or `file.rs` alone: no folder and no line, which differ between builds.
pub(super) fn place(location: &Location<'_>, function: Option<&str>) -> String {
    let file = location.file();
    let file = file.rsplit(['/', '\\']).next().unwrap_or(file);
    match function {
        Some(function) => format!("{file}:{function}"),
        None => file.to_owned(),
    }
}

fn is_of(name: &str, paths: &[&str]) -> bool {
    let name = name.trim_start_matches('<');
    paths.iter().any(|path| name.starts_with(path))
}

/// What follows `12: `.
fn frame_name(line: &str) -> Option<&str> {
    let (number, name) = line.trim().split_once(": ")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(name)
}

/// The function's own name, without its module, hash, closures and generic arguments.
fn short(name: &str) -> String {
    let mut name = name;
    while let Some(outer) = name.strip_suffix("::{{closure}}") {
        name = outer;
    }
    if let Some((path, hash)) = name.rsplit_once("::")
        && hash.len() == 17
        && hash.starts_with('h')
    {
        name = path;
        while let Some(outer) = name.strip_suffix("::{{closure}}") {
            name = outer;
        }
    }
    // Segments at depth 0 alone: `<a::B as c::D<E>>::f::<G>`.
    let mut depth = 0_usize;
    let mut last = String::new();
    for character in name.chars() {
        match character {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && !last.ends_with(':') => last.push(':'),
            _ if depth == 0 => {
                if last.ends_with(':') {
                    last.clear();
                }
                last.push(character);
            }
            _ => {}
        }
    }
    last.trim_end_matches(':').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_named_without_module_hash_closure_and_arguments() {
        for (name, expected) in [
            ("mesh::solver::step", "step"),
            ("mesh::solver::step::{{closure}}", "step"),
            (
                "mesh::step::{{closure}}::{{closure}}::h0123456789abcdef",
                "step",
            ),
            ("<mesh::Solver as mesh::Run<u8>>::run", "run"),
            ("mesh::read::<std::fs::File>", "read"),
        ] {
            assert_eq!(short(name), expected, "{name}");
        }
    }

    #[test]
    fn the_trace_begins_where_the_program_failed() {
        let printed = "   0: {closure#1}\n             at ./src/a.rs:1:1\n   1: std::panicking::rust_panic_with_hook\n   2: core::panicking::panic_fmt\n   3: mesh::step\n             at ./mesh.rs:7:9\n   4: std::panicking::catch_unwind\n   5: main\n";
        let own = without_machinery(printed);
        assert!(own.starts_with("   3: mesh::step"), "{own}");
        assert!(own.contains("5: main"));
        assert_eq!(without_machinery("no frames"), "no frames");
    }

    #[test]
    fn a_place_has_neither_folder_nor_line() {
        let here = Location::caller();
        assert_eq!(place(here, None), "backtrace.rs");
        assert_eq!(place(here, Some("step")), "backtrace.rs:step");
    }
}
