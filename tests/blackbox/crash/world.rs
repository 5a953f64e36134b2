//! Where the server is, for clients that outlive it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use crate::wire;

/// Nothing in the test takes so long; without it a server that hangs would hang the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// One life of the server.
#[derive(Clone, Debug, Default)]
struct Life {
    /// From 1.
    number: u64,
    address: String,
    /// Set before the kill: a call that fails in a life without it is a defect.
    killed: bool,
}

/// What all clients share. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct World {
    life: Arc<watch::Sender<Life>>,
    acknowledgements: Arc<watch::Sender<u64>>,
    /// Submitters and writers begin nothing new.
    pub(super) wind_down: CancellationToken,
    /// Workers end.
    pub(super) rest: CancellationToken,
    /// The watcher of states ends when it holds this revision.
    pub(super) last_change_of_states: Arc<watch::Sender<Option<i64>>>,
    /// And that of tasks this one.
    pub(super) last_change_of_tasks: Arc<watch::Sender<Option<i64>>>,
}

/// A connection to one life of the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    life: u64,
    channel: Option<Channel>,
}

impl Connection {
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone().expect("`World::connect` was called")
    }
}

impl World {
    pub(super) fn new(address: &str) -> Self {
        let first = Life {
            number: 1,
            address: address.to_owned(),
            killed: false,
        };
        Self {
            life: Arc::new(watch::Sender::new(first)),
            acknowledgements: Arc::default(),
            wind_down: CancellationToken::new(),
            rest: CancellationToken::new(),
            last_change_of_states: Arc::default(),
            last_change_of_tasks: Arc::default(),
        }
    }

    pub(super) fn about_to_kill(&self) {
        self.life.send_modify(|life| life.killed = true);
    }

    pub(super) fn is_back(&self, address: &str) {
        self.life.send_modify(|life| {
            *life = Life {
                number: life.number + 1,
                address: address.to_owned(),
                killed: false,
            }
        });
    }

    /// Connects to a later life than the connection's own.
    pub(super) async fn connect(&self, connection: &mut Connection) {
        let mut lives = self.life.subscribe();
        loop {
            let next = lives.wait_for(|life| life.number > connection.life && !life.killed);
            let life = match timeout(PATIENCE, next).await {
                Ok(life) => life.expect("the world holds a sender").clone(),
                Err(_) => panic!("the server did not come back"),
            };
            connection.life = life.number;
            match wire::connect(&life.address).await {
                Ok(channel) => {
                    connection.channel = Some(channel);
                    return;
                }
                Err(error) => self.excuse_life(life.number, &format!("connecting: {error:?}")),
            }
        }
    }

    /// A call failed: that is right only because the server was killed.
    pub(super) fn excuse(&self, connection: &Connection, call: &str, status: &Status) {
        let refused = status.get_details_error_info().is_some();
        assert!(!refused, "{call} was refused: {status:?}");
        self.excuse_life(connection.life, &format!("{call}: {status:?}"));
    }

    fn excuse_life(&self, number: u64, problem: &str) {
        let now = self.life.borrow();
        let killed = now.number > number || now.killed;
        assert!(killed, "it failed and the server was not killed: {problem}");
    }

    pub(super) fn acknowledged(&self, count: u64) {
        self.acknowledgements.send_modify(|sum| *sum += count);
    }

    /// Waits for so many acknowledgements from now on, of whatever kind.
    pub(super) async fn wait_for_acknowledgements(&self, count: u64) {
        let mut told = self.acknowledgements.subscribe();
        let wanted = *told.borrow() + count;
        let reached = timeout(PATIENCE, told.wait_for(|sum| *sum >= wanted)).await;
        let _ = reached.expect("acknowledgements come").expect("a sender");
    }

    pub(super) fn acknowledgements(&self) -> u64 {
        *self.acknowledgements.borrow()
    }
}

/// Waits for a client's end.
pub(super) async fn ended<T>(client: tokio::task::JoinHandle<T>) -> T {
    let ended = timeout(PATIENCE, client).await;
    ended.expect("the client ends").expect("no client panicked")
}
