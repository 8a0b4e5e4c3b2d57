//! From an OSCORE message back to the message.

use super::{
    aead,
    binding::RequestBinding,
    class,
    context::{ContextId, Id, IdContext, SecurityContext},
    nonce::Piv,
    option::OscoreOption,
    plaintext,
    refused::{Hint, InnerFault, Refused, ResponseRefused},
    window::{Freshness, Replay},
};
use crate::wire::coap::{Code, Message, Options, options::number};

/// Observe values have 24 bits.
const OBSERVE_MAX: u32 = 0x00ff_ffff;

/// A request that is authentic.
#[derive(Debug, PartialEq, Eq)]
pub struct Unprotected {
    /// As its sender gave it to OSCORE.
    pub message: Message,
    /// To answer it by.
    pub binding: RequestBinding,
    /// How it stands to those before. See to [`Freshness::Unverified`] first.
    pub freshness: Freshness,
}

/// Whose context a request asks for. Nothing in it is authentic yet.
pub fn addressee(outer: &Message) -> Result<ContextId, Refused> {
    let (option, _) = parts_of_request(outer)?;
    let kid = option.kid.ok_or(Refused::Missing("kid"))?;
    let id_context = match option.kid_context {
        Some(context) => Some(IdContext::new(context).ok_or(Refused::ContextNotFound)?),
        None => None,
    };
    Ok(ContextId {
        // A longer id, or a longer context, is surely not one of ours.
        kid: Id::new(kid).ok_or(Refused::ContextNotFound)?,
        id_context,
    })
}

impl SecurityContext {
    /// Checks and decrypts a request. The window moves only for what is authentic.
    ///
    /// spec: rfc8613 §8.2. A combined EDHOC request comes here without its message 3.
    pub fn unprotect_request(&mut self, outer: &Message) -> Result<Unprotected, Refused> {
        let piv = self.number_of(outer)?;
        let freshness = self.window.judge(piv)?;
        let text = self.open_request(outer, piv)?;
        self.window.mark(piv);
        let inner = plaintext::decode(&text)?;
        if !inner.code.is_request() {
            return Err(InnerFault::Code(inner.code).into());
        }
        let observes = inner.options.observe() == Some(0);
        let context = self.id_context.clone();
        let mut binding = RequestBinding::new(self.recipient_id, context, piv, observes);
        binding.is_unverified = freshness == Freshness::Unverified;
        binding.nonce_is_spent = binding.is_unverified;
        Ok(Unprotected {
            message: Message {
                options: class::merge(inner.options, &outer.options),
                ..like(outer, inner.code, inner.payload)
            },
            binding,
            freshness,
        })
    }

    /// The number and the message of a request that was received before. It changes nothing and says
    /// nothing about freshness: use it to answer a copy as the first one was, and for nothing else.
    pub(super) fn reopen_request(&self, outer: &Message) -> Result<(Piv, Message), Refused> {
        let piv = self.number_of(outer)?;
        let inner = plaintext::decode(&self.open_request(outer, piv)?)?;
        let message = Message {
            options: class::merge(inner.options, &outer.options),
            ..like(outer, inner.code, inner.payload)
        };
        Ok((piv, message))
    }

    /// The number of a request that names this context.
    fn number_of(&self, outer: &Message) -> Result<Piv, Refused> {
        let (option, piv) = parts_of_request(outer)?;
        let said = option.kid_context;
        let own = self.id_context.as_ref().map(IdContext::as_bytes);
        if option.kid != Some(self.recipient_id.as_bytes()) || (said.is_some() && said != own) {
            return Err(Refused::ContextNotFound);
        }
        Ok(piv)
    }

    fn open_request(&self, outer: &Message, piv: Piv) -> Result<Vec<u8>, Refused> {
        let aad = aead::associated_data(self.recipient_id, piv);
        let nonce = self.nonce(self.recipient_id, piv);
        let mut text = outer.payload.clone();
        if aead::open(&self.keys.recipient_key, &nonce, &aad, &mut text) {
            Ok(text)
        } else {
            Err(Refused::Decryption)
        }
    }

    /// An Echo value in this request showed that it is fresh: made after this life of the context
    /// began. It counts as received from now on, and everything before it as a replay.
    ///
    /// Must be asked before the request has any effect: it may have been taken already, as may one
    /// after it. A request that was not in doubt stays as it is.
    ///
    /// spec: rfc8613 §B.1.2
    pub fn confirm_fresh(&mut self, unprotected: &mut Unprotected) -> Result<(), Replay> {
        let binding = &mut unprotected.binding;
        if binding.is_unverified {
            unprotected.freshness = self.window.confirm(binding.piv)?;
            binding.is_unverified = false;
        }
        Ok(())
    }

    /// Checks and decrypts an answer. The Observe value of a notification counts those taken, for
    /// layers inside that look for an order.
    ///
    /// spec: rfc8613 §8.4
    pub fn unprotect_response(
        &self,
        binding: &mut RequestBinding,
        outer: &Message,
    ) -> Result<Message, ResponseRefused> {
        let piv = self.parts_of_response(outer)?;
        if binding.kid != self.sender_id || binding.kid_context != self.id_context {
            return Err(ResponseRefused::OtherContext);
        }
        if binding.is_closed {
            return Err(ResponseRefused::Answered);
        }
        let aad = aead::associated_data(binding.kid, binding.piv);
        let nonce = match piv {
            Some(piv) => self.nonce(self.recipient_id, piv),
            None => self.nonce(binding.kid, binding.piv),
        };
        let mut text = outer.payload.clone();
        if !aead::open(&self.keys.recipient_key, &nonce, &aad, &mut text) {
            return Err(ResponseRefused::Decryption);
        }
        let mut inner = plaintext::decode(&text)?;
        if !inner.code.is_response() {
            return Err(InnerFault::Code(inner.code).into());
        }
        let is_notification = inner.options.has(number::OBSERVE);
        take(binding, piv, is_notification)?;
        if is_notification {
            inner.options.remove(number::OBSERVE);
            inner.options.push_uint(number::OBSERVE, binding.taken);
        }
        Ok(Message {
            options: inner.options,
            ..like(outer, inner.code, inner.payload)
        })
    }

    fn parts_of_response(&self, outer: &Message) -> Result<Option<Piv>, ResponseRefused> {
        let Some(value) = outer.options.first(number::OSCORE) else {
            return Err(ResponseRefused::Unprotected(Hint::of(outer)));
        };
        let count = outer.options.all(number::OSCORE).count();
        if count > 1 {
            return Err(ResponseRefused::Options(count));
        }
        let option = OscoreOption::decode(value)?;
        let own = self.id_context.as_ref().map(IdContext::as_bytes);
        let is_other_kid = option
            .kid
            .is_some_and(|kid| kid != self.recipient_id.as_bytes());
        if is_other_kid || (option.kid_context.is_some() && option.kid_context != own) {
            return Err(ResponseRefused::OtherContext);
        }
        if let Some(number) = class::fragment(&outer.options) {
            return Err(ResponseRefused::Fragment(number));
        }
        if outer.payload.is_empty() {
            return Err(ResponseRefused::NoPayload);
        }
        Ok(option.piv)
    }
}

/// Takes an authentic answer into account, or says why it must not be taken.
///
/// spec: rfc8613 §7.4.1. Of notifications only newer ones than the newest; the one without a
/// number is the oldest of all.
fn take(
    binding: &mut RequestBinding,
    piv: Option<Piv>,
    is_notification: bool,
) -> Result<(), ResponseRefused> {
    if is_notification && !binding.observes {
        return Err(ResponseRefused::NotObserved);
    }
    if piv.is_none() && binding.nonce_is_spent {
        return Err(ResponseRefused::NonceSpent);
    }
    if let Some(newest) = binding.newest
        && piv.is_none_or(|piv| piv <= newest)
    {
        return Err(ResponseRefused::Stale { piv, newest });
    }
    binding.newest = piv.or(binding.newest);
    binding.nonce_is_spent = true;
    if is_notification {
        binding.taken = (binding.taken + 1) & OBSERVE_MAX;
    } else {
        binding.is_closed = true;
    }
    Ok(())
}

fn parts_of_request(outer: &Message) -> Result<(OscoreOption<'_>, Piv), Refused> {
    let mut values = outer.options.all(number::OSCORE);
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(Refused::Options(outer.options.all(number::OSCORE).count()));
    };
    let option = OscoreOption::decode(value)?;
    let piv = option.piv.ok_or(Refused::Missing("partial IV"))?;
    if option.kid.is_none() {
        return Err(Refused::Missing("kid"));
    }
    if let Some(number) = class::fragment(&outer.options) {
        return Err(Refused::Fragment(number));
    }
    if outer.payload.is_empty() {
        return Err(Refused::NoPayload);
    }
    Ok((option, piv))
}

/// The header is that of the OSCORE message but for the code. spec: rfc8613 §4.2.
fn like(outer: &Message, code: Code, payload: Vec<u8>) -> Message {
    Message {
        kind: outer.kind,
        code,
        id: outer.id,
        token: outer.token,
        options: Options::new(),
        payload,
    }
}
