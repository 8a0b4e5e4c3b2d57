//! The hub's end: exchanges that have begun, and their end.

use std::collections::BTreeMap;
use std::time::Duration;

use lakers::{
    BufferMessage1, BufferMessage3, ConnId, CredentialTransfer, CryptoTrait, ProcessedM3,
    ProcessingM3, ResponderStart, WaitM3, r_complete_without_message_4, r_parse_message_3,
    r_prepare_message_2, r_prepare_message_4, r_process_message_1, r_verify_message_3,
};

use super::{
    HUB_KID, Keying, Kid, METHOD, PublicKey, Refused, StaticKey, guarded::guarded, key::Y, shape,
};
use crate::{
    base::{Rng, Timestamp},
    session::oscore::Id,
};

/// How long the hub waits for message 3: longer than CoAP goes on repeating a request on a slow
/// link with three tries, short enough that whoever is gone makes room.
pub const HALF_OPEN_FOR: Duration = Duration::from_mins(1);

/// The most exchanges that wait for message 3, of about 200 bytes each. Devices keep their keys
/// for months, so that a thousand within a minute means a hub restored before all of them.
pub const HALF_OPEN_MAX: usize = 1024;

/// The most of these for one source. Many devices may be behind one address.
pub const HALF_OPEN_PER_SOURCE_MAX: usize = 16;

/// What answers devices. `S` is where they are, as far as their answers go there.
pub struct Responder<S> {
    key: StaticKey,
    half_open: BTreeMap<Id, HalfOpen<S>>,
    pub(super) half_open_max: usize,
}

struct HalfOpen<S> {
    wait: WaitM3,
    c_i: Id,
    source: S,
    until: Timestamp,
}

/// Message 3 was for us; whether it is the device's that it names must be seen.
pub struct NeedCredential {
    kid: Kid,
    state: ProcessingM3,
    c_i: Id,
    c_r: Id,
}

/// The device is authentic.
pub struct Done {
    kid: Kid,
    state: ProcessedM3,
    keying: Keying,
}

impl<S: Clone + PartialEq> Responder<S> {
    /// With the hub's key, known by [`HUB_KID`].
    pub const fn new(key: StaticKey) -> Self {
        Self {
            key,
            half_open: BTreeMap::new(),
            half_open_max: HALF_OPEN_MAX,
        }
    }

    /// What devices must know.
    pub const fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// How many exchanges wait for message 3.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Whether addresses should be proved before more is begun for them: half the room is taken.
    ///
    /// spec: rfc9528 §9.7
    pub fn is_crowded(&self) -> bool {
        self.half_open.len() >= self.half_open_max / 2
    }

    /// Answers message 1 with message 2. `c_r` is what the device is to use as OSCORE kid: an id
    /// that no context has. On [`Refused::IdInUse`] the same message can be given with another.
    ///
    /// spec: rfc9528 §5.3.2
    pub fn message_1(
        &mut self,
        now: Timestamp,
        rng: &mut dyn Rng,
        source: &S,
        message_1: &[u8],
        c_r: Id,
    ) -> Result<Vec<u8>, Refused> {
        self.expire(now);
        let c_i = shape::message_1(message_1)?;
        self.check_room(source)?;
        // spec: rfc9528 §3.3.3
        if c_r == c_i || self.half_open.contains_key(&c_r) {
            return Err(Refused::IdInUse(c_r));
        }
        let refused = |error| Refused::lakers(1, &error);
        let mut crypto = guarded(rng);
        let (y, g_y) = crypto.p256_generate_key_pair();
        let start = ResponderStart {
            method: METHOD,
            y,
            g_y,
        };
        let message = BufferMessage1::new_from_slice(message_1)
            .map_err(|_| Refused::malformed(1, 0, "no more than 192 bytes"))?;
        let (state, _, _) = r_process_message_1(&start, &mut crypto, &message).map_err(refused)?;
        let (wait, message_2) = r_prepare_message_2(
            &state,
            &mut crypto,
            self.key.public().lakers(HUB_KID, Y::Absent),
            self.key.secret(),
            ConnId::from_slice(c_r.as_bytes()).expect("an id has seven bytes at most"),
            CredentialTransfer::ByReference,
            &None,
        )
        .map_err(refused)?;
        let half_open = HalfOpen {
            wait,
            c_i,
            source: source.clone(),
            until: now + HALF_OPEN_FOR,
        };
        self.half_open.insert(c_r, half_open);
        Ok(message_2.as_slice().to_vec())
    }

    /// Reads message 3, which ends the exchange one way or the other. Only from another source
    /// than message 1's it must be authentic to do so: whoever guesses a `c_r` ends nothing.
    ///
    /// spec: rfc9528 §5.4.3
    pub fn message_3(
        &mut self,
        now: Timestamp,
        rng: &mut dyn Rng,
        source: &S,
        c_r: Id,
        message_3: &[u8],
    ) -> Result<NeedCredential, Refused> {
        self.expire(now);
        let half_open = self
            .half_open
            .get_mut(&c_r)
            .ok_or(Refused::NoExchange(c_r))?;
        let read = half_open.read(rng, c_r, message_3);
        if read.is_ok() || half_open.source == *source {
            self.half_open.remove(&c_r);
        }
        read
    }

    fn expire(&mut self, now: Timestamp) {
        self.half_open.retain(|_, half_open| now < half_open.until);
    }

    fn check_room(&self, source: &S) -> Result<(), Refused> {
        let sources = self.half_open.values().map(|half_open| &half_open.source);
        let here = sources.filter(|other| *other == source).count();
        if here >= HALF_OPEN_PER_SOURCE_MAX {
            return Err(Refused::CrowdedHere(here));
        }
        if self.half_open.len() >= self.half_open_max {
            return Err(Refused::Crowded(self.half_open.len()));
        }
        Ok(())
    }
}

impl<S> HalfOpen<S> {
    fn read(
        &mut self,
        rng: &mut dyn Rng,
        c_r: Id,
        message_3: &[u8],
    ) -> Result<NeedCredential, Refused> {
        shape::message_3(message_3)?;
        let message = BufferMessage3::new_from_slice(message_3)
            .map_err(|_| Refused::malformed(3, 0, "no more than 192 bytes"))?;
        let mut crypto = guarded(rng);
        crypto.expect_sealed();
        let parsed = r_parse_message_3(&mut self.wait, &mut crypto, &message);
        let ((state, _, _), plaintext) = crypto.plaintext(3, parsed)?;
        Ok(NeedCredential {
            kid: plaintext.kid,
            state,
            c_i: self.c_i,
            c_r,
        })
    }
}

impl NeedCredential {
    /// Which device it says it is.
    pub const fn kid(&self) -> Kid {
        self.kid
    }

    /// Verifies it against the key of the one linked device with this kid, which must not be
    /// revoked; with none, it is refused. A credential is taken with either y coordinate, or none.
    ///
    /// spec: rfc9528 §5.4.3
    pub fn verify(
        mut self,
        rng: &mut dyn Rng,
        device: Option<&PublicKey>,
    ) -> Result<Done, Refused> {
        let device = device.ok_or(Refused::UnknownCredential(self.kid))?;
        let mut crypto = guarded(rng);
        let mut verify = |y| {
            let credential = device.lakers(self.kid, y);
            r_verify_message_3(&mut self.state, &mut crypto, credential)
        };
        let (state, _) = verify(Y::Absent)
            .or_else(|_| verify(Y::Even))
            .or_else(|_| verify(Y::Odd))
            .map_err(|error| Refused::lakers(3, &error))?;
        let completed =
            r_complete_without_message_4(&state).map_err(|error| Refused::lakers(3, &error))?;
        let keying = Keying::derive(&completed, &mut crypto, self.c_i, self.c_r);
        Ok(Done {
            kid: self.kid,
            state,
            keying,
        })
    }
}

impl Done {
    /// Who it is.
    pub const fn kid(&self) -> Kid {
        self.kid
    }

    /// For a new OSCORE context.
    pub const fn keying(&self) -> &Keying {
        &self.keying
    }

    /// The answer to a message 3 that came alone; to a combined request it is the protected one.
    ///
    /// spec: rfc9528 §5.5.2
    pub fn message_4(&self, rng: &mut dyn Rng) -> Result<Vec<u8>, Refused> {
        let (_, message_4) = r_prepare_message_4(&self.state, &mut guarded(rng), &None)
            .map_err(|error| Refused::lakers(4, &error))?;
        Ok(message_4.as_slice().to_vec())
    }
}
