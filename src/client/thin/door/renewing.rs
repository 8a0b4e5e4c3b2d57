//! A fresh context when the hub does not take the old one, or which numbers were used is unknown.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    Answer, Ask, DATAGRAM_BYTES_MAX, Follow, Places, ThinDoor, ThinError, WAIT_MAX, Way, machine_of,
};
use crate::{
    client::{
        OscoreKeys,
        thin::{
            agree::{AgreeError, Agreed, Agreement},
            state::fresh_context,
        },
    },
    wire::thin::Alias,
};

/// The ledger's line of messages 1 and 2.
const OPERATION: &str = "new context";

/// The least time between two contexts: who can only shout that it knows no context must not make
/// a device agree on ever new ones.
const RENEW_AGAIN: Duration = Duration::from_mins(10);

/// A context on trial.
pub(super) struct Trial {
    /// Numbers below may have been used.
    pub(super) sequence_below: u64,
}

impl ThinDoor {
    /// Whether a fresh context may help.
    pub(super) fn may_renew(&self, error: &ThinError) -> bool {
        let now = self.clock.now();
        let is_early = |at| now < at + RENEW_AGAIN;
        let may_help = match error {
            ThinError::Exhausted => true,
            ThinError::Stranger { .. } => !self.renewed_at.is_some_and(is_early),
            _ => false,
        };
        may_help && self.identity.is_some() && self.trial.is_none()
    }

    /// Agrees on a fresh context, because of `cause`, and says hello in it. The old one stays until
    /// the hub has answered.
    pub(super) async fn renew(&mut self, cause: ThinError) -> Result<(), ThinError> {
        tracing::info!(%cause, "agreeing on a fresh context");
        self.renewed_at = Some(self.clock.now());
        let Agreed { keys, message_3 } = self.agree().await?;
        let context = fresh_context(&keys)?;
        let now = self.clock.now();
        let mut machine = machine_of(self.state.state(), now, context, &self.world);
        *machine.places_mut() = self.machine.places().clone();
        machine.bring(message_3);
        let old = std::mem::replace(&mut self.machine, machine);
        self.trial = Some(Trial { sequence_below: 0 });
        let answer = Box::pin(self.ask_plainly("hello", Ask::Hello)).await;
        let trial = self.trial.take();
        match answer {
            Ok(Answer::Hello(hello)) => self.keep(keys, trial, hello.generation),
            failed => {
                self.machine = old;
                Err(match failed {
                    Ok(_) => ThinError::OtherAnswer,
                    Err(ThinError::Stranger { .. }) => AgreeError::NotTaken.into(),
                    Err(error) => error,
                })
            }
        }
    }

    fn keep(
        &mut self,
        keys: OscoreKeys,
        trial: Option<Trial>,
        generation: [u8; 8],
    ) -> Result<(), ThinError> {
        let sequence_below = trial.map_or(0, |trial| trial.sequence_below);
        self.state.renew(keys, sequence_below)?;
        self.state.met(generation)?;
        let inbox: Option<(Alias, u64)> = self.state().inbox;
        let known = Places::new(&self.state().through, inbox);
        if inbox.is_none() {
            *self.machine.places_mut() = known; // of another generation
        }
        Ok(())
    }

    /// The same while following: the registration is made anew.
    pub(super) async fn renew_and_follow(&mut self, cause: ThinError) -> Result<(), ThinError> {
        self.renew(cause).await?;
        self.machine.set_tries(None);
        let now = self.clock.now();
        self.machine.follow(now, Follow::Inbox);
        Ok(())
    }

    async fn agree(&mut self) -> Result<Agreed, ThinError> {
        let identity = self.identity.as_ref().ok_or(AgreeError::NoKey)?;
        let now = self.clock.now();
        let (taken, class) = (self.state().recipient_id(), self.state().link().class);
        let rngs = [(self.world.rng)(), (self.world.rng)()];
        let mut agreement = Agreement::begin(now, identity, taken, class, rngs)?;
        self.refusals = 0;
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let agreed = loop {
            while let Some(datagram) = agreement.poll_transmit() {
                let now = self.clock.now();
                self.count(now, OPERATION, Way::Up, datagram.len());
                if let Err(error) = self.socket.send(&datagram).await {
                    self.refused(&error).await?; // retransmission goes on
                }
            }
            if let Some(agreed) = agreement.poll_agreed() {
                break agreed?;
            }
            let due = agreement.poll_timeout();
            let now = self.clock.now();
            let wait = due.map_or(WAIT_MAX, |due| due.since(now).min(WAIT_MAX));
            match timeout(wait, self.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => {
                    let now = self.clock.now();
                    self.count(now, OPERATION, Way::Down, length);
                    let datagram = buffer.get(..length).unwrap_or_default();
                    agreement.handle_datagram(now, datagram);
                }
                Ok(Err(error)) => self.refused(&error).await?,
                Err(_) => {}
            }
            agreement.handle_timeout(self.clock.now());
        };
        self.book.fresh.done(self.clock.now(), OPERATION);
        Ok(agreed)
    }
}
