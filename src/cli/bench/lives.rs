//! Whole lives of tasks at one of two servers, slice by slice, and what each costs the server.

use std::time::Duration;

use clap::Args;

use super::{
    Error,
    measure::{Meter, Reading},
    pairs::Side,
    process::Usage,
    session::connect,
    submit::BatchClient,
    tasks::{POLL, Worker},
    wait::Crew,
};

/// How long the last lives of a slice may take.
const GRACE: Duration = Duration::from_secs(60);
/// Processor time is told to 10 ms, of user and system each: more than a tenth of a shorter slice.
pub(super) const SHORTEST_SLICE: Duration = Duration::from_millis(200);

/// Who lives them.
#[derive(Args, Debug, Clone, Copy)]
pub(super) struct LivesArgs {
    /// Bytes of each task's input
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(super) input_bytes: u32,
    /// Clients, each submitting, leasing and finishing in turn
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(super) clients: u16,
    /// Tasks of one call
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(super) batch: u16,
}

/// Something of both servers.
#[derive(Debug)]
pub(super) struct Sides<T> {
    pub(super) few: T,
    pub(super) many: T,
}

impl<T> Sides<T> {
    pub(super) fn of(&mut self, side: Side) -> &mut T {
        match side {
            Side::Without => &mut self.few,
            Side::With => &mut self.many,
        }
    }
}

/// What one slice showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    pub(super) lives_per_s: f64,
    /// `None` where the system does not say.
    pub(super) cpu_us_per_life: Option<f64>,
}

impl Slice {
    fn between(before: (Reading, Option<Usage>), after: (Reading, Option<Usage>)) -> Self {
        let lives = (after.0.done - before.0.done) as f64;
        let cpu = before.1.zip(after.1).map(|(before, after)| {
            let cpu = after.cpu.saturating_sub(before.cpu);
            cpu.as_secs_f64() * 1e6 / lives
        });
        Self {
            lives_per_s: after.0.per_second_since(before.0),
            // A slice in which no tick fell has no ratio.
            cpu_us_per_life: cpu.filter(|cpu| cpu.is_finite() && *cpu > 0.0),
        }
    }
}

/// Those who work at one server.
#[derive(Debug)]
pub(super) struct Clients {
    idle: Vec<Client>,
    /// Tasks that lived and ended here.
    pub(super) lives: u64,
}

impl Clients {
    pub(super) async fn connect(
        args: &LivesArgs,
        address: &str,
        queue: &str,
    ) -> Result<Self, Error> {
        let mut idle = Vec::new();
        for _ in 0..args.clients {
            let channel = connect(address).await?;
            let input_bytes = args.input_bytes as usize;
            idle.push(Client {
                submitter: BatchClient::new(channel.clone(), queue, input_bytes),
                worker: Worker::new(channel, queue.to_owned()),
                batch: args.batch.into(),
                input_bytes,
            });
        }
        Ok(Self { idle, lives: 0 })
    }

    /// Works for `slice` after a fifth of it; when this is over nothing is under way.
    pub(super) async fn slice(
        &mut self,
        slice: Duration,
        usage: impl Fn() -> Result<Option<Usage>, Error>,
    ) -> Result<Slice, Error> {
        let meter = Meter::start(slice / 5, slice);
        let mut crew = Crew::new();
        for client in self.idle.drain(..) {
            crew.spawn(client.work(meter.clone()));
        }
        let span = crew.during(async {
            meter.begins().await;
            let before = (meter.reading(), usage()?);
            meter.ends().await;
            let after = (meter.reading(), usage()?);
            Ok::<_, Error>((before, after))
        });
        let (before, after) = span.await??;
        self.idle = crew.join(GRACE, "the end of the slice's tasks").await?;
        self.lives += meter.reading().done;
        if after.0.done == before.0.done {
            return Err(Error::NothingMeasured("in a slice no task was finished"));
        }
        Ok(Slice::between(before, after))
    }
}

/// Submits, leases and finishes, one after the other, each with a call for many tasks.
#[derive(Debug)]
struct Client {
    submitter: BatchClient,
    worker: Worker,
    batch: usize,
    input_bytes: usize,
}

impl Client {
    /// Whole lives until the meter ends. Each leases as many as it submitted before, so there are
    /// always enough, and as many wait at the end as at the beginning.
    async fn work(mut self, meter: Meter) -> Result<Self, Error> {
        while meter.running() {
            self.submitter.create(self.batch).await?;
            let mut open = self.batch;
            while open > 0 {
                let most = i32::try_from(open).unwrap_or(i32::MAX);
                let leases = self.worker.lease(most, POLL).await?;
                for lease in &leases {
                    let input = lease.task.as_ref().and_then(|task| task.input.as_ref());
                    let bytes = input.map_or(0, |input| input.data.len());
                    if bytes != self.input_bytes {
                        let what = format!("an input of {bytes} bytes, not {}", self.input_bytes);
                        return Err(Error::unexpected("LeaseTasks", what));
                    }
                }
                if leases.is_empty() {
                    continue;
                }
                let finished = self.worker.finish(leases).await?;
                open -= finished.min(open);
                meter.add(finished as u64);
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(cpu_ms: u64) -> Option<Usage> {
        Some(Usage {
            cpu: Duration::from_millis(cpu_ms),
            resident_bytes: 1,
            peak_bytes: None,
            written_bytes: None,
        })
    }

    #[test]
    fn the_cost_of_a_slice_is_of_what_ended_in_it() {
        let at = std::time::Instant::now();
        let reading = |seconds, done| Reading {
            at: at + Duration::from_secs(seconds),
            done,
        };
        let before = (reading(0, 100), used(1_000));
        let after = (reading(2, 1_100), used(1_050));
        let slice = Slice::between(before, after);
        assert_eq!(slice.lives_per_s, 500.0);
        assert!((slice.cpu_us_per_life.unwrap() - 50.0).abs() < 0.01);
        let nothing = Slice::between(before, (reading(2, 1_100), used(1_000)));
        assert_eq!(nothing.cpu_us_per_life, None);
    }
}
