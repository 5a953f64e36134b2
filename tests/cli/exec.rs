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
