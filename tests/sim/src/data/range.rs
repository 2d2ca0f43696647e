//! The Range header, as Go's `http.ServeContent` reads it.

/// What a Range header asks of a content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Ranges {
    /// Everything.
    All,
    /// These pieces: start and length.
    Some(Vec<(u64, u64)>),
    /// It makes no sense: 416.
    Invalid,
    /// It lies beyond the end: 416 that tells the size.
    NoOverlap,
}

/// Reads the header for a content of `size` bytes.
pub(super) fn parse(header: &str, size: u64) -> Ranges {
    let Some(list) = header.strip_prefix("bytes=") else { return Ranges::Invalid };
    let (mut ranges, mut is_beyond) = (Vec::new(), false);
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let Some((start, end)) = item.split_once('-') else { return Ranges::Invalid };
        match parse_one(start.trim(), end.trim(), size) {
            Some(Some(range)) => ranges.push(range),
            Some(None) => is_beyond = true,
            None => return Ranges::Invalid,
        }
    }
    if ranges.is_empty() {
        return if is_beyond && size > 0 { Ranges::NoOverlap } else { Ranges::All };
    }
    // More than the whole is the whole.
    let total: u64 = ranges.iter().map(|(_, len)| len).sum();
    if total > size { Ranges::All } else { Ranges::Some(ranges) }
}

/// `None` is nonsense, `Some(None)` is beyond the end.
fn parse_one(start: &str, end: &str, size: u64) -> Option<Option<(u64, u64)>> {
    if start.is_empty() {
        let len = parse_number(end)?.min(size);
        return Some(Some((size - len, len)));
    }
    let start = parse_number(start)?;
    if start >= size {
        return Some(None);
    }
    if end.is_empty() {
        return Some(Some((start, size - start)));
    }
    let end = parse_number(end)?;
    if end < start { None } else { Some(Some((start, end.min(size - 1) - start + 1))) }
}

fn parse_number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_go_reads_them() {
        let some = |ranges: &[(u64, u64)]| Ranges::Some(ranges.to_vec());
        for (header, expected) in [
            ("bytes=0-15", some(&[(0, 16)])),
            ("bytes=90-", some(&[(90, 10)])),
            ("bytes=-16", some(&[(84, 16)])),
            ("bytes=-200", some(&[(0, 100)])),
            ("bytes=95-200", some(&[(95, 5)])),
            ("bytes=0-3, 10-13", some(&[(0, 4), (10, 4)])),
            ("bytes=0-3,200-", some(&[(0, 4)])),
            ("bytes=100-", Ranges::NoOverlap),
            ("bytes=0-99,0-99", Ranges::All),
            ("bytes=", Ranges::All),
            ("bytes=5-2", Ranges::Invalid),
            ("bytes=a-b", Ranges::Invalid),
            ("bytes=+1-2", Ranges::Invalid),
            ("bytes=7", Ranges::Invalid),
            ("items=0-5", Ranges::Invalid),
        ] {
            assert_eq!(parse(header, 100), expected, "{header}");
        }
    }
}
