use duite::client::{Client, NewTask};

async fn follow(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(address)?;
    let task = client.submit(NewTask::new("train").state("run-1")).await?;
    println!("submitted {}", task.name);

    let mut watch = client.watch_state(["run-1"]).start();
    while watch.view().get("run-1", "done").is_none() {
        if let Some(event) = watch.next().await {
            event?; // resumed by itself after a break: the view is whole again
        }
        for (key, entry) in watch.view().state("run-1").into_iter().flatten() {
            let value = entry.value().map(|value| value.to_string());
            println!("{key} = {}", value.unwrap_or_default());
        }
    }
    Ok(())
}
