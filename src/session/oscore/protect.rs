//! From a message to an OSCORE message.

use thiserror::Error;

use super::{
    aead,
    binding::RequestBinding,
    class,
    context::{ContextId, IdContext, OuterObserve, SecurityContext},
    nonce::Piv,
    option::OscoreOption,
    plaintext,
    sequence::SequenceError,
};
use crate::wire::coap::{Code, EncodeError, Message, Options, options::number};

/// Under which number an answer goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PivUse {
    /// The request's, which costs nothing, if that is still allowed: for one answer, to a request
    /// that is surely no replay, and not after a restart. Otherwise an own one.
    Reuse,
    /// A number of our own: the order of notifications, and always allowed.
    Own,
}

/// Why a message is not protected.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProtectError {
    /// There is no number to send under.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// A response where a request should be, or the other way round.
    #[error("a message of code {0} cannot be protected here")]
    Code(Code),
    /// It is protected already.
    #[error("the message has an OSCORE option already")]
    Nested,
    /// It would show the path and query. spec: rfc8613 §4.1.3.3.
    #[error("Proxy-Uri must be given as Proxy-Scheme, Uri-Host, Uri-Port, Uri-Path and Uri-Query")]
    ProxyUri,
    /// The request did not ask for notifications.
    #[error("a notification for a request that observes nothing")]
    NotObserved,
    /// The request came under another context.
    #[error("the request belongs to context {0:?}")]
    OtherContext(ContextId),
    /// It does not fit into a message.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl SecurityContext {
    /// Protects a request under the next number. Type, id and token stay as they are.
    ///
    /// spec: rfc8613 §8.1
    pub fn protect_request(
        &mut self,
        request: &Message,
    ) -> Result<(Message, RequestBinding), ProtectError> {
        if !request.code.is_request() {
            return Err(ProtectError::Code(request.code));
        }
        let (inner, mut outer) = split(&request.options)?;
        // spec: rfc8613 §4.1.3.5. POST with Observe means nothing, so it is FETCH outside.
        let code = match request.options.first(number::OBSERVE) {
            Some(value) => {
                outer.push(number::OBSERVE, value);
                Code::FETCH
            }
            None => Code::POST,
        };
        let mut text = plaintext::encode(request.code, inner, &request.payload)?;
        let piv = self.sequence.take()?;
        let aad = aead::associated_data(self.sender_id, piv);
        let nonce = self.nonce(self.sender_id, piv);
        aead::seal(&self.keys.sender_key, &nonce, &aad, &mut text);
        let said = self.id_context.as_ref().filter(|_| self.sends_kid_context);
        let option = OscoreOption {
            piv: Some(piv),
            kid_context: said.map(IdContext::as_bytes),
            kid: Some(self.sender_id.as_bytes()),
        };
        outer.push(number::OSCORE, option.encode());
        let observes = request.options.observe() == Some(0);
        let binding = RequestBinding::new(self.sender_id, self.id_context.clone(), piv, observes);
        Ok((like(request, code, outer, text), binding))
    }

    /// Protects an answer, or one notification of many. Type, id and token stay as they are.
    ///
    /// spec: rfc8613 §8.3
    pub fn protect_response(
        &mut self,
        binding: &mut RequestBinding,
        response: &Message,
        piv_use: PivUse,
    ) -> Result<Message, ProtectError> {
        if !response.code.is_response() {
            return Err(ProtectError::Code(response.code));
        }
        if binding.kid != self.recipient_id || binding.kid_context != self.id_context {
            return Err(ProtectError::OtherContext(binding.context()));
        }
        let (mut inner, mut outer) = split(&response.options)?;
        let code = match response.options.first(number::OBSERVE) {
            Some(_) if !binding.observes => return Err(ProtectError::NotObserved),
            Some(order) => {
                // spec: rfc8613 §4.1.3.5.2. Inside it only says that this is a notification.
                inner.remove(number::OBSERVE);
                inner.push(number::OBSERVE, []);
                match self.outer_observe {
                    OuterObserve::Empty => outer.push(number::OBSERVE, []),
                    OuterObserve::Counted => outer.push(number::OBSERVE, order),
                }
                Code::CONTENT
            }
            None => Code::CHANGED,
        };
        let mut text = plaintext::encode(response.code, inner, &response.payload)?;
        let own_piv = self.piv_for(binding, piv_use)?;
        let nonce = match own_piv {
            Some(piv) => self.nonce(self.sender_id, piv),
            None => self.nonce(binding.kid, binding.piv),
        };
        let aad = aead::associated_data(binding.kid, binding.piv);
        aead::seal(&self.keys.sender_key, &nonce, &aad, &mut text);
        let option = OscoreOption {
            piv: own_piv,
            ..OscoreOption::default()
        };
        outer.push(number::OSCORE, option.encode());
        Ok(like(response, code, outer, text))
    }

    /// An own number, or none: the request's nonce, from now on spent.
    ///
    /// While it is uncertain what was received, the request may be one that was answered before
    /// under its own nonce, and the same nonce must not protect anything else. spec: rfc8613 §B.1.2.
    fn piv_for(
        &mut self,
        binding: &mut RequestBinding,
        piv_use: PivUse,
    ) -> Result<Option<Piv>, SequenceError> {
        if piv_use == PivUse::Reuse && !binding.nonce_is_spent && !self.is_uncertain() {
            binding.nonce_is_spent = true;
            return Ok(None);
        }
        let piv = self.sequence.take()?;
        // Whatever comes first may come without a number; what comes later never.
        binding.nonce_is_spent = true;
        Ok(Some(piv))
    }
}

fn split(options: &Options) -> Result<(Options, Options), ProtectError> {
    if options.has(number::OSCORE) {
        return Err(ProtectError::Nested);
    }
    if options.has(number::PROXY_URI) {
        return Err(ProtectError::ProxyUri);
    }
    Ok(class::split(options))
}

/// The OSCORE message: the header of the original one but for the code. spec: rfc8613 §4.2.
fn like(original: &Message, code: Code, options: Options, payload: Vec<u8>) -> Message {
    Message {
        kind: original.kind,
        code,
        id: original.id,
        token: original.token,
        options,
        payload,
    }
}
