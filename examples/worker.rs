//! A worker that counts, and reports its progress as live state.
//!
//! `cargo run --example worker`, stopped with Ctrl-C.

use std::time::Duration;

use duite::{
    client::Client,
    worker::{TaskContext, TaskFailure, Worker},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = Worker::builder(Client::from_env()?)
        .queues(["default"])
        .concurrency(4)
        .handler("count", async |task: TaskContext| {
            let steps: u32 = task.json()?;
            for step in 1..=steps {
                tokio::time::sleep(Duration::from_millis(100)).await;
                task.state()
                    .set("progress", f64::from(step) / f64::from(steps));
            }
            Ok::<_, TaskFailure>(serde_json::json!({ "counted": steps }))
        })
        .start()?;
    tokio::signal::ctrl_c().await?;
    worker.shutdown(Duration::from_secs(30)).await;
    Ok(())
}
