//! The clients of `docs/CLIENTS.md`: each is a file in `snippets/`, run here, and stands in the
//! document word for word.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use duite::{client::Client, proto::v1::task::Status};

use crate::support::{self, Running, Server};

const DOCUMENT: &str = include_str!("../../docs/CLIENTS.md");
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/snippets");

/// Runs a client that submits a task and shows its state until it has the key `done`.
pub(crate) async fn run(client: Command) {
    let server = Server::start();
    talk_to(&server, client).await;
}

async fn talk_to(server: &Server, mut client: Command) {
    let request = uuid::Uuid::new_v4().to_string(); // for the one that cannot make its own
    client.args([server.grpc(), &request]).stdin(Stdio::null());
    let start = move || {
        let mut client = Running::start(&mut client);
        let line = client.stdout_until("submitted ");
        (client, line)
    };
    let (mut running, line) = tokio::task::spawn_blocking(start)
        .await
        .expect("the client starts");
    let worker = Client::builder()
        .address(server.addr())
        .build()
        .expect("the address is one");
    let name = line.trim().trim_start_matches("submitted ").to_owned();
    let task = worker.get_task(&name).await.expect("it was submitted");
    assert_eq!(task.status(), Status::Queued);
    assert_eq!(task.state_name, "namespaces/default/states/run-1");

    for key in ["epoch", "done"] {
        let write = worker.update_state("run-1").put(key, 7).send();
        write.await.expect("the state can be written");
    }
    let end = move || {
        let seen = running.stdout_until("done");
        (running.wait(), seen)
    };
    let (status, _) = tokio::task::spawn_blocking(end).await.expect("it ends");
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_runs_its_snippet() {
    #[allow(clippy::print_stdout, reason = "the snippet is a program")]
    mod snippet {
        include!("snippets/client.rs");
        pub(super) async fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
            follow(address).await
        }
    }
    let server = Server::start();
    let address = server.addr();
    let snippet = async { snippet::run(&address).await.expect("the snippet runs") };
    let worker = async {
        let client = Client::builder()
            .address(server.addr())
            .build()
            .expect("an address");
        for update in ["epoch", "done"] {
            let write = client.update_state("run-1").put(update, 7).send();
            write.await.expect("the state can be written");
        }
    };
    let both = async { tokio::join!(snippet, worker) };
    tokio::time::timeout(support::PATIENCE, both)
        .await
        .expect("it ends");
}

#[test]
fn the_document_shows_the_snippets_as_they_are_run() {
    let mut shown = 0;
    for file in fs::read_dir(FOLDER).expect("the snippets are there") {
        let path = file.expect("a file").path();
        let code = fs::read_to_string(&path).expect("a snippet is text");
        let name = path.file_name().map(Path::new).expect("it has a name");
        let block = format!("\n{}\n```\n", code.trim_end());
        assert!(
            DOCUMENT.contains(&block),
            "docs/CLIENTS.md does not have {} word for word",
            name.display()
        );
        shown += 1;
    }
    assert_eq!(shown, 6, "one for each language");
}
