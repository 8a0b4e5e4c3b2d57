//! What the link says by itself: refusals without protection, and the challenge to one whose request
//! may be a replay.

use std::time::Duration;

use bytes::Bytes;

use super::{Came, Link, Prefix, device::AMPLIFICATION_MAX};
use crate::{
    session::oscore::{Id, PivUse, Refused, Unprotected},
    wire::coap::{Code, Kind, Message, Options, options::number},
};

/// What is said without protection.
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) options: Options,
    pub(super) payload: Vec<u8>,
}

impl Refusal {
    pub(super) fn new(code: Code, text: &str) -> Self {
        Self {
            code,
            options: Options::new(),
            payload: text.into(),
        }
    }
}

impl<N> Link<N> {
    /// The request may be a replay: asks its sender to show that it is not, and to receive there.
    ///
    /// spec: rfc8613 §B.1.2
    pub(super) fn challenge(&mut self, came: Came<'_>, kid: Id, mut unprotected: Unprotected) {
        let Some(device) = self.devices.get_mut(kid) else {
            return;
        };
        let key = device.key(kid);
        let Some(context) = device.context() else {
            return;
        };
        if !self.refusals.allow(came.now, Prefix::of(&came.from)) {
            return;
        }
        let about = (kid, context.incarnation(), came.from);
        let value = self.echo.challenge(came.now, &about);
        let options = Options::new().with(number::ECHO, value);
        let inner = answer_to(came.message, Code::UNAUTHORIZED, options, Vec::new());
        let Ok(inner_bytes) = inner.encode() else {
            return;
        };
        let piv = unprotected.binding.piv();
        self.sent.asked(key, came.message.id, piv);
        let again = self.sent.again(key, inner.kind, inner.id, &inner_bytes);
        let outer = if let Some(outer) = again {
            outer
        } else {
            let protected = context.protect_response(&mut unprotected.binding, &inner, PivUse::Own);
            let Some(outer) = protected.ok().and_then(|outer| outer.encode().ok()) else {
                return self.reserve(kid);
            };
            let outer = Bytes::from(outer);
            let name = (key, inner.kind, inner.id);
            self.sent
                .keep(came.now, name, piv, &inner_bytes, outer.clone());
            self.reserve(kid);
            outer
        };
        if outer.len() <= came.bytes.saturating_mul(AMPLIFICATION_MAX) {
            self.goes(Some(key), came.from, outer);
        }
    }

    pub(super) fn refused(&mut self, came: Came<'_>, refused: &Refused) {
        let refusal = Refusal {
            options: refused.options(),
            ..Refusal::new(refused.code(), refused.diagnostic())
        };
        self.refuse(came, refusal);
    }

    /// Answers without protection: never more than came, and not too often.
    pub(super) fn refuse(&mut self, came: Came<'_>, refusal: Refusal) {
        if !self.refusals.allow(came.now, Prefix::of(&came.from)) {
            return;
        }
        let Refusal {
            code,
            options,
            payload,
        } = refusal;
        let answers = [
            answer_to(came.message, code, options.clone(), payload),
            answer_to(came.message, code, options, Vec::new()),
            answer_to(came.message, code, Options::new(), Vec::new()),
        ];
        let mut encoded = answers.iter().filter_map(|answer| answer.encode().ok());
        if let Some(answer) = encoded.find(|answer| answer.len() <= came.bytes) {
            self.goes(None, came.from, answer.into());
        }
    }
}

/// An answer to a request as it came: in its acknowledgement, or as unconfirmed as it was.
fn answer_to(request: &Message, code: Code, options: Options, payload: Vec<u8>) -> Message {
    let kind = if request.kind == Kind::Con {
        Kind::Ack
    } else {
        Kind::Non
    };
    Message {
        kind,
        code,
        // The id of an unconfirmed answer is of our numbers. This end has used any of them lately
        // with little probability, and none for this.
        id: if kind == Kind::Ack {
            request.id
        } else {
            !request.id
        },
        token: request.token,
        options,
        payload,
    }
}

/// How often the addresses of a prefix are told without protection, or asked for an Echo.
pub(super) const REFUSAL_INTERVAL: Duration = Duration::from_millis(10);
pub(super) const REFUSAL_BURST: u32 = 512;
