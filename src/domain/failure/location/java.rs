//! Java and its kin: `at com.acme.Solver.step(Solver.java:12)`, the innermost first, causes behind.

use super::{Frame, Reading, without_numbers};

pub(super) fn read(stack: &str) -> Reading {
    Reading::of(stack.lines().filter_map(frame))
}

fn frame(line: &str) -> Option<Frame> {
    let text = line.trim().strip_prefix("at ")?;
    // What a logger adds behind it: the archive.
    let end = text.find(')')?;
    let (name, place) = text[..end].split_once('(')?;
    if name.is_empty() || name.contains(' ') || place.contains(['/', '\\']) {
        return None;
    }
    let hidden = name.contains("$$Lambda");
    // Before it the class loader and the module.
    let name = if hidden {
        name
    } else {
        name.rsplit('/').next().unwrap_or(name)
    };
    let (class, method) = name.rsplit_once('.')?;
    let known = !matches!(place, "Native Method" | "Unknown Source" | "");
    let class_name = class.rsplit('.').next().unwrap_or(class);
    Some(Frame {
        file: if known { without_numbers(place) } else { "" }.to_owned(),
        function: format!("{}.{}", named_class(class_name), named_method(method)),
        own: !hidden && !is_foreign(class),
    })
}

/// Without the numbers of anonymous classes.
fn named_class(class: &str) -> String {
    let class = class.split("$$").next().unwrap_or(class);
    let parts = class.split('$');
    let named = parts.filter(|part| !part.bytes().all(|byte| byte.is_ascii_digit()));
    named.collect::<Vec<_>>().join("$")
}

/// The method that a lambda stands in, which the compiler calls `lambda$method$0`.
fn named_method(method: &str) -> &str {
    let Some(lambda) = method.strip_prefix("lambda$") else {
        return method;
    };
    lambda.split('$').next().unwrap_or(lambda)
}

fn is_foreign(class: &str) -> bool {
    let packages = [
        "java.", "javax.", "jdk.", "sun.", "com.sun.", "io.grpc.", "kotlin.", "kotlinx.", "scala.",
    ];
    packages.iter().any(|package| class.starts_with(package))
}
