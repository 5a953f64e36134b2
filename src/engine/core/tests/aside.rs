//! A worker whose questions arrive and whose renewals do not.

use super::*;

type Answer = oneshot::Receiver<Result<Vec<Granted>, Error>>;

impl Bench {
    fn ask_as(&mut self, instance: u128, wait: Duration) -> Answer {
        let (reply, answer) = oneshot::channel();
        let request = LeaseRequest {
            queues: vec!["q".into()],
            task_types: Vec::new(),
            max_tasks: 1,
            wait,
            worker_id: "w".into(),
            instance: Uid(instance),
        };
        self.command(Command::Lease(request, reply));
        self.settle();
        answer
    }
}

/// How often a worker that asks again and again gets the task within so many seconds.
fn times_given(bench: &mut Bench, seconds: u64) -> usize {
    let mut times = 0;
    for _ in 0..seconds {
        let mut answer = bench.ask_as(7, Duration::ZERO);
        bench.pass(Duration::from_millis(1));
        bench.settle();
        times += answer.try_recv().unwrap().unwrap().len();
        bench.pass(Duration::from_millis(999));
        bench.settle();
    }
    times
}

#[test]
fn a_worker_that_never_renews_is_given_less_and_less_and_others_get_its_tasks() {
    let mut bench = Bench::new();
    bench.leased(Duration::from_secs(8));
    bench.pass(Duration::from_secs(8));
    bench.settle();
    let times = times_given(&mut bench, 600);
    // Three times, and then after 4, 8, 16, 32 seconds and each minute.
    assert!((12..=17).contains(&times), "{times}");
    // Another worker gets it at once.
    bench.pass(Duration::from_secs(4));
    bench.settle();
    assert_eq!(bench.status(), Status::Queued);
    let mut silent = bench.ask_as(7, Duration::from_secs(1));
    assert!(silent.try_recv().is_err());
    bench.take(Duration::from_secs(8));
}

#[test]
fn the_first_renewal_of_a_worker_that_was_set_aside_brings_it_back() {
    let mut bench = Bench::new();
    let token = bench.leased(Duration::from_secs(8));
    bench.pass(Duration::from_secs(8));
    bench.settle();
    times_given(&mut bench, 60);
    bench.pass(Duration::from_secs(4));
    bench.settle();
    let mut answer = bench.ask_as(7, Duration::from_secs(60));
    assert!(answer.try_recv().is_err());
    let (reply, _renewed) = oneshot::channel();
    let request = RenewRequest {
        tokens: vec![token],
        worker_id: "w".into(),
        instance: Uid(7),
    };
    bench.command(Command::Renew(request, reply));
    bench.settle();
    bench.settle();
    assert_eq!(answer.try_recv().unwrap().unwrap().len(), 1);
}
