//! Real programs, without a server: the state queue of the context keeps what it cannot send.

use std::{sync::Arc, time::Instant};

use serde_json::json;

use super::*;
use crate::{
    client::Client,
    proto::v1::{Failure, Payload, Task, failure::Category},
    worker::lease::Held,
};

fn context(input: &serde_json::Value) -> TaskContext {
    let input = Payload {
        data: input.to_string().into(),
        ..Payload::default()
    };
    let task = Task {
        name: "namespaces/default/tasks/t1".to_owned(),
        r#type: TASK_TYPE.to_owned(),
        input: Some(input),
        attempt: 1,
        ..Task::default()
    };
    let until = Instant::now() + Duration::from_secs(60);
    let held = Held::new(vec![0xab, 0x01].into(), task.name.clone(), until, None);
    let client = Client::connect("http://127.0.0.1:1").unwrap();
    TaskContext::new(client, task, Arc::new(held), None)
}

fn shell(script: &str) -> serde_json::Value {
    json!({ "argv": ["sh", "-c", script] })
}

async fn report(input: &serde_json::Value) -> serde_json::Value {
    let Output(payload) = run(context(input)).await.unwrap();
    assert_eq!(payload.content_type, "application/json");
    serde_json::from_slice(&payload.data).unwrap()
}

async fn failure(input: &serde_json::Value) -> Failure {
    run(context(input)).await.unwrap_err().into_wire(None, 1)
}

#[tokio::test]
async fn the_output_of_both_pipes_is_kept_and_the_input_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let input = json!({
        "argv": ["sh", "-c", "pwd; echo $COLOUR >&2"],
        "env": { "COLOUR": "blue" },
        "cwd": folder,
    });
    let report = report(&input).await;
    assert_eq!(report["exit_code"], 0);
    let tail = report["output_tail"].as_str().unwrap();
    assert!(
        tail.contains(folder.to_str().unwrap()) && tail.contains("blue\n"),
        "{tail}"
    );
}

#[tokio::test]
async fn the_program_finds_its_task_in_its_environment() {
    let script = "echo $DUITE_ADDR $DUITE_TASK $DUITE_LEASE $DUITE_STATE";
    let report = report(&shell(script)).await;
    let expected =
        "http://127.0.0.1:1 namespaces/default/tasks/t1 ab01 namespaces/default/states/t1\n";
    assert_eq!(report["output_tail"], expected);
}

#[tokio::test]
async fn state_lines_become_state_and_malformed_ones_stay_output() {
    let script = r#"echo '::duite progress=0.5 phase="a b"'; echo '::duite done+=2'; echo '::duite oops'; echo plain; printf '::duite last=true'"#;
    let context = context(&shell(script));
    let Output(payload) = run(context.clone()).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&payload.data).unwrap();
    assert_eq!(report["output_tail"], "::duite oops\nplain\n");
    assert_eq!(report["malformed_lines"], 1);
    let state = context.state();
    assert_eq!(state.get("progress"), Some(0.5.into()));
    assert_eq!(state.get("phase"), Some("a b".into()));
    assert_eq!(state.get("last"), Some(true.into()));
    assert_eq!(state.stats().flushes, 3);
}

#[tokio::test]
async fn a_program_that_may_be_run_twice_fails_for_a_retry() {
    let mut input = shell("exit 3");
    input["retry"] = true.into();
    assert!(failure(&input).await.retryable);
}

#[tokio::test]
async fn an_exit_code_is_a_failure_with_the_last_lines() {
    let failure = failure(&shell(
        "for n in 1 2 3 4 5 6 7; do echo line $n; done; exit 3",
    ))
    .await;
    assert_eq!(failure.r#type, "exit.3");
    // What failed is the program, not the library that ran it.
    assert_eq!((&*failure.location, &*failure.stack_trace), ("sh", ""));
    assert!(!failure.retryable);
    assert_eq!(
        failure.message,
        "`sh` exited with code 3: line 3\nline 4\nline 5\nline 6\nline 7"
    );
    let details: serde_json::Value =
        serde_json::from_slice(&failure.details.unwrap().data).unwrap();
    assert_eq!(details["exit_code"], 3);
}

#[tokio::test]
async fn a_signal_is_a_failure_of_its_own() {
    let failure = failure(&shell("kill -9 $$")).await;
    assert_eq!(
        (failure.r#type.as_str(), failure.message.as_str()),
        ("signal.9", "`sh` was ended by signal 9, without output")
    );
}

#[tokio::test]
async fn wrong_input_is_a_permanent_failure_that_says_why() {
    for (input, why) in [
        (json!({ "argv": [] }), "`argv` is empty"),
        (json!({ "command": "ls" }), "unknown field `command`"),
        (
            json!({ "argv": ["/no/such/program"] }),
            "`/no/such/program` could not be started",
        ),
    ] {
        let failure = failure(&input).await;
        assert!(failure.message.contains(why), "{}", failure.message);
        assert!(!failure.retryable);
    }
}

#[tokio::test]
async fn a_cancel_ends_the_program_gently_and_the_attempt_is_cancelled() {
    let script = "trap 'echo ::duite saved=true; exit 0' TERM; echo '::duite ready=true'; while :; do sleep 0.05; done";
    let context = context(&shell(script));
    let running = tokio::spawn(run(context.clone()));
    until(|| context.state().get("ready").is_some()).await;
    context.cancelled().cancel();
    running.await.unwrap().unwrap();
    assert_eq!(context.state().get("saved"), Some(true.into()));
}

#[tokio::test]
async fn a_program_that_dies_of_the_cancel_is_cancelled_with_all_it_started() {
    let script = "echo begun; sleep 60 & echo ::duite child=$!; wait";
    let context = context(&shell(script));
    let running = tokio::spawn(run(context.clone()));
    until(|| context.state().get("child").is_some()).await;
    context.cancelled().cancel();
    let failure = running.await.unwrap().unwrap_err();
    let failure = failure.into_wire(None, 1);
    assert_eq!(failure.category(), Category::Cancelled);
    let details: serde_json::Value =
        serde_json::from_slice(&failure.details.unwrap().data).unwrap();
    assert_eq!(details["output_tail"], "begun\n");
    gone(&context).await;
}

#[tokio::test]
async fn a_group_that_ignores_the_request_to_stop_is_gone_within_the_grace() {
    // Who is asked to stop goes on, and so does what it started.
    let stubborn = "trap '' TERM; (trap '' TERM; sleep 60) & echo ::duite child=$!; wait";
    // It obeys; what it started does not.
    let obeying = "(trap '' TERM; exec sleep 60) & echo ::duite child=$!; sleep 60 & wait";
    for (script, within) in [(stubborn, 8), (obeying, 3)] {
        let context = context(&shell(script));
        let running = tokio::spawn(run(context.clone()));
        until(|| context.state().get("child").is_some()).await;
        let asked = Instant::now();
        context.cancelled().cancel();
        let failure = running.await.unwrap().unwrap_err().into_wire(None, 1);
        assert_eq!(failure.category(), Category::Cancelled);
        gone(&context).await;
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(within), "{script}: {took:?}");
    }
}

#[tokio::test]
async fn a_dropped_attempt_takes_its_processes_with_it() {
    let context = context(&shell("sleep 60 & echo ::duite child=$!; wait"));
    let running = tokio::spawn(run(context.clone()));
    until(|| context.state().get("child").is_some()).await;
    running.abort();
    running.await.unwrap_err();
    gone(&context).await;
}

#[tokio::test]
async fn a_failing_program_with_much_output_keeps_the_end_of_it() {
    let script = r"head -c 100000 /dev/zero | tr '\0' '\033'; echo the end; exit 1";
    for script in [script, "seq 1 30000; echo the end; exit 1"] {
        let details = failure(&shell(script)).await.details.unwrap();
        let bytes = details.data.len();
        assert!((40 << 10..=60 << 10).contains(&bytes), "{bytes}");
        let details: serde_json::Value = serde_json::from_slice(&details.data).unwrap();
        assert!(
            details["output_tail"]
                .as_str()
                .unwrap()
                .ends_with("the end\n"),
            "{details}"
        );
        assert_eq!(details["truncated"], true);
    }
}

#[tokio::test]
async fn a_working_folder_that_is_missing_is_named() {
    let mut input = shell("true");
    input["cwd"] = "/no/such/folder".into();
    assert_eq!(
        failure(&input).await.message,
        "working folder /no/such/folder does not exist"
    );
}

#[tokio::test]
async fn a_program_that_runs_is_known_to_be_killed_at_a_sudden_end() {
    let context = context(&shell("echo ::duite self=$$; sleep 60"));
    let running = tokio::spawn(run(context.clone()));
    until(|| context.state().get("self").is_some()).await;
    let group = || context.state().get("self").unwrap().to_string().parse();
    assert!(GROUPS.lock().contains(&group().unwrap()));
    running.abort();
    running.await.unwrap_err();
    assert!(!GROUPS.lock().contains(&group().unwrap()));
}

async fn gone(context: &TaskContext) {
    let child = context.state().get("child").unwrap().to_string();
    until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // A zombie waits for whoever adopts it to notice.
        stat.is_empty() || stat.contains(") Z ")
    })
    .await;
}

async fn until(condition: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < patience, "it did not come about in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
