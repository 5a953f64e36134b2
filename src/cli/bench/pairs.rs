//! With and without, slice by slice: A B, B A, A B, …
//!
//! A machine's speed drifts by more than what is looked for. Slices that follow each other at once
//! see nearly the same machine, so each pair gives one ratio, and the median of many with its
//! quartiles says what the difference is worth.

use std::time::Duration;

use clap::Args;

use super::{
    Error,
    args::OutputArgs,
    measure::{Latency, Meter},
    report::Report,
};

#[derive(Args, Debug, Clone, Copy)]
pub(super) struct PairArgs {
    /// Pairs of slices, with and without; --duration is what each of the two gets in all
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) pairs: u32,
}

impl PairArgs {
    pub(super) fn slice(self, output: &OutputArgs) -> Duration {
        output.duration / self.pairs
    }
}

/// Which slice of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Without,
    With,
}

/// The latencies of each pair, without and with.
#[derive(Debug)]
pub(super) struct Pairs(Vec<(Latency, Latency)>);

impl Pairs {
    /// Takes `pairs` pairs by running `slice`; every second pair the other way round.
    pub(super) async fn take(
        pairs: u32,
        slice: impl AsyncFnMut(Side) -> Result<Latency, Error>,
    ) -> Result<Self, Error> {
        Ok(Self(alternate(pairs, slice).await?))
    }

    /// Adds both sides' latencies and their ratio; `with` names in labels what the one side has.
    pub(super) fn add_to(&self, report: &mut Report, prefix: &str, with: &str) {
        for percent in [50.0, 99.0] {
            let of = |latency: &Latency| latency.percentile_us(percent);
            let both = self
                .0
                .iter()
                .filter_map(|(without, with)| Some((of(without)?, of(with)?)));
            let both: Vec<_> = both.collect();
            let without = Quartiles::of(both.iter().map(|(without, _)| *without));
            let loaded = Quartiles::of(both.iter().map(|(_, with)| *with));
            let ratio = Quartiles::of(both.iter().map(|(without, with)| with / without));
            let (Some(without), Some(loaded), Some(ratio)) = (without, loaded, ratio) else {
                continue;
            };
            let name = format!("{prefix}p{percent}");
            report.add(
                format!("{name}_without_us"),
                format!("p{percent} without {with}, median"),
                without.median,
            );
            report.add(
                format!("{name}_with_us"),
                format!("p{percent} with {with}, median"),
                loaded.median,
            );
            report.add(
                format!("{name}_ratio"),
                format!("p{percent}, with / without, median of the pairs"),
                ratio.median,
            );
            report.add(
                format!("{name}_ratio_lower_quartile"),
                "  lower quartile",
                ratio.lower,
            );
            report.add(
                format!("{name}_ratio_upper_quartile"),
                "  upper quartile",
                ratio.upper,
            );
        }
        report.add(
            format!("{prefix}pairs"),
            "pairs of slices",
            self.0.len() as f64,
        );
    }
}

/// Runs `slice` without and with, `pairs` times, every second pair the other way round.
pub(super) async fn alternate<T>(
    pairs: u32,
    mut slice: impl AsyncFnMut(Side) -> Result<T, Error>,
) -> Result<Vec<(T, T)>, Error> {
    let mut taken = Vec::with_capacity(pairs as usize);
    for index in 0..pairs {
        taken.push(if index % 2 == 0 {
            let without = slice(Side::Without).await?;
            (without, slice(Side::With).await?)
        } else {
            let with = slice(Side::With).await?;
            (slice(Side::Without).await?, with)
        });
    }
    Ok(taken)
}

/// What `meter` takes in one slice, after a fifth of it.
pub(super) async fn slice(meter: &Meter, slice: Duration) -> Result<Latency, Error> {
    tokio::time::sleep(slice / 5).await;
    meter.take_latency();
    tokio::time::sleep(slice).await;
    let latency = meter.take_latency();
    match latency.count() {
        0 => Err(Error::NothingMeasured("a slice saw no acknowledgement")),
        _ => Ok(latency),
    }
}

/// The median and the quartiles, between the two nearest values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quartiles {
    pub(super) lower: f64,
    pub(super) median: f64,
    pub(super) upper: f64,
}

impl Quartiles {
    /// `None` of nothing.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |quarters: usize| {
            let (below, rest) = (last * quarters / 4, last * quarters % 4);
            let above = values[(below + 1).min(last)];
            values[below] + (above - values[below]) * rest as f64 / 4.0
        };
        Some(Self {
            lower: at(1),
            median: at(2),
            upper: at(3),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_at(micros: u64) -> Latency {
        let mut latency = Latency::new();
        latency.record(Duration::from_micros(micros));
        latency
    }

    #[tokio::test]
    async fn slices_alternate_and_each_pair_gives_one_ratio() {
        let mut order = Vec::new();
        let mut with = [20, 30, 40].into_iter();
        let pairs = Pairs::take(3, async |side| {
            order.push(side);
            Ok(match side {
                Side::Without => all_at(10),
                Side::With => all_at(with.next().unwrap()),
            })
        })
        .await
        .unwrap();
        use Side::{With, Without};
        assert_eq!(order, [Without, With, With, Without, Without, With]);
        let mut report = Report::new("slow");
        pairs.add_to(&mut report, "", "load");
        let near = |field: &str, expected: f64| {
            let value = report.value(field).unwrap();
            assert!(
                (value - expected).abs() < 0.01 * expected,
                "{field}: {value}"
            );
        };
        near("p99_ratio", 3.0);
        near("p99_ratio_lower_quartile", 2.5);
        near("p50_with_us", 30.0);
        near("p50_without_us", 10.0);
        near("pairs", 3.0);
    }

    #[test]
    fn quartiles_lie_between_the_values_and_nothing_has_none() {
        let quartiles = |values: &[f64]| Quartiles::of(values.iter().copied());
        assert_eq!(quartiles(&[]), None);
        let one = quartiles(&[7.0]).unwrap();
        assert_eq!((one.lower, one.median, one.upper), (7.0, 7.0, 7.0));
        let many = quartiles(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((many.lower, many.median, many.upper), (2.0, 3.0, 4.0));
        assert_eq!(quartiles(&[1.0, 2.0]).unwrap().median, 1.5);
    }

    #[tokio::test]
    async fn a_slice_without_anything_is_an_error() {
        let nothing = slice(&Meter::open_ended(), Duration::from_millis(1)).await;
        assert!(
            matches!(nothing, Err(Error::NothingMeasured(_))),
            "{nothing:?}"
        );
    }
}
