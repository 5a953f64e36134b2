//! queue, and what submit and task say of queues.

use serde_json::json;

use crate::support::Server;

#[test]
fn a_queue_is_paused_limited_shown_and_resumed() {
    let server = Server::start();
    for id in ["a", "b"] {
        let keys = ["--fairness-key", "tenant", "--concurrency-key", "device"];
        let arguments = ["submit", "t", "--id", id, "--queue", "gpu"];
        server.run(arguments.iter().chain(&keys)).expect(0);
    }
    let text = server.run(["task", "get", "b"]).expect(0).stdout;
    for line in [
        "in line     about number 2",
        "fair for    tenant",
        "takes up    device",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let paused = server.run(["queue", "pause", "gpu"]).expect(0).stdout;
    assert!(paused.contains("status      paused"), "{paused}");
    let limits = ["--max-running", "4", "--max-running-per-key", "1"];
    let set = ["queue", "set", "gpu"];
    server.run(set.iter().chain(&limits)).expect(0);
    let shown = server
        .run(["queue", "get", "gpu", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(shown[0]["name"], json!("namespaces/default/queues/gpu"));
    assert_eq!(
        shown[0]["settings"],
        json!({ "paused": true, "maxRunning": 4, "maxRunningPerKey": 1 })
    );
    assert_eq!(shown[0]["queued"], json!("2"));
    server.run(["queue", "resume", "gpu"]).expect(0);
    let table = server.run(["queue", "list"]).expect(0).stdout;
    let row = table.lines().nth(1).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    let [name, status, queued, _age, running, limit, per_key, ..] = words[..] else {
        panic!("{table}")
    };
    assert_eq!(
        [name, status, queued, running, limit, per_key],
        ["gpu", "open", "2", "0", "4", "1"]
    );
}

#[test]
fn wrong_words_are_refused() {
    let server = Server::start();
    let refused = server.run(["queue", "pause", "no good"]).expect(1);
    refused.says(["no good", "(FIELD_INVALID)"]);
    server
        .run(["queue", "set", "gpu"])
        .expect(2)
        .says(["--max-running"]);
    server
        .run(["queue", "set", "gpu", "--max-running=-1"])
        .expect(2)
        .says(["-1"]);
}
