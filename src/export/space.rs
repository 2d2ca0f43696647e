//! Whether there is space for an export.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use crate::kubevirt::{Check, Verdict};

/// Checks the directory that an export would go to: that it can be written, and that `needed` bytes are free,
/// which volumes of that size take at most.
pub fn check_space(directory: &Path, needed: Option<u64>) -> Check {
    let check = |verdict, found: String| Check::new("space", verdict, found);
    let Some(there) = existing(directory) else {
        return check(Verdict::Bad, format!("{} cannot be reached", directory.display()));
    };
    if !there.is_dir() {
        return check(Verdict::Bad, format!("{} is no directory", there.display()))
            .remedy("name a directory with --output");
    }
    if access(&there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return check(Verdict::Bad, format!("{} cannot be written by this user", there.display()))
            .remedy("name another directory with --output");
    }
    let Some(free) = free_at(&there) else {
        return check(Verdict::Mind, format!("nobody tells how much is free at {}", there.display()));
    };
    let free_mib = free >> 20;
    match needed {
        None => check(Verdict::Good, format!("{free_mib} MiB are free at {}", there.display())),
        Some(needed) => {
            let needed_mib = needed.div_ceil(1 << 20);
            let found = format!(
                "at most {needed_mib} MiB are needed, {free_mib} MiB are free at {}",
                there.display()
            );
            if needed <= free {
                return check(Verdict::Good, found);
            }
            // What is zero takes no space.
            check(Verdict::Mind, found).remedy(
                "enough only if most of the disks is zeros or compresses well (--compression zstd); else name another \
                 directory with --output, or fewer volumes with --volume",
            )
        }
    }
}

/// Bytes that are free where `place` is or will be.
pub(super) fn free_at(place: &Path) -> Option<u64> {
    let found = statvfs(existing(place)?).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// The nearest place above that is there.
fn existing(place: &Path) -> Option<PathBuf> {
    let mut place = place.to_owned();
    loop {
        if place.as_os_str().is_empty() {
            place = PathBuf::from(".");
        }
        if place.exists() {
            return Some(place);
        }
        place = place.parent()?.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_to_be_minded_and_what_cannot_be_written_is_bad() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let later = directory.path().join("a/b");
        for (place, needed, verdict) in [
            (directory.path(), None, Verdict::Good),
            (directory.path(), Some(1), Verdict::Good),
            (directory.path(), Some(u64::MAX), Verdict::Mind),
            (&later, Some(1), Verdict::Good),
            (&file, Some(1), Verdict::Bad),
            (&file.join("below"), None, Verdict::Bad),
        ] {
            let check = check_space(place, needed);
            assert_eq!(check.verdict, verdict, "{place:?} {needed:?}: {check:?}");
            assert!(check.verdict == Verdict::Good || check.remedy.is_some());
        }
    }
}
