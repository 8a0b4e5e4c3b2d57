//! The server side of the thin profile, for any door that has authenticated a device.
//!
//! [`Thin`] answers requests and tells what is new; the door carries bytes. [`Bell`] is how a door
//! hears of news, [`Pushes`] is its list of who wants which, [`Reach`] what all doors know together
//! for the wake hook. A door that has them does this:
//!
//! ```text
//! links.tell(bell)                      loop: bell.rung() → pushes.heard(now, &rung.users); end the revoked
//! request → thin.answer(&who, &request) → respond; with answered.watch: .observing(), pushes.watch(…)
//! pushes.due(now) → thin.news(&who, &watch, bytes) → notify, pushes.pushed(…); none: pushes.nothing(…)
//! acknowledged → pushes.delivered(…)    no acknowledgement → pushes.gave_up(…)    next turn: pushes.next_due()
//! every datagram → thin.count(…)
//! ```

mod bell;
mod pushes;
mod reach;
mod route;
mod watch;

use std::{net::SocketAddr, sync::Arc};

pub use self::{
    bell::{Bell, Rung, Which},
    pushes::{Due, Full, Pushes},
    reach::Reach,
    watch::Watch,
};
use super::Front;
use crate::{
    api::{DeviceName, Door, Links},
    base::Clock,
    session::{
        coap::{Request, Response},
        ledger::Traffic,
    },
};

/// Who asks: a device that the door has authenticated.
#[derive(Clone, Debug)]
pub struct Who {
    /// The device.
    pub device: DeviceName,
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
pub struct News {
    /// The notification. One that is no success ends the observation.
    pub response: Response,
    /// Where the observation is after that.
    pub next: Watch,
    /// Whether there is more to tell at once.
    pub more: bool,
}

/// The operation that notifications are counted as.
pub const PUSH: &str = "Push";

/// The thin profile.
pub struct Thin {
    front: Arc<Front>,
    links: Arc<dyn Links>,
    clock: Arc<dyn Clock>,
    reach: Arc<Reach>,
}

impl Thin {
    /// One for all doors of a process.
    pub fn new(
        front: Arc<Front>,
        links: Arc<dyn Links>,
        clock: Arc<dyn Clock>,
        reach: Arc<Reach>,
    ) -> Arc<Self> {
        Arc::new(Self {
            front,
            links,
            clock,
            reach,
        })
    }

    /// Answers one request. Never fails: what is refused is an answer too.
    pub async fn answer(&self, who: &Who, request: &Request) -> Answered {
        let _ = (&self.front, &self.links, &self.clock, who, request);
        Answered {
            response: Response::new(crate::wire::coap::Code::NOT_IMPLEMENTED),
            watch: None,
            operation: "Unknown",
        }
    }

    /// What is new for a watch, in at most `bytes_max` bytes; none when there is nothing to tell.
    pub async fn news(&self, who: &Who, watch: &Watch, bytes_max: usize) -> Option<News> {
        let _ = (who, watch, bytes_max);
        None
    }

    /// Counts datagrams of a device: in the ledger, and against its daily allowance.
    pub fn count(&self, device: &DeviceName, operation: &'static str, up: Traffic, down: Traffic) {
        let _ = (device, operation, up, down);
    }

    /// What all doors know of who can be told.
    pub fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }
}
