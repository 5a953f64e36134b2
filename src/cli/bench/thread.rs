//! A part of the load on a thread and a runtime of its own.
//!
//! What measures a latency must not wait its turn behind what makes the load.

use std::future::Future;

use tokio::sync::oneshot;

use super::{Error, single_threaded};

/// A future that runs elsewhere. Dropping this ends it.
#[derive(Debug)]
pub(super) struct OwnThread<T> {
    /// Never sent to: the other side notices when this is dropped.
    _alive: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<T, Error>>,
}

/// Runs what `work` makes on a thread called `name`.
pub(super) fn on_own_thread<T, F>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<OwnThread<T>, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>>,
{
    let (alive, dropped) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let result = single_threaded().and_then(|runtime| {
                runtime.block_on(async {
                    tokio::select! {
                        result = work() => result,
                        _ = dropped => Err(Error::Interrupted),
                    }
                })
            });
            // Nobody asks when the benchmark was interrupted.
            let _ = end.send(result);
        })
        .map_err(|source| Error::io(format!("start the thread {name}"), source))?;
    Ok(OwnThread {
        _alive: alive,
        ended,
    })
}

impl<T> OwnThread<T> {
    /// What came of it.
    pub(super) async fn join(mut self) -> Result<T, Error> {
        (&mut self.ended).await.unwrap_or(Err(Error::Panicked))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn it_runs_on_another_thread_and_says_what_came_of_it() {
        let here = std::thread::current().id();
        let there = on_own_thread("probe", || async { Ok(std::thread::current().id()) });
        assert_ne!(there.unwrap().join().await.unwrap(), here);
    }

    #[tokio::test]
    async fn dropping_it_ends_what_runs_there() {
        struct TellOnDrop(Option<oneshot::Sender<()>>);
        impl Drop for TellOnDrop {
            fn drop(&mut self) {
                let _ = self.0.take().map(|sender| sender.send(()));
            }
        }
        let (tell, told) = oneshot::channel();
        let tell = TellOnDrop(Some(tell));
        let thread = on_own_thread("probe", move || async move {
            let _tell = tell;
            pending::<Result<(), _>>().await
        });
        drop(thread);
        told.await.unwrap();
    }
}
