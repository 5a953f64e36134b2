//! Tasks that only wait: submitted fast, spread over queues that nobody works on.

use std::time::Duration;

use super::{Error, session::connect, submit::BatchClient, wait::Crew};

/// Tasks of one call.
const PER_CALL: usize = 1_000;
/// Calls in flight.
const IN_FLIGHT: usize = 4;
/// Queues that waiting tasks are spread over.
const QUEUES: usize = 10;
/// How long filling may take: two million tasks at a rate that only a debug build has.
const PATIENCE: Duration = Duration::from_secs(600);

/// The queues of the tasks that only wait.
pub(super) fn waiting_queues() -> Vec<String> {
    (0..QUEUES)
        .map(|number| format!("bench-waiting-{number}"))
        .collect()
}

/// Submits `count` tasks to `queues` in turn, each with an input of `input_bytes`.
pub(super) async fn fill(
    address: &str,
    queues: &[String],
    count: u32,
    input_bytes: usize,
) -> Result<(), Error> {
    let mut crew = Crew::new();
    let calls = calls(queues.len(), count as usize);
    for index in 0..IN_FLIGHT {
        let channel = connect(address).await?;
        let clients = queues
            .iter()
            .map(|queue| BatchClient::new(channel.clone(), queue, input_bytes));
        let mut clients: Vec<_> = clients.collect();
        let mine: Vec<_> = calls
            .iter()
            .copied()
            .skip(index)
            .step_by(IN_FLIGHT)
            .collect();
        crew.spawn(async move {
            for (queue, count) in mine {
                clients[queue].create(count).await?;
            }
            Ok(())
        });
    }
    crew.join(PATIENCE, "the end of the filling").await?;
    Ok(())
}

/// Queue and size of each call: the queues differ by one task at most.
fn calls(queues: usize, count: usize) -> Vec<(usize, usize)> {
    let mut left: Vec<_> = (0..queues)
        .map(|queue| count / queues + usize::from(queue < count % queues))
        .collect();
    let mut calls = Vec::new();
    while left.iter().any(|left| *left > 0) {
        for (queue, left) in left.iter_mut().enumerate().filter(|(_, left)| **left > 0) {
            let size = PER_CALL.min(*left);
            calls.push((queue, size));
            *left -= size;
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_spread_all_tasks_evenly_and_none_is_too_large() {
        let spread = |queues, count| {
            let mut sums = vec![0; queues];
            for (queue, size) in calls(queues, count) {
                assert!((1..=PER_CALL).contains(&size));
                sums[queue] += size;
            }
            sums
        };
        assert_eq!(spread(3, 7), [3, 2, 2]);
        assert_eq!(spread(1, 2_500), [2_500]);
        assert_eq!(spread(10, 100_000), [10_000; 10]);
        assert_eq!(spread(2, 0), [0, 0]);
    }
}
