//! Quantities of Kubernetes: `10Gi`, `500M`, `1e9`.

/// A quantity as a whole number of bytes, rounded up; `None` if it is none or does not fit.
pub fn parse_quantity(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .char_indices()
        .find(|(_, c)| !c.is_ascii_digit() && *c != '.')
        .map_or(text.len(), |(index, _)| index);
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > MAX_DECIMALS {
        return None;
    }
    let (factor, divisor) = scale(suffix)?;
    let decimals = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(factor)?;
    u64::try_from(scaled.div_ceil(decimals.checked_mul(divisor)?)).ok()
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let power = |list: [&str; 6], base: u128| {
        let index = list.iter().position(|known| *known == suffix)?;
        base.checked_pow(u32::try_from(index + 1).ok()?)
    };
    if suffix.is_empty() {
        return Some((1, 1));
    }
    if suffix == "m" {
        return Some((1, 1000));
    }
    if let Some(factor) = power(BINARY, 1024).or_else(|| power(DECIMAL, 1000)) {
        return Some((factor, 1));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

/// Nobody writes more.
const MAX_DECIMALS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_means_them() {
        for (text, bytes) in [
            ("0", 0),
            ("5368709120", 5_368_709_120),
            ("10Gi", 10 << 30),
            ("1.5Gi", 3 << 29),
            ("500M", 500_000_000),
            ("1k", 1000),
            ("1e9", 1_000_000_000),
            ("12E1", 120),
            ("1E", 1_000_000_000_000_000_000),
            ("2Ti", 2 << 40),
            ("1500m", 2),
            (" 7 ", 7),
            (".5Ki", 512),
        ] {
            assert_eq!(parse_quantity(text), Some(bytes), "{text}");
        }
        for wrong in ["", "Gi", "1.2.3", "-5", "10GiB", "1KB", "99999999999Ei", "e5", "1e99"] {
            assert_eq!(parse_quantity(wrong), None, "{wrong}");
        }
    }
}
