//! The order of the modules in `src/`, and what each of them must not touch.
//!
//! A module uses only what stands below it in [`ORDER`]. The domain is pure: no I/O, no clock, no
//! async, not even the wire's messages. The test reads the source text (see `source.rs`), so it
//! needs no compiler and sees what `use` groups hide.

mod source;

use std::{fs, path::Path};

use source::Source;

/// From bottom to top. What comes after the last stands on top and may use everything.
const ORDER: [&str; 12] = [
    "proto",
    "domain",
    "telemetry",
    "runtime",
    "journal",
    "engine",
    "service",
    "client",
    "worker",
    "config",
    "app",
    "cli",
];
const TOP: [&str; 3] = ["lib", "main", "simulation"];

/// Pairs that the order would allow: (user, used). The client side talks to the service over the
/// wire alone, and the domain knows nothing of the wire.
const APART: [(&str, &str); 12] = [
    ("domain", "proto"),
    ("client", "service"),
    ("client", "engine"),
    ("client", "journal"),
    ("client", "domain"),
    ("worker", "service"),
    ("worker", "engine"),
    ("worker", "journal"),
    ("worker", "domain"),
    ("app", "client"),
    ("app", "worker"),
    ("cli", "service"),
];

/// What `domain/` must not touch: I/O, clocks, chance, async.
const IMPURE: [&str; 12] = [
    "tokio",
    "std::fs",
    "std::net",
    "std::process",
    "Instant::now",
    "SystemTime",
    "async",
    "await",
    "tonic",
    "fjall",
    "fastrand",
    "std::thread",
];

/// Who may name `tonic::Status`: the service, which makes it, and those who receive it.
const STATUS_USERS: [&str; 5] = ["service", "client", "worker", "cli", "simulation"];

/// What `source` breaks, one line each.
fn violations(source: &Source) -> Vec<String> {
    let module = source.module();
    let mut found = Vec::new();
    let mut report = |line: usize, problem: String| {
        found.push(format!("src/{}:{line}: {problem}", source.file()));
    };
    if !ORDER.contains(&module) && !TOP.contains(&module) {
        report(
            1,
            format!("module `{module}` has no place in the order of tests/layering"),
        );
        return found;
    }
    for path in source.paths() {
        if let Some(used) = source.module_used_by(&path)
            && let Err(problem) = may_use(module, used)
            // `super` in a module within a file is not followed: it may be a name of the file.
            && (path.contains("crate") || ORDER.contains(&used) || TOP.contains(&used))
        {
            report(path.line, problem);
        }
        if module == "domain" {
            for word in IMPURE.into_iter().filter(|word| path.contains(word)) {
                report(
                    path.line,
                    format!("the domain is pure and must not use `{word}`"),
                );
            }
        }
        if path.contains("tonic::Status") && !STATUS_USERS.contains(&module) {
            report(
                path.line,
                format!("`{module}` must not know `tonic::Status`"),
            );
        }
    }
    found.dedup();
    found
}

/// Whether `module` may use `used`, and if not, why.
fn may_use(module: &str, used: &str) -> Result<(), String> {
    let Some(own) = ORDER.iter().position(|name| *name == module) else {
        return Ok(());
    };
    match ORDER.iter().position(|name| *name == used) {
        _ if module == used => Ok(()),
        _ if APART.contains(&(module, used)) => Err(format!("`{module}` and `{used}` stay apart")),
        Some(other) if other < own => Ok(()),
        Some(_) => Err(format!("`{module}` uses `{used}`, which stands above it")),
        None if TOP.contains(&used) => {
            Err(format!("`{module}` uses `{used}`, which stands on top"))
        }
        None => Err(format!(
            "`crate::{used}` is no module of the order: name the module that defines it"
        )),
    }
}

/// All sources under `folder`, but for files of tests alone.
fn collect(folder: &Path, root: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a source folder can be read") {
        let path = entry.expect("a source folder can be read").path();
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if stem == "tests" || stem.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, root, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root).expect("it was found there");
            let text = fs::read_to_string(&path).expect("a source file is UTF-8 text");
            sources.push(Source::new(
                file.to_str().expect("file names are ASCII"),
                &text,
            ));
        }
    }
}

#[test]
fn every_module_uses_only_what_stands_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    assert!(
        sources.iter().any(|source| source.module() == "lib"),
        "src/lib.rs was not found"
    );
    let problems: Vec<String> = sources.iter().flat_map(violations).collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The violations of a snippet, as if it stood in `file`.
fn of(file: &str, text: &str) -> Vec<String> {
    violations(&Source::new(file, text))
}

#[test]
fn using_a_module_above_is_found_in_every_spelling() {
    for text in [
        "use crate::engine::Handle;",
        "use crate::{domain::Task, engine::{self, Handle}};",
        "fn f() -> crate::engine::Handle { todo!() }",
        "use super::super::engine::Handle;",
        "use super::super::{domain, engine};",
        "macro_rules! m { () => { $crate::engine::f() } }",
        "pub(in crate::engine) fn f() {}",
    ] {
        let found = of("journal/local/mod.rs", text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains("`journal` uses `engine`"), "{found:?}");
    }
}

#[test]
fn using_a_module_below_or_ones_own_is_allowed() {
    let text = "use crate::{domain::Task, journal::Entry, proto::v1};\nuse super::monitor;
        mod inner { use super::super::Item; }";
    assert_eq!(of("engine/watch.rs", text), [""; 0]);
    assert_eq!(
        of("main.rs", "use duite::cli; fn main() { crate::app::run() }"),
        [""; 0]
    );
}

#[test]
fn client_and_service_stay_apart_and_so_do_domain_and_proto() {
    for (file, text) in [
        ("client/mod.rs", "use crate::service::Limits;"),
        ("worker/mod.rs", "use crate::service::Limits;"),
        ("service/task.rs", "use crate::client::Client;"),
        ("domain/task.rs", "use crate::proto::v1::Task;"),
        ("engine/mod.rs", "use crate::config::Config;"),
    ] {
        assert_eq!(of(file, text).len(), 1, "{file}: {text}");
    }
    assert_eq!(of("worker/mod.rs", "use crate::client::Client;"), [""; 0]);
}

#[test]
fn a_name_taken_from_the_crate_root_cannot_hide_its_module() {
    assert_eq!(of("engine/mod.rs", "use crate::StateQueue;").len(), 1);
    assert_eq!(of("lib.rs", "pub use crate::client::StateQueue;"), [""; 0]);
}

#[test]
fn a_module_without_a_place_in_the_order_is_found() {
    assert_eq!(of("util/mod.rs", "").len(), 1);
    assert_eq!(of("util.rs", "").len(), 1);
}

#[test]
fn the_domain_is_caught_at_io_clocks_chance_and_async() {
    for text in [
        "use tokio::time::sleep;",
        "use std::{collections::BTreeMap, fs};",
        "fn f() { std::net::lookup() }",
        "fn f() -> Instant { Instant::now() }",
        "use std::time::{Duration, SystemTime};",
        "async fn f() {}",
        "fn f() { g().await }",
        "fn f() { fastrand::u64(..) }",
    ] {
        let found = of("domain/retry.rs", text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with("src/domain/retry.rs:1: "), "{found:?}");
        assert_eq!(of("runtime/mod.rs", text), [""; 0]);
    }
    assert_eq!(
        of("domain/retry.rs", "use std::time::{Duration, Instant};"),
        [""; 0]
    );
}

#[test]
fn status_is_for_the_service_and_those_who_receive_it() {
    for text in [
        "use tonic::{Request, Status};",
        "fn f(s: &tonic::Status) {}",
    ] {
        assert_eq!(of("engine/mod.rs", text).len(), 1, "{text}");
        assert_eq!(of("app.rs", text).len(), 1, "{text}");
        assert_eq!(of("service/mod.rs", text), [""; 0]);
        assert_eq!(of("client/mod.rs", text), [""; 0]);
    }
}
