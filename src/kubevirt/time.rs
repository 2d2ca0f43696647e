//! Times as the cluster writes them.

use std::time::Duration;

use jiff::Timestamp;

/// A duration as Go writes it, in whole seconds rounded up: `26h30m0s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    format!("{}h{}m{}s", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// How long ago a time was; zero if it lies ahead, `None` if it is no time.
pub(super) fn since(time: &str) -> Option<Duration> {
    let past = Timestamp::now().duration_since(time.parse().ok()?);
    Some(Duration::try_from(past).unwrap_or_default())
}

/// How long it is until a time; zero if that is past, `None` if it is no time.
pub(super) fn until(time: &str) -> Option<Duration> {
    let ahead = time.parse::<Timestamp>().ok()?.duration_since(Timestamp::now());
    Some(Duration::try_from(ahead).unwrap_or_default())
}

/// A time in seconds since 1970; `None` if it is no time, or an earlier one.
pub(crate) fn seconds(time: &str) -> Option<u64> {
    u64::try_from(time.parse::<Timestamp>().ok()?.as_second()).ok()
}

/// Now, in RFC 3339.
pub(crate) fn now() -> String {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_reads_them() {
        for (millis, text) in [(0, "0h0m0s"), (1, "0h0m1s"), (7_200_000, "2h0m0s"), (95_430_000, "26h30m30s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn times_lie_ahead_or_behind() {
        assert_eq!(until("2001-01-01T00:00:00Z"), Some(Duration::ZERO));
        assert!(since("2001-01-01T00:00:00Z").unwrap() > Duration::from_secs(20 * 365 * 86400));
        assert_eq!(since("2999-01-01T00:00:00Z"), Some(Duration::ZERO));
        assert_eq!((since("yesterday"), until("")), (None, None));
        assert_eq!((seconds("1970-01-02T00:00:01Z"), seconds("then")), (Some(86_401), None));
        assert!(now().ends_with('Z') && since(&now()).unwrap() < Duration::from_secs(5));
    }
}
