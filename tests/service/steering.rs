//! People steer a task while it runs: from UpdateState to `on_change`, with the worker library.

use std::{sync::Arc, time::Duration};

use duite::{
    client::Client,
    worker::{TaskContext, TaskFailure, Worker},
};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use crate::sandbox::{Sandbox, integer, put, text};

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future)
        .await
        .expect("it comes at once")
}

#[tokio::test]
async fn an_update_reaches_the_running_tasks_handler_and_no_later_one_does() {
    let mut server = Sandbox::new().await;
    let (heard, mut hears) = mpsc::unbounded_channel();
    let (stop, started) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let client = Client::from_channel(server.channel.clone());
    let (told, tells, tell) = (Arc::clone(&stop), Arc::clone(&started), heard.clone());
    let worker = Worker::builder(client)
        .handler("echo", move |task: TaskContext| {
            let (stop, started, heard) = (Arc::clone(&told), Arc::clone(&tells), tell.clone());
            async move {
                task.on_change("s", ["speed", "mode"], move |changes| {
                    let speed = changes.get::<i64>("speed");
                    let by = changes.entry("speed").map(|entry| entry.source.clone());
                    // The test has seen enough.
                    let _ = heard.send((speed, changes.has("mode"), by));
                    assert!(!changes.has("mode"), "the mode cannot be changed");
                });
                started.notify_one();
                stop.notified().await;
                Ok::<_, TaskFailure>(serde_json::Value::Null)
            }
        })
        .start()
        .unwrap();
    server.create("t").await;
    soon(started.notified()).await;
    server.update(vec![put("speed", integer(3))]).await.unwrap();
    let by = Some("client".to_owned());
    assert_eq!(soon(hears.recv()).await, Some((Some(3), false, by.clone())));
    // A handler that panics is called again with the next change.
    server
        .update(vec![put("mode", text("fast"))])
        .await
        .unwrap();
    assert_eq!(soon(hears.recv()).await, Some((Some(3), true, by.clone())));
    server.update(vec![put("speed", integer(4))]).await.unwrap();
    assert_eq!(soon(hears.recv()).await, Some((Some(4), false, by)));
    stop.notify_one();
    let worker_ends = worker.shutdown(Duration::from_secs(20));
    soon(worker_ends).await;
    // With the attempt the handler is gone, and with it the last sender but the test's own.
    drop(heard);
    server.update(vec![put("speed", integer(5))]).await.unwrap();
    assert_eq!(soon(hears.recv()).await, None);
}

#[tokio::test]
async fn a_loop_reads_its_parameters_and_writes_them_in_order() {
    let mut server = Sandbox::new().await;
    let client = Client::from_channel(server.channel.clone());
    let worker = Worker::builder(client)
        .handler("echo", async |task: TaskContext| {
            let mut params = task.watch_keys("s", ["zoom"]);
            params.synced().await?;
            assert_eq!(params.get::<i64>("zoom"), None);
            task.state().set("ready", true);
            let asked = params.changed().await?;
            assert!(!asked.is_own("zoom"));
            task.state_named("s").set("zoom", 1000);
            let written = params.changed().await?;
            assert!(written.is_own("zoom"));
            Ok::<_, TaskFailure>(serde_json::json!(written.get::<i64>("zoom")))
        })
        .start()
        .unwrap();
    let client = Client::from_channel(server.channel.clone());
    let mut ready = client.watch_keys("t", ["ready"]);
    server.create("t").await;
    soon(ready.changed()).await.unwrap();
    server
        .update(vec![put("zoom", integer(5000))])
        .await
        .unwrap();
    soon(worker.shutdown(Duration::from_secs(20))).await;
    let task = server.get("t").await.unwrap();
    assert_eq!(task.output.unwrap().data, "1000");
}
