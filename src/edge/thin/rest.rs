//! Everything else, under `~`: MSC3079 without its token, because the door knows the device.

use super::super::{
    client_api::{Answer, ClientApi},
    coap::profile::{self, Asked, Fault, Form},
};
use crate::{
    api::{Command, Credentials, DeviceName, Refusal, Reply},
    session::coap::{Request, Response},
    wire::keys,
};

/// A request of the client API.
pub(super) struct Rest {
    form: Form,
    asked: Result<Asked, Refusal>,
    body: Result<Vec<u8>, Fault>,
}

impl Rest {
    /// Reads the request, whose path is without the `~`.
    pub(super) fn of(api: &ClientApi, request: &Request) -> Self {
        let mut meant = profile::words(request);
        meant.key_table.get_or_insert(keys::VERSION); // all of this profile know it
        let (form, body) = profile::body(request, &meant);
        Self {
            form,
            asked: Asked::of(api, request, &meant),
            body,
        }
    }

    pub(super) fn operation(&self) -> &'static str {
        let asked = self.asked.as_ref();
        asked.map_or("Unknown", |asked| asked.endpoint().name())
    }

    /// Who asks: the device; a token beside it must be its own, which the desk checks.
    pub(super) fn credentials(&self, device: &DeviceName) -> Credentials {
        match self.asked.as_ref().map(|asked| &asked.credentials) {
            Ok(Credentials::Token(token)) => {
                Credentials::DeviceAndToken(device.clone(), token.clone())
            }
            _ => Credentials::Device(device.clone()),
        }
    }

    pub(super) fn command(&self) -> Result<Command, RestFault> {
        let asked = self.asked.as_ref().map_err(Clone::clone)?;
        match &self.body {
            Ok(json) => Ok(asked.command(json)?),
            Err(Fault::Refused(refusal)) => Err(refusal.clone().into()),
            Err(fault) => Err(RestFault::Format(
                fault.status(),
                self.form.fault(fault.clone()),
            )),
        }
    }

    pub(super) const fn form(&self) -> Form {
        self.form
    }
}

/// Why there is no command.
pub(super) enum RestFault {
    /// With a Matrix error.
    Refused(Refusal),
    /// In a format that is not spoken: the status, and what to answer.
    Format(u16, Response),
}

impl From<Refusal> for RestFault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A reply as it is sent: its status for the metrics, and the response.
pub(super) fn written(form: Form, reply: Reply) -> (u16, Response) {
    let answer = Answer::of(Ok(reply));
    (answer.status, form.response(answer))
}
