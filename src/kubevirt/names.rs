//! Names of what is made in the cluster.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    error::{Error, Result},
    secret::Secret,
};

/// A new id for a run: short, fit for names and labels.
///
/// # Errors
/// The system gives no random bytes.
pub fn run_id() -> Result<String> {
    let bytes: [u8; RUN_ID_LEN] = random()?;
    Ok(bytes
        .map(|byte| char::from(RUN_ID_LETTERS[usize::from(byte) % RUN_ID_LETTERS.len()]))
        .iter()
        .collect())
}

/// A new token: 256 random bits, as text that a header can carry.
///
/// # Errors
/// The system gives no random bytes.
pub(super) fn token() -> Result<Secret> {
    let bytes: [u8; 32] = random()?;
    Ok(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::failed("the system gives no random bytes, and a token must not be guessed"))?;
    Ok(bytes)
}

/// What the objects of a run are called: `vmferry-<source>-<run>`, so short that KubeVirt need not
/// hash the names of pod and service that it derives (`virt-export-<name>`, at most 63).
pub(super) fn object_name(source: &str, run: &str) -> String {
    let mut base: String = source
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    base.truncate(MAX_SOURCE_LEN);
    format!("vmferry-{}-{run}", base.trim_matches('-'))
}

/// The name of the `serial`th object of a kind that a run makes.
pub(super) fn numbered(name: &str, serial: u32) -> String {
    if serial <= 1 { name.to_owned() } else { format!("{name}-{serial}") }
}

/// No vowels: no words.
const RUN_ID_LETTERS: &[u8; 29] = b"bcdfghjklmnpqrstvwxz023456789";

/// 29^8 runs: enough for one namespace.
const RUN_ID_LEN: usize = 8;

/// 51 is what is left beside `virt-export-`.
const MAX_SOURCE_LEN: usize = 51 - "vmferry-".len() - 1 - RUN_ID_LEN - 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_names_fit_into_what_kubevirt_makes_of_them() {
        let run = run_id().unwrap();
        assert!(run.len() == 8 && run.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{run}");
        for source in ["db", "a.b.c", &"x".repeat(253), "UPPER", "-"] {
            let name = object_name(source, &run);
            // A second and later export of one run has a number behind its name.
            assert!(format!("virt-export-{name}-2").len() <= 63, "{name}");
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.starts_with("vmferry-") && name.chars().all(fits) && !name.ends_with('-'), "{name}");
        }
        assert_eq!(object_name("db.prod", "abc"), "vmferry-db-prod-abc");
    }

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert!(one != other && one.reveal().len() == 43);
        assert!(!format!("{one:?}").contains(one.reveal()));
    }
}
