//! Python: `File "/app/solver.py", line 12, in step`, the innermost last.

use super::{Frame, Reading, file_name};

pub(super) fn read(stack: &str) -> Reading {
    let mut reading = Reading::default();
    for line in stack.lines() {
        // Those of a group of exceptions stand behind a margin.
        let line = line.trim_start_matches([' ', '\t', '|', '+']);
        if line.starts_with("Traceback (most recent call last)")
            || line.starts_with("Exception Group Traceback")
        {
            // What came before is what was handled as this one was raised.
            reading.frames.clear();
        } else if line.starts_with("----") || line.starts_with("-+-") {
            // The exceptions of a group follow; the group itself was raised before.
            break;
        } else if let Some(frame) = frame(line) {
            reading.push(frame);
        }
    }
    reading.frames.reverse();
    reading
}

fn frame(line: &str) -> Option<Frame> {
    let (path, rest) = line.strip_prefix("File \"")?.split_once("\", line ")?;
    let function = rest.split_once(", in ").map_or("", |(_, name)| name);
    Some(Frame {
        file: file_name(path).to_owned(),
        function: function.trim().to_owned(),
        own: !is_foreign(path),
    })
}

fn is_foreign(path: &str) -> bool {
    let path = path.replace('\\', "/").to_ascii_lowercase();
    let libraries = [
        "site-packages/",
        "dist-packages/",
        "/lib/python3",
        "importlib/",
    ];
    // Of an installation on Windows the folder is Python311.
    let mut installations = path.split("/python3").skip(1);
    let windows = installations.any(|rest| {
        let rest = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        rest.starts_with("/lib/")
    });
    path.starts_with("<frozen") || windows || libraries.iter().any(|part| path.contains(part))
}
