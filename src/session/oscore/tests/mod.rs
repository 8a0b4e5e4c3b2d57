//! Both ends against each other and against the specification's bytes.

mod cost;
mod exchanges;
mod hostile;
mod observing;
mod restarts;
mod vectors;

use super::*;
use crate::wire::coap::{Code, Kind, Message, Options, Token, options::number};

const SECRET: [u8; 16] = [7; 16];

fn id(bytes: &[u8]) -> Id {
    Id::new(bytes).unwrap()
}

fn piv(number: u64) -> Piv {
    Piv::new(number).unwrap()
}

/// As the client sees them: kid of two bytes, a hub id of none.
fn client_parameters() -> Parameters<'static> {
    Parameters::new(&SECRET, id(&[1, 2]), id(&[]))
}

fn server_parameters() -> Parameters<'static> {
    Parameters::new(&SECRET, id(&[]), id(&[1, 2]))
}

fn ready(mut context: SecurityContext) -> SecurityContext {
    context.reserved(context.sequence().begin() + (1 << 20));
    context
}

/// Client and server of a fresh context with numbers reserved.
fn pair() -> (SecurityContext, SecurityContext) {
    (
        ready(SecurityContext::new(&client_parameters()).unwrap()),
        ready(SecurityContext::new(&server_parameters()).unwrap()),
    )
}

fn message(code: Code, options: Options, payload: &[u8]) -> Message {
    Message {
        kind: Kind::Con,
        code,
        id: 0x1234,
        token: Token::new(&[0xaa]).unwrap(),
        options,
        payload: payload.to_vec(),
    }
}

fn get() -> Message {
    message(Code::GET, Options::new().with(number::URI_PATH, "r"), b"")
}

fn registration() -> Message {
    let mut request = get();
    request.options.push_uint(number::OBSERVE, 0);
    request
}

fn content(payload: &[u8]) -> Message {
    message(Code::CONTENT, Options::new(), payload)
}

fn notification(order: u32, payload: &[u8]) -> Message {
    let mut response = content(payload);
    response.options.push_uint(number::OBSERVE, order);
    response
}

/// What the other end reads from the wire.
fn over_the_wire(message: &Message) -> Message {
    Message::decode(&message.encode().unwrap()).unwrap()
}

/// A request that arrived, and what each end knows of it.
fn delivered(
    client: &mut SecurityContext,
    server: &mut SecurityContext,
    request: &Message,
) -> (RequestBinding, Unprotected) {
    let (outer, binding) = client.protect_request(request).unwrap();
    let unprotected = server.unprotect_request(&over_the_wire(&outer)).unwrap();
    (binding, unprotected)
}
