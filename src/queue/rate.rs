//! Rate limits of queues.

use std::time::Duration;

use serde::Serialize;

/// A rate limit: a token bucket of `jobs` tokens that refills completely in the time `per`. Each job that starts takes a token.
/// So up to twice `jobs` can start in one period that begins with a full bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    pub jobs: u32,
    #[serde(rename = "per_seconds", serialize_with = "seconds")]
    pub per: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Rate {
    /// Parses `jobs/ms`, as stored in Redis. `None` if the text has another form.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (jobs, ms) = text.split_once('/')?;
        Some(Self { jobs: jobs.parse().ok()?, per: Duration::from_millis(ms.parse().ok()?) })
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}s", self.jobs, self.per.as_secs_f64())
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    /// Parses `100/s`, `30/m`, `1000/h` or `5/10s`.
    ///
    /// # Errors
    /// If the text has another form, the number of jobs is 0, or the period is not a second to a day.
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} is not a rate: write for example 100/s, 30/m or 5/10s");
        let (jobs, per) = text.split_once('/').ok_or_else(invalid)?;
        let digits = per.trim_end_matches(['s', 'm', 'h']);
        let unit = match &per[digits.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            _ => return Err(invalid()),
        };
        let n: u64 = if digits.is_empty() { 1 } else { digits.parse().map_err(|_| invalid())? };
        let (jobs, seconds) = (jobs.trim().parse().map_err(|_| invalid())?, n.saturating_mul(unit));
        if jobs == 0 || !(1..=86_400).contains(&seconds) {
            return Err(format!("{text:?}: must be at least one job, in a second to a day"));
        }
        Ok(Self { jobs, per: Duration::from_secs(seconds) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_parsed() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| (rate.jobs, rate.per.as_secs()));
        assert_eq!(rate("100/s"), Ok((100, 1)));
        assert_eq!(rate("30/m"), Ok((30, 60)));
        assert_eq!(rate("5/10s"), Ok((5, 10)));
        for wrong in ["", "100", "0/s", "5/0s", "5/2d", "-1/s", "5/99999999999999999999s", "5/25h"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
