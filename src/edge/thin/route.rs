//! What a request of the thin profile asks, by its path, method and body. spec: thin-profile §3

use std::time::Duration;

use http::Uri;

use super::Watch;
use crate::{
    api::{Code as Refused, Refusal, Thin},
    base::Seq,
    session::coap::Request,
    wire::{
        coap::{Code, options::number as option},
        thin::{
            Alias, Draft, LinkProfile, ThinError, decode_named, decode_numbers, decode_wanted,
            number,
        },
    },
};

/// A request that means something.
#[derive(Debug)]
pub(super) enum Asked {
    /// What the desk answers.
    Thin(Thin),
    /// An entry as the event it is, in CBOR.
    WholeEvent { room: Alias, seq: Seq },
    /// What this device's traffic cost.
    Ledger,
    /// An answer after a while, for who looks for the NAT's timer.
    Later(Duration),
    /// MSC3079: the request without the `~`.
    Rest(Box<Request>),
}

/// The bytes of an answer when the request names none. spec: thin-profile §7
const BYTES_DEFAULT: u32 = 1024;

/// The ceiling, with block-wise transfer. spec: thin-profile §7
const BYTES_MAX: u64 = 65_536;

/// Less would not hold a record of kind 12 and one of kind 15. spec: thin-profile §7
pub(super) const BYTES_MIN: u64 = 64;

/// The latest answer: well before the time after which a CoAP machine gives a request up.
const LATER_MAX: Duration = Duration::from_mins(5);

/// The longest URL of a wake hook, in bytes: push services stay below half of it.
const WAKE_URL_BYTES_MAX: usize = 1024;

/// What a request asks.
pub(super) fn asked(request: &Request) -> Result<Asked, Refusal> {
    let segments: Vec<&str> = request.options.path().collect();
    let (method, body) = (request.method, &request.payload[..]);
    let thin = match (segments.as_slice(), method) {
        ([], Code::GET) => Thin::Hello,
        (["*"], Code::FETCH) => inbox(body)?,
        (["@"], Code::FETCH) => Thin::Names(decode_wanted(body).map_err(ill("the names"))?),
        (["@"], Code::POST) => {
            let (kind, text) = decode_named(body).map_err(ill("the name"))?;
            Thin::Alias { kind, text }
        }
        (["="], Code::PUT) => {
            Thin::LinkProfile(LinkProfile::decode(body).map_err(ill("the link profile"))?)
        }
        (["^"], Code::PUT) => Thin::WakeHook(wake_url(body)?),
        (["$"], Code::GET) => return Ok(Asked::Ledger),
        (["?"], Code::FETCH) => return later(body).map(Asked::Later),
        (["~", ..], _) => return Ok(Asked::Rest(Box::new(without_tilde(request)))),
        ([] | ["*" | "@" | "=" | "^" | "$" | "?"], _) => return Err(wrong_method()),
        ([room, rest @ ..], _) => {
            let room = number::of_segment(room).ok_or_else(unknown_path)?;
            return in_room(room, rest, request);
        }
    };
    Ok(Asked::Thin(thin))
}

/// The watch that a request asks for, if it is a FETCH that can be observed.
pub(super) fn watched(request: &Request) -> Result<Watch, Refusal> {
    match asked(request)? {
        Asked::Thin(thin) => watch_of(&thin).ok_or_else(not_observable),
        _ => Err(not_observable()),
    }
}

/// The watch that begins where a question begins.
pub(super) fn watch_of(thin: &Thin) -> Option<Watch> {
    match *thin {
        Thin::Log {
            room,
            from,
            bytes_max,
        } => Some(Watch::Room {
            room,
            from,
            bytes_max,
            class: 0,
        }),
        Thin::Inbox { after, bytes_max } => Some(Watch::Inbox {
            after,
            bytes_max,
            class: 0,
        }),
        _ => None,
    }
}

fn in_room(room: Alias, rest: &[&str], request: &Request) -> Result<Asked, Refusal> {
    let body = &request.payload[..];
    let thin = match (rest, request.method) {
        ([], Code::POST) => Thin::Append {
            room,
            draft: Draft::decode(body).map_err(ill("the draft"))?,
        },
        ([], Code::FETCH) => log(room, body)?,
        ([], Code::PUT) => match decode_numbers(body, 1).map_err(ill("the receipt"))?[..] {
            [seq] => Thin::Read {
                room,
                seq: Seq(seq),
            },
            _ => return Err(Refusal::invalid_param("the receipt: a seq is missing")),
        },
        (["!"], Code::PUT) => match *body {
            [seconds] => Thin::Typing { room, seconds },
            _ => return Err(Refusal::invalid_param("typing: the body is one byte")),
        },
        ([] | ["!"], _) => return Err(wrong_method()),
        ([seq], method) => {
            let seq = Seq(number::of_segment(seq).ok_or_else(unknown_path)?);
            return match (method, request.options.accept()) {
                (Code::GET, None) => Ok(Asked::Thin(Thin::Entry { room, seq })),
                (Code::GET, Some(CBOR)) => Ok(Asked::WholeEvent { room, seq }),
                (Code::GET, Some(_)) => Err(not_acceptable()),
                _ => Err(wrong_method()),
            };
        }
        _ => return Err(unknown_path()),
    };
    Ok(Asked::Thin(thin))
}

/// `application/cbor` as Accept and Content-Format.
pub(super) const CBOR: u16 = 60;

/// spec: thin-profile §11
fn later(body: &[u8]) -> Result<Duration, Refusal> {
    match decode_numbers(body, 1).map_err(ill("the seconds"))?[..] {
        [seconds] => Ok(Duration::from_secs(seconds).min(LATER_MAX)),
        _ => Err(Refusal::invalid_param("the seconds are missing")),
    }
}

fn log(room: Alias, body: &[u8]) -> Result<Thin, Refusal> {
    let numbers = decode_numbers(body, 2).map_err(ill("[from, max_bytes]"))?;
    let (from, bytes_max) = match numbers[..] {
        [from] => (from, BYTES_DEFAULT),
        [from, bytes_max] => (from, clamped(bytes_max)),
        _ => return Err(Refusal::invalid_param("[from, max_bytes]: from is missing")),
    };
    Ok(Thin::Log {
        room,
        from: Seq(from),
        bytes_max,
    })
}

fn inbox(body: &[u8]) -> Result<Thin, Refusal> {
    let numbers = decode_numbers(body, 3).map_err(ill("[room, seq, max_bytes]"))?;
    let (after, bytes_max) = match numbers[..] {
        [] => (None, BYTES_DEFAULT),
        [room, seq] => (Some((room, Seq(seq))), BYTES_DEFAULT),
        [room, seq, bytes_max] => (Some((room, Seq(seq))), clamped(bytes_max)),
        _ => {
            return Err(Refusal::invalid_param(
                "[room, seq, max_bytes]: seq is missing",
            ));
        }
    };
    Ok(Thin::Inbox { after, bytes_max })
}

fn clamped(bytes_max: u64) -> u32 {
    let clamped = bytes_max.clamp(BYTES_MIN, BYTES_MAX);
    u32::try_from(clamped).expect("the ceiling fits")
}

/// An `https` URL with a host and nothing secret in its authority. spec: thin-profile §12
fn wake_url(body: &[u8]) -> Result<Option<String>, Refusal> {
    if body.is_empty() {
        return Ok(None);
    }
    let refused = |why: &str| Refusal::invalid_param(format!("the wake hook {why}"));
    if body.len() > WAKE_URL_BYTES_MAX {
        return Err(refused(&format!(
            "has more than {WAKE_URL_BYTES_MAX} bytes"
        )));
    }
    let text = std::str::from_utf8(body).map_err(|_| refused("is not UTF-8"))?; // nobody needs the offset
    let uri: Uri = text.parse().map_err(|_| refused("is not a URL"))?; // it may hold a secret: not repeated
    if uri.scheme_str() != Some("https") {
        return Err(refused("must be an https URL"));
    }
    let authority = uri.authority().ok_or_else(|| refused("has no host"))?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(refused("must name a host and no user"));
    }
    Ok(Some(text.to_owned()))
}

/// The request under `~`: CBOR unless it says otherwise.
fn without_tilde(request: &Request) -> Request {
    let mut inner = Request::new(request.method, &[]);
    let path = request.options.all(option::URI_PATH).skip(1);
    let others = request.options.iter();
    let others = others.filter(|(number, _)| *number != option::URI_PATH);
    for (number, value) in path.map(|value| (option::URI_PATH, value)).chain(others) {
        inner.options.push(number, value);
    }
    if !inner.options.has(option::CONTENT_FORMAT) {
        inner
            .options
            .push_uint(option::CONTENT_FORMAT, u32::from(CBOR));
    }
    inner.payload = request.payload.clone();
    inner
}

fn ill(what: &'static str) -> impl Fn(ThinError) -> Refusal {
    move |error| Refusal::invalid_param(format!("{what}: {error}"))
}

fn unknown_path() -> Refusal {
    Refusal::new(Refused::Unrecognized, "nothing is served at this path")
}

fn wrong_method() -> Refusal {
    Refusal::new(Refused::Unrecognized, "this path does not take this method").with_status(405)
}

fn not_acceptable() -> Refusal {
    Refusal::invalid_param("an entry in full is plain, or CBOR with Accept 60").with_status(406)
}

fn not_observable() -> Refusal {
    Refusal::invalid_param("only FETCH of a room and of * can be observed")
}
