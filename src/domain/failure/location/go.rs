//! Go: a line `main.step(0x1, {0x2, 0x3})` and below it a tab and `/app/solver.go:12 +0x1d`, the
//! innermost first. After a panic what recovered comes before it, and so does not count.

use super::{Frame, Reading, file_name, without_brackets, without_numbers};

pub(super) fn read(stack: &str) -> Reading {
    let mut reading = Reading::default();
    let mut goroutines = 0;
    let mut function = "";
    for line in stack.lines() {
        if line.starts_with("goroutine ") && line.ends_with(':') {
            goroutines += 1;
            if goroutines > 1 {
                // That of the panic stands first.
                break;
            }
            continue;
        }
        let Some(place) = line.strip_prefix('\t') else {
            function = line;
            continue;
        };
        let name = std::mem::take(&mut function);
        let path = without_numbers(place.split(" +0x").next().unwrap_or(place).trim());
        if !path.ends_with(".go") && !path.ends_with(".s") {
            continue;
        }
        let Some(called) = called(name) else {
            continue;
        };
        if called == "panic" {
            reading.frames.clear();
            continue;
        }
        reading.push(Frame {
            file: file_name(path).to_owned(),
            function: stable(called),
            own: !is_foreign(called, path),
        });
    }
    reading
}

/// The function of a line, with its package.
fn called(line: &str) -> Option<&str> {
    if let Some(created) = line.strip_prefix("created by ") {
        return created.split(" in goroutine").next();
    }
    let (name, _) = line.strip_suffix(')')?.rsplit_once('(')?;
    (!name.is_empty() && !name.contains(' ')).then_some(name)
}

/// Without the package's path, the arguments of generics, and which closure it is.
fn stable(name: &str) -> String {
    let name = without_brackets(name, '[', ']').unwrap_or_else(|| name.to_owned());
    let mut rest = name.rsplit('/').next().unwrap_or(&name);
    while let Some((before, last)) = rest.rsplit_once('.') {
        let number = ["func", "gowrap", "deferwrap", ""]
            .iter()
            .find_map(|prefix| last.strip_prefix(prefix));
        let is_closure = number.is_some_and(|number| {
            !number.is_empty()
                && number
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'-')
        });
        if !is_closure || before.is_empty() {
            break;
        }
        rest = before;
    }
    rest.to_owned()
}

fn is_foreign(name: &str, path: &str) -> bool {
    let path = path.replace('\\', "/");
    let folders = ["/usr/lib/go", "/usr/local/go/", "/pkg/mod/"];
    name.starts_with("runtime.")
        || name.starts_with("runtime/")
        || folders.iter().any(|folder| path.contains(folder))
}
