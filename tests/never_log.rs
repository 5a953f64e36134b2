//! The never-log list (docs/LOGGING.md): inputs, outputs, values, payload metadata, lease tokens and
//! resume tokens are in no line of the log, however much is logged.
//!
//! A server process and a worker in this one log all that duite has to say, while tasks succeed,
//! fail, panic, are cancelled, push state and follow it; then every line is searched.

#[path = "support/mod.rs"]
mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use duite::{
    client::{Client, NewTask, Update},
    proto::v1::Payload,
    worker::{Output, TaskContext, TaskFailure, Worker},
};
use support::Server;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

const INPUT: &str = "marker-input-k3x9";
const OUTPUT: &str = "marker-output-k3x9";
const VALUE: &str = "marker-value-k3x9";
const METADATA: &str = "marker-metadata-k3x9";
const DETAILS: &str = "marker-details-k3x9";
const EXEC: &str = "marker-exec-k3x9";

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// How bytes may look in a log, by the name of the form.
fn forms(bytes: &[u8]) -> Vec<(&'static str, String)> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let escaped = format!("{:?}", bytes::Bytes::copy_from_slice(bytes));
    let escaped = escaped.trim_start_matches("b\"").trim_end_matches('"');
    let list = format!("{bytes:?}");
    let list = list.trim_start_matches('[').trim_end_matches(']');
    let mut forms = vec![
        ("hex", hex.clone()),
        ("HEX", hex.to_uppercase()),
        ("base64", base64(bytes)),
        ("escaped bytes", escaped.to_owned()),
        // As JSON lines have it.
        ("escaped bytes", escaped.replace('\\', "\\\\")),
        ("list of bytes", list.to_owned()),
    ];
    if let Ok(text) = std::str::from_utf8(bytes) {
        forms.push(("text", text.to_owned()));
    }
    forms
}

/// Without the last group, which depends on what follows.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks_exact(3).flat_map(|group| {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        [18, 12, 6, 0].map(|shift| LETTERS[(bits >> shift) as usize & 63] as char)
    });
    groups.collect()
}

fn payload(text: &str) -> Payload {
    Payload {
        content_type: "text/plain".to_owned(),
        data: text.as_bytes().to_vec().into(),
        metadata: [("note".to_owned(), METADATA.to_owned())].into(),
    }
}

type Tokens = Arc<Mutex<Vec<Vec<u8>>>>;

async fn handle(task: TaskContext, tokens: Tokens) -> Result<Output, TaskFailure> {
    tokens.lock().unwrap().push(task.lease_token().to_vec());
    task.state().set("secret", VALUE);
    task.contribute("shared", [Update::put("secret", VALUE)]);
    tracing::info!("the handler logs");
    let mut followed = task.watch_keys(&task.state_name(), ["secret"]);
    // The marker itself, or the end of it; either way it was on the wire.
    let _ = tokio::time::timeout(Duration::from_secs(5), followed.changed()).await;
    match task.input() {
        input if input.ends_with(b"fail\"") => Err(TaskFailure::new("test.failed", "it fails")
            .details(payload(DETAILS))
            .permanent()),
        input if input.ends_with(b"json\"") => Ok(task.json::<u32>().map(|_| Output::default())?),
        input if input.ends_with(b"panic\"") => panic!("it panics"),
        input if input.ends_with(b"cancel\"") => {
            task.cancelled().cancelled().await;
            Err(TaskFailure::cancelled())
        }
        _ => Ok(payload(OUTPUT).into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_holds_what_no_log_may() {
    let lines = Lines::default();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("info,duite=trace"))
        .with_writer(lines.clone())
        .with_ansi(false)
        .init();
    let server = Server::start_with(["--log", "info,duite=trace"]);
    let client = Client::connect(server.addr()).unwrap();
    let tokens = Tokens::default();
    let seen = Arc::clone(&tokens);
    let worker = Worker::builder(client.clone())
        .queues(["default"])
        .handler("test", move |task| handle(task, Arc::clone(&seen)))
        .allow_exec(true)
        .start()
        .unwrap();

    let mut resume = Vec::new();
    for end in ["succeed", "fail", "json", "panic", "cancel"] {
        // A string in JSON: whoever reads it as a number is told which string it was.
        let input = format!("\"{INPUT}-{end}\"");
        let task = NewTask::new("test")
            .bytes("application/json", input)
            .max_attempts(1);
        let (task, position) = client.submit_at(task).await.unwrap();
        resume.push(position.resume_token.to_vec());
        if end == "cancel" {
            client.cancel_task(&task.name, "enough").await.unwrap();
        }
        // A task that failed is an answer like another.
        client.wait(&task.name).await.unwrap();
    }
    let argv = serde_json::json!({ "argv": ["sh", "-c", format!("echo {EXEC}; exit 3")] });
    let exec = client
        .submit(NewTask::new("exec").json(&argv).unwrap())
        .await
        .unwrap();
    client.wait(&exec.name).await.unwrap();
    let states = client.state_name("plain");
    let update = client.update_state(&states).put("secret", VALUE);
    update.send().await.unwrap();
    worker.shutdown(Duration::from_secs(10)).await;

    let mut ours = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(
        ours.contains("handler failed") && ours.contains("handler panicked"),
        "{ours}"
    );
    assert!(
        ours.contains("task.id="),
        "the handler's lines are in its span: {ours}"
    );
    ours.push_str(&server.log());
    assert!(
        server.log().contains("\"level\":\"DEBUG\""),
        "the server logs all: {ours}"
    );
    let markers =
        [INPUT, OUTPUT, VALUE, METADATA, DETAILS, EXEC].map(|text| text.as_bytes().to_vec());
    let tokens = tokens.lock().unwrap().clone();
    assert!(tokens.len() >= 4, "{}", tokens.len());
    for secret in markers.iter().chain(&tokens).chain(&resume) {
        assert!(
            secret.len() >= 8,
            "too short to be told from chance: {secret:?}"
        );
        for (form, text) in forms(secret) {
            let line = ours.lines().find(|line| line.contains(&text));
            assert_eq!(line, None, "a line holds {text} as {form}");
        }
    }
}
