//! Small files beside images: descriptions, records, manifests.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::error::{Error, Result};

/// Who may read a small file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Whoever may read other files that are made here.
    Anyone,
    /// Its owner alone: it may hold secrets.
    #[cfg_attr(not(feature = "kubevirt"), expect(dead_code, reason = "only clusters have secrets"))]
    Owner,
}

/// Writes a small file, whole or not at all. What stands under the name that it has meanwhile is
/// removed, never followed or written to; what has its final name is replaced.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], readers: Readers) -> Result<()> {
    let partial = partial_of(path);
    let mode = match readers {
        Readers::Anyone => 0o666,
        Readers::Owner => 0o600,
    };
    let write = || {
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        options.custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0));
        let mut file = options.open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        // The name is durable when its directory is.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().map_err(|error| Error::io("write", path, error))
}

/// What a small file is called until it is whole.
pub(crate) fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_written_whole_and_for_their_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vm.yaml");
        write_whole(&path, b"one", Readers::Owner).unwrap();
        write_whole(&path, b"two", Readers::Owner).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn small_files_never_follow_what_was_left_under_their_name() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (path, victim) = (directory.path().join("vm.yaml"), directory.path().join("victim"));
        let partial = directory.path().join("vm.yaml.partial");
        fs::write(&victim, b"theirs").unwrap();
        symlink(&victim, &partial).unwrap();
        write_whole(&path, b"ours", Readers::Owner).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"theirs");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"ours");

        fs::write(&partial, b"an old one that everybody may read").unwrap();
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o644)).unwrap();
        write_whole(&path, b"again", Readers::Owner).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"again");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!partial.exists());

        // The name itself may be a link too.
        fs::remove_file(&path).unwrap();
        symlink(&victim, &path).unwrap();
        write_whole(&path, b"whole", Readers::Anyone).unwrap();
        assert_eq!(
            (fs::read(&victim).unwrap(), fs::read(&path).unwrap()),
            (b"theirs".into(), b"whole".into())
        );
    }
}
