//! The server side of the thin profile, for any door that has authenticated a device.
//!
//! [`Thin`] answers requests and tells what is new; the door carries bytes. [`Bell`] is how a door
//! hears of news, [`Pushes`] is its list of who wants which, [`Reach`] what all doors know together
//! for the wake hook. A door that has them does this:
//!
//! ```text
//! links.tell(bell)                      loop: bell.rung() → pushes.heard(now, &rung); end the revoked
//! request → thin.answer(&who, &request) → respond; with answered.watch: .observing(), pushes.watch(…)
//! pushes.due(now) → thin.news(&who, &watch, sought, bytes) → notify, pushes.pushed(…)
//!                   nothing, or told without confirmation: pushes.passed(…)
//! acknowledged → pushes.delivered(…)    no acknowledgement → pushes.gave_up(…)    next turn: pushes.next_due()
//! every datagram → thin.count(…)
//! ```

mod answer;
mod bell;
mod books;
mod devices;
#[cfg(test)]
pub(in crate::edge) mod fake;
mod news;
mod pushes;
mod reach;
mod rest;
mod route;
#[cfg(test)]
mod tests;
mod watch;

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::Semaphore;

pub(super) use self::answer::refused;
use self::devices::Devices;
pub use self::{
    bell::{Bell, Rung, Which},
    books::Books,
    pushes::{Due, Full, IDLE_WATCH_BYTES_MAX, Pushes, Sought, WATCHES_PER_DEVICE_MAX},
    reach::Reach,
    watch::Watch,
};
use super::{
    Front,
    files::{File, Files},
};
use crate::{
    api::{DeviceName, Door, Links, Refusal},
    base::{Clock, Timestamp},
    session::{
        coap::{Request, Response},
        ledger::{Cost, Traffic},
        link::LinkClass,
    },
};

/// Who asks: a device that the door has authenticated.
#[derive(Clone, Debug)]
pub struct Who {
    /// The device.
    pub device: Arc<DeviceName>,
    /// The way in.
    pub door: Door,
    /// Where from.
    pub address: Option<SocketAddr>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What to send.
    pub response: Response,
    /// Accept the observation, and this is it. The response does not say `observing` yet: that is
    /// the door's, which may have no place for it.
    pub watch: Option<Watch>,
    /// What it was, for [`Thin::count`].
    pub operation: &'static str,
}

/// What is new.
#[derive(Clone, Debug)]
pub enum News {
    /// Nothing that is to be told.
    Nothing {
        /// Where the observation is: further, if all of it was left out.
        next: Watch,
    },
    /// Only what is in no log: told once, and never again if it is lost.
    Aside {
        /// The notification.
        response: Response,
        /// Where the observation is after that.
        next: Watch,
    },
    /// What the device is to confirm.
    Entries {
        /// The notification. One that is no success ends the observation.
        response: Response,
        /// Where the observation is after that.
        next: Watch,
        /// Whether there is more to tell at once.
        more: bool,
    },
}

/// The operation that files are counted as.
pub(super) const FILE: &str = "File";

/// The operation that notifications are counted as.
pub const PUSH: &str = "Push";

/// The thin profile.
pub struct Thin {
    front: Arc<Front>,
    clock: Arc<dyn Clock>,
    reach: Arc<Reach>,
    books: Arc<Books>,
    devices: Devices,
    /// A place for each answer that is made to wait.
    later: Semaphore,
}

/// Answers that wait at a time, each a task that sleeps: a small part of the requests a door takes.
const LATER_MAX: usize = 512;

impl Thin {
    /// One for all doors of a process.
    pub fn new(
        front: Arc<Front>,
        links: Arc<dyn Links>,
        clock: Arc<dyn Clock>,
        reach: Arc<Reach>,
    ) -> Arc<Self> {
        Self::with_books(front, links, clock, reach, Books::new())
    }

    /// The same with a ledger that others see, too.
    pub fn with_books(
        front: Arc<Front>,
        links: Arc<dyn Links>,
        clock: Arc<dyn Clock>,
        reach: Arc<Reach>,
        books: Arc<Books>,
    ) -> Arc<Self> {
        Arc::new(Self {
            front,
            clock,
            reach,
            books,
            devices: Devices::new(links),
            later: Semaphore::new(LATER_MAX),
        })
    }

    /// Answers one request. Never fails: what is refused is an answer too.
    pub async fn answer(&self, who: &Who, request: &Request) -> Answered {
        self.reach.heard(self.clock.now(), &who.device);
        // What it used on the way here is counted when it is answered: then its allowance is known.
        self.devices.profile(&who.device).await;
        let answered = match File::of(request) {
            Some(file) => Answered {
                response: self.file(who, file, request).await,
                watch: None,
                operation: FILE,
            },
            None => self.answered(who, request).await,
        };
        let cost = Cost {
            exchanges: 1,
            ..Cost::default()
        };
        let now = self.clock.now();
        self.books.count(now, &who.device, answered.operation, cost);
        answered
    }

    /// A file, whole. QUIC passes them on in pieces.
    async fn file(&self, who: &Who, file: Result<File, Refusal>, request: &Request) -> Response {
        let front = Arc::clone(&self.front);
        match file {
            Ok(file) => Files { front }.whole(who, &file, request).await,
            Err(refusal) => refused(&refusal, request.method),
        }
    }

    /// What of this is new for a watch, in at most `bytes_max` bytes.
    pub async fn news(&self, who: &Who, watch: &Watch, sought: Sought, bytes_max: usize) -> News {
        self.news_for(who, watch, sought, bytes_max).await
    }

    /// Counts datagrams of a device: in the ledger, and against its daily allowance.
    pub fn count(
        &self,
        device: &Arc<DeviceName>,
        operation: &'static str,
        up: Traffic,
        down: Traffic,
    ) {
        let now = self.clock.now();
        self.books.count(now, device, operation, passed(up, down));
        self.spent(now, device, up, down);
    }

    /// The same for what was done last; see [`Thin::did`].
    pub fn count_on(&self, device: &Arc<DeviceName>, up: Traffic, down: Traffic) {
        let now = self.clock.now();
        self.books.count_on(now, device, passed(up, down));
        self.spent(now, device, up, down);
    }

    /// A device did this, or had it done.
    pub fn did(&self, device: &Arc<DeviceName>, operation: &'static str) {
        self.books.did(device, operation);
    }

    fn spent(&self, now: Timestamp, device: &DeviceName, up: Traffic, down: Traffic) {
        let bytes = up.bytes.saturating_add(down.bytes);
        self.devices.count(now, device, bytes);
    }

    /// What all doors know of who can be told.
    pub const fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    /// Whether something waits for a device beyond what it last asked `*` for. True where that is
    /// not known. What the device itself has sent does not count.
    pub(super) async fn waits(&self, device: &DeviceName) -> bool {
        let Some(after) = self.devices.inbox_told(device) else {
            return true;
        };
        let who = Who {
            device: Arc::new(device.clone()),
            door: Door::Local,
            address: None,
        };
        self.has_news(&who, after).await
    }

    /// How to treat the device's link: for timers and blocks.
    pub async fn link(&self, device: &DeviceName) -> LinkClass {
        LinkClass::of(self.devices.profile(device).await.class)
    }
}

/// What datagrams cost; exchanges are counted where they are answered.
const fn passed(up: Traffic, down: Traffic) -> Cost {
    Cost {
        exchanges: 0,
        up,
        down,
    }
}
