//! The private key of an installation.

use std::{path::Path, str::FromStr};

use data_encoding::BASE32_NOPAD;
use zeroize::{Zeroize, Zeroizing};

use super::{
    IdentityError,
    file::{self, Access, Lock},
};
use crate::secure::StaticKey;

/// Reads the private key in `path`, or makes one from `seed` where there is none.
///
/// `seed` is 32 bytes from the system's random source; it is used up only when a key is made. The
/// file is written once, mode 0600, and never rewritten.
///
/// # Errors
/// A file that others can read, that is no key, or that cannot be read or made.
pub fn load_or_create(path: &Path, seed: Zeroizing<[u8; 32]>) -> Result<StaticKey, IdentityError> {
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let _lock = Lock::take(directory)?;
    // Another process may have made it while this one waited.
    if let Some(key) = load(path)? {
        return Ok(key);
    }
    let key = StaticKey::from_private(seed.clone());
    let mut text = Zeroizing::new(format!("# punchtunnel: private key of {}\n", key.public()));
    let mut encoded = BASE32_NOPAD.encode(seed.as_slice()).to_ascii_lowercase();
    text.push_str(&encoded);
    encoded.zeroize();
    text.push('\n');
    file::replace(path, &text, Access::Secret)?;
    Ok(key)
}

/// The key in `path`; `None` where there is no such file.
fn load(path: &Path) -> Result<Option<StaticKey>, IdentityError> {
    let exists = path.try_exists().map_err(|e| file::failed("read", path, e))?;
    if !exists {
        return Ok(None);
    }
    let text = Zeroizing::new(file::read(path, Access::Secret)?);
    let mut lines = file::lines(&text);
    let malformed = |line, why: &str| IdentityError::Malformed { path: path.into(), line, why: why.into() };
    let (number, line) = lines.next().ok_or_else(|| malformed(1, "the file holds no key"))?;
    if let Some((second, _)) = lines.next() {
        return Err(malformed(second, "the file holds more than a key"));
    }
    // The text itself stays out of the message: it is a secret, even with a typing error in it.
    let Private(private) = line.parse().map_err(|()| malformed(number, "this is not a private key"))?;
    Ok(Some(StaticKey::from_private(private)))
}

struct Private(Zeroizing<[u8; 32]>);

impl FromStr for Private {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let upper = Zeroizing::new(text.to_ascii_uppercase());
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(upper.as_bytes()).map_err(drop)?);
        Ok(Private(Zeroizing::new(bytes.as_slice().try_into().map_err(drop)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn seed(byte: u8) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([byte; 32])
    }

    #[test]
    fn a_key_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/identity.key");
        let made = load_or_create(&path, seed(1)).unwrap();
        let found = load_or_create(&path, seed(2)).unwrap();
        assert_eq!(made.public(), found.public());
        assert_eq!(made.public(), StaticKey::from_private(seed(1)).public());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        load_or_create(&path, seed(1)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create(&path, seed(1)).expect_err("refused").to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_broken_key_file_is_named_with_its_line_and_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        file::replace(&path, "# comment\nsecretsecret\n", Access::Secret).unwrap();
        let error = load_or_create(&path, seed(1)).expect_err("refused").to_string();
        assert!(error.contains("identity.key:2: this is not a private key"), "{error}");
        assert!(!error.contains("secretsecret"), "{error}");
    }
}
