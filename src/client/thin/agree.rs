//! A fresh OSCORE context by EDHOC, from the keys of a credential file; without I/O.
//!
//! Message 1 goes out in clear and message 2 comes back; message 3 goes with the first request
//! under the new context ([`super::secure::SecureLink::bring`]). Nothing here is believed that the
//! hub's key does not show, and whoever asks keeps the old context until the new one has worked.

use bytes::Bytes;
use thiserror::Error;

use crate::{
    base::{Rng, Timestamp},
    client::{Credentials, OscoreKeys},
    session::{
        coap::{Config, Event, FailReason, Machine, Request},
        edhoc::{
            CONTENT_FORMAT_WITH_ID, Initiator, Keying, Kid, PublicKey, Refused, StaticKey, Third,
        },
        oscore::Id,
    },
    wire::coap::{Code, options::number},
};

/// Why there is no fresh context.
#[derive(Debug, Error)]
pub enum AgreeError {
    /// A field of the credential file.
    #[error("`edhoc.{0}` is not what it should be")]
    Field(&'static str),
    /// The file has no private key.
    #[error("the credential file has no `edhoc.device_key`; link the device anew")]
    NoKey,
    /// What came does not hold.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The hub does not begin an exchange.
    #[error("the hub answered {0}")]
    Answered(Code),
    /// Nobody answers.
    #[error(transparent)]
    Unanswered(#[from] FailReason),
}

/// What a device shows who it is by, and knows the hub by.
#[derive(Clone)]
pub struct DeviceIdentity {
    own: StaticKey,
    kid: Kid,
    hub: PublicKey,
}

impl DeviceIdentity {
    /// That of a credential file; none where it has no private key.
    pub fn of(credentials: &Credentials) -> Result<Option<Self>, AgreeError> {
        let Some(keys) = &credentials.edhoc else {
            return Ok(None);
        };
        let Some(own) = &keys.device_key else {
            return Ok(None);
        };
        let own = bytes(own).and_then(StaticKey::parse);
        let hub = bytes(&keys.hub_key).and_then(PublicKey::parse);
        let kid = hex::decode(&keys.kid).ok();
        let kid = kid.as_deref().and_then(Kid::new);
        Ok(Some(Self {
            own: own.ok_or(AgreeError::Field("device_key"))?,
            kid: kid.ok_or(AgreeError::Field("kid"))?,
            hub: hub.ok_or(AgreeError::Field("hub_key"))?,
        }))
    }
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    hex::decode(text).ok()?.try_into().ok()
}

/// What was agreed. The hub has it when it has message 3.
pub struct Agreed {
    /// The context.
    pub keys: OscoreKeys,
    /// For the first request.
    pub message_3: Vec<u8>,
}

/// An exchange under way.
pub struct Agreement {
    machine: Machine<()>,
    rng: Box<dyn Rng + Send>,
    initiator: Option<Initiator>,
}

impl Agreement {
    /// Begins; `taken` is what the hub calls the device now. `rngs` must be unpredictable.
    pub fn begin(
        now: Timestamp,
        identity: &DeviceIdentity,
        taken: Option<Id>,
        class: u8,
        mut rngs: [Box<dyn Rng + Send>; 2],
    ) -> Result<Self, AgreeError> {
        let [rng, _] = &mut rngs;
        let mut echo_key = [0; 32]; // a client challenges nobody
        rng.fill_bytes(&mut echo_key);
        let DeviceIdentity { own, kid, hub } = identity.clone();
        let c_i = fresh_id(rng.as_mut(), taken);
        let (initiator, body) = Initiator::begin(rng.as_mut(), own, kid, hub, c_i)?;
        let mut config = Config::new(echo_key);
        config.serves_requests = false;
        let [rng, of_machine] = rngs;
        let mut machine = Machine::new(config, of_machine);
        machine.mark_validated(now, &());
        machine.set_link_class(now, &(), class);
        let format = CONTENT_FORMAT_WITH_ID.to_be_bytes();
        let format = format.into_iter().skip_while(|byte| *byte == 0);
        let request = Request::new(Code::POST, &[".well-known", "edhoc"])
            .option(number::CONTENT_FORMAT, format.collect::<Vec<u8>>())
            .body(body);
        machine.request(now, (), request);
        Ok(Self {
            machine,
            rng,
            initiator: Some(initiator),
        })
    }

    /// Takes in a datagram.
    pub fn handle_datagram(&mut self, now: Timestamp, datagram: &[u8]) {
        self.machine.handle_datagram(now, (), datagram);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.machine.handle_timeout(now);
    }

    /// When to call that.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.machine.poll_timeout()
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.machine.poll_transmit().map(|((), bytes)| bytes)
    }

    /// What came of it, once.
    pub fn poll_agreed(&mut self) -> Option<Result<Agreed, AgreeError>> {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Response { response, .. } => {
                    let initiator = self.initiator.take()?;
                    if response.code != Code::CHANGED {
                        return Some(Err(AgreeError::Answered(response.code)));
                    }
                    let third = initiator.message_2(self.rng.as_mut(), &response.payload);
                    return Some(third.map(|third| agreed(&third)).map_err(AgreeError::from));
                }
                Event::Failed { reason, .. } => return Some(Err(reason.into())),
                _ => {}
            }
        }
        None
    }
}

fn agreed(third: &Third) -> Agreed {
    Agreed {
        keys: stored(third.keying()),
        message_3: third.message_3().to_vec(),
    }
}

fn stored(keying: &Keying) -> OscoreKeys {
    OscoreKeys {
        master_secret: hex::encode(keying.master_secret()),
        master_salt: hex::encode(keying.master_salt()),
        sender_id: hex::encode(keying.sender_id().as_bytes()),
        recipient_id: hex::encode(keying.recipient_id().as_bytes()),
        id_context: None,
        aead: "AES-CCM-16-64-128".to_owned(),
        hkdf: "SHA-256".to_owned(),
    }
}

/// One byte, and not the one in use: the hub's answers to both could not be told apart.
fn fresh_id(rng: &mut dyn Rng, taken: Option<Id>) -> Id {
    let mut byte = [0];
    rng.fill_bytes(&mut byte);
    let id = Id::new(&byte).expect("an id may have one byte");
    if Some(id) == taken {
        let [byte] = byte;
        return Id::new(&[byte ^ 1]).expect("an id may have one byte");
    }
    id
}
