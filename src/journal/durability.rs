//! When an append is answered, as people know it from Redis.

use std::{fmt, str::FromStr, time::Duration};

/// The shortest and the longest interval between two syncs.
const INTERVAL: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(60)];

/// When an append is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// When it is on the disk: it survives the process, the system and the power.
    #[default]
    Sync,
    /// When the system has it: it survives the process. It is synced so long after at the latest;
    /// what came since the last sync is lost with the system or the power.
    Interval(Duration),
    /// When the system has it; when it is on the disk is the system's affair.
    None,
}

impl Durability {
    /// Whether what was answered may be lost by an end that was not a clean one, and revisions of
    /// before and after it do not compare.
    #[must_use]
    pub fn may_lose(self) -> bool {
        self != Self::Sync
    }
}

/// As it is configured; the same text is read back.
impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sync => f.write_str("sync"),
            Self::Interval(interval) => write!(f, "interval:{}", interval.as_millis()),
            Self::None => f.write_str("none"),
        }
    }
}

/// The text is no durability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no durability: write sync, interval:MS with 1 to 60000 milliseconds, such as interval:100, or none"
)]
pub struct WrongDurability(String);

impl FromStr for Durability {
    type Err = WrongDurability;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || WrongDurability(text.to_owned());
        match text {
            "sync" => Ok(Self::Sync),
            "none" => Ok(Self::None),
            _ => {
                let interval = text.strip_prefix("interval:").ok_or_else(wrong)?;
                let interval = interval.strip_suffix("ms").unwrap_or(interval);
                let interval = Duration::from_millis(interval.parse().map_err(|_| wrong())?);
                let [shortest, longest] = INTERVAL;
                if (shortest..=longest).contains(&interval) {
                    Ok(Self::Interval(interval))
                } else {
                    Err(wrong())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["sync", "none", "interval:1", "interval:60000"] {
            let durability: Durability = text.parse().unwrap();
            assert_eq!(durability.to_string(), text);
        }
        let hundred = Durability::Interval(Duration::from_millis(100));
        assert_eq!("interval:100ms".parse(), Ok(hundred));
        for text in [
            "",
            "always",
            "interval",
            "interval:",
            "interval:0",
            "interval:60001",
            "interval:1s",
            "interval:-1",
        ] {
            let error = text.parse::<Durability>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
            assert!(error.contains("interval:100, or none"), "{error}");
        }
    }
}
