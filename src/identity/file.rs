//! Reading and replacing small text files that people edit too.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{IdentityError, guard};

/// Largest file that is read: a hundred thousand lines of keys. Anything larger was not meant for us.
const MAX_FILE: u64 = 8 << 20;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody whom the directory lets through.
    Plain,
    /// Only its owner: created with mode 0600, and refused with a wider one.
    Secret,
}

/// The text of a file; empty where there is no such file.
pub(super) fn read(path: &Path, access: Access) -> Result<String, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(failed("read", path, e)),
    };
    guard::check_file(&file, path, access)?;
    // With room for all of it from the start: what grows leaves copies behind.
    let room = file.metadata().map_or(0, |metadata| metadata.len().min(MAX_FILE) as usize + 1);
    let mut bytes = Vec::with_capacity(room);
    (&file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|e| failed("read", path, e))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed("read", path, io::Error::other(format!("it is larger than {MAX_FILE} bytes"))));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|&&b| b == b'\n').count();
        IdentityError::Malformed { path: path.into(), line, why: "not UTF-8 text".into() }
    })
}

/// The lines that say something, with their numbers (from 1): neither empty nor a `#` comment.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// `text` without the lines of these numbers, and with a line more at its end. In one piece of memory, which is
/// wiped: it may hold secrets.
pub(super) fn exchanged(text: &str, numbers: &[usize], line: &str) -> Zeroizing<String> {
    let mut result = Zeroizing::new(String::with_capacity(text.len() + line.len() + 2));
    kept(text, numbers).for_each(|line| result.push_str(line));
    if !result.is_empty() && !result.ends_with('\n') {
        result.push('\n');
    }
    result.push_str(line);
    result.push('\n');
    result
}

/// `text` without the lines of these numbers; all else stays as it is.
pub(super) fn without_lines(text: &str, numbers: &[usize]) -> Zeroizing<String> {
    let mut result = Zeroizing::new(String::with_capacity(text.len()));
    kept(text, numbers).for_each(|line| result.push_str(line));
    result
}

fn kept<'t>(text: &'t str, numbers: &[usize]) -> impl Iterator<Item = &'t str> {
    let lines = (1..).zip(text.split_inclusive('\n'));
    lines.filter(|(number, _)| !numbers.contains(number)).map(|(_, line)| line)
}

/// Replaces a file as a whole: readers see the old text or the new one, also after a crash. Where the
/// path is a symbolic link, as with people who keep their settings under version control, the file
/// behind it is replaced.
pub(super) fn replace(path: &Path, text: &str, access: Access) -> Result<(), IdentityError> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = beside(&path);
    // Left over from a crash; nobody else writes it, because we hold the lock.
    let _ = fs::remove_file(&temporary);
    let written = create_new(&temporary, access)
        .and_then(|mut file| {
            if access == Access::Plain
                && let Ok(old) = fs::metadata(&path)
            {
                file.set_permissions(old.permissions())?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, &path));
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        failed("write", &path, e)
    })
}

/// How often a lock is tried that another program has, with a [`pause`] in between: a second in all.
const LOCK_TRIES: usize = 100;

#[expect(clippy::disallowed_methods, reason = "a lock that is free again cannot be waited for with a limit")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// The right to rewrite the files of a home, held until dropped. It is a file of its own, because the
/// others are replaced.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the right; creates the directory where there is none. Rewrites take milliseconds.
    ///
    /// # Errors
    /// Also where another program has it for longer than [`LOCK_TRIES`]: one that was stopped in the middle
    /// must not stop a host, which lets clients in under this lock.
    pub(super) fn take(directory: &Path) -> Result<Lock, IdentityError> {
        create_directory(directory)?;
        guard::check_directory(directory)?;
        let path = directory.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| failed("open", &path, e))?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => pause(),
                Err(TryLockError::Error(e)) => return Err(failed("lock", &path, e)),
            }
        }
        let held =
            "another punchtunnel rewrites a file beside it and does not come to an end; find and end it";
        Err(failed("lock", &path, io::Error::new(ErrorKind::WouldBlock, held)))
    }
}

/// Creates a directory that only its owner can enter, unless it exists.
pub(super) fn create_directory(path: &Path) -> Result<(), IdentityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|e| failed("create", path, e))
}

/// An [`IdentityError::Io`].
pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io { operation, path: path.into(), source }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg_attr(not(unix), expect(unused_variables))]
fn create_new(path: &Path, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    // Whatever the umask: a file that others can change is not read again.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(
        &mut options,
        if access == Access::Secret { 0o600 } else { 0o644 },
    );
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_order_stay_when_a_line_goes() {
        let text = "# mine\n\none\ntwo # second\nthree";
        assert_eq!(lines(text).map(|(n, _)| n).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(*without_lines(text, &[4]), "# mine\n\none\nthree");
        assert_eq!(*exchanged(text, &[], "four"), "# mine\n\none\ntwo # second\nthree\nfour\n");
        assert_eq!(*exchanged(text, &[3, 5], "four"), "# mine\n\ntwo # second\nfour\n");
        assert_eq!(*exchanged("", &[], "one"), "one\n");
    }

    #[test]
    fn a_file_that_does_not_exist_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("nothing"), Access::Secret).unwrap(), "");
    }

    #[test]
    fn bytes_that_are_no_text_are_reported_with_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        fs::write(&path, b"# fine\n\xff\xfe\n").unwrap();
        let error = read(&path, Access::Plain).unwrap_err().to_string();
        assert!(error.contains("known_hosts:2: not UTF-8"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, "new", Access::Plain).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "new");
    }

    #[test]
    fn a_lock_that_is_never_given_back_is_an_error_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let _held = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).err().unwrap().to_string();
        assert!(error.contains("another punchtunnel"), "{error}");
    }

    #[test]
    fn what_a_crash_left_behind_does_not_block_the_next_rewrite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        fs::write(beside(&path), "half a li").unwrap();
        replace(&path, "whole\n", Access::Plain).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\n");
        assert!(!beside(&path).exists());
    }
}
