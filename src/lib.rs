//! duite: submit tasks over gRPC, run them on remote workers, and watch progress and state live.
//!
//! Programs start at [`client::Client`] and [`worker::Worker`]. Background work of a program's own is
//! decorated with [`macro@task`], [`create_task`] or [`decorate_task`]: nothing that fails disappears.
//!
//! ```
//! #[duite::task]
//! async fn parse(text: String) -> Result<u32, std::num::ParseIntError> {
//!     text.parse()
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let handle = parse("42".to_owned()); // runs from here on
//! assert_eq!(handle.await, Ok(42));
//! let error = parse("x".to_owned()).await.unwrap_err();
//! assert_eq!(error.error_type(), "core::num::error::ParseIntError");
//! # });
//! ```

pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod engine;
pub mod journal;
pub mod proto;
pub mod runtime;
pub mod service;
pub mod telemetry;
pub mod worker;

#[cfg(test)]
mod simulation;

pub use client::{create_task, decorate_task, flush_reports, report_failures_to};
pub use duite_macros::task;
pub use runtime::{TaskError, TaskHandle, leave_panics_alone, pending_tasks};

/// What the code that `#[duite::task]` makes calls; not for use by hand.
#[doc(hidden)]
pub mod __private {
    use std::{convert::Infallible, error::Error, future::Future};

    use crate::{client, runtime::TaskHandle};

    /// A result, under whatever name it goes.
    pub trait Outcome {
        /// What it holds when it is good.
        type Value;
    }

    impl<T, E> Outcome for Result<T, E> {
        type Value = T;
    }

    /// Runs the body of a function that returns a result.
    #[track_caller]
    pub fn run<F, T, E>(name: &str, function: &str, future: F) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        client::create_task_of(name, function, future)
    }

    /// Runs the body of a function that returns anything else.
    #[track_caller]
    pub fn run_plain<F, T>(name: &str, function: &str, future: F) -> TaskHandle<T>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let future = async move { Ok::<T, Infallible>(future.await) };
        client::create_task_of(name, function, future)
    }
}
