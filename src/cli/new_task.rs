//! The options that describe a task, for `submit` and `run`.

use std::{fs, io::Read as _, time::Duration};

use clap::Args;

use super::Error;
use crate::{client::NewTask, proto::v1::TaskPolicy};

#[derive(Args, Clone, Debug)]
pub(super) struct TaskArgs {
    /// The queue it waits in
    #[arg(short, long, value_name = "QUEUE", default_value = "default")]
    queue: String,
    /// A label to find it by; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// 0 to 9, higher ones are taken first
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..=9))]
    priority: i32,
    /// Who it is for, such as a tenant: these take turns in a queue, so that many tasks of one keep
    /// no other waiting
    #[arg(long, value_name = "KEY")]
    fairness_key: Option<String>,
    /// What it takes up, such as an account: `duite queue set --max-running-per-key` limits how many
    /// of each run at once
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Not before this long from now, such as 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// An id of your own; submitting the same again answers with the same task
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A UUID that makes submitting again answer with the same task
    #[arg(long, value_name = "UUID")]
    request_id: Option<String>,
    /// The shared state it reports to; the worker makes one named after the task otherwise
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// How often to try, the first time included [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    max_attempts: Option<i32>,
    /// The longest an attempt may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    attempt_timeout: Option<Duration>,
    /// The longest from now to the end, waiting and retries included
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    total_timeout: Option<Duration>,
    /// The pause before the second attempt; it doubles with each further one [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retry_delay: Option<Duration>,
    /// The longest pause [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_retry_delay: Option<Duration>,
    /// How soon the loss of its worker is noticed [default: 8s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    lease_duration: Option<Duration>,
    /// How long it is kept after its end [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retention: Option<Duration>,
    /// How long it may go on running after it was asked to stop [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    cancel_grace: Option<Duration>,
}

impl TaskArgs {
    /// Whether more than one attempt was asked for in so many words.
    pub(super) fn wants_retries(&self) -> bool {
        self.max_attempts.is_some_and(|attempts| attempts > 1)
    }

    /// A task of these options.
    pub(super) fn task(self, task_type: &str) -> Result<NewTask, Error> {
        let wire = |name: &str, duration: Option<Duration>| {
            let wire = duration.map(prost_types::Duration::try_from).transpose();
            wire.map_err(|_| Error::usage(format!("--{name} is longer than can be said")))
        };
        let policy = TaskPolicy {
            max_attempts: self.max_attempts.unwrap_or_default(),
            attempt_timeout: wire("attempt-timeout", self.attempt_timeout)?,
            total_timeout: wire("total-timeout", self.total_timeout)?,
            lease_duration: wire("lease-duration", self.lease_duration)?,
            retry_initial_delay: wire("retry-delay", self.retry_delay)?,
            retry_max_delay: wire("max-retry-delay", self.max_retry_delay)?,
            retention: wire("retention", self.retention)?,
            cancel_grace: wire("cancel-grace", self.cancel_grace)?,
        };
        let mut task = NewTask::new(task_type)
            .queue(self.queue)
            .priority(self.priority)
            .policy(policy);
        for (key, value) in self.labels {
            task = task.label(key, value);
        }
        if let Some(key) = self.fairness_key {
            task = task.fairness_key(key);
        }
        if let Some(key) = self.concurrency_key {
            task = task.concurrency_key(key);
        }
        if let Some(delay) = self.delay {
            task = task.delay(delay);
        }
        if let Some(id) = self.id {
            task = task.id(id);
        }
        if let Some(request_id) = self.request_id {
            task = task.request_id(request_id);
        }
        if let Some(state) = self.state {
            task = task.state(state);
        }
        Ok(task)
    }
}

/// `KEY=VALUE`, cut at the first `=`.
pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it like KEY=VALUE".to_owned()),
    }
}

/// What `--input` names: JSON as it stands, `@FILE`, or `-` for standard input.
pub(super) fn input(
    task: NewTask,
    input: &str,
    content_type: Option<&str>,
) -> Result<NewTask, Error> {
    let (data, from) = match input.strip_prefix('@') {
        Some(path) => {
            let data = fs::read(path)
                .map_err(|error| Error::failed(format!("cannot read the input {path}: {error}")))?;
            (data, path)
        }
        None if input == "-" => {
            let mut data = Vec::new();
            std::io::stdin().read_to_end(&mut data).map_err(|error| {
                Error::failed(format!(
                    "cannot read the input from standard input: {error}"
                ))
            })?;
            (data, "standard input")
        }
        None => (input.as_bytes().to_vec(), "--input"),
    };
    if let Some(content_type) = content_type {
        return Ok(task.bytes(content_type, data));
    }
    if let Err(problem) = serde_json::from_slice::<serde::de::IgnoredAny>(&data) {
        return Err(
            Error::usage(format!("the input from {from} is not JSON: {problem}"))
                .hint("name what it is with --content-type, such as text/plain"),
        );
    }
    Ok(task.bytes("application/json", data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_cut_at_the_first_equals_sign() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_pair("=a").is_err() && parse_pair("a").is_err());
    }

    #[test]
    fn an_input_that_is_no_json_wants_a_content_type() {
        let new = || NewTask::new("t");
        let error = input(new(), "{oops", None).unwrap_err().to_string();
        assert!(
            error.starts_with("error: the input from --input is not JSON"),
            "{error}"
        );
        let text = input(new(), "{oops", Some("text/plain")).unwrap();
        assert_eq!(text, new_with(&text, "text/plain", b"{oops"));
        let json = input(new(), "[1]", None).unwrap();
        assert_eq!(json, new_with(&json, "application/json", b"[1]"));
    }

    /// The same task with another input: request ids differ from task to task.
    fn new_with(task: &NewTask, content_type: &str, data: &'static [u8]) -> NewTask {
        task.clone().bytes(content_type, data)
    }
}
