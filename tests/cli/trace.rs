//! trace, and tasks found by their trace.

use duite::proto::v1 as pb;
use serde_json::json;

use crate::support::{Server, Worker, command, run};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Creates tasks of one trace, as a caller that is traced does.
fn create_traced(server: &Server, ids: impl IntoIterator<Item = String>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = pb::task_service_client::TaskServiceClient::connect(server.addr());
        let mut client = client.await.unwrap();
        for id in ids {
            let task = pb::Task {
                r#type: "t".into(),
                trace_context: Some(pb::TraceContext {
                    traceparent: format!("00-{TRACE}-00f067aa0ba902b7-01"),
                    tracestate: String::new(),
                }),
                ..pb::Task::default()
            };
            let request = pb::CreateTaskRequest {
                parent: "namespaces/default".into(),
                task_id: id,
                task: Some(task),
                ..pb::CreateTaskRequest::default()
            };
            client.create_task(request).await.unwrap();
        }
    });
}

#[test]
fn a_task_that_failed_twice_is_told_attempt_by_attempt() {
    let server = Server::start();
    let _worker = Worker::start(&server);
    let script = "echo '::duite progress=0.5 phase=\"mesh\"'; exit 7";
    let input = json!({ "argv": ["sh", "-c", script], "retry": true }).to_string();
    let submit = ["submit", "exec", "--id", "job", "--max-attempts", "2"];
    let submit = submit.iter().copied().chain(["--wait", "--input", &input]);
    server.run(submit).expect(1);
    let text = server.run(["trace", "job"]).expect(0).stdout;
    let mut rest = text.as_str();
    for part in [
        "task        job\n",
        "status      failed, attempt 2\n",
        "\nsubmitted   ",
        "  submitted\n",
        "  queued\n",
        "  attempt 1 leased by ",
        "  attempt 1 failed: exit.7: ",
        "  pause and queue before the next attempt\n",
        "  attempt 2 leased by ",
        "  attempt 2 failed: exit.7: ",
        "  failed\n",
        "\nattempt 1  ",
        "█",
        "\nattempt 2  ",
        "·█",
    ] {
        let place = rest.find(part);
        let place = place.unwrap_or_else(|| panic!("`{part}` is not where it should be in {text}"));
        rest = &rest[place + part.len()..];
    }
    assert!(
        text.contains("last progress: progress=0.5 phase=mesh\n"),
        "{text}"
    );
    assert!(
        !text.contains('\x1b'),
        "no colours off a terminal: {text:?}"
    );
    let json = server.run(["trace", "job", "-o", "json"]).expect(0).json();
    assert_eq!(json[0]["attempts"].as_array().unwrap().len(), 2);
}

#[test]
fn the_tasks_of_a_trace_are_found_by_its_id_and_by_any_span_of_it() {
    let server = Server::start();
    server.run(["submit", "t", "--id", "untraced"]).expect(0);
    create_traced(&server, ["a", "b"].map(str::to_owned));
    let span = format!("00-{TRACE}-0000000000000007-00");
    for named in [TRACE, &TRACE.to_uppercase(), &span] {
        let shown = server.run(["trace", named]).expect(0);
        let (a, b) = (
            shown.stdout.find("task        a\n"),
            shown.stdout.find("task        b\n"),
        );
        assert!(a.is_some() && a < b, "{shown:#?}");
        assert!(!shown.stdout.contains("untraced"), "{shown:#?}");
        assert!(
            shown
                .stdout
                .contains("span 00f067aa0ba902b7, its submitter's"),
            "{shown:#?}"
        );
        let json = server.run(["trace", named, "-o", "json"]).expect(0).json();
        assert_eq!(json.len(), 2);
    }
    let listed = server
        .run(["task", "list", "--trace", &span])
        .expect(0)
        .stdout;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(!listed.contains("untraced"), "{listed}");
    let shown = server.run(["task", "get", "a"]).expect(0).stdout;
    assert!(shown.contains(&format!("trace       {TRACE}\n")), "{shown}");
    // What is not of the trace stays as it is.
    server.run(["task", "cancel", "--trace", TRACE]).expect(0);
    let waiting = server
        .run(["task", "list", "--status", "queued"])
        .expect(0)
        .stdout;
    assert!(
        waiting.contains("untraced") && waiting.lines().count() == 2,
        "{waiting}"
    );
}

#[test]
fn of_a_long_trace_the_newest_tasks_are_shown_and_the_rest_is_said_to_be_there() {
    let server = Server::start();
    create_traced(&server, (0..21).map(|number| format!("t{number:02}")));
    let shown = server.run(["trace", TRACE]).expect(0);
    let tasks: Vec<_> = shown
        .stdout
        .lines()
        .filter(|line| line.starts_with("task "))
        .collect();
    assert_eq!(tasks.len(), 20);
    assert!(
        tasks[0].ends_with("t01") && tasks[19].ends_with("t20"),
        "{tasks:?}"
    );
    shown.says(["there are more", "--trace"]);
}

#[test]
fn what_cannot_be_traced_is_told_why() {
    let server = Server::start();
    let missing = server.run(["trace", "none"]).expect(3);
    missing.says(["none", "(TASK_NOT_FOUND)", "hint: `duite task list`"]);
    let short = server.run(["trace", &TRACE[1..]]).expect(3);
    short.says(["(TASK_NOT_FOUND)", "32 hexadecimal digits"]);
    server.run(["submit", "t"]).expect(0);
    let empty = server.run(["trace", TRACE]).expect(3);
    empty.says([TRACE, "no task of the trace", "hint: ", "retention"]);
    // A name of 32 digits is a name.
    server.run(["submit", "t", "--id", TRACE]).expect(0);
    let named = server.run(["trace", TRACE]).expect(0).stdout;
    assert!(named.contains("queued, about number 2 in line"), "{named}");
    let wrong = run(&mut command(["task", "list", "--trace", "xyz"])).expect(2);
    wrong.says(["xyz", "32 hexadecimal digits", "traceparent"]);
}
