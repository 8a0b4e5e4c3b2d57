//! Password hashes: argon2id, a bounded number at once.
//!
//! Whether an account exists must not show: who has no password is compared with a hash nobody
//! has the password of, which takes as long.

use std::time::Duration;

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::SaltString,
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::api::{Code, Refusal};

/// What one hash costs: OWASP's first choice. Those who serve on 64 MB can afford three at once.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// How many hashes wait for their turn. Each takes about 30 ms, so the last waits a second or two.
const QUEUE_MAX: usize = 64;

/// When to try again when the queue was full: about the time it takes to empty.
const BUSY_RETRY: Duration = Duration::from_secs(2);

/// Nobody's password: a salt and a hash of zeros, at the cost of every other.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Where password hashes are computed.
pub(super) struct Passwords {
    slots: Semaphore,
    queue: Semaphore,
}

impl Passwords {
    /// At most `at_once` hashes are computed side by side.
    pub(super) fn new(at_once: usize) -> Self {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS - QUEUE_MAX);
        Self {
            slots: Semaphore::new(at_once),
            queue: Semaphore::new(at_once + QUEUE_MAX),
        }
    }

    /// What is stored of a password: a PHC string.
    pub(super) async fn hash(&self, password: &str, salt: [u8; 16]) -> Result<String, Refusal> {
        if password.is_empty() {
            return Err(Refusal::new(
                Code::WeakPassword,
                "the password must not be empty",
            ));
        }
        let password = password.to_owned();
        self.run(move || hash(&password, &salt)).await?
    }

    /// Whether this is the password of which `stored` is the hash. Takes as long when there is
    /// none.
    pub(super) async fn is_right(
        &self,
        password: &str,
        stored: Option<String>,
    ) -> Result<bool, Refusal> {
        let password = password.to_owned();
        let stored = stored.unwrap_or_else(|| NOBODY.to_owned());
        self.run(move || is_right(&password, &stored)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let busy = |_| Refusal::busy(BUSY_RETRY);
        let _queued = self.queue.try_acquire().map_err(busy)?;
        let slot = self.slots.acquire().await.map_err(|_| {
            Refusal::busy(BUSY_RETRY) // never closed
        })?;
        let done = spawn_blocking(work).await;
        drop(slot);
        done.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "hashing stopped");
            Refusal::internal()
        })
    }
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the costs are in range");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &str, salt: &[u8]) -> Result<String, Refusal> {
    let wrong = |error| {
        tracing::error!(%error, "hashing failed");
        Refusal::internal()
    };
    let salt = SaltString::encode_b64(salt).map_err(wrong)?;
    let hash = argon2()
        .hash_password(password.as_bytes(), &salt)
        .map_err(wrong)?;
    Ok(hash.to_string())
}

fn is_right(password: &str, stored: &str) -> bool {
    PasswordHash::new(stored).is_ok_and(|stored| {
        argon2()
            .verify_password(password.as_bytes(), &stored)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_told_from_another_and_its_hash_says_its_cost() {
        let passwords = Passwords::new(1);
        let stored = passwords.hash("correct horse", [7; 16]).await.unwrap();

        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let is_right = |password: &'static str| passwords.is_right(password, Some(stored.clone()));
        assert!(is_right("correct horse").await.unwrap());
        assert!(!is_right("battery staple").await.unwrap());
    }

    #[tokio::test]
    async fn nobody_has_the_password_of_an_account_without_one() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        assert_eq!(Params::try_from(&nobody).unwrap().m_cost(), MEMORY_KIB);
        let passwords = Passwords::new(1);
        assert!(!passwords.is_right("", None).await.unwrap());
        assert!(
            !passwords
                .is_right("x", Some("junk".to_owned()))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn an_empty_password_is_refused() {
        let refusal = Passwords::new(1).hash("", [7; 16]).await.unwrap_err();
        assert_eq!(refusal.code, Code::WeakPassword);
    }

    #[tokio::test]
    async fn when_the_queue_is_full_the_next_is_told_to_come_back() {
        let passwords = Passwords::new(1);
        let taken = passwords.queue.try_acquire_many(1 + 64).unwrap();

        let refusal = passwords.is_right("x", None).await.unwrap_err();
        assert_eq!(refusal.status, 503);
        assert_eq!(refusal.retry_after, Some(BUSY_RETRY));

        drop(taken);
        passwords.is_right("x", None).await.unwrap();
    }
}
