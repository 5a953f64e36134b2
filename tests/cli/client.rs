//! submit, task and state, against a server.

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Running, Server};

#[test]
fn a_submitted_task_is_read_back_as_the_api_s_json() {
    let server = Server::start();
    let submitted = server.run([
        "submit",
        "resize",
        "--input",
        r#"{"path":"a.png"}"#,
        "--queue",
        "gpu",
        "--label",
        "k=v",
        "--priority",
        "7",
        "--max-attempts",
        "5",
        "--state",
        "s",
        "--delay",
        "1h",
    ]);
    let id = submitted.expect(0).stdout.trim_end().to_owned();
    let task = server
        .run(["task", "get", &id, "-o", "json"])
        .expect(0)
        .json();
    let task = &task[0];
    assert_eq!(
        task["name"],
        json!(format!("namespaces/default/tasks/{id}"))
    );
    assert_eq!(task["type"], json!("resize"));
    assert_eq!(task["queue"], json!("gpu"));
    assert_eq!(task["labels"], json!({ "k": "v" }));
    assert_eq!(task["priority"], json!(7));
    assert_eq!(task["policy"]["maxAttempts"], json!(5));
    assert_eq!(task["stateName"], json!("namespaces/default/states/s"));
    assert_eq!(task["status"], json!("STATUS_SCHEDULED"));
    assert_eq!(task["input"]["data"], json!("eyJwYXRoIjoiYS5wbmcifQ=="));

    let text = server.run(["task", "get", &id]).expect(0).stdout;
    assert!(text.contains("status      scheduled"), "{text}");
    assert!(text.contains(r#"input       {"path":"a.png"}"#), "{text}");
}

#[test]
fn tasks_are_listed_by_what_is_asked_for() {
    let server = Server::start();
    for (id, queue) in [("a", "one"), ("b", "two"), ("c", "two")] {
        server
            .run(["submit", "t", "--id", id, "--queue", queue])
            .expect(0);
    }
    server
        .run(["task", "cancel", "b", "--reason", "not needed"])
        .expect(0);
    let ids = |arguments: &[&str]| -> Vec<String> {
        let arguments = ["task", "list"].iter().chain(arguments);
        let table = server.run(arguments).expect(0).stdout;
        let rows = table.lines().skip(1);
        rows.map(|row| row.split(' ').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&[]), ["c", "b", "a"]);
    assert_eq!(ids(&["--queue", "two"]), ["c", "b"]);
    assert_eq!(ids(&["--status", "cancelled"]), ["b"]);
    assert_eq!(ids(&["--limit", "2"]), ["c", "b"]);
    assert_eq!(
        server
            .run(["task", "list", "-o", "json"])
            .expect(0)
            .json()
            .len(),
        3
    );
}

#[test]
fn a_state_is_set_added_to_read_and_deleted() {
    let server = Server::start();
    let set = [
        "state",
        "set",
        "s",
        "n=1",
        "x=0.5",
        "on=true",
        "word=mesh",
        "id=\"7\"",
        "list:=[1,null]",
    ];
    server.run(set).expect(0);
    server
        .run(["state", "add", "s", "n=41", "fresh=2"])
        .expect(0);
    let state = server
        .run(["state", "get", "s", "-o", "json"])
        .expect(0)
        .json();
    let entries = state[0]["entries"].as_array().unwrap();
    let value = |key: &str| {
        let entry = entries.iter().find(|entry| entry["key"] == key);
        entry.unwrap_or_else(|| panic!("{key} in {state:?}"))["value"].clone()
    };
    assert_eq!(value("n"), json!({ "integer": "42" }));
    assert_eq!(value("x"), json!({ "number": 0.5 }));
    assert_eq!(value("on"), json!({ "boolean": true }));
    assert_eq!(value("word"), json!({ "text": "mesh" }));
    assert_eq!(value("id"), json!({ "text": "7" }));
    assert_eq!(
        value("list"),
        json!({ "list": { "items": [{ "integer": "1" }, { "null": true }] } })
    );
    assert_eq!(value("fresh"), json!({ "integer": "2" }));
    assert_eq!(
        server.run(["state", "get", "s", "word"]).expect(0).stdout,
        "mesh\n"
    );

    server.run(["state", "delete", "s", "n", "x"]).expect(0);
    let table = server.run(["state", "get", "s"]).expect(0).stdout;
    assert!(
        !table.contains("\nn ") && table.contains("\nword "),
        "{table}"
    );
    server.run(["state", "delete", "s"]).expect(0);
    for arguments in [
        ["state", "delete", "s"].as_slice(),
        &["state", "delete", "s", "n"],
    ] {
        server.run(arguments).expect(3).says(["(STATE_NOT_FOUND)"]);
    }
    server.run(["state", "get", "s"]).expect(3);
}

#[test]
fn settings_are_shown_and_changed_one_by_one() {
    let server = Server::start();
    server.run(["state", "settings", "s"]).expect(3);
    let set = ["state", "settings", "s", "--merge-interval", "200ms"];
    let text = server.run(set).expect(0).stdout;
    assert!(text.contains("200ms") && text.contains("kept"), "{text}");
    server
        .run(["state", "settings", "s", "--retention", "1h"])
        .expect(0);
    let shown = server.run(["state", "settings", "s", "-o", "json"]);
    let settings = shown.expect(0).json()[0]["settings"].clone();
    assert_eq!(
        settings,
        json!({ "mergeInterval": "0.200s", "retention": "3600s" })
    );
    let list = server.run(["state", "list"]).expect(0).stdout;
    assert!(
        list.contains("MERGES/S") && list.contains("200ms"),
        "{list}"
    );
    let set = ["state", "settings", "s", "--merge-interval", "11s"];
    server.run(set).expect(1).says(["at most 5 s"]);
    server
        .run(["state", "settings", "s", "--merge-interval", "0s"])
        .expect(0);
    let listed = server.run(["state", "list", "-o", "json"]).expect(0).json();
    assert_eq!(listed[0]["settings"], json!({ "retention": "3600s" }));
    assert_eq!(listed[0]["monitor"]["entriesSinceSnapshot"], json!("3"));
}

#[test]
fn several_states_are_watched_on_one_stream() {
    let server = Server::start();
    server.run(["state", "set", "a", "k=1"]).expect(0);
    let mut watch = Running::start(&mut server.command(["state", "watch", "a", "--and", "b"]));
    assert_eq!(watch.stdout_until("a/k="), "a/k=1");
    server.run(["state", "set", "b", "k=2"]).expect(0);
    assert_eq!(watch.stdout_until("b/k="), "b/k=2");
    watch.signal(Signal::INT);
    assert_eq!(watch.wait().code(), Some(0));
}

#[test]
fn an_expected_revision_holds_or_nothing_is_written() {
    let server = Server::start();
    let answer = server
        .run(["state", "set", "s", "a=1", "-o", "json"])
        .expect(0)
        .json();
    let revision = answer[0]["position"]["revision"]
        .as_str()
        .unwrap()
        .to_owned();
    let set =
        |value: &str| server.run(["state", "set", "s", value, "--expect-revision", &revision]);
    set("a=2").expect(0);
    set("a=3")
        .expect(1)
        .says(["(REVISION_MISMATCH)", "hint: read the state again"]);
    assert_eq!(
        server.run(["state", "get", "s", "a"]).expect(0).stdout,
        "2\n"
    );
}

#[test]
fn namespaces_keep_apart_what_has_the_same_name() {
    let server = Server::start();
    server.run(["state", "set", "s", "a=1"]).expect(0);
    server
        .run(["state", "set", "--namespace", "other", "s", "a=2"])
        .expect(0);
    let read = |namespace: &str| server.run(["state", "--namespace", namespace, "get", "s", "a"]);
    assert_eq!(read("default").expect(0).stdout, "1\n");
    assert_eq!(read("other").expect(0).stdout, "2\n");
    read("none").expect(3).says(["(NAMESPACE_NOT_FOUND)"]);
}

#[test]
fn a_value_is_written_to_a_file_as_it_is() {
    let server = Server::start();
    server
        .run(["state", "set", "s", "note=two words"])
        .expect(0);
    let path = server.data().with_file_name("note.txt");
    let out = path.to_str().unwrap();
    server
        .run(["state", "get", "s", "note", "--out", out])
        .expect(0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "two words");
}

#[test]
fn a_large_value_is_written_to_a_file_printed_and_told_by_its_size() {
    let mut server = Server::start();
    let image: Vec<u8> = (0..900_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = duite::client::Client::connect(server.grpc()).unwrap();
        for key in ["a", "b", "c", "d", "e"] {
            let image = duite::client::blob("image/png", image.clone());
            let update = client.update_state("s").put(key, image);
            assert_eq!(update.send().await.unwrap().rejected, []);
        }
    });
    let note = "x".repeat(100_000);
    server
        .run(["state", "set", "s", &format!("note={note}"), "n=1"])
        .expect(0);
    // What is read now comes from the disk.
    server.kill9();
    server.restart();
    let path = server.data().with_file_name("image.png");
    let out = path.to_str().unwrap();
    server
        .run(["state", "get", "s", "c", "--out", out])
        .expect(0);
    assert_eq!(std::fs::read(&path).unwrap(), image);
    let printed = server.run(["state", "get", "s", "note"]).expect(0).stdout;
    assert_eq!(printed.trim_end(), note);
    // Together they are more than an answer may be; a table shows them all the same.
    let table = server.run(["state", "get", "s"]).expect(0).stdout;
    assert!(table.contains("<image/png, 9000"), "{table}");
    assert!(table.contains("<100004 bytes>"), "{table}");
    server
        .run(["state", "get", "s", "-o", "json"])
        .expect(1)
        .says(["(VALUE_TOO_LARGE)"]);
    server.run(["state", "delete", "s", "a"]).expect(0);

    let mut watch = server.command(["state", "watch", "s"]);
    let mut watch = Running::start(&mut watch);
    watch.stdout_until("<image/png, 9000");
    watch.stdout_until("note=<100004 bytes>");
    watch.signal(Signal::INT);
    watch.wait();
}
