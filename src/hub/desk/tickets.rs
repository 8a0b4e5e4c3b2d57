//! Things that are given out, shown once and soon worth nothing: nonces, login tokens, passed
//! stages of a registration. In memory only; a restart voids them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{api::Refusal, base::Timestamp};

/// When to try again when no more tickets are given out.
const BUSY_RETRY: Duration = Duration::from_secs(10);

/// A ticket is known by the SHA-256 of its text, so that the text is nowhere.
pub(super) type TicketHash = [u8; 32];

/// Tickets of one kind.
pub(super) struct Tickets<T> {
    lifetime: Duration,
    max: usize,
    given: Mutex<HashMap<TicketHash, (T, Timestamp)>>,
}

impl<T> Tickets<T> {
    /// At most `max` tickets at a time, each worth something for `lifetime`.
    pub(super) fn new(lifetime: Duration, max: usize) -> Self {
        Self {
            lifetime,
            max,
            given: Mutex::default(),
        }
    }

    /// Gives out a ticket.
    pub(super) fn give(&self, hash: TicketHash, what: T, now: Timestamp) -> Result<(), Refusal> {
        let mut given = self.lock();
        if given.len() >= self.max {
            given.retain(|_, (_, until)| now < *until);
        }
        if given.len() >= self.max && !given.contains_key(&hash) {
            return Err(Refusal::busy(BUSY_RETRY));
        }
        given.insert(hash, (what, now + self.lifetime));
        Ok(())
    }

    /// Takes a ticket back and says what it was for. It is void from here on, also when late.
    pub(super) fn redeem(&self, hash: &TicketHash, now: Timestamp) -> Option<T> {
        let (what, until) = self.lock().remove(hash)?;
        (now < until).then_some(what)
    }

    /// How many tickets given for something are still worth it.
    pub(super) fn count(&self, is_counted: impl Fn(&T) -> bool, now: Timestamp) -> usize {
        let given = self.lock();
        let counted = given.values();
        counted
            .filter(|(what, until)| now < *until && is_counted(what))
            .count()
    }

    /// Voids every ticket that was given for something.
    pub(super) fn void(&self, is_void: impl Fn(&T) -> bool) {
        self.lock().retain(|_, (what, _)| !is_void(what));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TicketHash, (T, Timestamp)>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_worth_something_once_and_not_late() {
        let tickets = Tickets::new(Duration::from_mins(1), 2);
        tickets.give([1; 32], "one", Timestamp(0)).unwrap();
        tickets.give([2; 32], "two", Timestamp(0)).unwrap();

        assert_eq!(tickets.redeem(&[1; 32], Timestamp(59_999)), Some("one"));
        assert_eq!(tickets.redeem(&[1; 32], Timestamp(59_999)), None);
        assert_eq!(tickets.redeem(&[2; 32], Timestamp(60_000)), None);
    }

    #[test]
    fn when_all_are_given_out_one_waits_until_old_ones_are_void() {
        let tickets = Tickets::new(Duration::from_mins(1), 1);
        tickets.give([1; 32], (), Timestamp(0)).unwrap();

        let refusal = tickets.give([2; 32], (), Timestamp(1000)).unwrap_err();
        assert_eq!(refusal.status, 503);
        tickets.give([2; 32], (), Timestamp(60_000)).unwrap();
    }
}
