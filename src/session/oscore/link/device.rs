//! What is remembered of one device: its context, where it is, which of its requests may still be
//! answered, which were met. There are many, nearly all of them idle.

use std::net::SocketAddr;

use bytes::Bytes;

use super::Place;
use crate::{
    base::{Few, Timestamp},
    session::oscore::{SecurityContext, binding::RequestBinding, nonce::Piv},
    wire::coap::{Kind, Message, Token, options::number},
};

/// How many requests of a device may be open that observe nothing. The CoAP machine answers fewer
/// at a time; requests that it ignores are pushed out here.
const BOUND_MAX: usize = 32;

/// How many observations of a device may be bound: those of the CoAP machine, and those asleep.
const OBSERVING_MAX: usize = 32;

/// How many requests are remembered, to tell a copy from a number used twice.
const MET_MAX: usize = 8;

/// How many of them with their answers. A device asks again what it asked last, and another request
/// or two where several were on their way at once.
const ANSWERS_MAX: usize = 4;

/// How many messages wait for numbers to send them under. More are as if lost on the way.
const WAITING_MAX: usize = 8;

/// Bytes sent per byte received before an address is proved. spec: rfc9175 §2.4.
pub(super) const AMPLIFICATION_MAX: usize = 3;

#[derive(Debug)]
pub(super) struct Device<N> {
    pub(super) life: u32,
    /// What the link's user calls it.
    pub(super) name: N,
    /// None while it is put away.
    context: Option<SecurityContext>,
    /// The context was used since it was last looked for one that is not.
    is_in_use: bool,
    /// Where its newest request came from.
    address: Option<Place>,
    /// Bytes on the wire since it is there.
    received: u32,
    sent: u32,
    /// When its last request came.
    heard: Timestamp,
    /// The last requests.
    met: Few<Met>,
    bound: Few<Bound>,
    /// Messages for which there are no numbers, or no context, yet; and whether the address was
    /// proved when they were to be sent.
    waiting: Option<Box<Waiting>>,
    pub(super) is_reserving: bool,
    /// Whether it was known to receive at its address when something last went there.
    is_proved: bool,
}

/// Messages and whether the address was proved.
#[derive(Debug, Default)]
struct Waiting(Vec<(Bytes, bool)>);

/// A request that came.
#[derive(Debug)]
struct Met {
    /// Its number and message id, packed.
    name: u64,
    /// The acknowledgement it was given, protected; nothing if there is none, or no more.
    answer: Box<[u8]>,
}

/// A request and what its answers must be tied to.
#[derive(Debug)]
pub(super) struct Bound {
    token: Token,
    id: u16,
    pub(super) is_answered: bool,
    pub(super) binding: RequestBinding,
}

impl<N> Device<N> {
    pub(super) const fn new(life: u32, name: N) -> Self {
        Self {
            life,
            name,
            context: None,
            is_in_use: false,
            address: None,
            received: 0,
            sent: 0,
            heard: Timestamp(0),
            met: Few::None,
            bound: Few::None,
            waiting: None,
            is_reserving: false,
            is_proved: false,
        }
    }

    /// Its context, if that is at hand; it is in use by that.
    pub(super) const fn context(&mut self) -> Option<&mut SecurityContext> {
        self.is_in_use = true;
        self.context.as_mut()
    }

    pub(super) const fn has_context(&self) -> bool {
        self.context.is_some()
    }

    pub(super) fn give(&mut self, context: SecurityContext) {
        self.context = Some(context);
        self.is_in_use = true;
    }

    /// Drops a context that was not used since this was last asked.
    pub(super) fn drop_context_if_idle(&mut self) -> bool {
        let was_in_use = std::mem::take(&mut self.is_in_use);
        !was_in_use && self.context.take().is_some()
    }

    /// What a message that answers is tied to, and the context to protect it with.
    pub(super) fn answering(
        &mut self,
        answer: &Message,
    ) -> Option<(&mut Bound, Option<&mut SecurityContext>)> {
        self.is_in_use = true;
        let bound = bound_of(&mut self.bound, answer)?;
        Some((bound, self.context.as_mut()))
    }

    /// Its newest request came from there. Gives the address it left.
    pub(super) fn is_at(&mut self, address: SocketAddr) -> Option<SocketAddr> {
        if self.address() == Some(address) {
            return None;
        }
        (self.received, self.sent) = (0, 0);
        self.is_proved = false;
        let left = self.address.replace(address.into());
        left.map(SocketAddr::from)
    }

    /// Where it is, if that is known.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address.map(SocketAddr::from)
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.received = self.received.saturating_add(in_u32(bytes));
    }

    /// Whether so many bytes may go to its address; counts them if so.
    pub(super) fn may_send(&mut self, bytes: usize, is_proved: bool) -> bool {
        let sent = self.sent.saturating_add(in_u32(bytes));
        let allowed = self.received.saturating_mul(in_u32(AMPLIFICATION_MAX));
        if !is_proved && sent > allowed {
            return false;
        }
        self.sent = sent;
        self.is_proved = is_proved;
        true
    }

    /// Whether it is known to receive at an address: what is asked for there harms nobody.
    pub(super) fn is_known_at(&self, address: SocketAddr) -> bool {
        self.is_proved && self.address() == Some(address)
    }

    /// Remembers a request, for the day its copy comes.
    pub(super) fn meet(&mut self, now: Timestamp, piv: Piv, id: u16) {
        self.heard = now;
        if self.met.len() >= MET_MAX {
            self.met.remove(0);
        }
        let outlived = (self.met.len() + 1).saturating_sub(ANSWERS_MAX);
        for met in self.met.iter_mut().take(outlived) {
            met.answer = Box::default();
        }
        self.met.push(Met {
            name: packed(piv, id),
            answer: Box::default(),
        });
    }

    /// What the copy of a request is to be answered: nothing, if the request is not yet; none, if it
    /// was not met.
    pub(super) fn answer_to(&self, piv: Piv, id: u16) -> Option<&[u8]> {
        let name = packed(piv, id);
        let met = self.met.iter().find(|met| met.name == name)?;
        Some(&met.answer)
    }

    /// The newest request with this message id was acknowledged with these bytes.
    pub(super) fn acknowledged(&mut self, id: u16, answer: &[u8]) {
        let mut newest_first = self.met.iter_mut().rev();
        if let Some(met) = newest_first.find(|met| met.name & ID_MASK == u64::from(id)) {
            met.answer = answer.into();
        }
    }

    /// Forgets the answers of a device that was not heard of since; gives the bytes of what is left.
    pub(super) fn forget_answers(&mut self, since: Timestamp) -> usize {
        if self.heard <= since {
            self.met
                .iter_mut()
                .for_each(|met| met.answer = Box::default());
        }
        self.met.iter().map(|met| met.answer.len()).sum()
    }

    /// Ties the answers of a request to it.
    pub(super) fn bind(&mut self, request: &Message, binding: RequestBinding) {
        let observes = binding.observes();
        let same_kind = |bound: &Bound| bound.binding.observes() == observes;
        let max = if observes { OBSERVING_MAX } else { BOUND_MAX };
        if self.bound.iter().filter(|bound| same_kind(bound)).count() >= max
            && let Some(oldest) = self.bound.iter().position(same_kind)
        {
            self.bound.remove(oldest);
        }
        self.bound.push(Bound {
            token: request.token,
            id: request.id,
            is_answered: false,
            binding,
        });
    }

    /// Takes up an observation from before a restart.
    pub(super) fn bind_again(&mut self, token: Token, binding: RequestBinding) {
        self.unbind(token);
        self.bound.push(Bound {
            token,
            id: 0,
            is_answered: true,
            binding,
        });
    }

    /// The observation with this token.
    pub(super) fn observing(&self, token: Token) -> Option<&RequestBinding> {
        let mut newest_first = self.bound.iter().rev();
        let bound = newest_first.find(|bound| bound.token == token && bound.binding.observes())?;
        Some(&bound.binding)
    }

    /// A message was sent. The last answer of a request ends what was tied to it, and the answer
    /// to a registration what was tied to earlier ones with its token.
    pub(super) fn answered(&mut self, answer: &Message) {
        let Some(bound) = bound_of(&mut self.bound, answer) else {
            return;
        };
        bound.is_answered = true;
        let (number, observes) = (bound.binding.piv(), bound.binding.observes());
        let goes_on = answer.options.has(number::OBSERVE);
        self.bound.retain(|bound| {
            bound.token != answer.token
                || bound.binding.observes() != observes
                || bound.binding.piv() > number
                || (goes_on && bound.binding.piv() == number)
        });
    }

    /// No notification will be sent with this token any more.
    pub(super) fn unbind(&mut self, token: Token) {
        self.bound
            .retain(|bound| bound.token != token || !bound.binding.observes());
    }

    /// Keeps a message until it can be protected.
    pub(super) fn wait(&mut self, message: Bytes, is_proved: bool) {
        let Waiting(waiting) = &mut **self.waiting.get_or_insert_default();
        if waiting.len() < WAITING_MAX {
            waiting.push((message, is_proved));
        }
    }

    pub(super) fn waited(&mut self) -> Vec<(Bytes, bool)> {
        let waiting = self.waiting.take();
        waiting.map_or_else(Vec::new, |waiting| waiting.0)
    }

    /// Whether nothing may follow: then it can be forgotten.
    pub(super) const fn is_idle(&self) -> bool {
        self.bound.is_empty() && self.waiting.is_none()
    }
}

/// The request that a message answers: an acknowledgement names it; another message says its token, of
/// which the newest counts, and with Observe the newest that observes.
fn bound_of<'a>(all: &'a mut Few<Bound>, answer: &Message) -> Option<&'a mut Bound> {
    let is_ack = answer.kind == Kind::Ack;
    let notifies = !is_ack && answer.options.has(number::OBSERVE);
    let mut newest_first = all.iter_mut().rev();
    newest_first.find(|bound| {
        bound.token == answer.token
            && (!is_ack || (!bound.is_answered && bound.id == answer.id))
            && (!notifies || bound.binding.observes())
    })
}

/// Forty bits of number, sixteen of message id.
const fn packed(piv: Piv, id: u16) -> u64 {
    piv.number() << 16 | id as u64
}

/// Where the message id is in them.
const ID_MASK: u64 = 0xffff;

fn in_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
