//! An observation as the thin profile sees it: what, from where on, how much at a time.

use super::route;
use crate::{
    api::Refusal,
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
}
