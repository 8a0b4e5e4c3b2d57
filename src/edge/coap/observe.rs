//! An observed sync: the hub is asked again and again, each time from where the last answer ended,
//! and what is new is pushed.
//!
//! The next question waits until the client has acknowledged the last push, so a slow client holds
//! one position and one answer, no queue; what came meanwhile is in the next push. Nothing is
//! pushed when nothing happened.

use std::{sync::Arc, time::Duration};

use ruma::api::client::sync::sync_events::v3::{Request as SyncRequest, Response as SyncResponse};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc},
    task::AbortHandle,
};

use super::{driver::Done, profile::Form};
use crate::{
    api::{Command, Origin, Refusal, Reply},
    edge::{
        client_api::Answer,
        front::{Asked, Front, Told},
    },
    session::coap::ObservationId,
};

/// What is needed to ask for more.
pub(super) struct Watch {
    form: Form,
    /// As the registration came in; each wait for news has a number of its own.
    origin: Origin,
    request: SyncRequest,
}

/// A running observation; it ends when this is dropped.
pub(super) struct Observer {
    /// Told when the client has acknowledged the last push.
    pub(super) delivered: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    pub(super) fn of(form: Form, origin: &Origin, request: &SyncRequest) -> Self {
        let mut request = request.clone();
        request.full_state = false; // that was for the first answer
        Self {
            form,
            origin: origin.clone(),
            request,
        }
    }

    /// The same, going on from `next_batch`.
    pub(super) fn going_on(mut self, next_batch: &str) -> Self {
        self.request.since = Some(next_batch.to_owned());
        self
    }

    /// Starts asking.
    pub(super) fn begin(
        mut self,
        observation: ObservationId,
        front: Arc<Front>,
        report: mpsc::Sender<Done>,
        poll: Duration,
        place: OwnedSemaphorePermit,
    ) -> Observer {
        self.request.timeout = Some(poll);
        let delivered = Arc::new(Notify::new());
        let acknowledged = Arc::clone(&delivered);
        let task = tokio::spawn(async move {
            let _place = place;
            self.push_news(observation, &front, &report, &acknowledged)
                .await;
        });
        Observer {
            delivered,
            task: task.abort_handle(),
        }
    }

    // spec: msc3079 §OBSERVE
    async fn push_news(
        mut self,
        observation: ObservationId,
        front: &Front,
        report: &mpsc::Sender<Done>,
        acknowledged: &Notify,
    ) {
        let mut failures = 0;
        loop {
            let (answer, over) = match self.ask(front).await {
                Ok(news) => {
                    failures = 0;
                    self = self.going_on(&news.next_batch);
                    if is_empty(&news) {
                        tokio::time::sleep(EMPTY_PAUSE).await;
                        continue;
                    }
                    (Answer::of(Ok(Reply::Sync(Box::new(news)))), false)
                }
                Err(refusal) if passes(&refusal) && failures < FAILURES_MAX => {
                    failures += 1;
                    tokio::time::sleep(refusal.retry_after.unwrap_or(FAILURE_PAUSE)).await;
                    continue;
                }
                Err(refusal) => (Answer::of_refusal(refusal), true),
            };
            let response = self.form.response(answer);
            tracing::debug!(?observation, bytes = response.payload.len(), "pushed");
            if report
                .send(Done::News {
                    observation,
                    response,
                })
                .await
                .is_err()
                || over
            {
                return;
            }
            acknowledged.notified().await;
        }
    }

    async fn ask(&self, front: &Front) -> Result<SyncResponse, Refusal> {
        let number = front.number();
        let origin = Origin {
            request: number,
            ..self.origin.clone()
        };
        let command = Command::Sync(Box::new(self.request.clone()));
        let work = async {
            match front.service.ask(origin, command).await? {
                Reply::Sync(news) => Ok(*news),
                _ => Err(Refusal::internal()),
            }
        };
        let asked = Asked {
            door: self.origin.door,
            endpoint: "Sync",
            number,
            bytes_in: Arc::default(),
            repeats: true,
        };
        let told = |outcome: Result<SyncResponse, Refusal>| {
            let told = Told {
                status: outcome
                    .as_ref()
                    .map_or_else(|refusal| refusal.status, |_| 200),
                bytes_out: None, // what is pushed is written later, if anything is
            };
            (outcome, told)
        };
        front.run(asked, work, told).await
    }
}

/// Whether there is nothing in it to tell. Counts of keys come with every answer and say nothing.
fn is_empty(news: &SyncResponse) -> bool {
    news.rooms.is_empty()
        && news.presence.is_empty()
        && news.account_data.is_empty()
        && news.to_device.is_empty()
        && news.device_lists.is_empty()
}

/// Whether asking again may help: the hub was busy or failed, the client did nothing wrong.
const fn passes(refusal: &Refusal) -> bool {
    refusal.status == 429 || refusal.status >= 500
}

/// The pause after an answer with nothing in it: a hub that no longer waits is not asked in a loop.
const EMPTY_PAUSE: Duration = Duration::from_millis(250);

/// Failures in a row after which the client is told, and left to register again.
const FAILURES_MAX: u32 = 5;

/// The pause after a failure that names none.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
