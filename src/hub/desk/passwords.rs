//! Password hashes: argon2id, a bounded number at once.
//!
//! Whether an account exists must not show: who has no password is compared with a hash nobody
//! has the password of, which takes as long.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::{self, Ident, Output, ParamsString, SaltString},
};
use tokio::{runtime::Handle, sync::Semaphore, task::spawn_blocking};

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
    slots: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    memory: Arc<Memory>,
}

impl Passwords {
    /// At most `at_once` hashes are computed side by side.
    pub(super) fn new(at_once: usize) -> Self {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS - QUEUE_MAX);
        Self {
            slots: Arc::new(Semaphore::new(at_once)),
            queue: Arc::new(Semaphore::new(at_once + QUEUE_MAX)),
            memory: Arc::default(),
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
        self.run(move |memory| hash(memory, &password, &salt))
            .await?
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
        self.run(move |memory| is_right(memory, &password, &stored))
            .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Memory>) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let queued = Arc::clone(&self.queue).try_acquire_owned();
        let queued = queued.map_err(|_| Refusal::busy(BUSY_RETRY))?;
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.map_err(|_| Refusal::busy(BUSY_RETRY))?; // never closed
        let memory = Arc::clone(&self.memory);
        let done = spawn_blocking(move || {
            // who asked may be gone by now; what this costs is not, so the places go with the work
            let _held = (queued, slot);
            work(&memory)
        });
        done.await.map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "hashing stopped");
            Refusal::internal()
        })
    }
}

fn hash(memory: &Arc<Memory>, password: &str, salt: &[u8]) -> Result<String, Refusal> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the costs are in range");
    let phc = || -> password_hash::Result<String> {
        let encoded = SaltString::encode_b64(salt)?;
        let phc = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params)?,
            salt: Some(encoded.as_salt()),
            hash: Some(output(
                memory,
                password,
                salt,
                params.clone(),
                Params::DEFAULT_OUTPUT_LEN,
            )?),
        };
        Ok(phc.to_string())
    };
    phc().map_err(|error| {
        tracing::error!(%error, "hashing failed");
        Refusal::internal()
    })
}

fn is_right(memory: &Arc<Memory>, password: &str, stored: &str) -> bool {
    let again = || -> Option<bool> {
        let stored = PasswordHash::new(stored).ok()?;
        let expected = stored.hash?;
        let ours = stored.algorithm == Ident::from(Algorithm::Argon2id)
            && stored.version == Some(Version::V0x13.into());
        let mut salt = [0; password_hash::Salt::MAX_LENGTH];
        let salt = stored.salt?.decode_b64(&mut salt).ok()?;
        let params = Params::try_from(&stored).ok().filter(|_| ours)?;
        let output = output(memory, password, salt, params, expected.len()).ok()?;
        Some(output == expected) // takes as long wherever they differ
    };
    again().unwrap_or(false)
}

fn output(
    memory: &Arc<Memory>,
    password: &str,
    salt: &[u8],
    params: Params,
    length: usize,
) -> password_hash::Result<Output> {
    let mut blocks = memory.take(params.block_count());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let output = Output::init_with(length, |out| {
        argon2
            .hash_password_into_with_memory(password.as_bytes(), salt, out, &mut blocks)
            .map_err(Into::into)
    });
    memory.give_back(blocks);
    output
}

/// Working memory that was used and will soon be used again: asking the system for fresh pages
/// takes as long as the hash itself. At most as many as hashes run at once, since each was one's;
/// and none for longer than [`KEPT_FOR`], since a hub is idle most of the time.
#[derive(Default)]
struct Memory(Mutex<Shelf>);

#[derive(Default)]
struct Shelf {
    kept: Vec<(u64, Vec<Block>)>,
    next: u64,
}

impl Memory {
    fn take(&self, count: usize) -> Vec<Block> {
        let kept = self.lock().kept.pop();
        match kept {
            Some((_, blocks)) if blocks.len() == count => blocks,
            _ => blocks(count),
        }
    }

    /// Zeroed, because a password could be tried against what was in it.
    fn give_back(self: &Arc<Self>, mut blocks: Vec<Block>) {
        let Ok(runtime) = Handle::try_current() else {
            return; // nobody would take it away again
        };
        blocks.fill(Block::default());
        let number = {
            let mut memory = self.lock();
            memory.next += 1;
            let number = memory.next;
            memory.kept.push((number, blocks));
            number
        };
        let memory = Arc::downgrade(self);
        runtime.spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            if let Some(memory) = memory.upgrade() {
                memory.lock().kept.retain(|(kept, _)| *kept != number);
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long working memory is kept for the next hash: people log in one by one, attackers and
/// mornings in a row.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The working memory of one hash, which goes back to the system when it is dropped.
///
/// An allocator that keeps a free block for each thread's next use would keep one for each of
/// the many threads that hash in turn. glibc does, up to 32 MiB; a larger block it always returns.
/// What is reserved and never written to costs nothing.
fn blocks(count: usize) -> Vec<Block> {
    let mut memory = Vec::with_capacity(count.max(RETURNED_BYTES_MIN / Block::SIZE + 1));
    memory.resize(count, Block::default());
    memory
}

/// The smallest block that goes back to the system in any case: `DEFAULT_MMAP_THRESHOLD_MAX` of
/// glibc on 64 bits.
const RETURNED_BYTES_MIN: usize = 32 << 20;

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

    /// Hashes go on when their askers hang up: without this, hanging up would be the way around
    /// the ceiling.
    #[tokio::test]
    async fn a_hash_keeps_its_place_when_nobody_waits_for_it_any_more() {
        let passwords = Passwords::new(1);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, is_started) = tokio::sync::oneshot::channel();
        let mut asking = Box::pin(passwords.run(move |_| {
            started.send(()).unwrap();
            wait.recv().unwrap();
        }));
        tokio::select! {
            _ = &mut asking => unreachable!("it waits for `go`"),
            begun = is_started => begun.unwrap(),
        }

        drop(asking);

        assert_eq!(passwords.slots.available_permits(), 0);
        assert_eq!(passwords.queue.available_permits(), QUEUE_MAX);
        go.send(()).unwrap();
        assert!(!passwords.is_right("x", None).await.unwrap()); // in its turn
    }

    #[test]
    fn what_the_reference_library_hashed_is_right_and_the_other_way_round() {
        use argon2::{PasswordHasher, PasswordVerifier};
        let reference = Argon2::default();
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();

        let theirs = reference.hash_password(b"correct horse", &salt).unwrap();
        let memory = Arc::default();
        assert!(is_right(&memory, "correct horse", &theirs.to_string()));
        let same = hash(&memory, "correct horse", &[7; 16]).unwrap();
        assert_eq!(same, theirs.to_string());

        let ours = hash(&memory, "battery staple", &[8; 16]).unwrap();
        let ours = PasswordHash::new(&ours).unwrap();
        reference.verify_password(b"battery staple", &ours).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn working_memory_serves_the_next_hash_zeroed_and_is_not_kept_for_long() {
        let passwords = Passwords::new(1);
        for _ in 0..3 {
            passwords.is_right("x", None).await.unwrap();
            let shelf = passwords.memory.lock();
            assert_eq!(shelf.kept.len(), 1);
            let (_, blocks) = &shelf.kept[0];
            assert_eq!(blocks.len(), 19 * 1024);
            assert!(
                blocks
                    .iter()
                    .all(|block| block.as_ref().iter().all(|word| *word == 0))
            );
        }
        tokio::time::sleep(KEPT_FOR * 2).await;
        assert_eq!(passwords.memory.lock().kept.len(), 0);
    }

    #[test]
    fn working_memory_is_larger_than_what_an_allocator_keeps() {
        let memory = blocks(19 * 1024);

        assert_eq!(memory.len(), 19 * 1024);
        assert!(memory.capacity() * Block::SIZE > RETURNED_BYTES_MIN);
    }
}
