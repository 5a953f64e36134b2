//! Conformance across languages: one scenario, carried out by a small client in each language
//! against the real binary. README.md says how to read `scenario.txt` and how clients are started.
//!
//! - `scenario`: what the clients must print
//! - `server_side`: what the server must hold afterwards
//! - `snippets`: the clients of `docs/CLIENTS.md`, and that they stand there as they were run
//! - `rust`: the client in Rust
//!
//! The programs of other languages need what `scripts/tools install` installs, and of the system's
//! packages the compilers and gRPC. Where something is missing a test passes, and says so, but fails
//! with `CI` set.

#[path = "../support/language.rs"]
mod language;
mod rust;
mod scenario;
mod server_side;
mod snippets;
#[path = "../support/mod.rs"]
mod support;

use std::process::Command;

use language::Language;
use support::{Output, Server};

/// Not the namespace `default`, so that no client can forget it.
const NAMESPACE: &str = "conformance";

/// Lets a client carry out the scenario, and looks at what it printed and what the server holds.
async fn conforms(mut client: Command) {
    let server = Server::start();
    client.args([server.grpc(), NAMESPACE, scenario::PATH]);
    let said = language::run(client).await;
    scenario::compare(&said);
    server_side::check(&server).await;
}

mod python {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn carries_out_the_scenario() {
        let Some(python) = Language::python() else {
            return;
        };
        conforms(python.program("conformance/python/conform.py")).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn runs_its_snippet() {
        let Some(python) = Language::python() else {
            return;
        };
        snippets::run(python.program("conformance/snippets/client.py")).await;
    }
}

mod node {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn carries_out_the_scenario() {
        let Some(node) = Language::node() else { return };
        let mut client = node.program("conformance/node/conform.js");
        client.env("DUITE_PROTOS", language::proto_folder());
        conforms(client).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn runs_its_snippet() {
        let Some(node) = Language::node() else { return };
        let mut client = node.program("conformance/snippets/client.js");
        client.env("DUITE_PROTOS", language::proto_folder());
        snippets::run(client).await;
    }
}

mod go {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn carries_out_the_scenario() {
        let Some(go) = Language::go() else { return };
        conforms(go.build_go("conformance/go", "conform")).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn runs_its_snippet() {
        let Some(go) = Language::go() else { return };
        snippets::run(go.build_go("conformance/snippets/client.go", "snippet")).await;
    }
}

mod java {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn carries_out_the_scenario() {
        let Some(java) = Language::java() else { return };
        conforms(java.built("client")).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn runs_its_snippet() {
        let Some(java) = Language::java() else { return };
        snippets::run(java.built("snippet")).await;
    }
}

mod cpp {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn carries_out_the_scenario() {
        let Some(cpp) = Language::cpp() else { return };
        conforms(cpp.built("client")).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn runs_its_snippet() {
        let Some(cpp) = Language::cpp() else { return };
        snippets::run(cpp.built("snippet")).await;
    }
}

/// In this process: what it is built from is the crate's own generated code.
#[tokio::test(flavor = "multi_thread")]
async fn rust_carries_out_the_scenario() {
    let server = Server::start();
    let stdout = rust::carry_out(server.grpc(), NAMESPACE, scenario::TEXT).await;
    scenario::compare(&Output {
        code: Some(0),
        stdout,
        stderr: String::new(),
    });
    server_side::check(&server).await;
}
