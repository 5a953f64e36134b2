//! The arguments that every benchmark takes.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// No run is longer than this, so that none fills a disk by mistake.
const LONGEST: Duration = Duration::from_secs(600);
/// Below this, the warm-up is most of the run.
const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Args, Debug, Clone)]
pub(super) struct CommonArgs {
    /// Address of a running server; without it the benchmark starts one of its own
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) addr: Option<String>,
    /// Leave out the ceilings: quicker, and then there is no ratio and no run is void
    #[arg(long)]
    pub(super) no_ceiling: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// What `ceiling` takes too.
#[derive(Args, Debug, Clone)]
pub(super) struct OutputArgs {
    /// Make the last line of the output one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// How long each measurement takes, after its warm-up (100ms to 10min)
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub(super) duration: Duration,
    /// Folder under which temporary data is written; must be on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub(super) data: PathBuf,
}

impl OutputArgs {
    /// How long each of the two slices of a ceiling takes, before and after the measurement.
    pub(super) fn slice(&self) -> Duration {
        (self.duration / 4).clamp(SHORTEST, Duration::from_secs(2))
    }

    /// How long load runs before counting begins.
    pub(super) fn warm_up(&self) -> Duration {
        (self.duration / 5).min(Duration::from_secs(1))
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it like 5s or 500ms"))?;
    if duration < SHORTEST || duration > LONGEST {
        return Err(format!("{text} is not between 100ms and 10min"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_outside_its_bounds_is_refused_with_the_bounds() {
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        for text in ["1ms", "11min"] {
            assert_eq!(
                parse_duration(text),
                Err(format!("{text} is not between 100ms and 10min"))
            );
        }
        assert!(parse_duration("soon").is_err_and(|error| error.ends_with("like 5s or 500ms")));
    }

    #[test]
    fn slices_and_warm_up_follow_the_duration_within_bounds() {
        let with = |duration| OutputArgs {
            json: false,
            duration,
            data: PathBuf::new(),
        };
        let short = with(SHORTEST);
        assert_eq!((short.slice(), short.warm_up()), (SHORTEST, SHORTEST / 5));
        let long = with(LONGEST);
        assert_eq!(
            (long.slice(), long.warm_up()),
            (Duration::from_secs(2), Duration::from_secs(1))
        );
    }
}
