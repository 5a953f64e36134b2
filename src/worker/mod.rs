//! The worker library: takes tasks from queues and runs them with handlers by type.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use duite::{client::Client, worker::{TaskContext, TaskFailure, Worker}};
//!
//! let worker = Worker::builder(Client::from_env()?)
//!     .queues(["default"])
//!     .concurrency(4)
//!     .handler("resize", async |task: TaskContext| {
//!         let path: String = task.json()?;
//!         task.state().set("phase", "reading");
//!         Ok::<_, TaskFailure>(serde_json::json!({ "read": path.len() }))
//!     })
//!     .start()?;
//! tokio::signal::ctrl_c().await?;
//! worker.shutdown(std::time::Duration::from_secs(30)).await;
//! # Ok(()) }
//! ```
//!
//! A worker that does not ask gets no work. Each lease is renewed on a thread of its own, so that
//! a handler that never yields cannot lose it; one that is lost cancels its handler's token, and
//! what the handler then returns is dropped, because another attempt owns the task.

mod builder;
mod context;
mod exec;
mod exec_lines;
mod exec_output;
mod failure;
mod finish;
mod lease;
mod lease_loop;
mod renew;
mod run;
mod span;
mod steer;

pub use builder::{Worker, WorkerBuilder};
pub use context::TaskContext;
pub(crate) use exec::kill_groups;
pub use failure::{Output, TaskFailure};

#[cfg(test)]
mod worker_tests;
