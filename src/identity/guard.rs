//! Whose word a file is: one that others can change is not believed, and one that others can read is no secret.
//!
//! As with ssh, what counts is the owner (this user, or root, who can do everything anyway) and the permission bits of
//! the file and of the directory in which it lies: whoever can write there can put another file in its place. Where the
//! path is a symbolic link, both directories count.

#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
use std::{
    fs::{File, Metadata},
    path::Path,
};

use super::{
    IdentityError,
    file::{Access, failed},
};

/// Bits that let others read, write or search.
const OTHERS: u32 = 0o077;

/// Bits that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// Refuses an open file that is not this user's own word, or not its secret.
pub(super) fn check_file(file: &File, path: &Path, access: Access) -> Result<(), IdentityError> {
    let metadata = file.metadata().map_err(|e| failed("read", path, e))?;
    check(&metadata, path, if access == Access::Secret { OTHERS } else { 0 })?;
    check_directory(directory_of(path))?;
    if path.is_symlink()
        && let Ok(real) = path.canonicalize()
    {
        check_directory(directory_of(&real))?;
    }
    Ok(())
}

/// Refuses a directory in which others can put files; one that is not there is nobody's.
pub(super) fn check_directory(path: &Path) -> Result<(), IdentityError> {
    let Ok(metadata) = path.metadata() else { return Ok(()) };
    check(&metadata, path, 0)
}

fn directory_of(path: &Path) -> &Path {
    let directory = path.parent().unwrap_or(Path::new("."));
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

#[cfg(unix)]
fn check(metadata: &Metadata, path: &Path, hidden: u32) -> Result<(), IdentityError> {
    judge(path, (metadata.uid(), metadata.mode() & 0o7777), rustix::process::geteuid().as_raw(), hidden)
}

#[cfg(not(unix))]
fn check(_metadata: &Metadata, _path: &Path, _hidden: u32) -> Result<(), IdentityError> {
    Ok(())
}

/// `hidden`: bits that must not be set besides those that let others write.
#[cfg(unix)]
fn judge(path: &Path, (owner, mode): (u32, u32), me: u32, hidden: u32) -> Result<(), IdentityError> {
    let path = || path.into();
    if owner != me && owner != 0 {
        return Err(IdentityError::Owner { path: path(), owner });
    }
    if mode & hidden != 0 {
        return Err(IdentityError::Permissions { path: path(), mode });
    }
    if mode & OTHERS_WRITE != 0 {
        return Err(IdentityError::Writable { path: path(), mode });
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const ME: u32 = 1000;

    fn says(owner: u32, mode: u32, hidden: u32) -> String {
        judge(Path::new("a"), (owner, mode), ME, hidden).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_file_is_this_users_or_roots_and_nobody_else_can_write_it_or_read_a_secret() {
        for (owner, mode, hidden, words) in [
            (ME, 0o600, OTHERS, ""),
            (0, 0o644, 0, ""),
            (ME, 0o644, 0, ""),
            (ME, 0o640, OTHERS, "can be read by others (mode 0640)"),
            (ME, 0o604, OTHERS, "chmod 600 a"),
            (ME, 0o664, 0, "can be changed by others (mode 0664)"),
            (ME, 0o602, 0, "chmod go-w a"),
            (ME, 0o1777, 0, "can be changed by others (mode 1777)"),
            (1001, 0o600, OTHERS, "belongs to another user (number 1001)"),
        ] {
            let said = says(owner, mode, hidden);
            assert!(said.contains(words) && said.is_empty() == words.is_empty(), "{owner} {mode:o}: {said}");
        }
    }

    #[test]
    fn a_directory_in_which_others_can_write_makes_its_files_worth_nothing() {
        let home = tempfile::tempdir().unwrap();
        let (shared, own) = (home.path().join("shared"), home.path().join("own"));
        for (directory, mode) in [(&shared, 0o775), (&own, 0o755)] {
            fs::create_dir(directory).unwrap();
            fs::set_permissions(directory, Permissions::from_mode(mode)).unwrap();
            fs::write(directory.join("file"), "").unwrap();
            fs::set_permissions(directory.join("file"), Permissions::from_mode(0o600)).unwrap();
        }
        // From either side of a symbolic link.
        symlink(shared.join("file"), own.join("link")).unwrap();
        symlink(own.join("file"), shared.join("link")).unwrap();
        let checked = |path: &Path| {
            let file = File::open(path).unwrap();
            check_file(&file, path, Access::Secret).map_err(|error| error.to_string())
        };
        assert_eq!(checked(&own.join("file")), Ok(()));
        for path in [shared.join("file"), shared.join("link"), own.join("link")] {
            let said = checked(&path).unwrap_err();
            assert!(said.contains("/shared can be changed by others (mode 0775)"), "{said}");
        }
    }
}
