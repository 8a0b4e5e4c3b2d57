//! EDHOC at the UDP door: what `/.well-known/edhoc` answers, and what becomes of a request that
//! brings message 3 with it.
//!
//! The exchange itself is `session::edhoc`'s; here it meets the table of linked devices. A device
//! gets its new context only after it is stored: whoever sees an answer can rely on it.
//!
//! Nothing here proves addresses or limits answers: the CoAP machine challenges every POST of an
//! address that is not proved, and the answers are as small as the questions.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    api::{DeviceName, EdhocLink, Links, OscoreLink, Refusal, Secret},
    base::{Clock, Rng},
    session::{
        coap::{Request, Response},
        edhoc::{
            CONTENT_FORMAT, Combined, Done, Keying, NEW_EXCHANGE, NeedCredential, PublicKey,
            Refused, Responder, StaticKey, split_identifier, take_combined,
        },
        oscore::Id,
    },
    wire::coap::{Code, Message},
};

/// The exchanges of a door with devices.
pub struct Exchanges {
    links: Arc<dyn Links>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Devices whose contexts were replaced.
    renewed: Mutex<Vec<DeviceName>>,
}

struct State {
    responder: Responder<IpAddr>,
    rng: Box<dyn Rng + Send>,
    /// Devices whose message 3 is being verified and stored.
    under_way: BTreeSet<Id>,
}

/// What becomes of a request with message 3 in front.
#[derive(Debug)]
pub(in crate::edge) enum Combining {
    /// It goes on as a protected request; its context is stored.
    Onward(Message),
    /// It ends here, with this unprotected answer.
    Refused(Response),
    /// The same request is being worked on; that one is answered.
    Copy,
}

/// Why there is no context.
enum Fault {
    Refused(Refused),
    /// The store's.
    Store(Refusal),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Store(refusal)
    }
}

impl Exchanges {
    /// With the hub's key.
    pub fn new(
        key: StaticKey,
        links: Arc<dyn Links>,
        clock: Arc<dyn Clock>,
        rng: Box<dyn Rng + Send>,
    ) -> Self {
        Self {
            links,
            clock,
            state: Mutex::new(State {
                responder: Responder::new(key),
                rng,
                under_way: BTreeSet::new(),
            }),
            renewed: Mutex::default(),
        }
    }

    /// Answers a request for `/.well-known/edhoc`.
    ///
    /// spec: rfc9528 §A.2.1
    pub(in crate::edge) async fn answer(&self, from: IpAddr, request: &Request) -> Response {
        if request.method != Code::POST {
            return Response::new(Code::METHOD_NOT_ALLOWED);
        }
        let answered = match request.payload.split_first() {
            Some((&NEW_EXCHANGE, message_1)) => self.begin(from, message_1).await,
            _ => self.end(from, &request.payload).await,
        };
        match answered {
            Ok(message) => Response::new(Code::CHANGED).body(CONTENT_FORMAT, message),
            Err(fault) => fault.answer(Refused::error_message),
        }
    }

    /// Does EDHOC's part of a request with option 21.
    ///
    /// spec: rfc9668 §3.3.1
    pub(in crate::edge) async fn combined(&self, from: IpAddr, request: &Message) -> Combining {
        let refused = |fault: Fault| Combining::Refused(fault.answer(Refused::unspecified));
        let Combined {
            c_r,
            message_3,
            rest,
        } = match take_combined(request) {
            Ok(Some(combined)) => combined,
            Ok(None) => return Combining::Onward(request.clone()),
            Err(fault) => return refused(fault.into()),
        };
        if self.state().under_way.contains(&c_r) {
            return Combining::Copy;
        }
        match self.establish(from, c_r, &message_3).await {
            Ok(_) => Combining::Onward(rest),
            // Sent again, because the answer was lost: OSCORE knows what to do with copies.
            Err(Fault::Refused(fault @ Refused::NoExchange(_))) => {
                match self.links.oscore(c_r.as_bytes()).await {
                    Ok(Some(_)) => Combining::Onward(rest),
                    Ok(None) => refused(fault.into()),
                    Err(refusal) => refused(refusal.into()),
                }
            }
            Err(fault) => refused(fault),
        }
    }

    async fn begin(&self, from: IpAddr, message_1: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut tries = ID_TRIES;
        loop {
            let free = self.links.free_recipient_id().await?;
            let c_r = Id::new(&free).ok_or_else(Refusal::internal)?;
            let now = self.clock.now();
            let State { responder, rng, .. } = &mut *self.state();
            match responder.message_1(now, rng, &site(from), message_1, c_r) {
                Err(Refused::IdInUse(_)) if tries > 0 => tries -= 1,
                answered => return Ok(answered?),
            }
        }
    }

    async fn end(&self, from: IpAddr, body: &[u8]) -> Result<Vec<u8>, Fault> {
        let (c_r, message_3) = split_identifier(body)?;
        let done = self.establish(from, c_r, message_3).await?;
        Ok(done.message_4(&mut self.state().rng)?)
    }

    /// From message 3 to a stored context.
    async fn establish(&self, from: IpAddr, c_r: Id, message_3: &[u8]) -> Result<Done, Fault> {
        let asked = {
            let now = self.clock.now();
            let State {
                responder,
                rng,
                under_way,
            } = &mut *self.state();
            let asked = responder.message_3(now, rng, &site(from), c_r, message_3)?;
            under_way.insert(c_r);
            asked
        };
        let _under_way = UnderWay {
            exchanges: self,
            c_r,
        };
        let kid = asked.kid();
        let link = self.links.edhoc(kid.as_bytes()).await?;
        let (device, done) = self.verify(asked, link)?;
        self.links
            .renew_oscore(stored(device.clone(), done.keying()))
            .await?;
        self.renewed_devices().push(device);
        Ok(done)
    }

    fn verify(
        &self,
        asked: NeedCredential,
        link: Option<EdhocLink>,
    ) -> Result<(DeviceName, Done), Fault> {
        let public = link
            .as_ref()
            .and_then(|link| PublicKey::parse(link.public_x));
        let unknown = Refused::UnknownCredential(asked.kid());
        let done = asked.verify(&mut self.state().rng, public.as_ref())?;
        Ok((link.ok_or(unknown)?.device, done))
    }

    /// The devices whose contexts were replaced since this was asked last: what they had before
    /// must end.
    pub(in crate::edge) fn renewed(&self) -> Vec<DeviceName> {
        std::mem::take(&mut *self.renewed_devices())
    }

    fn renewed_devices(&self) -> MutexGuard<'_, Vec<DeviceName>> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves at worst an exchange that nobody finishes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends with the work, also when its task is aborted.
struct UnderWay<'a> {
    exchanges: &'a Exchanges,
    c_r: Id,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.exchanges.state().under_way.remove(&self.c_r);
    }
}

impl Fault {
    fn answer(self, message: impl Fn(&Refused) -> Vec<u8>) -> Response {
        match self {
            Self::Refused(refused) => {
                tracing::debug!(%refused, "EDHOC ended");
                Response::new(refused.code()).body(CONTENT_FORMAT, message(&refused))
            }
            Self::Store(refusal) => {
                tracing::warn!(%refusal, "EDHOC could not be finished");
                Response::unavailable(STORE_SECONDS)
            }
        }
    }
}

fn stored(device: DeviceName, keying: &Keying) -> OscoreLink {
    OscoreLink {
        device: device.into(),
        master_secret: Secret(keying.master_secret().to_vec()),
        master_salt: keying.master_salt().to_vec(),
        id_context: None,
        recipient_id: keying.recipient_id().as_bytes().to_vec(),
        sender_id: keying.sender_id().as_bytes().to_vec(),
        reserved_below: 0,
        outer_observe_counted: false, // what it was linked with stays
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

/// How often another id is asked for when one is another exchange's, or the device's own.
const ID_TRIES: u8 = 16;

/// When a device is to try again after the store failed, in seconds.
const STORE_SECONDS: u32 = 10;
