//! What the driver does for EDHOC: has message 3 verified and exchanges answered, each in a task
//! with a request's place, and ends what renewed devices had before.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;

use super::{Done, Driver, FULL_SECONDS, Task};
use crate::{
    base::Timestamp,
    edge::{
        coap::{
            edhoc::{Combining, Exchanges},
            link::Link,
        },
        thin::Which,
    },
    session::{
        coap::{ExchangeId, Request, Response},
        edhoc::PATH,
    },
    wire::coap::{Code, Message},
};

impl<L: Link> Driver<L> {
    /// A request with message 3 in front came.
    pub(super) fn combined(&mut self, now: Timestamp, from: SocketAddr, request: Box<Message>) {
        let Some(exchanges) = self.exchanges.clone() else {
            let unknown = Response::new(Code::BAD_OPTION);
            return self.link.decline(now, from, &request, unknown);
        };
        let place = Arc::clone(&self.request_places).try_acquire_owned();
        let Some(place) = place.ok().filter(|_| !self.draining) else {
            let full = Response::unavailable(FULL_SECONDS);
            return self.link.decline(now, from, &request, full);
        };
        let report = self.report.clone();
        tokio::spawn(async move {
            let combining = exchanges.combined(from.ip(), &request).await;
            drop(place);
            let done = Done::Combined {
                from,
                request,
                combining: Box::new(combining),
            };
            // the driver is gone only when the door is closed
            let _ = report.send(done).await;
        });
    }

    /// Message 3 was verified, or not.
    pub(super) fn exchanged(
        &mut self,
        now: Timestamp,
        from: SocketAddr,
        request: &Message,
        combining: Combining,
    ) {
        match combining {
            Combining::Onward(rest) => self.link.onward(now, from, &rest),
            Combining::Refused(response) => self.link.decline(now, from, request, response),
            Combining::Copy => {}
        }
    }

    /// The exchanges, if the request is theirs.
    pub(super) fn exchanges_of(&self, peer: &L::Peer, request: &Request) -> Option<Arc<Exchanges>> {
        // A device with keys takes the same way as one without.
        let is_theirs = self.link.device(peer).is_none() && request.options.path().eq(PATH);
        self.exchanges.clone().filter(|_| is_theirs)
    }

    pub(super) fn asked_for_exchange(
        &mut self,
        exchange: ExchangeId,
        (peer, address): (L::Peer, SocketAddr),
        request: Request,
        exchanges: Arc<Exchanges>,
        place: OwnedSemaphorePermit,
    ) {
        let report = self.report.clone();
        let task = tokio::spawn(async move {
            let response = exchanges.answer(address.ip(), &request).await;
            drop(place);
            // the driver is gone only when the door is closed
            let _ = report
                .send(Done::Answered {
                    exchange,
                    response,
                    watch: None,
                })
                .await;
        });
        let task = Task {
            handle: task.abort_handle(),
            peer,
            observation: None,
        };
        self.running.insert(exchange, task);
    }

    /// Ends the contexts that were replaced. To be called before anything more is taken in.
    pub(super) fn end_replaced(&mut self, now: Timestamp) {
        let renewed = match &self.exchanges {
            Some(exchanges) => exchanges.renewed(),
            None => return,
        };
        if renewed.is_empty() {
            return;
        }
        if let Some(serving) = &mut self.serving {
            serving.revocations += 1; // what is being looked up may be what was before
        }
        let devices = Which::These(renewed.into_iter().collect());
        self.link.revoke(now, &devices);
        while let Some(arrived) = self.link.poll_arrived() {
            self.arrived(now, arrived);
        }
    }
}
