//! A task that runs until it is told to stop, at a speed that others set while it runs.
//!
//! With a server running (`duite server`): `cargo run --example steer` works and submits the task.
//! Then, from another terminal, `cargo run --example steer -- 5` or `duite state set turning speed=5`
//! sets the speed, and `cargo run --example steer -- stop` ends it.

use std::time::Duration;

use duite::{
    client::{Client, Error, NewTask},
    worker::{TaskContext, TaskFailure, Worker},
};

const STATE: &str = "turning";

async fn turn(task: TaskContext) -> Result<serde_json::Value, TaskFailure> {
    let state = task.state_name();
    // Called at once with what is set, and with every change, beside the loop.
    task.on_change(&state, ["speed"], |changes| {
        println!("the speed is {:?} now", changes.get::<f64>("speed"));
    });
    // What the loop looks at; its writer never waits for it.
    let params = task.watch_keys(&state, ["speed", "stop"]);
    let mut angle = 0.0;
    while !task.is_cancelled() && params.get("stop") != Some(true) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        angle = (angle + params.get("speed").unwrap_or(1.0)) % 360.0;
        task.state().set("angle", angle);
    }
    Ok(serde_json::json!({ "angle": angle }))
}

async fn work(client: Client) -> Result<(), Error> {
    // What an earlier run was told is over.
    client
        .update_state(STATE)
        .delete("stop")
        .delete("speed")
        .send()
        .await?;
    let worker = Worker::builder(client.clone())
        .queues(["steering"])
        .handler("turn", turn)
        .start()?;
    let task = NewTask::new("turn").queue("steering").state(STATE);
    let task = client.submit(task).await?;
    println!("{} turns, set its speed from another terminal", task.name);
    let task = client.wait(&task.name).await?;
    println!("{:?}", task.status());
    worker.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let update = client.update_state(STATE);
    match std::env::args().nth(1).as_deref() {
        None => work(client).await?,
        Some("stop") => drop(update.put("stop", true).send().await?),
        Some(speed) => drop(update.put("speed", speed.parse::<f64>()?).send().await?),
    }
    Ok(())
}
