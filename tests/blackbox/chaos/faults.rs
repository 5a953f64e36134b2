//! What goes wrong, and when: drawn from the seed, one after the other.

use std::{thread, time::Duration};

use fastrand::Rng;
use rustix::process::Signal;

use super::{
    LEASE_MS,
    clock::{self, MILLISECOND, SECOND},
    crew::Crew,
    proxy::Proxy,
    records::Log,
};
use crate::support::Server;

/// How often the crew is looked after.
const LOOK: Duration = Duration::from_millis(20);

/// Until everybody has found the server again: they back off for 2 s at most.
const BACK: u64 = 3 * SECOND;
/// So long nothing is in the way of a cancel or a release, now and then: these have bounds.
const QUIET_MS: u64 = 5_000;

/// The server, and everybody's way to it.
pub(super) struct Faults {
    pub(super) server: Server,
    proxy: Proxy,
    log: Log,
    /// When the server was away, frozen, or cut off: from, until.
    pub(super) disturbed: Vec<(u64, u64)>,
    pub(super) counts: Counts,
}

/// How often what went wrong.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) killed: u32,
    pub(super) paused: u32,
    pub(super) resets: u32,
}

impl Faults {
    pub(super) fn new(server: Server, proxy: Proxy, log: Log) -> Self {
        Self {
            server,
            proxy,
            log,
            disturbed: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Goes on for so long.
    pub(super) fn rage(&mut self, crew: &mut Crew, random: &mut Rng, length: Duration) {
        let end = clock::now() + length.as_nanos() as u64;
        // Each at least once, then at random.
        let mut first = [0, 6, 12, 17, 20].into_iter();
        while clock::now() < end {
            wait(crew, random.u64(100..1_500));
            let several = random.u8(1..4);
            match first.next().unwrap_or_else(|| random.u8(..26)) {
                0..6 => self.kill(crew, random),
                6..12 => {
                    for _ in 0..several {
                        let later = random.u64(0..SECOND);
                        crew.kill(random, later);
                    }
                }
                12..17 => {
                    for _ in 0..several {
                        let millis = random.u64(LEASE_MS + 300..3 * LEASE_MS);
                        crew.pause(random, millis * MILLISECOND);
                    }
                }
                17..20 => {
                    for _ in 0..several {
                        let grace = random.choice([0, 0, 200]).unwrap_or(0);
                        crew.stop(random, grace);
                    }
                }
                20..22 => {
                    let millis = random.u64(200..2 * LEASE_MS);
                    self.pause(crew, millis);
                }
                22..25 => self.reset(),
                _ => quiet(crew, random),
            }
        }
    }

    fn kill(&mut self, crew: &mut Crew, random: &mut Rng) {
        let from = clock::now();
        self.log.line(format_args!("the server is killed"));
        self.server.kill9();
        wait(crew, random.u64(0..1_500));
        self.server.restart_elsewhere();
        self.proxy.forward_to(self.server.grpc());
        self.is_back(from);
        self.counts.killed += 1;
    }

    fn pause(&mut self, crew: &mut Crew, millis: u64) {
        let from = clock::now();
        self.log
            .line(format_args!("the server is paused for {millis} ms"));
        self.server.signal(Signal::STOP);
        wait(crew, millis);
        self.server.signal(Signal::CONT);
        self.is_back(from);
        self.counts.paused += 1;
    }

    fn reset(&mut self) {
        let from = clock::now();
        self.log.line(format_args!("all connections are reset"));
        self.proxy.reset();
        self.is_back(from);
        self.counts.resets += 1;
    }

    fn is_back(&mut self, from: u64) {
        self.log.line(format_args!("the server can be reached"));
        self.disturbed.push((from, clock::now() + BACK));
    }
}

/// Leaves the server alone, and shuts workers down that have tasks to give back.
pub(super) fn quiet(crew: &mut Crew, random: &mut Rng) {
    wait(crew, BACK / MILLISECOND);
    for _ in 0..4 {
        crew.stop(random, 0);
    }
    wait(crew, QUIET_MS);
}

/// Lets the rest of the world go on for a while.
fn wait(crew: &mut Crew, millis: u64) {
    let until = clock::now() + millis * MILLISECOND;
    loop {
        crew.look_after();
        let left = until.saturating_sub(clock::now());
        if left == 0 {
            return;
        }
        thread::sleep(LOOK.min(Duration::from_nanos(left)));
    }
}
