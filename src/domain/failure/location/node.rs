//! JavaScript in Node: `at step (/app/solver.js:12:7)` or `at /app/solver.js:12:7`, the innermost
//! first.

use super::{Frame, Reading, file_name, without_numbers};

pub(super) fn read(stack: &str) -> Reading {
    Reading::of(stack.lines().filter_map(frame))
}

fn frame(line: &str) -> Option<Frame> {
    let text = line.trim().strip_prefix("at ")?;
    let (function, place) = match text
        .strip_suffix(')')
        .and_then(|text| text.split_once(" ("))
    {
        Some((function, place)) => (function, place),
        None => ("", text),
    };
    let place = place.strip_prefix("async ").unwrap_or(place);
    // Code made of text: where that was done.
    let place = match place.strip_prefix("eval at ") {
        Some(made) => {
            let made = made.split(')').next().unwrap_or(made);
            made.rsplit('(').next().unwrap_or(made)
        }
        None => place,
    };
    let path = without_numbers(place);
    let is_builtin = matches!(path, "<anonymous>" | "native") || path.starts_with("index ");
    if path == place && !is_builtin {
        return None;
    }
    let function = function.strip_prefix("async ").unwrap_or(function);
    let function = function.split(" [as ").next().unwrap_or(function).trim();
    // Only how it was called: as `check()` or as `checks.check()`. `Object.<anonymous>` is a module.
    let plain = function.strip_prefix("Object.");
    let plain = plain.filter(|name| !name.starts_with('<'));
    let function = plain.unwrap_or(function);
    let function = if function.is_empty() {
        "<anonymous>"
    } else {
        function
    };
    let foreign = is_builtin
        || path.starts_with("node:")
        || path.starts_with("internal/")
        || path.contains("node_modules");
    Some(Frame {
        file: file_name(if is_builtin { "" } else { path }).to_owned(),
        function: function.to_owned(),
        own: !foreign,
    })
}
