//! Following all rooms over QUIC: an observation for as long as the connection lasts, and again from where
//! the device has got to when it does not.

use std::{collections::VecDeque, time::Duration};

use tokio::time::timeout;

use super::{
    super::super::{
        ask::{Answer, Ask, AskError, refusal},
        machine::{ANNOUNCED, Event},
        places::Found,
    },
    Kept, LOOK_SELDOM, QuicWay, RECORDS_BYTES_MAX, ThinError,
};
use crate::{
    base::Timestamp,
    client::quic::Observation,
    session::coap::Response,
    wire::thin::{Alias, decode_records},
};

/// The ledger's line of what is followed.
pub(super) const OPERATION: &str = "sync";

/// How long to wait where nothing is due.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// The first pause before a connection is tried again, which doubles, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(5);

/// All rooms, followed.
#[derive(Default)]
pub(super) struct Following {
    watch: Option<Watch>,
    to_do: VecDeque<Look>,
    events: VecDeque<Event>,
    /// When to ask for what was announced and has not been pushed.
    look_at: Option<Timestamp>,
    failures: u32,
    /// Whether it was told that the hub does not answer.
    is_silent: bool,
    again_at: Option<Timestamp>,
}

struct Watch {
    observation: Observation,
    /// Whether the answer to the registration is there.
    answered: bool,
}

/// Something to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// What is new in all rooms.
    Inbox,
    /// What is missing in one.
    Gap(Alias),
}

impl QuicWay {
    /// Waits for the next thing that happens, until then at most.
    pub(in super::super) async fn turn(
        &mut self,
        kept: &mut Kept,
        until: Option<Timestamp>,
    ) -> Result<Option<Event>, ThinError> {
        loop {
            let Some(following) = &mut self.following else {
                return Ok(None);
            };
            if let Some(event) = following.events.pop_front() {
                return Ok(Some(event));
            }
            if until.is_some_and(|until| kept.now() >= until) {
                return Ok(None);
            }
            kept.save_book_when_due()?;
            match self.step(kept, until).await {
                Ok(()) => {}
                Err(error) if error.is_temporary() => self.pause(kept, &error),
                Err(ThinError::Ask(error)) => {
                    self.following = None;
                    return Ok(Some(Event::Unfollowed(error)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn step(&mut self, kept: &mut Kept, until: Option<Timestamp>) -> Result<(), ThinError> {
        let Some(following) = &mut self.following else {
            return Ok(());
        };
        if let Some(at) = following.again_at {
            let wake = until.map_or(at, |until| until.min(at));
            tokio::time::sleep(wake.since(kept.now())).await;
            if wake < at {
                return Ok(());
            }
            following.again_at = None;
        }
        if (following.look_at).is_some_and(|at| at <= kept.now()) {
            following.look_at = None;
            following.want(Look::Inbox);
        }
        let is_connected = self
            .line
            .as_ref()
            .is_some_and(|line| line.session.ended().is_none());
        match (&following.watch, following.to_do.front().copied()) {
            (Some(_), Some(look)) if is_connected => self.look(kept, look).await,
            (Some(_), None) if is_connected => self.listen(kept, until).await,
            _ => self.register(kept).await,
        }
    }

    async fn register(&mut self, kept: &mut Kept) -> Result<(), ThinError> {
        let session = self.connected(kept).await?;
        self.greet(kept, &session).await?;
        let request = self.inbox(true).request();
        let work = session.observe(&request);
        let observation = self.attend(kept, &session, work, |_| ()).await?;
        let gaps = self.places.gaps();
        if let Some(following) = &mut self.following {
            let answered = false;
            following.watch = Some(Watch {
                observation,
                answered,
            });
            for (room, _) in gaps {
                following.want(Look::Gap(room));
            }
        }
        Ok(())
    }

    fn inbox(&self, observe: bool) -> Ask {
        Ask::Inbox {
            after: self.places.inbox(),
            bytes_max: self.places.inbox().map(|_| RECORDS_BYTES_MAX),
            observe,
        }
    }

    async fn look(&mut self, kept: &mut Kept, look: Look) -> Result<(), ThinError> {
        let ask = match look {
            Look::Inbox => self.inbox(false),
            Look::Gap(room) => Ask::Log {
                room,
                from: self.places.next(room),
                bytes_max: Some(RECORDS_BYTES_MAX),
                observe: false,
            },
        };
        let before = self.places.inbox();
        let Answer::Records(records) = self.ask(kept, OPERATION, ask).await? else {
            return Err(ThinError::OtherAnswer);
        };
        let found = match look {
            Look::Inbox => self.places.inbox_answered(records),
            Look::Gap(room) => self.places.log_answered(room, records),
        };
        // Asking again where nothing moved would bring the same.
        let goes_on = look == Look::Inbox && found.more && self.places.inbox() != before;
        if let Some(following) = &mut self.following {
            following.to_do.pop_front();
            following.tell(found);
            if goes_on {
                following.want(Look::Inbox);
            }
        }
        Ok(())
    }

    /// Waits for a push.
    async fn listen(&mut self, kept: &mut Kept, until: Option<Timestamp>) -> Result<(), ThinError> {
        let (Some(following), Some(line)) = (&mut self.following, &mut self.line) else {
            return Ok(());
        };
        let Some(watch) = &mut following.watch else {
            return Ok(());
        };
        let due = [until, following.look_at].into_iter().flatten().min();
        let wait = due.map_or(WAIT_MAX, |due| due.since(kept.now()).min(WAIT_MAX));
        let session = line.session.clone();
        let next = line.attend(kept, LOOK_SELDOM, watch.observation.next(), |_| ());
        let Ok(heard) = timeout(wait, next).await else {
            return Ok(());
        };
        let was_answered = std::mem::replace(&mut watch.answered, true);
        let heard = heard.map_err(|gone| self.gone(Some(&session), gone))?;
        let response = heard.ok_or_else(|| self.unreachable("the hub tells no more"))?;
        self.count(kept, OPERATION);
        self.heard(kept.now(), &response, was_answered)
    }

    fn heard(
        &mut self,
        now: Timestamp,
        response: &Response,
        was_answered: bool,
    ) -> Result<(), ThinError> {
        if !response.code.is_success() {
            return Err(refusal(response).into());
        }
        let records = decode_records(&response.payload).map_err(AskError::from)?;
        let found = if was_answered {
            self.places.inbox_pushed(records)
        } else {
            self.places.inbox_answered(records)
        };
        let Some(following) = &mut self.following else {
            return Ok(());
        };
        following.failures = 0;
        if std::mem::take(&mut following.is_silent) {
            following.events.push_back(Event::Back);
        }
        if found.more && was_answered {
            let at = now + ANNOUNCED;
            following.look_at = Some(following.look_at.map_or(at, |earlier| earlier.min(at)));
        } else if found.more {
            following.want(Look::Inbox);
        }
        following.tell(found);
        if !response.observing && !was_answered {
            return Err(self.unreachable("the hub does not take the observation now"));
        }
        Ok(())
    }

    /// Longer each time, and as long as the hub says.
    fn pause(&mut self, kept: &Kept, why: &ThinError) {
        tracing::debug!(%why, "following goes on later");
        let said = match why {
            ThinError::Ask(AskError::Refused { retry_after_s, .. }) => retry_after_s.unwrap_or(0),
            _ => 0,
        };
        let Some(following) = &mut self.following else {
            return;
        };
        let doublings = 1_u32 << following.failures.min(10);
        let own = PAUSE_MIN.saturating_mul(doublings).min(PAUSE_MAX);
        following.watch = None;
        following.failures += 1;
        let is_unheard = matches!(why, ThinError::Unreachable { .. });
        if is_unheard && !std::mem::replace(&mut following.is_silent, true) {
            following.events.push_back(Event::Silent);
        }
        following.again_at = Some(kept.now() + own.max(Duration::from_secs(said.into())));
    }
}

impl Following {
    fn want(&mut self, look: Look) {
        if !self.to_do.contains(&look) {
            self.to_do.push_back(look);
        }
    }

    fn tell(&mut self, found: Found) {
        if !found.news.is_empty() {
            self.events.push_back(Event::News(found.news));
        }
        for (room, _) in found.gaps {
            self.want(Look::Gap(room));
        }
    }
}
