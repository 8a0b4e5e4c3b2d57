//! An observation as the thin profile sees it: what, from where on, how much at a time.

use super::route;
use crate::{
    api::{Refusal, Thin},
    base::Seq,
    session::coap::Request,
    wire::{
        coap::Code,
        thin::{Alias, encode_numbers, number},
    },
};

/// What a device observes and how far it has been told. At most 64 bytes: there is one for every observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// The log of a room.
    Room {
        /// Which.
        room: Alias,
        /// The first seq that was not shown.
        from: Seq,
        /// Bytes of one answer.
        bytes_max: u32,
        /// The class of the device's link when this was made.
        class: u8,
    },
    /// All rooms.
    Inbox {
        /// The last entry that was shown.
        after: Option<(Alias, Seq)>,
        /// Bytes of one answer.
        bytes_max: u32,
        /// The class of the device's link when this was made.
        class: u8,
    },
}

impl Watch {
    /// The watch that a FETCH with Observe asks for. Of what else a request may be, nothing can be
    /// watched.
    pub fn of(request: &Request) -> Result<Self, Refusal> {
        route::watched(request)
    }

    /// The FETCH that would begin this watch where it is now: what a door stores to go on after a
    /// restart. [`Self::of`] reads it again.
    pub fn request(&self) -> Request {
        let (path, numbers) = match *self {
            Self::Room {
                room,
                from,
                bytes_max,
                ..
            } => (number::segment(room), vec![from.0, bytes_max.into()]),
            Self::Inbox {
                after: Some((room, seq)),
                bytes_max,
                ..
            } => ("*".to_owned(), vec![room, seq.0, bytes_max.into()]),
            Self::Inbox { after: None, .. } => ("*".to_owned(), vec![]),
        };
        Request::new(Code::FETCH, &[&path])
            .body(encode_numbers(&numbers))
            .observing()
    }

    /// The class of the device's link.
    pub const fn class(&self) -> u8 {
        match self {
            Self::Room { class, .. } | Self::Inbox { class, .. } => *class,
        }
    }

    /// The same on a link of this class.
    #[must_use]
    pub(super) const fn on(mut self, now: u8) -> Self {
        match &mut self {
            Self::Room { class, .. } | Self::Inbox { class, .. } => *class = now,
        }
        self
    }

    /// The same, told up to `through`.
    #[must_use]
    pub(super) fn going_on(mut self, through: Option<(Alias, Seq)>) -> Self {
        match (&mut self, through) {
            (Self::Room { from, .. }, Some((_, seq))) => {
                *from = (*from).max(Seq(seq.0.saturating_add(1)));
            }
            (Self::Inbox { after, .. }, Some(through)) => *after = Some(through),
            (_, None) => {}
        }
        self
    }

    /// The room it is of, if it is of one.
    pub(super) const fn room(&self) -> Option<Alias> {
        match *self {
            Self::Room { room, .. } => Some(room),
            Self::Inbox { .. } => None,
        }
    }

    /// Whether it asks where the logs of all rooms are, and not what came.
    pub(super) const fn asks_heads(&self) -> bool {
        matches!(self, Self::Inbox { after: None, .. })
    }

    /// What is to be asked of the hub, for at most so many bytes.
    pub(super) fn question(&self, bytes_max: usize) -> Thin {
        let bytes_max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        let bytes_max = u32::try_from(bytes_max.max(route::BYTES_MIN)).unwrap_or(u32::MAX);
        let within = |own: u32| own.min(bytes_max);
        match *self {
            Self::Room {
                room,
                from,
                bytes_max,
                ..
            } => Thin::Log {
                room,
                from,
                bytes_max: within(bytes_max),
            },
            Self::Inbox {
                after, bytes_max, ..
            } => Thin::Inbox {
                after,
                bytes_max: within(bytes_max),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_small_and_comes_back_from_the_request_that_begins_it() {
        assert!(size_of::<Watch>() <= 64);
        for watch in [
            Watch::Room {
                room: 64,
                from: Seq(300),
                bytes_max: 200,
                class: 0,
            },
            Watch::Inbox {
                after: Some((0, Seq(5))),
                bytes_max: 65_536,
                class: 0,
            },
            Watch::Inbox {
                after: None,
                bytes_max: 1024,
                class: 0,
            },
        ] {
            assert_eq!(Watch::of(&watch.request()), Ok(watch));
            assert!(watch.request().observe);
        }
        let room = Watch::of(&Request::new(Code::FETCH, &["BA"]).body(vec![0xac, 2]));
        assert_eq!(
            room.map(|watch| watch.going_on(Some((64, Seq(299)))))
                .unwrap(),
            Watch::Room {
                room: 64,
                from: Seq(300),
                bytes_max: 1024,
                class: 0,
            }
        );
        assert!(Watch::of(&Request::new(Code::GET, &[])).is_err());
    }
}
