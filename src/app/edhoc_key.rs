//! A static EDHOC key: the hub's, made once and read at each start, and those of new devices.
//!
//! The file holds the private key, 32 bytes in hex.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use p256_013::elliptic_curve::sec1::ToEncodedPoint as _;

use super::{clock, failure::Failure, secrets};

/// A key pair on P-256.
pub struct EdhocKey {
    private: p256_013::SecretKey,
}

impl EdhocKey {
    /// Makes a key from the operating system's randomness.
    pub fn generate() -> io::Result<Self> {
        loop {
            let mut bytes = [0; 32];
            clock::fill_from_system(&mut bytes)?;
            // One in four thousand million is no key.
            if let Ok(private) = p256_013::SecretKey::from_slice(&bytes) {
                return Ok(Self { private });
            }
        }
    }

    /// Reads the key from its file, and makes it where there is none: hubs of earlier versions
    /// have none, and no device knows one then.
    pub fn read_or_make(path: &Path) -> Result<Self, Failure> {
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::usage("EDHOC_KEY", format!("{}: {error}", path.display()))
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate().map_err(|error| wrong(&error))?;
                key.write(path).map_err(|error| wrong(&error))?;
                return Ok(key);
            }
            _ => {}
        }
        let text = secrets::read_file(path).map_err(|error| {
            let fix = "`edhoc_key_file` names it; without the file a new key is made, which no \
                       linked device knows";
            Failure::usage(error.code(), format!("the EDHOC key: {error}; {fix}"))
        })?;
        Self::from_text(text.reveal()).ok_or_else(|| wrong(&"no P-256 key of 32 bytes in hex"))
    }

    fn from_text(text: &str) -> Option<Self> {
        let bytes = hex::decode(text.trim()).ok()?;
        let private = p256_013::SecretKey::from_slice(&bytes).ok()?;
        (bytes.len() == 32).then_some(Self { private })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()
    }

    /// What its file holds.
    pub fn text(&self) -> String {
        format!("{}\n", hex::encode(self.private()))
    }

    /// The private key.
    pub fn private(&self) -> [u8; 32] {
        self.private.to_bytes().into()
    }

    /// The x coordinate of the public key.
    pub fn public_x(&self) -> [u8; 32] {
        let point = self.private.public_key().to_encoded_point(true);
        let x = point
            .x()
            .expect("a public key is not the point at infinity");
        (*x).into()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_hub_without_a_key_gets_one_that_stays_and_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/edhoc.key");

        let made = EdhocKey::read_or_make(&path).unwrap();

        let read = EdhocKey::read_or_make(&path).unwrap();
        assert_eq!(made.private(), read.private());
        assert_eq!(made.public_x(), read.public_x());
        let allowed = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(allowed, 0o600);
    }

    #[test]
    fn a_known_key_gives_its_known_public_half() {
        // RFC 9529 §3, the initiator's static key
        let key = "fb13adeb6518cee5f88417660841142e830a81fe334380a953406a1305e8706b";
        let key = EdhocKey::from_text(key).unwrap();
        assert_eq!(
            hex::encode(key.public_x()),
            "ac75e9ece3e50bfc8ed60399889522405c47bf16df96660a41298cb4307f7eb6"
        );
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edhoc.key");
        for text in ["planted", &"00".repeat(32), &"11".repeat(31)] {
            fs::write(&path, text).unwrap();
            let failure = EdhocKey::read_or_make(&path).err().unwrap().to_string();
            assert!(failure.contains("edhoc.key"), "{failure}");
            assert!(!failure.contains("planted"), "{failure}");
        }
    }
}
