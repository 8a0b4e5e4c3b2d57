//! What is said: queued on the disk, then sent in order, once each.

use super::{
    super::{
        ask::{Answer, Ask, AskError},
        queue::Queued,
    },
    ThinDoor, ThinError,
};
use crate::wire::thin::{Body, Draft};

/// What became of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// Its number.
    pub counter: u64,
    /// The room's id.
    pub room: String,
    /// Its place in the log, or why it has none and never will.
    pub outcome: Result<u64, AskError>,
}

impl ThinDoor {
    /// Queues a draft, on the disk. From then on it is sent once, whatever happens.
    pub fn queue(&mut self, room: &str, body: Body) -> Result<u64, ThinError> {
        let (target, read) = (None, None);
        let mut draft = Draft {
            counter: 0,
            target,
            read,
            body,
        };
        self.queue.check(draft.encode().len() + 8)?; // and the number's own bytes
        draft.counter = self.kept.state.next_counter()?;
        let queued = Queued {
            room: room.to_owned(),
            draft: draft.encode(),
            at_ms: self.kept.now().0,
        };
        self.queue.push(draft.counter, queued)?;
        Ok(draft.counter)
    }

    /// Takes a draft back that the hub has not got and never will.
    pub fn take_back(&mut self, counter: u64) -> Result<(), ThinError> {
        Ok(self.queue.done(counter)?)
    }

    /// Sends what waits, oldest first, until one cannot be sent now.
    pub async fn flush(&mut self) -> (Vec<Flushed>, Result<(), ThinError>) {
        let mut flushed = Vec::new();
        while let Some((counter, queued)) = self.queue.first() {
            let outcome = match self.send(&queued).await {
                Ok(seq) => Ok(seq),
                Err(ThinError::Restored) => continue, // under the room's new alias
                Err(ThinError::Ask(error)) if !error.is_temporary() => Err(error),
                Err(error) => return (flushed, Err(error)),
            };
            if let Err(error) = self.queue.done(counter) {
                return (flushed, Err(error.into()));
            }
            flushed.push(Flushed {
                counter,
                room: queued.room,
                outcome,
            });
        }
        (flushed, Ok(()))
    }

    async fn send(&mut self, queued: &Queued) -> Result<u64, ThinError> {
        let room = self.room(&queued.room).await?;
        let draft = queued.draft.clone().into();
        match self.ask("send", Ask::Append { room, draft }).await? {
            Answer::Appended { seq } => Ok(seq),
            _ => Err(ThinError::OtherAnswer),
        }
    }
}
