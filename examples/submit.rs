//! Submits a task and follows its live state until it ends.
//!
//! With a server and a worker running (`duite server`, `cargo run --example worker`):
//! `cargo run --example submit`

use duite::client::{Client, NewTask};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?;
    let input = NewTask::new("count").json(&20)?;
    let task = client.submit(input.state("counting")).await?;
    println!("submitted {}", task.name);

    let mut watch = client.watch_state(["counting"]).start();
    let mut end = std::pin::pin!(client.wait(&task.name));
    let task = loop {
        tokio::select! {
            task = &mut end => break task?,
            Some(event) = watch.next() => drop(event?),
        }
        for (key, entry) in watch.view().state("counting").into_iter().flatten() {
            println!(
                "{key} = {}",
                entry
                    .value()
                    .map_or_else(String::new, |value| value.to_string())
            );
        }
    };
    println!("{:?} after {} attempt(s)", task.status(), task.attempt);
    Ok(())
}
