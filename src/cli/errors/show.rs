//! `duite errors show`: everything of one group.

use clap::Args;
use futures_util::TryStreamExt;
use prost_types::Timestamp;

use super::super::{
    Error,
    error::Exit,
    output,
    show::{self, plain, since},
};
use crate::{
    client::{Client, short_name},
    domain::trace::SpanRef,
    proto::v1::{ErrorGroup, Failure, GetErrorGroupResponse, failure::Category},
};

/// Digits of a whole fingerprint.
const DIGITS: usize = 32;
/// Groups named where a prefix has several.
const NAMED: usize = 10;
/// Causes shown, as deep as the API takes them.
const MAX_CAUSES: usize = 8;

/// Show one error: its last failure with causes and stack, and the tasks it occurred in
#[derive(Args, Debug)]
#[command(override_usage = "duite errors show [OPTIONS] <FINGERPRINT>")]
#[command(after_long_help = "\
Examples:
  duite errors show 3fa9c1
  duite errors show 3fa9c1 -o json | jq -r .group.lastFailure.stackTrace

Exit codes: 0 shown, 2 this names no error or several, 3 there is no such error, 69 no server.")]
pub(super) struct ShowArgs {
    /// The error, by as many of its first digits as tell it from the others
    #[arg(value_name = "FINGERPRINT")]
    fingerprint: String,
}

pub(super) async fn run(client: &Client, args: &ShowArgs, json: bool) -> Result<(), Error> {
    let prefix = digits(&args.fingerprint)?;
    let fingerprint = if prefix.len() == DIGITS {
        prefix
    } else {
        only(&prefix, with_prefix(client, &prefix).await?)?
    };
    let answer = client.error_group(&fingerprint).await?;
    if json {
        output::json_line("GetErrorGroupResponse", &answer)
    } else {
        output::line(text(&answer))
    }
}

/// What was typed, as the server writes it.
fn digits(typed: &str) -> Result<String, Error> {
    let hint = "`duite errors` shows the fingerprints there are; their first digits will do";
    let problem = if typed.is_empty() {
        "it is empty".to_owned()
    } else if let Some(wrong) = typed.chars().find(|char| !char.is_ascii_hexdigit()) {
        format!("`{}` is no hexadecimal digit", wrong.escape_debug())
    } else if typed.len() > DIGITS {
        format!("it has {} digits, {DIGITS} are all", typed.len())
    } else {
        return Ok(typed.to_ascii_lowercase());
    };
    let typed = show::one_line(typed, 2 * DIGITS);
    Err(Error::usage(format!("`{typed}` is no fingerprint: {problem}")).hint(hint))
}

/// The groups that begin so, a few more than are named.
async fn with_prefix(client: &Client, prefix: &str) -> Result<Vec<ErrorGroup>, Error> {
    let mut found = Vec::new();
    let mut groups = std::pin::pin!(client.error_groups());
    while let Some(group) = groups.try_next().await? {
        if group.fingerprint.starts_with(prefix) {
            found.push(group);
        } else if group.fingerprint.as_str() > prefix {
            // They come in this order.
            break;
        }
        if found.len() > NAMED {
            break;
        }
    }
    Ok(found)
}

fn only(prefix: &str, mut found: Vec<ErrorGroup>) -> Result<String, Error> {
    match found.len() {
        0 => {
            let message = format!("no error's fingerprint begins with `{prefix}`");
            Err(Error::new(Exit::NotFound, message)
                .hint("`duite errors` shows the errors there are"))
        }
        1 => Ok(found.remove(0).fingerprint),
        count => {
            let of = |group: &ErrorGroup| {
                let kind = show::one_line(&group.failure_type, 48);
                format!("\n  {} {} {kind}", group.fingerprint, group.task_type)
            };
            let mut names: String = found.iter().take(NAMED).map(of).collect();
            if count > NAMED {
                names.push_str("\n  and more");
            }
            let message = format!("`{prefix}` begins more than one fingerprint:{names}");
            Err(Error::usage(message).hint("give more digits"))
        }
    }
}

/// Everything of one group, a line for each thing.
fn text(answer: &GetErrorGroupResponse) -> String {
    let nothing = (ErrorGroup::default(), Failure::default());
    let group = answer.group.as_ref().unwrap_or(&nothing.0);
    let failure = group.last_failure.as_ref().unwrap_or(&nothing.1);
    let mut lines = vec![
        ("error", group.fingerprint.clone()),
        ("task type", group.task_type.clone()),
        ("failure", or(&group.failure_type, "of no type")),
        ("message", failure.message.clone()),
        ("location", or(&group.location, "not known")),
        ("count", group.count.to_string()),
        ("first", time(group.first_time.as_ref())),
        ("last", time(group.last_time.as_ref())),
    ];
    let retried = if failure.retryable {
        ", worth another attempt"
    } else {
        ""
    };
    lines.push(("category", format!("{}{retried}", category(failure))));
    if failure.attempt > 0 {
        lines.push(("attempt", failure.attempt.to_string()));
    }
    if !failure.runtime.is_empty() {
        lines.push(("runtime", failure.runtime.clone()));
    }
    let context = failure.trace_context.as_ref();
    let span = context.and_then(|context| SpanRef::parse(&context.traceparent));
    if let Some(span) = span {
        let (trace, id) = (span.trace_id, span.span_id);
        lines.push(("trace", format!("{trace:032x}, span {id:016x}")));
    }
    for (key, value) in &failure.metadata {
        lines.push(("detail", format!("{key}={value}")));
    }
    let causes = std::iter::successors(failure.cause.as_deref(), |cause| cause.cause.as_deref());
    for cause in causes.take(MAX_CAUSES) {
        lines.push(("caused by", show::failure_at(cause)));
    }
    for task in answer.tasks.iter().rev() {
        lines.push(("task", short_name(task).to_owned()));
    }
    let mut text: Vec<String> = lines
        .into_iter()
        // Further lines of a value stand under its first.
        .map(|(name, value)| {
            let value = plain(&value).replace('\n', "\n            ");
            format!("{name:<11} {value}").trim_end().to_owned()
        })
        .collect();
    let stack = plain(&failure.stack_trace);
    if !stack.trim().is_empty() {
        text.push("stack".to_owned());
        text.extend(stack.trim_end().lines().map(|line| format!("    {line}")));
    }
    if let Some(task) = Some(group.last_task.as_str()).filter(|task| !task.is_empty()) {
        // Of another namespace than commands take by default, the whole name is needed.
        let name = task.strip_prefix("namespaces/default/tasks/");
        let name = name.unwrap_or(task);
        let hint = format!("`duite trace {name}` shows what it went through");
        text.push(format!("\n{hint}"));
    }
    text.join("\n")
}

fn or(text: &str, otherwise: &str) -> String {
    let text = if text.is_empty() { otherwise } else { text };
    text.to_owned()
}

fn time(time: Option<&Timestamp>) -> String {
    time.map_or_else(String::new, |told| {
        format!("{told}, {} ago", since(Some(told)))
    })
}

fn category(failure: &Failure) -> &'static str {
    match failure.category() {
        Category::Unspecified | Category::Application => "application",
        Category::Timeout => "timeout",
        Category::Cancelled => "cancelled",
        Category::LeaseLost => "lease lost",
        Category::Resource => "resource",
        Category::Infrastructure => "infrastructure",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        client::fake::Fake,
        proto::v1::{ListErrorGroupsResponse, TraceContext},
    };

    fn group(fingerprint: &str) -> ErrorGroup {
        ErrorGroup {
            fingerprint: fingerprint.to_owned(),
            task_type: "mesh".to_owned(),
            failure_type: "ValueError".to_owned(),
            ..ErrorGroup::default()
        }
    }

    #[test]
    fn what_is_no_fingerprint_is_told_why() {
        assert_eq!(digits("3FA9").unwrap(), "3fa9");
        for (typed, part) in [
            ("", "it is empty"),
            ("3fx", "`x` is no hexadecimal digit"),
            ("a\nb", r"`\n` is no hexadecimal digit"),
            (&"a".repeat(33), "it has 33 digits, 32 are all"),
        ] {
            let error = digits(typed).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(error.contains("hint: `duite errors`"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_prefix_is_found_among_the_groups_and_told_where_it_is_none_or_several() {
        let list = |_| {
            let groups = ["0a11", "0a12", "0b", "0c"].map(group).to_vec();
            Ok(ListErrorGroupsResponse {
                groups,
                ..ListErrorGroupsResponse::default()
            })
        };
        let fake = Fake {
            list_error_groups: Some(Box::new(list)),
            ..Fake::default()
        };
        let client = fake.serve();
        let found = async |prefix| {
            let found = with_prefix(&client, prefix).await.unwrap();
            only(prefix, found).map_err(|error| error.to_string())
        };
        assert_eq!(found("0b").await.unwrap(), "0b");
        assert_eq!(found("0a12").await.unwrap(), "0a12");
        let several = found("0a").await.unwrap_err();
        assert!(
            several.contains("\n  0a11 mesh ValueError\n  0a12"),
            "{several}"
        );
        assert!(several.contains("hint: give more digits"), "{several}");
        let none = found("00").await.unwrap_err();
        assert!(none.contains("begins with `00`"), "{none}");
    }

    #[test]
    fn a_group_is_told_with_its_causes_its_stack_and_its_tasks() {
        let cause = Failure {
            r#type: "KeyError".to_owned(),
            message: "'x'".to_owned(),
            location: "solver.py:look".to_owned(),
            ..Failure::default()
        };
        let failure = Failure {
            message: "two\nlines \x1b[2Jcleared".to_owned(),
            stack_trace: "Traceback:\n  File \"solver.py\"\n".to_owned(),
            runtime: "python/3.13".to_owned(),
            attempt: 2,
            retryable: true,
            metadata: BTreeMap::from([("file".to_owned(), "a.stl".to_owned())]),
            cause: Some(Box::new(cause)),
            trace_context: Some(TraceContext {
                traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
                tracestate: String::new(),
            }),
            ..Failure::default()
        };
        let names = ["a", "b"].map(|task| format!("namespaces/default/tasks/{task}"));
        let answer = GetErrorGroupResponse {
            group: Some(ErrorGroup {
                count: 7,
                location: "solver.py:step".to_owned(),
                first_time: Some(Timestamp::default()),
                last_failure: Some(failure),
                last_task: names[1].clone(),
                ..group("3fa9")
            }),
            tasks: names.to_vec(),
            position: None,
        };
        let told = text(&answer);
        let start = "\
error       3fa9
task type   mesh
failure     ValueError
message     two
            lines [2Jcleared
location    solver.py:step
count       7
first       1970-01-01T00:00:00Z, ";
        assert!(told.starts_with(start), "{told}");
        let end = "
category    application, worth another attempt
attempt     2
runtime     python/3.13
trace       4bf92f3577b34da6a3ce929d0e0e4736, span 00f067aa0ba902b7
detail      file=a.stl
caused by   KeyError: 'x' (at solver.py:look)
task        b
task        a
stack
    Traceback:
      File \"solver.py\"

`duite trace b` shows what it went through";
        assert!(told.ends_with(end), "{told}");
        let bare = text(&GetErrorGroupResponse::default());
        assert!(bare.contains("location    not known"), "{bare}");
        assert!(!bare.contains("duite trace"), "{bare}");
    }
}
