//! Rust: a line `3: demo::solver::step` and, where there is debug information, below it
//! `at ./src/solver.rs:12:7`, the innermost first. What the panic itself calls comes before it.

use super::{Frame, Reading, file_name, without_brackets, without_numbers};

/// Begin what a panic calls.
const PANICS: [&str; 4] = [
    "core::panicking::",
    "std::panicking::begin_panic",
    "rust_begin_unwind",
    "__rustc::rust_begin_unwind",
];

pub(super) fn read(stack: &str) -> Reading {
    let mut reading = Reading::default();
    let mut foreign_file = true;
    for line in stack.lines() {
        let line = line.trim();
        if let Some(name) = numbered(line) {
            if PANICS.iter().any(|panic| name.starts_with(panic)) {
                reading.frames.clear();
                reading.found += 1;
                foreign_file = true;
                continue;
            }
            foreign_file = false;
            reading.push(Frame {
                file: String::new(),
                function: stable(name),
                own: !is_foreign(name),
            });
        } else if let Some(place) = line.strip_prefix("at ")
            && let Some(frame) = reading.frames.last_mut()
            && !foreign_file
        {
            // One for each frame; a panic's own is not of the frame before it.
            foreign_file = true;
            let path = without_numbers(place);
            file_name(path).clone_into(&mut frame.file);
            frame.own &= !is_library(path);
        }
    }
    // A list with numbers is none.
    if !stack.contains("::") {
        return Reading::default();
    }
    reading
}

/// The symbol of a line that begins with the number of its frame.
fn numbered(line: &str) -> Option<&str> {
    let (number, rest) = line.split_once(':')?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let rest = rest.strip_prefix(' ')?.trim_start();
    // With all there is to know, an address comes first.
    let name = match rest.split_once(" - ") {
        Some((address, name)) if address.starts_with("0x") => name,
        _ => rest,
    };
    let is_symbol = !name.is_empty() && (name.contains("::") || !name.contains(' '));
    is_symbol.then_some(name)
}

/// Without the hash, the arguments of generics, the trait, and which closure it is.
fn stable(name: &str) -> String {
    let name = without_hash(name);
    let (subject, method) = subject(name);
    let strip = |text: &str| {
        // The arrow of a function's type closes nothing.
        let text = text.replace("->", "");
        let text = without_brackets(&text, '<', '>').unwrap_or(text);
        without_brackets(&text, '[', ']').unwrap_or(text)
    };
    let path = format!("{}::{}", strip(subject), strip(method));
    let segments = path.split("::");
    let named = segments.filter(|segment| !segment.is_empty() && !segment.starts_with('{'));
    named.collect::<Vec<_>>().join("::")
}

fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((before, hash))
            if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            before
        }
        _ => name,
    }
}

/// Of `<Type as Trait>::method` the type and what follows; of a plain path nothing and all of it.
fn subject(name: &str) -> (&str, &str) {
    let Some(inner) = name.strip_prefix('<') else {
        return ("", name);
    };
    let mut depth = 1_usize;
    let mut end = None;
    for (at, character) in inner.char_indices() {
        match character {
            '<' => depth += 1,
            // Not the arrow of a function's type.
            '>' if !inner[..at].ends_with('-') => depth -= 1,
            ' ' if depth == 1 && inner[at..].starts_with(" as ") => end = end.or(Some(at)),
            _ => {}
        }
        if depth == 0 {
            return (&inner[..end.unwrap_or(at)], &inner[at + 1..]);
        }
    }
    ("", name)
}

fn is_foreign(name: &str) -> bool {
    let (subject, method) = subject(name);
    let path = if subject.is_empty() { method } else { subject };
    let path = path.trim_start_matches(['&', '*', ' ']);
    let path = path.strip_prefix("dyn ").unwrap_or(path);
    let path = path.strip_prefix("mut ").unwrap_or(path);
    let crates = ["std", "core", "alloc", "tokio", "backtrace", "__rustc"];
    let library = path.split_once("::").is_none_or(|(first, _)| {
        let first = first.split('[').next().unwrap_or(first);
        crates.contains(&first)
    });
    // What calls the task's code, where the whole program is one build.
    let runs_it = ["duite::runtime::", "duite::worker::"];
    library || runs_it.iter().any(|ours| path.starts_with(ours))
}

fn is_library(path: &str) -> bool {
    let path = path.replace('\\', "/");
    let folders = [
        "/rustc/",
        ".cargo/registry/",
        ".cargo/git/",
        "/lib/rustlib/",
    ];
    folders.iter().any(|folder| path.contains(folder))
}
