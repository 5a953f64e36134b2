//! `docs/ERRORS.md` is the registry of reasons, written out. `UPDATE_DOCS=1` rewrites it.

use std::{env, fmt::Write, fs, path::Path};

use duite::{
    domain::{Error, Reason},
    service::to_status,
};
use tonic_types::StatusExt;

const INTRODUCTION: &str = "\
# Errors

Every error carries a `google.rpc.ErrorInfo` with domain `duite` and one of these reasons. Act on
the code and the reason, never on the message, which is for people. `FIELD_INVALID` comes with a
`google.rpc.BadRequest` that names the field; where waiting helps, a `google.rpc.RetryInfo` says how
long. The same details stand in the items of `BatchCreateTasks` and `FinishTasks`. What begins with
\"Rejected key\" is not the error of a call but the reason of a key in `RejectedKey.reason`;
`VALUE_TOO_LARGE`, `TOO_MANY_KEYS` and `QUOTA_EXCEEDED` occur there too.

A message over 4 MiB is refused by the transport before it is read: OUT_OF_RANGE without a reason.

The table is generated from `src/domain/error.rs`: `UPDATE_DOCS=1 cargo test --test service`.

| reason | code | retry after | meaning, and what to do |
|---|---|---|---|
";

fn page() -> String {
    let mut text = INTRODUCTION.to_owned();
    for reason in Reason::ALL {
        let status = to_status(&Error::new(*reason, "x"));
        let retry = status.get_details_retry_info();
        let delay = retry.and_then(|info| info.retry_delay);
        let delay = delay.map_or_else(String::new, |delay| format!("{} s", delay.as_secs_f64()));
        let code = screaming(&format!("{:?}", status.code()));
        let meaning = reason.description().trim();
        let reason = reason.as_str();
        writeln!(text, "| `{reason}` | {code} | {delay} | {meaning} |").unwrap();
    }
    text
}

fn screaming(camel: &str) -> String {
    let mut text = String::new();
    for character in camel.chars() {
        if character.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(character.to_uppercase());
    }
    text
}

#[test]
fn the_page_of_errors_is_the_registry_written_out() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ERRORS.md");
    let expected = page();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, expected,
        "run UPDATE_DOCS=1 cargo test --test service"
    );
}
