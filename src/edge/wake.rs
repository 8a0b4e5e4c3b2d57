//! The wake hook: whoever sleeps and cannot be told of news is knocked at, once, by an empty POST.
//!
//! The knock says neither room nor sender nor hub user. Whether there is something to tell, and that no door
//! can tell it, is `thin`'s to know; how a URL that a device gave is asked safely is `knock`'s.
//! spec: thin-profile §12

mod knock;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use metrics::counter;
use ruma::OwnedUserId;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

pub use self::knock::native_roots;
use self::knock::{Knocker, Outcome};
use super::thin::{Bell, Thin, Which};
use crate::{
    api::{DeviceName, Links},
    base::{Clock, Timestamp},
    session::ledger::SILENCE,
};

/// What knocking needs.
pub struct Wake {
    /// Who can be told otherwise, and whether something waits.
    pub thin: Arc<Thin>,
    /// Where to knock; it is told of the bell here.
    pub links: Arc<dyn Links>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Whom to believe when a host shows its certificate.
    pub roots: rustls::RootCertStore,
    /// Whether URLs may lead into private networks and to this machine.
    pub allow_private_addresses: bool,
    /// Waits before knocking again where nobody answered; afterwards the next news tries again.
    pub retries: Vec<Duration>,
}

/// How patient knocking is unless told otherwise.
pub const RETRIES: [Duration; 2] = [Duration::from_mins(1), Duration::from_mins(10)];

/// Knocks waiting or under way. Above it the next news must try again.
const KNOCKS_MAX: usize = 1024;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;

/// Knocks until `shutdown` becomes true (or its sender is gone). Fails at the start only.
pub async fn run(wake: Wake, mut shutdown: watch::Receiver<bool>) -> Result<(), rustls::Error> {
    let knocker = Knocker::new(wake.roots, wake.allow_private_addresses)?;
    let bell = Bell::new();
    wake.links
        .tell(Arc::clone(&bell) as Arc<dyn crate::api::Deliver>);
    let mut knocking = Knocking {
        door: Arc::new(Shared {
            thin: wake.thin,
            clock: wake.clock,
            knocker,
            connections: Semaphore::new(CONNECTIONS_MAX),
            retries: wake.retries,
        }),
        links: wake.links,
        knocks: JoinSet::new(),
    };
    let mut over = std::pin::pin!(async move {
        let _ = shutdown.wait_for(|over| *over).await; // without a sender there is no more waiting
    });
    loop {
        tokio::select! {
            () = over.as_mut() => return Ok(()),
            rung = bell.rung() => knocking.rung(rung.users).await,
            waiting = knocking.door.waiting() => knocking.given_up(waiting).await,
            Some(ended) = knocking.knocks.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a knock broke off");
                }
            }
        }
    }
}

/// Why a device may have to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// Something concerns its user.
    News,
    /// What was sent to it was never confirmed.
    GivenUp,
}

struct Knocking {
    door: Arc<Shared>,
    links: Arc<dyn Links>,
    knocks: JoinSet<()>,
}

/// What every knock needs.
struct Shared {
    thin: Arc<Thin>,
    clock: Arc<dyn Clock>,
    knocker: Knocker,
    connections: Semaphore,
    retries: Vec<Duration>,
}

impl Knocking {
    async fn rung(&mut self, users: Which<OwnedUserId>) {
        if users.is_nothing() {
            return;
        }
        let named: Option<Vec<_>> = match users {
            Which::These(users) => Some(users.into_iter().collect()),
            Which::All => None,
        };
        for (device, url) in self.hooks(named.as_deref()).await {
            self.knock(device, url, Cause::News);
        }
    }

    async fn given_up(&mut self, devices: BTreeSet<DeviceName>) {
        let users: BTreeSet<_> = devices.iter().map(|device| device.user.clone()).collect();
        let users: Vec<_> = users.into_iter().collect();
        for (device, url) in self.hooks(Some(&users)).await {
            if devices.contains(&device) {
                self.knock(device, url, Cause::GivenUp);
            }
        }
    }

    async fn hooks(&self, users: Option<&[OwnedUserId]>) -> Vec<(DeviceName, String)> {
        self.links
            .wake_hooks(users)
            .await
            .unwrap_or_else(|refusal| {
                tracing::warn!(%refusal, "wake hooks could not be read");
                Vec::new()
            })
    }

    fn knock(&mut self, device: DeviceName, url: String, cause: Cause) {
        if self.knocks.len() >= KNOCKS_MAX {
            count("full");
            return;
        }
        let Some(heard) = self.door.thin.reach().take_on(&device) else {
            return;
        };
        let door = Arc::clone(&self.door);
        self.knocks
            .spawn(async move { door.knock(&device, &url, heard, cause).await });
    }
}

impl Shared {
    async fn waiting(&self) -> BTreeSet<DeviceName> {
        self.thin.reach().waiting().await
    }

    /// Knocks at a device, unless it is heard of before.
    async fn knock(&self, device: &DeviceName, url: &str, heard: Timestamp, cause: Cause) {
        let reach = self.thin.reach();
        // one that has just spoken is awake, and may be the cause of the news
        let awake = SILENCE.saturating_sub(self.clock.now().since(heard));
        if !awake.is_zero() {
            tokio::time::sleep(awake).await;
        }
        let waits = cause == Cause::GivenUp || self.thin.waits(device).await;
        if reach.is_watching(device) || !waits {
            return reach.let_be(device);
        }
        let mut pauses = self.retries.iter();
        loop {
            let outcome = match self.connections.acquire().await {
                Ok(_place) => self.knocker.knock(url).await,
                Err(_closed) => return,
            };
            count(outcome.as_str());
            tracing::debug!(?outcome, user = %device.user, "knocked");
            if outcome != Outcome::Failed {
                return; // heard, or refused for good: not again until the device speaks
            }
            let Some(pause) = pauses.next() else {
                return reach.let_be(device);
            };
            tokio::time::sleep(*pause).await;
            if !reach.is_taken_on(device) {
                return;
            }
        }
    }
}

fn count(result: &'static str) {
    counter!("tramline_wake_hooks_total", "result" => result).increment(1);
}
