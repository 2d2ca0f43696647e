//! Sizes and durations, as people write and read them.
//!
//! Sizes are binary throughout, as in `qemu-img` and in Kubernetes' `Gi`: `K`, `Ki` and `KiB` all
//! mean 1024 bytes. `KB` and its like are refused, because half of the world reads them as 1000.

use std::{fmt, time::Duration};

/// Units of a size by exponent of 1024.
const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// Reads a size in bytes: `65536`, `64K`, `64Ki`, `64KiB`, of either case.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text);
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err("a size is a whole number with an optional unit: 65536, 64K, 64KiB".to_owned());
    }
    let value: u64 = number.parse().map_err(|_| too_large())?;
    let mut rest = unit.chars();
    let exponent = match rest.next().map(|unit| unit.to_ascii_uppercase()) {
        None => return Ok(value),
        Some('B') if unit.len() == 1 => return Ok(value),
        Some(unit) => UNITS.iter().position(|known| *known == unit),
    };
    let Some(exponent) = exponent else { return Err(format!("unknown unit {unit:?} (K, M, G, T)")) };
    let letter = UNITS[exponent];
    match rest.as_str().to_ascii_lowercase().as_str() {
        "" | "i" | "ib" => {}
        "b" => {
            return Err(format!(
                "{letter}B may mean two sizes: write {letter} or {letter}iB for powers of 1024"
            ));
        }
        _ => return Err(format!("unknown unit {unit:?} (K, M, G, T)")),
    }
    (0..=exponent).try_fold(value, |value, _| value.checked_mul(1024)).ok_or_else(too_large)
}

/// As [`parse_size`], but not zero.
pub(crate) fn parse_positive_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("it must not be zero".to_owned()),
        size => Ok(size),
    }
}

/// Reads bytes a second: a size, with or without `/s`.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    parse_positive_size(text.trim().strip_suffix("/s").unwrap_or(text))
}

/// Reads a duration: `90s`, `1m30s`, `500ms`, `2h`, or a plain number of seconds; not zero.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is written like 90s, 1m30s, 500ms or 2h".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let unit = &tail[..tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len())];
        rest = &tail[unit.len()..];
        let value: u64 = number.parse().map_err(|_| wrong())?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            // A bare number only where nothing else stands.
            "" if number == text => 1000,
            _ => return Err(wrong()),
        };
        let part = value.checked_mul(milliseconds).map(Duration::from_millis);
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
    }
    if total.is_zero() { Err(wrong()) } else { Ok(total) }
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn too_large() -> String {
    "the size does not fit into 64 bits".to_owned()
}

/// A number of bytes for people: `0 B`, `512 B`, `1.5 GiB`, `10 GiB`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 1_u64;
        let mut letter = None;
        for next in UNITS {
            match unit.checked_mul(1024) {
                Some(larger) if larger <= self.0 => (unit, letter) = (larger, Some(next)),
                _ => break,
            }
        }
        // One decimal by integers; rounded down, so that 1023.99 KiB never shows as 1024 KiB.
        let (whole, tenths) = (self.0 / unit, u128::from(self.0 % unit) * 10 / u128::from(unit));
        let text = match (letter, tenths) {
            (None, _) => format!("{whole} B"),
            (Some(letter), 0) => format!("{whole} {letter}iB"),
            (Some(letter), tenths) => format!("{whole}.{tenths} {letter}iB"),
        };
        f.pad(&text)
    }
}

/// A duration for people: `0.4s`, `59.9s`, `2m05s`, `3h07m`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elapsed(pub(crate) Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
            (0, 0, _) => write!(f, "{seconds}.{}s", self.0.subsec_millis() / 100),
            (0, minutes, seconds) => write!(f, "{minutes}m{seconds:02}s"),
            (hours, minutes, _) => write!(f, "{hours}h{minutes:02}m"),
        }
    }
}

/// `part` of `whole` in percent, rounded down; 0 of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> u128 {
    u128::from(part) * 100 / u128::from(whole.max(1))
}

/// Bytes a second over `elapsed`; `None` if that is too short to tell.
pub(crate) fn rate(bytes: u64, elapsed: Duration) -> Option<u64> {
    let nanoseconds = elapsed.as_nanos();
    let rate = (u128::from(bytes) * 1_000_000_000).checked_div(nanoseconds)?;
    u64::try_from(rate).ok()
}

/// Seconds with three decimals, for machines.
pub(crate) fn seconds(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65536),
            ("512B", 512),
            ("64K", 65536),
            ("64k", 65536),
            ("64Ki", 65536),
            ("64KiB", 65536),
            ("64kib", 65536),
            ("1M", 1 << 20),
            ("1MiB", 1 << 20),
            ("10Gi", 10 << 30),
            ("16TiB", 16 << 40),
            ("15E", 15 << 60),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_are_none_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "whole number"),
            ("G", "whole number"),
            ("-1", "whole number"),
            ("1.5G", "whole number"),
            ("64KB", "two sizes"),
            ("1mb", "two sizes"),
            ("64Q", "unknown unit"),
            ("64KiBs", "unknown unit"),
            ("64 K", "unknown unit"),
            ("16E", "64 bits"),
            ("99999999999999999999", "64 bits"),
        ] {
            let error = parse_size(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(parse_positive_size("0").is_err());
    }

    #[test]
    fn durations_are_sums() {
        for (text, milliseconds) in
            [("90", 90_000), ("90s", 90_000), ("1m30s", 90_000), ("500ms", 500), ("2h", 7_200_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "0", "0s", "s", "1x", "1m30", "-1s", "1.5s", "99999999999999999999h", "5124095576030432h"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (10 << 30, "10 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        assert_eq!(format!("{:>8}|", Bytes(1)), "     1 B|");
    }

    #[test]
    fn durations_read_well() {
        for (milliseconds, text) in
            [(0, "0.0s"), (449, "0.4s"), (59_999, "59.9s"), (125_000, "2m05s"), (11_220_000, "3h07m")]
        {
            assert_eq!(Elapsed(Duration::from_millis(milliseconds)).to_string(), text);
        }
    }

    #[test]
    fn rates_and_shares_do_not_overflow() {
        assert_eq!(rate(u64::MAX, Duration::from_nanos(1)), None);
        assert_eq!(rate(10, Duration::ZERO), None);
        assert_eq!(rate(10 << 30, Duration::from_secs(2)), Some(5 << 30));
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
        assert_eq!(percent(0, 0), 0);
    }
}
