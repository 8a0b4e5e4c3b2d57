//! The device's end of one exchange.

use lakers::{
    BufferMessage2, BufferMessage4, ConnId, CredentialTransfer, CryptoTrait, EdhocBuffer,
    InitiatorStart, WaitM2, WaitM4, i_complete_without_message_4, i_parse_message_2,
    i_prepare_message_1, i_prepare_message_3, i_process_message_4, i_verify_message_2,
};

use super::{
    HUB_KID, Keying, Kid, METHOD, NEW_EXCHANGE, PublicKey, Refused, SUITE, StaticKey,
    guarded::guarded, key::Y, shape,
};
use crate::{base::Rng, session::oscore::Id};

/// Message 1 is made; message 2 is awaited.
pub struct Initiator {
    wait: WaitM2,
    c_i: Id,
    own: StaticKey,
    kid: Kid,
    hub: PublicKey,
}

/// The hub is authentic; message 3 is made.
pub struct Third {
    wait: WaitM4,
    c_r: Id,
    message_3: Vec<u8>,
    keying: Keying,
}

impl Initiator {
    /// Begins an exchange with the hub of this key. `c_i` is what the hub is to use as OSCORE kid:
    /// an id that no other context of this device has. Also gives the body of the request to
    /// `/.well-known/edhoc`.
    ///
    /// spec: rfc9528 §5.2.2
    pub fn begin(
        rng: &mut dyn Rng,
        own: StaticKey,
        kid: Kid,
        hub: PublicKey,
        c_i: Id,
    ) -> Result<(Self, Vec<u8>), Refused> {
        let mut crypto = guarded(rng);
        let (x, g_x) = crypto.p256_generate_key_pair();
        let start = InitiatorStart {
            suites_i: EdhocBuffer::new_from_slice(&[SUITE]).expect("one suite of nine"),
            method: METHOD,
            x,
            g_x,
        };
        let id = ConnId::from_slice(c_i.as_bytes()).expect("an id has seven bytes at most");
        let (wait, message_1) = i_prepare_message_1(&start, &mut crypto, id, &None)
            .map_err(|error| Refused::lakers(1, &error))?;
        let body = [&[NEW_EXCHANGE], message_1.as_slice()].concat();
        let initiator = Self {
            wait,
            c_i,
            own,
            kid,
            hub,
        };
        Ok((initiator, body))
    }

    /// Reads message 2 and makes message 3.
    ///
    /// spec: rfc9528 §5.3.3
    pub fn message_2(self, rng: &mut dyn Rng, message_2: &[u8]) -> Result<Third, Refused> {
        let ciphertext = shape::message_2(message_2)?;
        let message = BufferMessage2::new_from_slice(message_2)
            .map_err(|_| Refused::malformed(2, 0, "no more than 192 bytes"))?;
        let mut crypto = guarded(rng);
        crypto.expect_masked(ciphertext);
        let parsed = i_parse_message_2(&self.wait, &mut crypto, &message);
        let ((state, _, _, _), plaintext) = crypto.plaintext(2, parsed)?;
        if plaintext.kid != HUB_KID {
            return Err(Refused::UnknownCredential(plaintext.kid));
        }
        // spec: rfc9668 §4.1.3
        let c_r = plaintext
            .c_r
            .filter(|c_r| *c_r != self.c_i)
            .ok_or(Refused::SameIds(self.c_i))?;
        let refused = |error| Refused::lakers(2, &error);
        let hub = self.hub.lakers(HUB_KID, Y::Absent);
        let state =
            i_verify_message_2(&state, &mut crypto, hub, self.own.secret()).map_err(refused)?;
        let own = self.own.public().lakers(self.kid, Y::Absent);
        let by_kid = CredentialTransfer::ByReference;
        let (wait, message_3, _) =
            i_prepare_message_3(&state, &mut crypto, own, by_kid, &None).map_err(refused)?;
        let completed = i_complete_without_message_4(&wait).map_err(refused)?;
        Ok(Third {
            keying: Keying::derive(&completed, &mut crypto, c_r, self.c_i),
            wait,
            c_r,
            message_3: message_3.as_slice().to_vec(),
        })
    }
}

impl Third {
    /// For [`super::combine`].
    pub fn message_3(&self) -> &[u8] {
        &self.message_3
    }

    /// For a new OSCORE context. The hub has none before it has message 3.
    pub const fn keying(&self) -> &Keying {
        &self.keying
    }

    /// The body of a request to `/.well-known/edhoc`: message 3 alone.
    pub fn body_alone(&self) -> Vec<u8> {
        [&shape::identifier(self.c_r), self.message_3.as_slice()].concat()
    }

    /// Reads the answer to that: the hub has the keys.
    ///
    /// spec: rfc9528 §5.5.3
    pub fn message_4(&mut self, rng: &mut dyn Rng, message_4: &[u8]) -> Result<(), Refused> {
        shape::message_4(message_4)?;
        let message = BufferMessage4::new_from_slice(message_4)
            .map_err(|_| Refused::malformed(4, 0, "no more than 192 bytes"))?;
        i_process_message_4(&mut self.wait, &mut guarded(rng), &message)
            .map(|_| ())
            .map_err(|error| Refused::lakers(4, &error))
    }
}
