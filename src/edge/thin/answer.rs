//! One request answered: asked of the hub, and written as a response.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use ruma::{OwnedRoomId, api::client::room::get_room_event};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Answered, Thin, Watch, Who,
    rest::{self, Rest, RestFault},
    route::{self, Asked},
};
use crate::{
    api::{Command, Credentials, Origin, Refusal, Reply, RequestId, Thin as Question, ThinReply},
    base::{EventHash, Seq},
    edge::{
        client_api::Answer,
        front::{self, Told},
    },
    session::coap::{Request, Response},
    wire::{
        cbor::{self, KeyForm},
        coap::{Code, code_for_status, options::number},
        matrix,
        thin::{Alias, Name, NameKind, Record, encode_numbers, encode_records},
    },
};

/// What came of a request.
struct Outcome {
    /// As HTTP numbers it, for the metrics.
    status: u16,
    response: Response,
    watch: Option<Watch>,
}

impl Outcome {
    const fn of(response: Response) -> Self {
        Self {
            status: 200,
            response,
            watch: None,
        }
    }
}

/// What a request asks, or why it asks nothing.
enum Read {
    Thin(Result<Asked, Refusal>),
    Rest(Box<Rest>),
}

impl Read {
    fn operation(&self) -> &'static str {
        match self {
            Self::Thin(Ok(Asked::Thin(thin))) => thin.name(),
            Self::Thin(Ok(Asked::WholeEvent { .. })) => "Event",
            Self::Thin(Ok(Asked::Ledger)) => "ThinLedger",
            Self::Thin(Ok(Asked::Later(_))) => "ThinLater",
            Self::Thin(_) => "Unknown",
            Self::Rest(rest) => rest.operation(),
        }
    }
}

impl Thin {
    pub(super) async fn answered(&self, who: &Who, request: &Request) -> Answered {
        let read = match route::asked(request) {
            Ok(Asked::Rest(inner)) => Read::Rest(Box::new(Rest::of(&self.front.api, &inner))),
            asked => Read::Thin(asked),
        };
        let operation = read.operation();
        let form = match &read {
            Read::Rest(rest) => Some(rest.form()),
            Read::Thin(_) => None,
        };
        let asked = front::Asked {
            door: who.door,
            endpoint: operation,
            number: self.front.number(),
            bytes_in: Arc::new(AtomicU64::new(length(request.payload.len()))),
            repeats: false,
        };
        let work = self.done(who, asked.number, request, read);
        let written = |outcome: Result<Outcome, Refusal>| {
            let outcome = outcome.unwrap_or_else(|refusal| Outcome {
                status: refusal.status,
                response: match form {
                    Some(form) => form.fault(refusal.into()),
                    None => refused(&refusal, request.method),
                },
                watch: None,
            });
            let told = Told {
                status: outcome.status,
                bytes_out: Some(length(outcome.response.payload.len())),
            };
            (outcome, told)
        };
        let outcome = self.front.run(asked, work, written).await;
        Answered {
            response: outcome.response,
            watch: outcome.watch,
            operation,
        }
    }

    async fn done(
        &self,
        who: &Who,
        number: RequestId,
        request: &Request,
        read: Read,
    ) -> Result<Outcome, Refusal> {
        let origin = Self::origin(who, number);
        match read {
            Read::Rest(rest) => self.rest(who, origin, &rest).await,
            Read::Thin(asked) => match asked? {
                Asked::Thin(thin) => self.thin(who, origin, request, thin).await,
                Asked::WholeEvent { room, seq } => {
                    self.whole_event(origin, request, room, seq).await
                }
                Asked::Ledger => {
                    let told = self.books.cbor(&who.device);
                    Ok(Outcome::of(whole(Code::CONTENT, told)))
                }
                Asked::Later(wait) => self.later(wait).await,
                Asked::Rest(_) => Err(Refusal::internal()), // read before
            },
        }
    }

    /// Nothing, after a while. spec: thin-profile §11
    async fn later(&self, wait: Duration) -> Result<Outcome, Refusal> {
        let Ok(_place) = self.later.try_acquire() else {
            let refusal = Refusal::new(crate::api::Code::LimitExceeded, "too many wait already");
            return Err(refusal.with_status(503).retry_after(LATER_AGAIN));
        };
        tokio::time::sleep(wait).await;
        Ok(Outcome::of(Response::new(Code::CHANGED)))
    }

    pub(super) fn origin(who: &Who, number: RequestId) -> Origin {
        Origin {
            door: who.door,
            address: who.address.map(|address| address.ip()),
            request: number,
            credentials: Credentials::Device(crate::api::DeviceName::clone(&who.device)),
        }
    }

    async fn rest(&self, who: &Who, mut origin: Origin, rest: &Rest) -> Result<Outcome, Refusal> {
        origin.credentials = rest.credentials(&who.device);
        let command = match rest.command() {
            Ok(command) => command,
            Err(RestFault::Refused(refusal)) => return Err(refusal),
            Err(RestFault::Format(status, response)) => {
                return Ok(Outcome {
                    status,
                    response,
                    watch: None,
                });
            }
        };
        let reply = self.front.service.ask(origin, command).await?;
        let (status, response) = rest::written(rest.form(), reply);
        Ok(Outcome {
            status,
            response,
            watch: None,
        })
    }

    async fn thin(
        &self,
        who: &Who,
        origin: Origin,
        request: &Request,
        question: Question,
    ) -> Result<Outcome, Refusal> {
        let reply = self.ask(origin, question.clone()).await?;
        self.remember(who, &question, &reply);
        let mut outcome = match reply {
            ThinReply::Hello(hello) => Outcome::of(whole(Code::CONTENT, hello.encode())),
            ThinReply::Appended(seq) => Outcome::of(whole(Code::CHANGED, encode_numbers(&[seq.0]))),
            ThinReply::Entry(entry) => Outcome::of(tagged(request, entry.encode())),
            ThinReply::Names(names) => Outcome::of(whole(Code::CONTENT, Name::encode_all(&names))),
            ThinReply::Alias(alias) => Outcome::of(whole(Code::CHANGED, encode_numbers(&[alias]))),
            ThinReply::Done => Outcome::of(Response::new(Code::CHANGED)),
            ThinReply::Records {
                records, through, ..
            } => Outcome {
                watch: route::watch_of(&question).map(|watch| watch.going_on(through)),
                ..records_told(&question, &records)
            },
        };
        outcome.watch = match outcome.watch.filter(|_| request.observe) {
            Some(watch) => Some(watch.on(self.devices.profile(&who.device).await.class)),
            None => None,
        };
        Ok(outcome)
    }

    /// What later pushes and knocks go by.
    fn remember(&self, who: &Who, question: &Question, reply: &ThinReply) {
        match (question, reply) {
            (Question::LinkProfile(profile), _) => self.devices.said(&who.device, *profile),
            (
                Question::Inbox { .. },
                ThinReply::Records {
                    through: Some(through),
                    ..
                },
            ) => self.devices.told_inbox(&who.device, *through),
            _ => {}
        }
    }

    /// Asks the hub one thing of the thin profile.
    pub(super) async fn ask(
        &self,
        origin: Origin,
        question: Question,
    ) -> Result<ThinReply, Refusal> {
        let name = question.name();
        match self
            .front
            .service
            .ask(origin, Command::Thin(question))
            .await?
        {
            Reply::Thin(reply) => Ok(reply),
            other => {
                tracing::error!(question = name, answer = ?other, "the hub gave another answer");
                Err(Refusal::internal())
            }
        }
    }

    /// An entry as the event it is. spec: thin-profile §8
    async fn whole_event(
        &self,
        origin: Origin,
        request: &Request,
        room: Alias,
        seq: Seq,
    ) -> Result<Outcome, Refusal> {
        let entry = self
            .ask(origin.clone(), Question::Entry { room, seq })
            .await?;
        let wanted = Question::Names(vec![(NameKind::Room, room)]);
        let names = self.ask(origin.clone(), wanted).await?;
        let (ThinReply::Entry(entry), ThinReply::Names(names)) = (entry, names) else {
            return Err(Refusal::internal());
        };
        let found = names.into_iter().next();
        let room_id = found.and_then(|name| OwnedRoomId::try_from(name.text).ok());
        let room_id = room_id.ok_or_else(|| Refusal::not_found("no room has this alias"))?;
        let event_id = matrix::event_id(EventHash(entry.id));
        let command = get_room_event::v3::Request::new(room_id, event_id);
        let reply = self
            .front
            .service
            .ask(origin, Command::Event(Box::new(command)));
        let answer = Answer::of(Ok(reply.await?));
        let event: Value = serde_json::from_slice(&answer.body).map_err(|error| {
            tracing::error!(%error, "an answer is not JSON");
            Refusal::internal()
        })?;
        Ok(Outcome::of(tagged(
            request,
            cbor::encode(&event, KeyForm::Integer),
        )))
    }
}

/// When to try again where too many wait.
const LATER_AGAIN: Duration = Duration::from_mins(10);

/// Records as an answer. spec: thin-profile §3
fn records_told(question: &Question, records: &[Record]) -> Outcome {
    let goes_on = matches!(question, Question::Inbox { after: Some(_), .. });
    if records.is_empty() && goes_on {
        return Outcome::of(Response::new(Code::VALID));
    }
    Outcome::of(whole(Code::CONTENT, encode_records(records)))
}

/// A body, with an `ETag` if it must travel in blocks: they have to be of one and the same answer.
pub(super) fn whole(code: Code, body: Vec<u8>) -> Response {
    let response = Response::new(code);
    let response = if body.len() > BLOCK_BYTES_MAX {
        response.option(number::ETAG, digest::<4>(&body))
    } else {
        response
    };
    with_body(response, body)
}

/// The largest block: what is longer comes in several.
const BLOCK_BYTES_MAX: usize = 1024;

/// A body that is known by its `ETag`; without the body where the device has it.
fn tagged(request: &Request, body: Vec<u8>) -> Response {
    let etag = digest::<8>(&body);
    let is_known = request.options.all(number::ETAG).any(|known| known == etag);
    if is_known {
        return Response::new(Code::VALID).option(number::ETAG, etag);
    }
    with_body(
        Response::new(Code::CONTENT).option(number::ETAG, etag),
        body,
    )
}

fn with_body(mut response: Response, body: Vec<u8>) -> Response {
    response.payload = body.into();
    response
}

/// The first bytes of SHA-256. spec: thin-profile §8
fn digest<const N: usize>(body: &[u8]) -> [u8; N] {
    let hash: [u8; 32] = Sha256::digest(body).into();
    *hash
        .first_chunk()
        .expect("an ETag is no longer than a hash")
}

/// A refusal as the thin profile has it. spec: thin-profile §3
pub(in crate::edge) fn refused(refusal: &Refusal, method: Code) -> Response {
    let mut response = Response::new(code_for_status(refusal.status, method)).saying(format!(
        "{} {}",
        refusal.code.errcode(),
        refusal.message
    ));
    if let Some(after) = refusal.retry_after {
        response.options.push_uint(number::MAX_AGE, seconds(after));
    }
    response
}

/// Rounded up: coming back early is a second refusal.
fn seconds(after: Duration) -> u32 {
    let seconds = after.as_millis().div_ceil(1000);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
