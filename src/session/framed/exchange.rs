//! Requests and responses, as every door knows them, out of messages and into them.

use thiserror::Error;

use super::{head::Head, message::Framed};
use crate::{
    session::coap::{Request, Response},
    wire::coap::{Code, OptionFault, Options, Token, options::number},
};

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What, without its Observe option.
    pub request: Request,
    /// What that option said.
    pub observe: Observe,
}

/// What a request says of being told about changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observe {
    /// Nothing.
    Unsaid,
    /// Tell me.
    Register,
    /// No more. spec: rfc8323 §7.4
    Deregister,
}

/// Why a message is no request we can take up.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RequestFault {
    /// It is something else.
    #[error("{0} is no method")]
    Method(Code),
    /// An option that must not be ignored.
    #[error("{0}")]
    Option(#[source] OptionFault),
}

impl RequestFault {
    /// What the sender is told.
    pub fn response(&self) -> Response {
        let code = match self {
            Self::Method(_) => Code::METHOD_NOT_ALLOWED,
            Self::Option(_) => Code::BAD_OPTION,
        };
        Response::new(code).saying(self.to_string())
    }
}

impl Asked {
    /// Reads a request whose body is there.
    pub fn of(message: Framed) -> Result<Self, RequestFault> {
        Self::of_head(Head {
            code: message.code,
            token: message.token,
            options: message.options,
            payload: message.payload,
        })
    }

    /// Reads a request of whose body the beginning is there.
    pub fn of_head(head: Head) -> Result<Self, RequestFault> {
        if !head.code.is_request() {
            return Err(RequestFault::Method(head.code));
        }
        let mut options = head.options;
        options.drop_unusable();
        if let Some(fault) = options.fault(KNOWN) {
            return Err(RequestFault::Option(fault));
        }
        let observe = match options.observe() {
            Some(0) => Observe::Register,
            Some(1) => Observe::Deregister,
            _ => Observe::Unsaid,
        };
        options.remove(number::OBSERVE);
        Ok(Self {
            request: Request {
                method: head.code,
                options,
                payload: head.payload,
                observe: observe == Observe::Register,
            },
            observe,
        })
    }
}

/// The critical options that a request may carry. Blocks are none: bodies are whole here.
const KNOWN: &[u16] = &[
    number::URI_HOST,
    number::URI_PORT,
    number::URI_PATH,
    number::URI_QUERY,
    number::ACCEPT,
    number::KEY_TABLE_VERSION,
];

impl Framed {
    /// A request to send.
    pub fn of_request(request: &Request, token: Token) -> Self {
        let mut options = request.options.clone();
        if request.observe {
            options.push_uint(number::OBSERVE, 0);
        }
        Self {
            code: request.method,
            token,
            options,
            payload: request.payload.clone(),
        }
    }

    /// A response to send. One that is observing says so, without a number: the order is the stream's.
    ///
    /// spec: rfc8323 §7.1
    pub fn of_response(response: &Response, token: Token) -> Self {
        let mut options = response.options.clone();
        if response.observing {
            options.push(number::OBSERVE, []);
        }
        Self {
            code: response.code,
            token,
            options,
            payload: response.payload.clone(),
        }
    }

    /// The response in it; none if it is something else. Options that a client does not know do not
    /// end an exchange here: none that the hub sends is critical.
    pub fn into_response(self) -> Option<Response> {
        if !self.code.is_response() {
            return None;
        }
        let observing = self.options.has(number::OBSERVE);
        let mut options: Options = self.options;
        options.remove(number::OBSERVE);
        Some(Response {
            code: self.code,
            options,
            payload: self.payload,
            observing,
        })
    }
}
