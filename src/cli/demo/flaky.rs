//! The handler of `demo.flaky`: fails twice with a real error of the system, then succeeds.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::{
    client::Client,
    proto::v1::{Task, failure::Category},
    worker::{TaskContext, TaskFailure},
};

/// The type of the task, and its id.
pub(super) const TASK_TYPE: &str = "demo.flaky";
pub(super) const ID: &str = "flaky";

/// What the task is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FlakyInput {
    /// A file that is not there.
    pub(super) settings: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum FlakyError {
    #[error("the settings {path} could not be read", path = path.display())]
    Settings { path: PathBuf, source: io::Error },
    #[error("the service at {address} could not be reached")]
    Connect { address: String, source: io::Error },
}

/// Needs three things in turn; the first two are not there.
pub(super) async fn run(task: TaskContext) -> Result<serde_json::Value, TaskFailure> {
    let input: FlakyInput = task.json()?;
    let done = match own_failures(task.task()) {
        0 => read_settings(&input.settings).await,
        1 => connect(&closed_port()?.to_string()).await,
        _ => connect(server_of(task.client())).await,
    };
    done.map_err(failure)?;
    Ok(serde_json::json!({ "attempt": task.attempt() }))
}

fn failure(error: FlakyError) -> TaskFailure {
    let failure_type = match &error {
        FlakyError::Settings { .. } => "settings.unreadable",
        FlakyError::Connect { .. } => "service.unreachable",
    };
    TaskFailure::from(error).with_type(failure_type)
}

/// Attempts that failed by themselves: one that was lost with its worker is not among them.
fn own_failures(task: &Task) -> usize {
    let failures = task.attempts.iter().filter_map(|one| one.failure.as_ref());
    failures
        .filter(|failure| failure.category() == Category::Application)
        .count()
}

async fn read_settings(path: &Path) -> Result<(), FlakyError> {
    let read = tokio::fs::read(path).await;
    read.map(drop).map_err(|source| FlakyError::Settings {
        path: path.to_owned(),
        source,
    })
}

async fn connect(address: &str) -> Result<(), FlakyError> {
    let connected = TcpStream::connect(address).await;
    connected.map(drop).map_err(|source| FlakyError::Connect {
        address: address.to_owned(),
        source,
    })
}

/// The address of a port that nobody listens on: it was free a moment ago.
fn closed_port() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn server_of(client: &Client) -> &str {
    let address = client.address();
    address.strip_prefix("http://").unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::proto::v1::{Attempt, Failure};

    #[tokio::test]
    async fn its_errors_are_real_and_have_a_cause() {
        let missing = read_settings(Path::new("/nonexistent/settings")).await;
        let missing = missing.unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/settings"));
        assert!(missing.source().is_some());
        let refused = connect(&closed_port().unwrap().to_string()).await;
        let refused = refused.unwrap_err();
        assert!(refused.source().unwrap().to_string().contains("refused"));
    }

    #[test]
    fn an_attempt_lost_with_its_worker_is_not_counted() {
        let failed = |category: Category| Attempt {
            failure: Some(Failure {
                category: category.into(),
                ..Failure::default()
            }),
            ..Attempt::default()
        };
        let task = Task {
            attempts: vec![
                failed(Category::Application),
                failed(Category::LeaseLost),
                Attempt::default(),
            ],
            ..Task::default()
        };
        assert_eq!(own_failures(&task), 1);
    }
}
