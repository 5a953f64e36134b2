//! `duite run` on `duite worker --allow-exec`.

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Running, Server, Worker};

#[test]
fn a_program_s_output_and_exit_code_come_back() {
    let server = Server::start();
    let mut worker = Worker::start(&server);
    let ran = server.run(["run", "--", "echo", "hi"]).expect(0);
    assert_eq!(ran.stdout, "hi\n");
    // That it ran may be folded away, it ends so soon; a longer one below shows it.
    ran.says(["queued", "succeeded"]);
    let failed = server.run([
        "run",
        "--max-attempts",
        "1",
        "--",
        "sh",
        "-c",
        "echo oh >&2; exit 7",
    ]);
    assert_eq!(failed.expect(7).stdout, "oh\n");
    let missing = server.run(["run", "--max-attempts", "1", "--", "/no/such/program"]);
    missing
        .expect(1)
        .says(["error: exec.spawn", "/no/such/program"]);
    assert_eq!(worker.stop().code(), Some(0));
}

#[test]
fn a_program_reports_state_by_lines_and_by_commands() {
    let server = Server::start();
    let _worker = Worker::start(&server);
    let script = format!(
        "echo '::duite progress=0.5 phase=\"mesh\"'; {} state set by=command && {0} state get . by",
        env!("CARGO_BIN_EXE_duite")
    );
    let ran = server.run([
        "run", "--id", "job", "--state", "s", "--", "sh", "-c", &script,
    ]);
    let ran = ran.expect(0).says(["progress=0.5", "phase=\"mesh\""]);
    let at = |text: &str| ran.stderr.rfind(text).expect("it was said");
    assert!(at("by=\"command\"") < at("succeeded"), "{ran:#?}");
    assert_eq!(ran.stdout, "command\n");
    for (key, value) in [("progress", "0.5"), ("phase", "mesh"), ("by", "command")] {
        let read = server.run(["state", "get", "s", key]).expect(0);
        assert_eq!(read.stdout, format!("{value}\n"));
    }
}

#[test]
fn a_program_gets_its_environment_and_folder() {
    let server = Server::start();
    let _worker = Worker::start(&server);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let ran = server.run([
        "run",
        "--env",
        "WHO=me=you",
        "--cwd",
        folder.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        "echo $WHO; pwd",
    ]);
    assert_eq!(
        ran.expect(0).stdout,
        format!("me=you\n{}\n", folder.display())
    );
}

#[test]
fn an_interrupted_run_stops_its_task() {
    let server = Server::start();
    let _worker = Worker::start(&server);
    let mut run =
        Running::start(&mut server.command(["run", "--id", "long", "--", "sleep", "600"]));
    run.stderr_until("running on");
    run.signal(Signal::INT);
    run.stderr_until("asking the task to stop");
    assert_eq!(run.wait().code(), Some(130));
    let task = server
        .run(["task", "get", "long", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(task[0]["status"], json!("STATUS_CANCELLED"));
}

#[test]
fn a_task_is_watched_to_its_end_in_frames() {
    let server = Server::start();
    let id = server
        .run(["run", "--detach", "--", "true"])
        .expect(0)
        .stdout;
    let id = id.trim_end();
    let mut watch = Running::start(&mut server.command(["task", "watch", id, "-o", "json"]));
    watch.stdout_until("STATUS_QUEUED");
    let _worker = Worker::start(&server);
    watch.stdout_until("STATUS_SUCCEEDED");
    assert_eq!(watch.wait().code(), Some(0));
    let again = server.run(["task", "watch", id]).expect(0);
    again.says(["succeeded"]);
}

#[test]
fn a_submission_waits_for_its_task_and_fails_with_it() {
    let server = Server::start();
    let _worker = Worker::start(&server);
    let exec = |argv: &str| {
        let input = format!("{{\"argv\":{argv}}}");
        let arguments = [
            "submit",
            "exec",
            "--wait",
            "--max-attempts",
            "1",
            "--input",
            &input,
        ];
        server.run(arguments)
    };
    assert!(
        exec(r#"["true"]"#)
            .expect(0)
            .stdout
            .contains("status      succeeded")
    );
    assert!(exec(r#"["false"]"#).expect(1).stdout.contains("exit.1"));
}

/// Waits until the task has this status, and gives it.
fn until_status(server: &Server, id: &str, status: &str) -> serde_json::Value {
    let mut watch = Running::start(&mut server.command(["task", "watch", "-o", "json"]));
    watch.stdout_until(status);
    let task = server.run(["task", "get", id, "-o", "json"]).expect(0);
    task.json().remove(0)
}

fn detach(server: &Server, id: &str, script: &str) {
    let run = ["run", "--detach", "--id", id, "--", "sh", "-c", script];
    server.run(run).expect(0);
}

#[test]
fn a_stopping_worker_finishes_what_ends_within_its_grace_and_takes_no_more() {
    let server = Server::start();
    let mut worker = Worker::start_with(&server, ["--concurrency", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let script = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    detach(&server, "first", &script);
    until_status(&server, "first", "STATUS_RUNNING");
    worker.signal(Signal::TERM);
    detach(&server, "second", "true");
    std::fs::write(go, "").unwrap();
    assert_eq!(worker.wait().code(), Some(0));
    let ended = server.run(["task", "get", "first", "-o", "json"]).expect(0);
    assert_eq!(ended.json()[0]["status"], json!("STATUS_SUCCEEDED"));
    let waits = server
        .run(["task", "get", "second", "-o", "json"])
        .expect(0);
    assert_eq!(waits.json()[0]["status"], json!("STATUS_QUEUED"));
}

#[test]
fn a_stopping_worker_gives_back_what_is_unfinished_and_no_attempt_is_spent() {
    let server = Server::start();
    let mut worker = Worker::start_with(&server, ["--grace", "200ms", "--id", "first"]);
    detach(&server, "job", "sleep 600");
    until_status(&server, "job", "STATUS_RUNNING");
    assert_eq!(worker.stop().code(), Some(0));
    let task = server.run(["task", "get", "job", "-o", "json"]).expect(0);
    let task = task.json().remove(0);
    assert_eq!(task["status"], json!("STATUS_QUEUED"));
    assert_eq!(
        (&task["attempts"], &task["suspectTime"]),
        (&json!(null), &json!(null))
    );
    let _second = Worker::start_with(&server, ["--id", "second"]);
    let task = until_status(&server, "job", "STATUS_RUNNING");
    assert_eq!(
        (&task["attempt"], &task["workerId"]),
        (&json!(1), &json!("second"))
    );
    server.run(["task", "cancel", "job"]).expect(0);
    until_status(&server, "job", "STATUS_CANCELLED");
}

#[test]
fn a_second_signal_ends_a_worker_at_once_with_all_it_runs() {
    let server = Server::start();
    let mut worker = Worker::start(&server);
    let script = "trap '' TERM; echo ::duite pid=$$; sleep 600 & wait; sleep 600";
    detach(&server, "job", script);
    let mut watch = Running::start(&mut server.command(["state", "watch", "job"]));
    let line = watch.stdout_until("pid");
    let pid: u32 = line
        .rsplit(['=', ' '])
        .next()
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    worker.signal(Signal::TERM);
    // It waits for what runs.
    until_status(&server, "job", "STATUS_RUNNING");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(128 + 15));
    // A signal is sent before it is obeyed.
    let ended = std::time::Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            break;
        }
        assert!(ended.elapsed().as_secs() < 30, "{stat}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn failed_tasks_are_repeated_by_name_and_by_filter_and_once_each() {
    let server = Server::start();
    let _worker = Worker::start(&server);
    for (id, label) in [("a", "k=1"), ("b", "k=1"), ("c", "k=2")] {
        let run = [
            "run",
            "--id",
            id,
            "--label",
            label,
            "--max-attempts",
            "1",
            "--",
            "false",
        ];
        server.run(run).expect(1);
    }
    let named = server.run(["task", "retry", "a"]).expect(0).stdout;
    let (old, new) = named.trim_end().split_once(" -> ").unwrap();
    assert_eq!(old, "a");
    let shown = server.run(["task", "get", new]).expect(0).stdout;
    assert!(shown.contains("repeats     a"), "{shown}");
    server.run(["task", "watch", new]).expect(1);
    let twice = server.run(["task", "retry", "a", "none"]).expect(1);
    twice.says(["(TASK_EXISTS)", new, "(TASK_NOT_FOUND)"]);
    // `a` was repeated already, its repetition failed and has the same label.
    let more = server.run(["task", "retry", "--label", "k=1"]).expect(0);
    let mut olds: Vec<_> = more
        .stdout
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    olds.sort_unstable();
    let mut expected = [new, "b"];
    expected.sort_unstable();
    assert_eq!(olds, expected);
    let none = server
        .run(["task", "retry", "--queue", "elsewhere"])
        .expect(0);
    none.says(["no task to repeat"]);
    server.run(["task", "retry"]).expect(2).says(["--all"]);
}

#[test]
fn many_tasks_are_cancelled_by_filter() {
    let server = Server::start();
    for id in ["a", "b", "c"] {
        let label = if id == "c" { "k=2" } else { "k=1" };
        server
            .run(["submit", "t", "--id", id, "--label", label])
            .expect(0);
    }
    let told = server.run(["task", "cancel", "--label", "k=1"]).expect(0);
    assert_eq!(told.stdout.lines().count(), 2, "{told:#?}");
    let again = server.run(["task", "cancel", "--label", "k=1"]).expect(0);
    again.says(["no task to stop"]);
    let named = server.run(["task", "cancel", "none", "a", "b"]).expect(3);
    assert_eq!(named.says(["(TASK_NOT_FOUND)"]).stdout.lines().count(), 2);
    let left = server.run(["task", "list", "--status", "queued"]).expect(0);
    assert!(left.stdout.contains("c  "), "{left:#?}");
    server.run(["task", "cancel"]).expect(2).says(["--all"]);
}
