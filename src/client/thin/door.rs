//! A linked device with its files, behind one door or the other.
//!
//! [`OscoreWay`] and [`QuicWay`] carry what is asked; what is asked is the same over both, and here and
//! in `rooms`, `drafts` and `files`. Counters, aliases and places are the device's, not a door's: a
//! draft that was sent over one door and not answered is sent over the other, and stays one.

mod choice;
mod drafts;
mod files;
mod kept;
mod oscore;
mod quic;
mod rooms;

use std::{net::SocketAddr, path::Path};

pub use self::{
    choice::{DoorChoice, QUIC_FROM_BYTES},
    drafts::Flushed,
    files::{FileToSend, Teller, Transferred},
    rooms::aliases_of,
};
use self::{
    choice::{QuicDoor, is_quick},
    kept::Kept,
    oscore::OscoreWay,
    quic::QuicWay,
};
use super::{
    agree::DeviceIdentity,
    ask::{Answer, Ask, AskError},
    book::{Book, Line},
    error::ThinError,
    machine::Event,
    nat::NatTimer,
    places::Places,
    queue::Queue,
    state::State,
};
use crate::{
    base::Timestamp,
    client::{Credentials, World},
    session::coap::FailReason,
    wire::coap::Code,
};

/// A linked device.
pub struct ThinDoor {
    kept: Kept,
    queue: Queue,
    way: Way,
    /// Where QUIC leads, while it is not the way of everything.
    beside: Option<QuicDoor>,
    /// Why there is none, where there is none.
    without_quic: &'static str,
    is_following: bool,
    /// Whether files that take more than is left of the daily limit are left alone.
    keeps_to_limit: bool,
}

/// The way everything goes that is not large.
enum Way {
    Oscore(Box<OscoreWay>),
    Quic(Box<QuicWay>),
}

impl ThinDoor {
    /// Opens the state beside the credential file, for this process alone. Sends nothing yet.
    pub async fn open(
        file: &Path,
        credentials: &Credentials,
        world: &World,
        choice: DoorChoice,
    ) -> Result<Self, ThinError> {
        let identity = DeviceIdentity::of(credentials)?;
        let quic = QuicDoor::of(credentials);
        let renews = identity.is_some() || (quic.is_some() && choice != DoorChoice::Oscore);
        let without_quic = match (choice, &quic) {
            (_, None) => {
                "the credential file has no address of QUIC with its keys, which carries more"
            }
            _ => "--door oscore was chosen: without it, or with --door quic, it goes over QUIC",
        };
        let has_coap = credentials.server.coap.is_some();
        let kept = Kept::open(file, credentials, world, renews)?;
        let queue = Queue::open(&kept.state)?;
        let (way, beside) = match (choice, quic) {
            (DoorChoice::Quic, None) => {
                let (door, wanted) = ("quic", "quic address with the keys of both ends");
                return Err(ThinError::NotThisDoor { door, wanted });
            }
            (DoorChoice::Oscore, _) if !has_coap => {
                let (door, wanted) = ("oscore", "coap address");
                return Err(ThinError::NotThisDoor { door, wanted });
            }
            (DoorChoice::Quic, Some(quic)) => {
                (Way::Quic(Box::new(QuicWay::open(&kept, &quic)?)), None)
            }
            (DoorChoice::Auto, Some(quic)) if !has_coap => {
                (Way::Quic(Box::new(QuicWay::open(&kept, &quic)?)), None)
            }
            (choice, quic) => {
                let way = OscoreWay::open(&kept, credentials, identity).await?;
                let beside = quic.filter(|_| choice == DoorChoice::Auto);
                (Way::Oscore(Box::new(way)), beside)
            }
        };
        Ok(Self {
            kept,
            queue,
            way,
            beside,
            without_quic,
            is_following: false,
            keeps_to_limit: true,
        })
    }

    /// What is on the disk.
    pub const fn state(&self) -> &State {
        self.kept.state()
    }

    /// The door's name, and where the hub is.
    pub fn door(&self) -> (&'static str, SocketAddr) {
        match &self.way {
            Way::Oscore(way) => ("oscore", way.address()),
            Way::Quic(way) => ("quic", way.address()),
        }
    }

    /// Drafts that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Whether the draft of this number waits.
    pub fn has_waiting(&self, counter: u64) -> bool {
        let mut drafts = self.queue.drafts();
        drafts.any(|(number, _)| number == counter)
    }

    /// What everything has cost, day by day.
    pub fn book(&self) -> Book {
        self.kept.book()
    }

    /// What this run has cost.
    pub fn spent(&self) -> Line {
        self.kept.spent()
    }

    /// Asks something and waits for its answer.
    pub async fn ask(&mut self, operation: &str, ask: Ask) -> Result<Answer, ThinError> {
        self.meet().await?;
        self.put(operation, ask).await
    }

    /// An error where the hub has said lately that it does not know this device: to ask again costs a
    /// handshake, and brings the same.
    pub fn must_be_linked(&self) -> Result<(), ThinError> {
        let told = self.state().unlinked_ms;
        let since = told.and_then(|at| self.kept.now().0.checked_sub(at));
        if since.is_none_or(|since| since >= UNLINKED_FOR_MS) {
            return Ok(());
        }
        let (name, address) = self.door();
        let scheme = if name == "oscore" { "coap" } else { "quic" };
        let at = format!("{scheme}://{address}");
        Err(ThinError::Unlinked { at })
    }

    /// Keeps that the hub does not know this device. Over OSCORE that is said without proof, and so it is
    /// not kept for long.
    fn note_unlinked(&mut self, error: &ThinError) -> Result<(), ThinError> {
        if !matches!(error, ThinError::Unlinked { .. }) {
            return Ok(());
        }
        let now = self.kept.now().0;
        let change = |state: &mut State| state.unlinked_ms = Some(now);
        Ok(self.kept.state.change(change)?)
    }

    /// The first thing said by a device: whose aliases these are.
    async fn meet(&mut self) -> Result<(), ThinError> {
        self.must_be_linked()?;
        if self.state().has_met() {
            return Ok(());
        }
        match Box::pin(self.put("hello", Ask::Hello)).await {
            Ok(Answer::Hello(_)) | Err(ThinError::Restored) => Ok(()),
            Ok(_) => Err(ThinError::OtherAnswer),
            Err(error) => Err(error),
        }
    }

    async fn put(&mut self, operation: &str, ask: Ask) -> Result<Answer, ThinError> {
        let answer = self.put_by_a_way(operation, ask).await;
        if let Err(error) = &answer {
            self.note_unlinked(error)?;
        }
        answer
    }

    async fn put_by_a_way(&mut self, operation: &str, ask: Ask) -> Result<Answer, ThinError> {
        let kept = &mut self.kept;
        let way = match &mut self.way {
            Way::Oscore(way) => way,
            Way::Quic(way) => return way.ask(kept, operation, ask).await,
        };
        let can_change = self.beside.is_some() && is_repeatable(&ask);
        let is_quick = is_quick(kept.state().link().class);
        match way.ask(kept, operation, ask.clone()).await {
            Err(error) if can_change && is_no_way(&error, is_quick) => {
                Box::pin(self.put_beside(operation, ask, error)).await
            }
            answer => answer,
        }
    }

    /// Asks over QUIC what OSCORE did not get through, and stays there if that is better.
    async fn put_beside(
        &mut self,
        operation: &str,
        ask: Ask,
        why: ThinError,
    ) -> Result<Answer, ThinError> {
        let Some(quic) = &self.beside else {
            return Err(why);
        };
        tracing::info!(%why, "trying QUIC instead of OSCORE");
        let mut other = QuicWay::open(&self.kept, quic)?;
        *other.places_mut() = self.places().clone();
        match other.ask(&mut self.kept, operation, ask).await {
            // Nobody there either: what is said is why OSCORE did not do.
            Err(ThinError::Unreachable { .. } | ThinError::Quic(_)) => Err(why),
            answer => {
                if self.is_following {
                    other.follow();
                }
                self.way = Way::Quic(Box::new(other));
                self.beside = None;
                answer
            }
        }
    }

    const fn places(&self) -> &Places {
        match &self.way {
            Way::Oscore(way) => way.places(),
            Way::Quic(way) => way.places(),
        }
    }

    const fn places_mut(&mut self) -> &mut Places {
        match &mut self.way {
            Way::Oscore(way) => way.places_mut(),
            Way::Quic(way) => way.places_mut(),
        }
    }

    /// Bytes of records to ask for at once; none leaves it to the hub.
    const fn records_bytes_max(&self) -> Option<u64> {
        match &self.way {
            Way::Oscore(_) => None,
            Way::Quic(_) => Some(quic::RECORDS_BYTES_MAX),
        }
    }

    fn nat(&self) -> NatTimer {
        match &self.way {
            Way::Oscore(way) => way.nat(),
            Way::Quic(_) => self.state().nat,
        }
    }

    /// Follows all rooms; [`ThinDoor::turn`] has what comes.
    pub async fn follow(&mut self) -> Result<(), ThinError> {
        self.meet().await?;
        if self.beside.is_some() && is_quick(self.state().link().class) {
            // Who follows waits for ever: first it is seen whether this door does.
            let answer = self.put("hello", Ask::Hello).await;
            if let Err(error @ ThinError::Unlinked { .. }) = answer {
                return Err(error); // after anything else it is followed all the same
            }
        }
        self.is_following = true;
        match &mut self.way {
            Way::Oscore(way) => way.follow(self.kept.now()),
            Way::Quic(way) => way.follow(),
        }
        Ok(())
    }

    /// Ends that; waits a moment for the hub to hear of it.
    pub async fn unfollow(&mut self) -> Result<(), ThinError> {
        self.is_following = false;
        match &mut self.way {
            Way::Oscore(way) => way.unfollow(&mut self.kept).await,
            Way::Quic(way) => way.unfollow(&mut self.kept),
        }
    }

    /// Waits for the next thing that happens, until then at most.
    pub async fn turn(&mut self, until: Option<Timestamp>) -> Result<Option<Event>, ThinError> {
        let turned = match &mut self.way {
            Way::Oscore(way) => way.turn(&mut self.kept, until).await,
            Way::Quic(way) => way.turn(&mut self.kept, until).await,
        };
        if let Err(error) = &turned {
            self.note_unlinked(error)?;
        }
        turned
    }

    /// Says goodbye where there is a connection, and writes the ledger.
    pub async fn close(&mut self) -> Result<(), ThinError> {
        match &mut self.way {
            Way::Oscore(_) => Ok(self.kept.save_book()?),
            Way::Quic(way) => way.close(&mut self.kept).await,
        }
    }
}

/// How long it is believed that the hub does not know this device: as long as a refused context is not
/// agreed on again while one runs.
const UNLINKED_FOR_MS: u64 = 10 * 60 * 1000;

/// Whether it says that this door does not do, rather than what the hub thinks of the question. On a slow
/// link silence says nothing of the door, and the other one's handshake would cost too much.
const fn is_no_way(error: &ThinError, is_quick: bool) -> bool {
    match error {
        ThinError::Stranger { .. } | ThinError::Exhausted | ThinError::Agree(_) => true,
        // Over OSCORE that is said without proof.
        ThinError::Unlinked { .. }
        | ThinError::Unreachable { .. }
        | ThinError::Ask(AskError::Unanswered(FailReason::TimedOut)) => is_quick,
        _ => false,
    }
}

/// Whether asking it twice is as good as once.
fn is_repeatable(ask: &Ask) -> bool {
    match ask {
        Ask::Other(request) => request.method == Code::GET,
        _ => true, // drafts have their counters, the rest is a state or a question
    }
}
