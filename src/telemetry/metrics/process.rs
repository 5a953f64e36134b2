//! The process: what the system says of it, asked when somebody collects. Where there is no
//! `/proc`, as outside Linux, only its age and what it is are told.

use std::{fs, time::Instant};

use opentelemetry::metrics::Meter;

/// Makes the instruments; `began` is when the process, or its server, started.
pub(super) fn register(meter: &Meter, began: Instant) {
    meter
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_description("Processor time used by all threads, in the system or not")
        .with_callback(|seen| {
            if let Some(seconds) = cpu_seconds() {
                seen.observe(seconds, &[]);
            }
        })
        .build();
    let gauge = |name, unit, about, read: fn() -> Option<u64>| {
        meter
            .u64_observable_gauge(name)
            .with_unit(unit)
            .with_description(about)
            .with_callback(move |seen| {
                if let Some(value) = read() {
                    seen.observe(value, &[]);
                }
            })
            .build();
    };
    gauge(
        "process.memory.usage",
        "By",
        "Memory in use: resident pages",
        || Some(status("VmRSS:")? * 1_024),
    );
    gauge("process.thread.count", "{thread}", "Threads", || {
        status("Threads:")
    });
    gauge(
        "process.unix.file_descriptor.count",
        "{file_descriptor}",
        "Open files and connections",
        || fs::read_dir("/proc/self/fd").ok()?.count().try_into().ok(),
    );
    meter
        .f64_observable_gauge("process.uptime")
        .with_unit("s")
        .with_description("Time since the server started")
        .with_callback(move |seen| seen.observe(began.elapsed().as_secs_f64(), &[]))
        .build();
}

/// A line of `/proc/self/status` that has a number.
fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    // The name, in brackets, may hold anything.
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, stat) = stat.rsplit_once(") ")?;
    let mut fields = stat.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second();
    Some((user + system) as f64 / ticks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_what_the_process_uses() {
        assert!(cpu_seconds().unwrap() >= 0.0);
        assert!(status("VmRSS:").unwrap() > 100);
        assert!(status("Threads:").unwrap() > 0);
    }
}
