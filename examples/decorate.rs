//! Tasks of a program's own, decorated: nothing that fails in them disappears.
//!
//! `cargo run --example decorate`. With `DUITE_ADDR=127.0.0.1:7643` set, and a server there, the
//! failures are also in `duite errors`.

use std::{num::ParseIntError, time::Duration};

/// Calling it schedules it; the handle may be awaited, aborted or dropped.
#[duite::task]
async fn read_size(text: String) -> Result<u32, ParseIntError> {
    text.trim().parse()
}

/// A panic is a failure like another, with its place and stack.
#[duite::task(name = "pick")]
async fn pick_layer(layers: Vec<&'static str>, index: usize) -> &'static str {
    layers[index]
}

#[tokio::main]
async fn main() {
    use duite::telemetry::{Form, Role};
    let _telemetry = duite::telemetry::start("info", Form::of_command(), Role::Command)
        .expect("nothing else has set up logging");

    println!("size: {:?}", read_size(" 42 ".to_owned()).await);
    // Nobody waits for this one; it is logged, counted and, where configured, reported.
    drop(read_size("forty-two".to_owned()));
    match pick_layer(vec!["base", "ink"], 2).await {
        Ok(layer) => println!("layer: {layer}"),
        Err(error) => {
            let place = error.origin().map(|origin| &*origin.location);
            println!("no layer: {error} ({})", place.unwrap_or_default());
        }
    }
    // The same for any future, and for a task that runs already.
    let task = duite::create_task("sum", async {
        Ok::<_, ParseIntError>(1 + "2".parse::<u32>()?)
    });
    println!("sum: {:?}", task.await);
    let running = tokio::spawn(async { "x".parse::<u32>() });
    println!(
        "taken over: {:?}",
        duite::decorate_task("late", running).await.is_err()
    );

    println!("still running: {}", duite::pending_tasks());
    let left = duite::flush_reports(Duration::from_secs(5)).await;
    println!("reports that could not be sent: {left}");
}
