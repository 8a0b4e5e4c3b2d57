//! One request through the hub, from the words of a client to the words of an answer.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    observe::Watch,
    profile::{self, Asked, Fault, Form},
    sticky::Words,
};
use crate::{
    api::{Command, Credentials, DeviceName, Door, Origin, Refusal, Reply},
    edge::front::{self, Front, Told},
    session::coap::{Request, Response},
};

/// One request on its way through the hub.
pub(super) struct Asking {
    pub(super) front: Arc<Front>,
    pub(super) door: Door,
    /// The linked device that asks, if it is one.
    pub(super) device: Option<Arc<DeviceName>>,
    pub(super) address: IpAddr,
    pub(super) request: Request,
    pub(super) meant: Words,
    /// Whether the client asks to be told of changes.
    pub(super) observes: bool,
    pub(super) _place: OwnedSemaphorePermit,
}

/// What came of it.
struct Outcome {
    status: u16,
    response: Response,
    watch: Option<Box<Watch>>,
}

impl Asking {
    pub(super) async fn answer(self) -> (Response, Option<Box<Watch>>) {
        let (form, body) = profile::body(&self.request, &self.meant);
        let asked = Asked::of(&self.front.api, &self.request, &self.meant);
        let endpoint = asked
            .as_ref()
            .map_or("Unknown", |asked| asked.endpoint().name());
        let number = self.front.number();
        let work = async {
            let asked = asked?;
            let origin = Origin {
                door: self.door,
                address: Some(self.address),
                request: number,
                credentials: self.credentials(asked.credentials.clone()),
            };
            match body {
                Ok(json) => match asked.command(&json) {
                    Ok(command) => self.ask(form, origin, command).await,
                    Err(refusal) => Err(self.front.service.asked_by(&origin, refusal).await),
                },
                Err(Fault::Refused(refusal)) => {
                    Err(self.front.service.asked_by(&origin, refusal).await)
                }
                Err(fault) => Ok(Outcome {
                    status: fault.status(),
                    response: form.fault(fault),
                    watch: None,
                }),
            }
        };
        let named = front::Asked {
            door: self.door,
            endpoint,
            number,
            bytes_in: Arc::new(AtomicU64::new(length(&self.request.payload))),
            repeats: false,
        };
        let written = |outcome: Result<Outcome, Refusal>| {
            let outcome = outcome.unwrap_or_else(|refusal| Outcome {
                status: refusal.status,
                response: form.fault(refusal.into()),
                watch: None,
            });
            let told = Told {
                status: outcome.status,
                bytes_out: Some(length(&outcome.response.payload)),
            };
            ((outcome.response, outcome.watch), told)
        };
        self.front.run(named, work, written).await
    }

    /// What the security layer knows comes before what the request says.
    fn credentials(&self, said: Credentials) -> Credentials {
        match (self.device.as_deref().cloned(), said) {
            (None, said) => said,
            (Some(device), Credentials::Token(token)) => Credentials::DeviceAndToken(device, token),
            (Some(device), _) => Credentials::Device(device),
        }
    }

    async fn ask(
        &self,
        form: Form,
        origin: Origin,
        mut command: Command,
    ) -> Result<Outcome, Refusal> {
        let mut watch = None;
        if let (true, Command::Sync(sync)) = (self.observes, &mut command) {
            // A registration is answered with what there is, so that the client learns at once
            // that it is registered; what comes later is news.
            sync.timeout = Some(Duration::ZERO);
            watch = Some(Watch::of(form, &origin, sync));
        }
        let reply = self.front.service.ask(origin, command).await?;
        let watch = match (&reply, watch) {
            (Reply::Sync(sync), Some(watch)) => Some(Box::new(watch.going_on(&sync.next_batch))),
            _ => None,
        };
        let answer = self.front.answer(reply);
        Ok(Outcome {
            status: answer.status,
            response: form.response(answer),
            watch,
        })
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
