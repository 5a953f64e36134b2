//! A long task that goes on where a lost attempt stopped.
//!
//! With a server running (`duite server`): `cargo run --example checkpoint -- work` in two terminals,
//! then `cargo run --example checkpoint` in a third submits a task of 100 steps and follows it. Kill
//! the worker that prints the steps (`kill -9`): within seconds the other one goes on from the last
//! step that the first one has saved.

use std::time::Duration;

use duite::{
    client::{Client, Error, NewTask, decode_value},
    proto::v1::value::Kind,
    worker::{TaskContext, TaskFailure, Worker},
};

/// The key of the task's state that says how many steps are done.
const CHECKPOINT: &str = "checkpoint";

/// Runs on a worker that may die at any step.
pub async fn count(task: TaskContext) -> Result<serde_json::Value, TaskFailure> {
    let steps: i64 = task.json()?;
    let begin = saved(&task).await?;
    for step in begin + 1..=steps {
        println!("attempt {} does step {step}", task.attempt());
        tokio::select! {
            // One step of the work. What it does to the world outside, a later attempt may do again
            // where this one dies before the checkpoint is saved.
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            // The lease is lost, or the task is to stop: another attempt may be at work already.
            () = task.cancelled().cancelled_owned() => return Err(TaskFailure::cancelled()),
        }
        // Sent at once, in order, and under this attempt's lease: once that is over nothing of it
        // is taken any more, so that no late checkpoint falls back behind another attempt's.
        task.state().set(CHECKPOINT, step);
    }
    Ok(serde_json::json!({ "begun_after": begin }))
}

/// What an earlier attempt of this task has saved. Not only of attempts above 1: one that was given
/// back when its worker shut down does not count.
async fn saved(task: &TaskContext) -> Result<i64, TaskFailure> {
    let name = task.state_name();
    let state = match task.client().get_state(&name, &[CHECKPOINT]).await {
        Ok((state, _)) => state,
        Err(error) if error.reason() == "STATE_NOT_FOUND" => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let Some(entry) = state.entries.first() else {
        return Ok(0);
    };
    match decode_value(&entry.value)?.kind {
        Some(Kind::Integer(step)) => Ok(step),
        other => {
            let message = format!("the checkpoint is no whole number: {other:?}");
            Err(TaskFailure::new("checkpoint.invalid", message).permanent())
        }
    }
}

/// A worker of the queue `checkpoints`.
pub fn worker(client: Client) -> Result<Worker, Error> {
    Worker::builder(client)
        .queues(["checkpoints"])
        .handler("count", count)
        .start()
}

/// The task: it has a state of its own, named after it.
pub fn task(steps: i64) -> Result<NewTask, serde_json::Error> {
    NewTask::new("count").queue("checkpoints").json(&steps)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    if std::env::args().nth(1).as_deref() == Some("work") {
        let worker = worker(client)?;
        tokio::signal::ctrl_c().await?;
        worker.shutdown(Duration::ZERO).await;
        return Ok(());
    }
    let task = client.submit(task(100)?).await?;
    println!("submitted {}", task.name);
    let task = client.wait(&task.name).await?;
    let output = task.output.unwrap_or_default();
    let output = String::from_utf8_lossy(&output.data);
    let attempt = task.attempt;
    println!("attempt {attempt} came to the end: {output}");
    Ok(())
}
