//! A fresh context when the hub does not take the old one, or which numbers were used is unknown.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    Answer, Ask, DATAGRAM_BYTES_MAX, Kept, OscoreWay, Places, ThinError, WAIT_MAX, Way,
    header_bytes, machine_of,
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

impl OscoreWay {
    /// Whether a fresh context may help.
    pub(super) fn may_renew(&self, kept: &Kept, error: &ThinError) -> bool {
        let now = kept.now();
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
    pub(super) async fn renew(
        &mut self,
        kept: &mut Kept,
        cause: ThinError,
    ) -> Result<(), ThinError> {
        tracing::info!(%cause, "agreeing on a fresh context");
        self.renewed_at = Some(kept.now());
        let Agreed { keys, message_3 } = self.agree(kept).await?;
        let context = fresh_context(&keys)?;
        let mut machine = machine_of(kept.state(), kept.now(), context, &kept.world);
        *machine.places_mut() = self.machine.places().clone();
        machine.bring(message_3);
        let old = std::mem::replace(&mut self.machine, machine);
        self.trial = Some(Trial { sequence_below: 0 });
        let answer = Box::pin(self.ask_once(kept, "hello", Ask::Hello)).await;
        let trial = self.trial.take();
        match answer {
            Ok(Answer::Hello(hello)) => self.keep(kept, keys, trial, hello.generation),
            failed => {
                self.machine = old;
                Err(match failed {
                    Ok(_) => ThinError::OtherAnswer,
                    Err(ThinError::Stranger { at }) => ThinError::Unlinked { at },
                    Err(error) => error,
                })
            }
        }
    }

    fn keep(
        &mut self,
        kept: &mut Kept,
        keys: OscoreKeys,
        trial: Option<Trial>,
        generation: [u8; 8],
    ) -> Result<(), ThinError> {
        let sequence_below = trial.map_or(0, |trial| trial.sequence_below);
        kept.state.renew(keys, sequence_below)?;
        kept.state.met(generation)?;
        let inbox: Option<(Alias, u64)> = kept.state().inbox;
        let known = Places::new(&kept.state().through, inbox);
        if inbox.is_none() {
            *self.machine.places_mut() = known; // of another generation
        }
        Ok(())
    }

    /// The same while following: the registration is made anew.
    pub(super) async fn renew_and_follow(
        &mut self,
        kept: &mut Kept,
        cause: ThinError,
    ) -> Result<(), ThinError> {
        self.renew(kept, cause).await?;
        self.follow(kept.now());
        Ok(())
    }

    async fn agree(&mut self, kept: &mut Kept) -> Result<Agreed, ThinError> {
        let identity = self.identity.as_ref().ok_or(AgreeError::NoKey)?;
        let (taken, class) = (kept.state().recipient_id(), kept.state().link().class);
        let rngs = [(kept.world.rng)(), (kept.world.rng)()];
        let headers = header_bytes(self.address);
        let mut agreement = Agreement::begin(kept.now(), identity, taken, class, rngs)?;
        self.refusals = 0;
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let agreed = loop {
            while let Some(datagram) = agreement.poll_transmit() {
                kept.datagram(OPERATION, Way::Up, datagram.len(), headers);
                self.last_sent = (OPERATION, datagram.clone());
                if let Err(error) = self.socket.send(&datagram).await {
                    self.refused(kept, &error).await?; // retransmission goes on
                }
            }
            if let Some(agreed) = agreement.poll_agreed() {
                break agreed?;
            }
            let due = agreement.poll_timeout();
            let wait = due.map_or(WAIT_MAX, |due| due.since(kept.now()).min(WAIT_MAX));
            match timeout(wait, self.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => {
                    self.refusals = 0;
                    kept.datagram(OPERATION, Way::Down, length, headers);
                    let datagram = buffer.get(..length).unwrap_or_default();
                    agreement.handle_datagram(kept.now(), datagram);
                }
                Ok(Err(error)) => self.refused(kept, &error).await?,
                Err(_) => {}
            }
            agreement.handle_timeout(kept.now());
        };
        kept.noted(OPERATION);
        Ok(agreed)
    }
}
