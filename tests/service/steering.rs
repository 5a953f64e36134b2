//! People steer a task while it runs: from UpdateState to `on_change`, with the worker library.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use duite::{
    client::{Client, Update, blob, decode_value},
    proto::v1::{self as pb, value::Kind},
    worker::{TaskContext, TaskFailure, Worker},
};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use crate::sandbox::{Sandbox, entries, integer, put, text};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_a_handler_writes_while_the_attempt_ends_is_part_of_the_attempt() {
    let mut server = Sandbox::new().await;
    let client = Client::from_channel(server.channel.clone());
    let (terminal, is_terminal) = std::sync::mpsc::channel::<()>();
    let is_terminal = Arc::new(std::sync::Mutex::new(is_terminal));
    let worker = Worker::builder(client)
        .handler("echo", move |task: TaskContext| {
            let (stop, is_terminal) = (Arc::new(Notify::new()), Arc::clone(&is_terminal));
            let (tells, writer) = (Arc::clone(&stop), task.clone());
            async move {
                task.on_change("s", ["speed"], move |_| {
                    tells.notify_one();
                    // The task is not over while this runs; were it, this would come too late.
                    let over = is_terminal.lock().unwrap();
                    let _ = over.recv_timeout(Duration::from_millis(500));
                    writer.state_named("s").set("heard", true);
                });
                stop.notified().await;
                Ok::<_, TaskFailure>(serde_json::Value::Null)
            }
        })
        .start()
        .unwrap();
    server.create("t").await;
    server.update(vec![put("speed", integer(3))]).await.unwrap();
    let is_over = |status| status == pb::task::Status::Succeeded;
    while !is_over(server.get("t").await.unwrap().status()) {
        tokio::task::yield_now().await;
    }
    // The handler may be gone already.
    let _ = terminal.send(());
    let state = server.state().await.unwrap();
    let keys: Vec<&str> = entries(&state).iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, ["heard", "speed"]);
    soon(worker.shutdown(Duration::from_secs(20))).await;
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

#[tokio::test]
async fn an_update_with_an_old_revision_is_refused_and_says_what_to_do() {
    let mut server = Sandbox::new().await;
    let client = Client::from_channel(server.channel.clone());
    server.update(vec![put("speed", integer(1))]).await.unwrap();
    let (read, _) = client.get_state("s", &[]).await.unwrap();
    server.update(vec![put("other", integer(1))]).await.unwrap();
    let update = |revision| {
        let update = client.update_state("s").put("speed", 2);
        update.expected_revision(revision).send()
    };
    let error = update(read.revision).await.unwrap_err();
    assert_eq!(error.reason(), "REVISION_MISMATCH");
    assert!(error.message().contains("read it again"), "{error}");
    let (read, _) = client.get_state("s", &[]).await.unwrap();
    update(read.revision).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_modification_is_decided_anew_when_others_wrote_and_gives_up_in_the_end() {
    let mut server = Sandbox::new().await;
    let client = Client::from_channel(server.channel.clone());
    let error = client.modify_state("s", &[], |_| vec![]).await;
    assert_eq!(error.unwrap_err().reason(), "STATE_NOT_FOUND");
    server.update(vec![put("n", integer(0))]).await.unwrap();
    let one_more = |keys: &BTreeMap<String, pb::Value>| match keys["n"].kind {
        Some(Kind::Integer(n)) => vec![Update::put("n", n + 1)],
        _ => vec![],
    };
    let all = (0..8).map(|_| client.modify_state("s", &["n"], one_more));
    let all = futures_util::future::join_all(all).await;
    let done = all.iter().filter(|done| done.is_ok()).count() as i64;
    let state = server.state().await.unwrap();
    assert_eq!(entries(&state), [("n", integer(done))]);
    assert!(done >= 1);
    assert!(
        client
            .modify_state("s", &["n"], |_| vec![])
            .await
            .unwrap()
            .is_none()
    );
    // Somebody writes between each reading and its writing.
    let mut attempts = 0;
    let other = Client::from_channel(server.channel.clone());
    let error = client.modify_state("s", &["n"], |_| {
        attempts += 1;
        let writing = other.update_state("s").add("other", 1).send();
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(writing))
            .unwrap();
        vec![Update::put("n", 0)]
    });
    let error = error.await.unwrap_err();
    assert_eq!((error.reason(), attempts), ("REVISION_MISMATCH", 10));
    assert!(error.message().contains("10 attempts"), "{error}");
}

#[tokio::test]
async fn previews_and_progress_of_a_task_are_all_there_when_it_has_succeeded() {
    let mut server = Sandbox::new().await;
    let client = Client::from_channel(server.channel.clone());
    let worker = Worker::builder(client)
        .handler("echo", async |task: TaskContext| {
            let state = task.state_named("s");
            for step in 0..20 {
                state.set("preview", blob("image/png", vec![step; 200_000]));
                state.update([
                    ("image", blob("image/png", vec![step; 70_000])),
                    ("step", step.into()),
                ]);
                state.set("step", i64::from(step) + 100);
                state.set("progress", f64::from(step) / 20.0);
            }
            Ok::<_, TaskFailure>(serde_json::Value::Null)
        })
        .start()
        .unwrap();
    let client = Client::from_channel(server.channel.clone());
    let mut done = client.watch_task("t").start();
    server.create("t").await;
    while let Some(event) = soon(done.next()).await {
        event.unwrap();
    }
    let task = server.get("t").await.unwrap();
    assert_eq!(task.status(), pb::task::Status::Succeeded);
    assert!(!task.flush_incomplete);
    let (state, _) = client.get_state("s", &[]).await.unwrap();
    let value = |key: &str| {
        let entry = state.entries.iter().find(|entry| entry.key == key).unwrap();
        decode_value(&entry.value).unwrap()
    };
    assert_eq!(value("preview"), blob("image/png", vec![19; 200_000]));
    assert_eq!(value("image"), blob("image/png", vec![19; 70_000]));
    assert_eq!(
        (value("step"), value("progress")),
        (119.into(), 0.95.into())
    );
    soon(worker.shutdown(Duration::from_secs(20))).await;
}
