//! What the doors on reliable transports, QUIC and WebSocket, have in common: whom they ask for a
//! device's answers and news, and what of it may be answered before it is sure that it is no replay.

use std::net::SocketAddr;

use async_trait::async_trait;

use crate::{
    api::{DeviceName, Door, Refusal},
    session::{
        coap::{Request, Response},
        framed::Observe,
    },
    wire::{
        coap::{Code, code_for_status, options},
        thin::number,
    },
};

/// Who asks: a device that the door has authenticated.
#[derive(Clone, Debug)]
pub struct Who {
    /// The device.
    pub device: DeviceName,
    /// The way in.
    pub door: Door,
    /// Where from.
    pub address: SocketAddr,
}

/// An answer.
pub struct Answered {
    /// What to send. It does not say `observing`: that is the door's.
    pub response: Response,
    /// What is to be told later, if the request asked for that and may.
    pub watching: Option<Box<dyn Watching>>,
}

/// The thin profile, as these doors see it.
#[async_trait]
pub trait Answering: Send + Sync + 'static {
    /// Answers one request. Never fails: what is refused is an answer too.
    async fn answer(&self, who: &Who, request: &Request) -> Answered;
}

/// One observation. Dropping it ends it.
#[async_trait]
pub trait Watching: Send {
    /// Waits for the next notification; being called again says that the one before was sent. One
    /// that is no success is the last; none: it is over.
    async fn next(&mut self) -> Option<Response>;
}

/// Whether a request may be answered from early data, which anyone can send once more: it asks for an
/// answer and moves no cursor, receipt or registration.
pub(super) fn is_replayable(request: &Request, observe: Observe) -> bool {
    if observe != Observe::Unsaid {
        return false;
    }
    let path: Vec<&str> = request.options.path().collect();
    match (request.method, path.as_slice()) {
        (Code::GET, []) | (Code::FETCH, ["*" | "@"]) => true,
        (Code::FETCH, [room]) => is_number(room),
        (Code::GET, [room, seq]) => is_number(room) && is_number(seq),
        _ => false,
    }
}

fn is_number(segment: &str) -> bool {
    number::of_segment(segment).is_some()
}

/// A refusal as the thin profile words it. spec: thin-profile §3
pub(super) fn refused(refusal: &Refusal, method: Code) -> Response {
    let code = code_for_status(refusal.status, method);
    let words = format!("{} {}", refusal.code.errcode(), refusal.message);
    let mut response = Response::new(code).saying(words);
    if let Some(after) = refusal.retry_after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        response.options.push_uint(options::number::MAX_AGE, seconds);
    }
    response
}
