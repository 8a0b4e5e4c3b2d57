//! Large bodies of requests whose sender is not known yet: the signature is over the body, so it is
//! read first. How many there may be at a time is bounded here; small ones are as many as there are
//! connections.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{api::Refusal, base::limits::BODY_BYTES_MAX};

/// The large bodies.
pub(super) struct Bodies {
    places: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// Room for one body; free again when it is dropped.
pub struct Room {
    _place: Option<Share>,
}

struct Share {
    bodies: Arc<Bodies>,
    address: IpAddr,
    place: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(LARGE_MAX)),
            by_address: Mutex::default(),
        })
    }

    /// Waits for room for a body of so many bytes, as far as that is known.
    pub(super) async fn room(
        self: &Arc<Self>,
        address: IpAddr,
        bytes: Option<u64>,
    ) -> Result<Room, Refusal> {
        let is_small = |bytes: u64| usize::try_from(bytes).is_ok_and(|n| n <= BODY_BYTES_MAX);
        if bytes.is_some_and(is_small) {
            return Ok(Room { _place: None });
        }
        let mut share = self.share(address)?;
        let place = timeout(WAIT_MAX, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(Refusal::busy(AGAIN));
        };
        share.place = Some(place);
        Ok(Room {
            _place: Some(share),
        })
    }

    fn share(self: &Arc<Self>, address: IpAddr) -> Result<Share, Refusal> {
        let mut shares = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let taken = shares.entry(address).or_default();
        if *taken >= LARGE_PER_ADDRESS_MAX {
            return Err(Refusal::busy(AGAIN));
        }
        *taken += 1;
        drop(shares);
        Ok(Share {
            bodies: Arc::clone(self),
            address,
            place: None,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(self.place.take());
        let mut shares = self
            .bodies
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = shares.get_mut(&self.address) {
            *taken -= 1;
            if *taken == 0 {
                shares.remove(&self.address);
            }
        }
    }
}

/// How many elements the lists and objects have that stand in the body's members: what becomes of a
/// body in memory goes by that, not by its bytes.
pub(super) fn elements(body: &[u8]) -> usize {
    let (mut depth, mut in_text, mut escaped, mut commas) = (0_usize, false, false, 0);
    for &byte in body {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth <= 2 => commas += 1,
            _ => {}
        }
    }
    commas
}

/// Large bodies that are read at a time: of 10 MiB at most each.
const LARGE_MAX: usize = 16;

/// The same from one address.
const LARGE_PER_ADDRESS_MAX: usize = 4;

/// How long to wait for room.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// When who found none may come again.
const AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_room_for_a_few_large_bodies_and_any_number_of_small_ones() {
        let bodies = Bodies::new();
        let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let mut held = Vec::new();
        for _ in 0..LARGE_PER_ADDRESS_MAX {
            held.push(bodies.room(here, None).await.unwrap());
        }

        let one_more = bodies.room(here, Some(10_000_000)).await;
        assert_eq!(one_more.err().unwrap().status, 503);
        assert!(bodies.room(here, Some(1000)).await.is_ok());
        assert!(bodies.room(there, None).await.is_ok());
        drop(held);
        assert!(bodies.room(here, None).await.is_ok());
        assert!(bodies.by_address.lock().unwrap().is_empty());
    }

    #[test]
    fn elements_are_counted_where_they_become_values() {
        assert_eq!(
            elements(br#"{"pdus":[{"a":[1,2,3],"b":1},{}],"edus":[]}"#),
            2
        );
        assert_eq!(elements(br#"{"a":"\",,,[","b":"\\"}"#), 1);
        assert_eq!(elements(br#"{"pdus":[0,0,0,0]}"#), 3);
        assert_eq!(elements(b"]]]],"), 1);
    }
}
