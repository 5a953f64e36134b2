//! The client in Rust, of the code that tonic generates; ../README.md says what each verb does.
//!
//! The crate's generated code differs from that of the files in a few fields of states, which it keeps
//! encoded (`duite::proto` says which). Programs in Rust use `duite::client`, which does for them what
//! is done by hand here.

mod steps;
mod streams;
mod words;

use std::{collections::HashMap, fmt::Write as _};

use bytes::Bytes;
use duite::proto::v1::{
    WatchLeasesResponse, state_service_client::StateServiceClient,
    task_service_client::TaskServiceClient, worker_service_client::WorkerServiceClient,
};
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use streams::{Pen, STREAM_TIME, Watch};
use words::{Step, show_status};

/// What a step gives: the words after `ok`.
type Words = Result<String, Status>;

/// A client with what earlier steps made, by their names.
struct Conformance {
    channel: Channel,
    tasks: TaskServiceClient<Channel>,
    states: StateServiceClient<Channel>,
    workers: WorkerServiceClient<Channel>,
    parent: String,
    /// Names of tasks, by `id` or `as`.
    names: HashMap<String, String>,
    instances: HashMap<String, String>,
    leases: HashMap<String, Lease>,
    watches: HashMap<String, Watch>,
    pens: HashMap<String, Pen>,
    directives: HashMap<String, Streaming<WatchLeasesResponse>>,
}

#[derive(Clone, Default)]
struct Lease {
    worker: String,
    token: Bytes,
}

/// Carries out all steps and gives what is printed for them.
pub(super) async fn carry_out(address: &str, namespace: &str, scenario: &str) -> String {
    let endpoint = Endpoint::new(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect_lazy();
    let mut conformance = Conformance {
        tasks: TaskServiceClient::new(channel.clone()),
        states: StateServiceClient::new(channel.clone()),
        workers: WorkerServiceClient::new(channel.clone()),
        channel,
        parent: format!("namespaces/{namespace}"),
        names: HashMap::new(),
        instances: HashMap::new(),
        leases: HashMap::new(),
        watches: HashMap::new(),
        pens: HashMap::new(),
        directives: HashMap::new(),
    };
    let is_step = |line: &&str| !line.is_empty() && !line.starts_with(['#', '>']);
    let mut printed = String::new();
    for (number, line) in (1..).zip(scenario.lines().filter(is_step)) {
        let step = Step::parse(line);
        // In tonic the deadline of a call does not bound the stream that it gives.
        let words = tokio::time::timeout(STREAM_TIME, conformance.run(&step)).await;
        let words = words.unwrap_or_else(|_| Err(Status::deadline_exceeded("of the stream")));
        let words = match words {
            Ok(words) => format!("ok{words}"),
            Err(status) => show_status(&status),
        };
        let _ = writeln!(printed, "{number} {words}");
    }
    printed
}

/// A unary call, with the step's deadline.
fn call<T>(step: &Step, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(step.seconds("deadline", 30.0));
    request
}

impl Conformance {
    async fn run(&mut self, step: &Step<'_>) -> Words {
        match step.verb {
            "submit" => self.submit(step).await,
            "get" => self.get(step).await,
            "list" => self.list(step).await,
            "cancel" => self.cancel(step).await,
            "await" => self.wait(step).await,
            "tasks" => self.watch_tasks(step).await,
            "watch" => self.watch_states(step).await,
            "resume" => self.resume(step).await,
            "until" => self.until(step).await,
            "cut" | "close" => Ok(self.cut(step)),
            "lease" => self.lease(step).await,
            "renew" => self.renew(step).await,
            "release" => self.release(step).await,
            "finish" => self.finish(step).await,
            "directives" => self.watch_leases(step).await,
            "directive" => self.directive(step).await,
            "update" => self.update(step).await,
            "get-state" => self.get_state(step).await,
            "delete-state" => self.delete_state(step).await,
            "push-open" => self.push_open(step).await,
            "push-resume" => self.push_resume(step).await,
            "push" => self.push(step).await,
            "push-until" => self.push_until(step).await,
            "push-close" => self.push_close(step).await,
            other => panic!("there is no verb `{other}`"),
        }
    }

    fn task(&self, id: &str) -> String {
        let named = self.names.get(id).cloned();
        named.unwrap_or_else(|| format!("{}/tasks/{id}", self.parent))
    }

    fn state(&self, id: &str) -> String {
        format!("{}/states/{id}", self.parent)
    }

    /// A worker's instance, made at its first use.
    fn instance(&mut self, worker: &str) -> String {
        let made = || uuid::Uuid::new_v4().to_string();
        let instance = self.instances.entry(worker.to_owned());
        instance.or_insert_with(made).clone()
    }

    fn held(&self, step: &Step) -> Lease {
        let lease = self.leases.get(step.get("lease"));
        lease.cloned().unwrap_or_default()
    }
}
