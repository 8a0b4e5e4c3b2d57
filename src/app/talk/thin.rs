//! The verbs of a linked device: what the thin profile has resources for. The others go below `~`,
//! and are those of every client.

mod show;

use std::time::Duration;

use serde_json::{Value as Json, json};

use self::show::{From, show};
use super::{Said, cost::Spent, files, happened};
use crate::{
    app::{
        cli::{ClientVerb, LinkClass},
        clock::SystemClock,
        failure::Failure,
        output::{self, Format, visible},
        signals::Interrupts,
    },
    base::{Clock as _, Timestamp},
    client::{
        ClientError, Credentials,
        quic::QuicError,
        thin::{
            Answer, Ask, Event, FileToSend, StateError, ThinDoor, ThinError, agree::AgreeError,
        },
    },
    wire::thin::{Body, LinkProfile, Record, Shown},
};

/// Does the verbs that the thin profile has; none for the others.
pub(super) async fn verb(
    door: &mut ThinDoor,
    me: &Credentials,
    verb: &ClientVerb,
    (format, wants_cost): (Format, bool),
) -> Result<Option<Said>, Failure> {
    let before = door.door().0;
    let said = verb_by(door, me, verb, (format, wants_cost)).await;
    if said.is_ok() && !matches!(verb, ClientVerb::Sync { .. }) {
        tell_other_way(door, before, format);
    }
    said
}

/// Says that another door was taken than the one that was meant: it costs more.
fn tell_other_way(door: &ThinDoor, before: &str, format: Format) {
    if (before, door.door().0) == ("oscore", "quic") {
        note(format, "-- over QUIC, as OSCORE does not get through");
    }
}

async fn verb_by(
    door: &mut ThinDoor,
    me: &Credentials,
    verb: &ClientVerb,
    (format, wants_cost): (Format, bool),
) -> Result<Option<Said>, Failure> {
    if let ClientVerb::Ledger = verb {
        return ledger(door, format).map(Some);
    }
    if let ClientVerb::Send { room, text, txn } = verb {
        if txn.is_some() {
            let reason = "a linked device numbers its messages itself: leave --txn out";
            return Err(Failure::usage("TXN", reason));
        }
        return send(door, room, text, format).await.map(Some);
    }
    // What still waits, waits. But behind what got no answer, the verb would wait for the slow timers of
    // the link.
    let flushed = flush(door, None, format).await;
    if let Err(Unsent::Kept(error @ (ThinError::Unreachable { .. } | ThinError::Unlinked { .. }))) =
        flushed
    {
        return Err(wrong(error));
    }
    Ok(Some(match verb {
        ClientVerb::Read { room, limit, from } => {
            read(door, me, (room, *limit, from.as_deref()), format).await?
        }
        ClientVerb::Sync { since: Some(_), .. } => {
            let reason = "a linked device knows itself how far it has got: leave --since out";
            return Err(Failure::usage("SINCE", reason));
        }
        ClientVerb::Sync { follow: true, .. } => {
            follow(door, me, None, (format, wants_cost)).await?
        }
        ClientVerb::Sync { timeout, .. } if *timeout > Duration::ZERO => {
            follow(door, me, Some(*timeout), (format, wants_cost)).await?
        }
        ClientVerb::Sync { .. } => {
            let is_first = door.state().inbox.is_none();
            let news = door.news().await.map_err(wrong)?;
            show(door, me, (&news, From::News), format).await?;
            if news.is_empty() && is_first {
                note(format, "-- from here on: `read ROOM` has what was before");
            } else if news.is_empty() {
                note(format, "-- nothing new");
            }
            door.keep_places().map_err(wrong)?;
            end_of_sync(format)
        }
        ClientVerb::Status { room: None } => status(door, me, wants_cost).await?,
        ClientVerb::LinkClass {
            class,
            daily_kilobytes,
        } => link_class(door, *class, *daily_kilobytes).await?,
        ClientVerb::Upload {
            file,
            media_type,
            name,
            beyond_limit,
        } => {
            door.keep_to_limit(!*beyond_limit);
            let file = FileToSend {
                path: file,
                media_type: media_type.as_deref(),
                name: name.as_deref(),
            };
            files::upload(door, file, format).await?
        }
        ClientVerb::Download {
            uri,
            out,
            beyond_limit,
        } => {
            door.keep_to_limit(!*beyond_limit);
            files::download(door, uri, out, format).await?
        }
        _ => return Ok(None),
    }))
}

/// Queues a message, then sends all that waits.
async fn send(
    door: &mut ThinDoor,
    room: &str,
    text: &str,
    format: Format,
) -> Result<Said, Failure> {
    door.must_be_linked().map_err(never_sent)?;
    let body = Body::Text(text.to_owned());
    let counter = door.queue(room, body).map_err(wrong)?;
    let flushed = flush(door, Some(counter), format).await;
    if let Err(Unsent::Kept(error @ ThinError::Unlinked { .. })) = flushed {
        door.take_back(counter).map_err(wrong)?;
        return Err(never_sent(error));
    }
    if format == Format::Json && door.has_waiting(counter) {
        // For a program that would send it again.
        let mut queued = sent(door, room, counter, None);
        if let Some(queued) = queued.as_object_mut() {
            queued.insert("cost".to_owned(), Spent::of(door).json());
        }
        format.print("", &queued)?;
    }
    match flushed {
        Ok(Some(seq)) => Ok(Said::one(
            format!("sent: number {seq} of {}", visible(room)),
            sent(door, room, counter, Some(seq)),
        )),
        Ok(None) => Err(Failure::failed("QUEUE", "the message is not in the queue")),
        Err(Unsent::Refused(failure)) => Err(failure),
        Err(Unsent::Kept(error)) => {
            let reason = kept(&error, door.waiting());
            Err(Failure::failed("QUEUED", reason))
        }
    }
}

/// What becomes of a message that waits.
fn kept(error: &ThinError, waiting: usize) -> String {
    let when = if error.is_temporary() || error.is_unheard() {
        "will be sent once by the next client call"
    } else {
        "will be sent once by a later client call, when that has been mended"
    };
    format!("{error}; it is kept, and {when}: do not send it again ({waiting} waiting)")
}

/// The hub does not know this device, which keeps nothing that it can never send.
fn never_sent(error: ThinError) -> Failure {
    match error {
        ThinError::Unlinked { .. } => Failure::failed(
            "UNLINKED",
            format!("{error}; the message was not sent, and is not kept"),
        ),
        error => wrong(error),
    }
}

/// Why a message was not sent.
enum Unsent {
    /// The hub does not want it.
    Refused(Failure),
    /// It waits.
    Kept(ThinError),
}

/// What became of a message, or that it waits.
fn sent(door: &ThinDoor, room: &str, counter: u64, seq: Option<u64>) -> Json {
    // What another name of a room stands for is not told to a device that only sends there.
    let room_id = room.starts_with('!').then_some(room);
    json!({"room_id": room_id, "event_id": null, "txn": null, "seq": seq, "counter": counter,
        "queued": seq.is_none(), "waiting": door.waiting()})
}

/// Sends what waits, and says what became of each; gives the place of the one wanted.
async fn flush(
    door: &mut ThinDoor,
    wanted: Option<u64>,
    format: Format,
) -> Result<Option<u64>, Unsent> {
    if door.waiting() == 0 {
        return Ok(None);
    }
    let (flushed, ended) = door.flush().await;
    let mut place = None;
    let mut refused = None;
    for one in flushed {
        let room = visible(&one.room);
        match one.outcome {
            Ok(seq) if wanted == Some(one.counter) => place = Some(seq),
            Err(error) if wanted == Some(one.counter) => {
                refused = Some(failed(&ThinError::Ask(error)));
            }
            Ok(seq) => note(
                format,
                &format!("-- sent what waited: number {seq} of {room}"),
            ),
            Err(error) => note(
                format,
                &format!("-- what waited for {room} was refused, and is gone: {error}"),
            ),
        }
    }
    match (refused, ended) {
        (Some(refused), _) => Err(Unsent::Refused(refused)),
        (None, Ok(())) => Ok(place),
        (None, Err(_)) if place.is_some() => Ok(place),
        (None, Err(error)) => Err(Unsent::Kept(error)),
    }
}

fn note(format: Format, text: &str) {
    match format {
        Format::Text => output::note(text),
        Format::Json => tracing::info!("{text}"),
    }
}

async fn read(
    door: &mut ThinDoor,
    me: &Credentials,
    (room, limit, before): (&str, u32, Option<&str>),
    format: Format,
) -> Result<Said, Failure> {
    let alias = door.room(room).await.map_err(wrong)?;
    let through = match before {
        None => door.head(alias).await.map_err(wrong)?,
        Some(before) => before
            .parse::<u64>()
            .map_err(|_| Failure::usage("FROM", no_place(before)))?
            .saturating_sub(1),
    };
    let from = through.saturating_sub(u64::from(limit)).saturating_add(1);
    let records = door.log(alias, from, through).await.map_err(wrong)?;
    show(door, me, (&records, From::Page), format).await?;
    if records.is_empty() && through <= 1 {
        // Of a room that was joined elsewhere the first number is that of no entry.
        note(format, "-- nothing older is shown here");
    } else if records.is_empty() {
        note(format, "-- nothing that you may read here");
    }
    if let Some(ended) = show::ended_in(door, me, &records).filter(|_| before.is_none()) {
        output::tell(format, &ended);
    }
    if show::begins_elsewhere(door, me, &records) {
        note(format, ELSEWHERE);
    } else if from > 1 {
        let end = json!({ "end": from.to_string() });
        format.print(&format!("-- older: --from {from}"), &end)?;
    }
    Ok(Said::Lines)
}

/// What was said before the hub came into a room has no number in the thin profile.
const ELSEWHERE: &str =
    "-- older messages are at another server: read them over HTTPS (a session: --login)";

fn no_place(given: &str) -> String {
    format!("--from {given:?} is no entry's number: an earlier `read` prints it as its last line")
}

/// Prints what comes until it is interrupted, or the time is over.
async fn follow(
    door: &mut ThinDoor,
    me: &Credentials,
    within: Option<Duration>,
    (format, wants_cost): (Format, bool),
) -> Result<Said, Failure> {
    let clock = SystemClock::new();
    let until = within.map(|within| clock.now() + within);
    // Listened to all along: what comes while news are printed must end this, too.
    let mut interrupts = Interrupts::listen()?;
    let before = door.door().0;
    tokio::select! {
        biased;
        () = interrupts.next() => return Ok(end_of_sync(format)),
        followed = door.follow() => followed.map_err(wrong)?,
    }
    tell_other_way(door, before, format);
    let mut spent = Spent::of(door);
    loop {
        let event = tokio::select! {
            biased;
            () = interrupts.next() => None,
            event = door.turn(until) => event.map_err(wrong)?,
        };
        match event {
            None => {
                door.keep_places().map_err(wrong)?;
                break;
            }
            Some(Event::News(records)) => {
                tokio::select! {
                    biased;
                    shown = show(door, me, (&records, From::News), format) => shown?,
                    // What was cut short is told again the next time.
                    () = interrupts.next() => break,
                }
                // Printed first: after a crash it is rather told twice than never.
                door.keep_places().map_err(wrong)?;
                let now = Spent::of(door);
                if within.is_none() {
                    end_of_batch(&now.since(&spent), wants_cost, format)?;
                }
                spent = now;
                // Who waits does not wait for receipts and typing.
                let is_entry = |record: &Record| matches!(record.what, Shown::Entry { .. });
                if within.is_some() && records.iter().any(is_entry) {
                    break;
                }
            }
            Some(Event::Unfollowed(error)) => return Err(wrong(error.into())),
            Some(Event::Silent) => output::tell(format, "-- the hub does not answer; trying on"),
            Some(Event::Back) => output::tell(format, "-- the hub answers again"),
            Some(Event::Answered { .. } | Event::Hint(_)) => {}
        }
    }
    door.unfollow().await.map_err(wrong)?;
    Ok(end_of_sync(format))
}

/// The last line of a sync, for programs: where it goes on is the device's to know.
fn end_of_sync(format: Format) -> Said {
    match format {
        Format::Text => Said::Lines,
        Format::Json => Said::one("", happened::end_of_sync(Json::Null)),
    }
}

fn end_of_batch(round: &Spent, wants_cost: bool, format: Format) -> Result<(), Failure> {
    match format {
        Format::Text if wants_cost => output::note(&round.line()),
        Format::Text => {}
        Format::Json => {
            let mut end = happened::end_of_sync(Json::Null);
            if let (true, Some(end)) = (wants_cost, end.as_object_mut()) {
                end.insert("cost".to_owned(), round.json());
            }
            format.print("", &end)?;
        }
    }
    Ok(())
}

/// `wants_cost` has the cost told anyway.
async fn status(door: &mut ThinDoor, me: &Credentials, wants_cost: bool) -> Result<Said, Failure> {
    let answer = door.ask("hello", Ask::Hello).await.map_err(wrong)?;
    let Answer::Hello(hello) = answer else {
        return Err(wrong(ThinError::OtherAnswer));
    };
    let (spent, state) = (door.spent(), door.state());
    let (name, address) = door.door();
    let nat = state.nat.measured().map(|nat| nat.as_secs());
    let today = SystemClock::new().now();
    let used = door.book().on(today);
    let limit = state.link().daily_kilobytes;
    let mut text = vec![
        format!("user: {}", visible(&me.user_id)),
        format!("device: {}", visible(&me.device_id)),
        format!("door: {name}, {address}"),
        format!("hub's time: {}", Timestamp(hello.time_ms).rfc3339()),
        format!("link class: {}", LinkClass::name_of(state.link().class)),
        match limit {
            0 => "daily limit: none".to_owned(),
            limit => format!(
                "daily limit: {limit} kB, of which this device has counted {}.{} today",
                used / 1000,
                used % 1000 / 100
            ),
        },
        nat.map_or_else(
            || "NAT timer: not measured yet".to_owned(),
            |nat| format!("NAT timer: {nat} s"),
        ),
        format!("waiting to be sent: {}", door.waiting()),
    ];
    if !wants_cost {
        text.push(format!(
            "this question cost: {} bytes up, {} down",
            spent.up, spent.down
        ));
    }
    Ok(Said::one(
        text.join("\n"),
        json!({"user_id": me.user_id, "device_id": me.device_id, "door": name,
            "address": address.to_string(), "hub_time_ms": hello.time_ms,
            "link_class": LinkClass::name_of(state.link().class), "daily_kilobytes": limit,
            "bytes_today": used, "nat_timer_s": nat, "waiting": door.waiting(),
            "bytes_up": spent.up, "bytes_down": spent.down}),
    ))
}

async fn link_class(
    door: &mut ThinDoor,
    class: LinkClass,
    daily_kilobytes: Option<u64>,
) -> Result<Said, Failure> {
    // Both go in one question; what is not said stays.
    let daily_kilobytes = daily_kilobytes.unwrap_or_else(|| door.state().link().daily_kilobytes);
    let link = LinkProfile {
        class: class.number(),
        daily_kilobytes,
    };
    door.set_link(link).await.map_err(wrong)?;
    let name = LinkClass::name_of(link.class);
    let limit = match daily_kilobytes {
        0 => "no daily limit".to_owned(),
        kilobytes => format!("{kilobytes} kB a day"),
    };
    Ok(Said::one(
        format!("link class: {name}, {limit}"),
        json!({"link_class": name, "daily_kilobytes": daily_kilobytes}),
    ))
}

fn ledger(door: &ThinDoor, format: Format) -> Result<Said, Failure> {
    let book = door.book();
    for (day, operation, line) in book.lines() {
        let day = day.rfc3339();
        let day = day.split('T').next().unwrap_or_default();
        let text = format!(
            "{day}  {operation:<14} {:>6} times  {:>8} bytes up  {:>8} down  {:>6} datagrams  {:>5} wake-ups",
            line.times,
            line.up,
            line.down,
            line.datagrams_up + line.datagrams_down,
            line.wakeups
        );
        let json = json!({"day": day, "operation": operation, "times": line.times,
            "bytes_up": line.up, "bytes_down": line.down, "datagrams_up": line.datagrams_up,
            "datagrams_down": line.datagrams_down, "wakeups": line.wakeups});
        format.print(&text, &json)?;
    }
    let total = book.total();
    let text = format!(
        "total: {} bytes up, {} down, {} wake-ups; IP and UDP headers included",
        total.up, total.down, total.wakeups
    );
    Ok(Said::one(
        text,
        json!({"day": null, "operation": null, "times": null, "bytes_up": total.up, "bytes_down": total.down,
            "datagrams_up": total.datagrams_up, "datagrams_down": total.datagrams_down,
            "wakeups": total.wakeups}),
    ))
}

pub(super) fn wrong(error: ThinError) -> Failure {
    super::failed(ClientError::from(error))
}

/// The stable code of what went wrong at this end.
pub(super) fn failed(error: &ThinError) -> Failure {
    let code = match error {
        ThinError::Ask(crate::client::thin::AskError::Refused { errcode, text, .. }) => {
            return Failure::failed(errcode, text);
        }
        ThinError::Unreachable { .. }
        | ThinError::Ask(_)
        | ThinError::Agree(AgreeError::Unanswered(_)) => "UNREACHABLE",
        ThinError::Restored => "RESTORED",
        ThinError::State(StateError::Locked { .. }) => "IN_USE",
        ThinError::State(StateError::Gone { .. } | StateError::OtherLink { .. }) => "STATE_GONE",
        ThinError::State(StateError::Full { .. }) => "FULL",
        ThinError::State(StateError::TooLong { .. }) => "M_TOO_LARGE",
        ThinError::State(_) => "STATE",
        ThinError::Stranger { .. } | ThinError::Exhausted | ThinError::Agree(_) => "CONTEXT",
        ThinError::Unlinked { .. } => "UNLINKED",
        ThinError::NoDoor | ThinError::NotThisDoor { .. } => {
            return Failure::usage("CREDENTIALS", error);
        }
        ThinError::OtherAnswer => "BAD_ANSWER",
        ThinError::Quic(QuicError::File(_)) | ThinError::File { .. } => "FILE",
        ThinError::Quic(_) => "QUIC",
        ThinError::NeedsQuic { .. } => "NEEDS_QUIC",
        ThinError::BrokeOff { .. } => "BROKE_OFF",
        ThinError::BeyondLimit { .. } => "DAILY_LIMIT",
    };
    Failure::failed(code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_sent_is_not_said_to_be_kept() {
        let at = "coap://127.0.0.1:5683".to_owned();
        let said = never_sent(ThinError::Unlinked { at: at.clone() }).to_string();
        assert!(said.starts_with("error[UNLINKED]: "), "{said}");
        assert!(
            said.ends_with("; the message was not sent, and is not kept"),
            "{said}"
        );
        let said = kept(&ThinError::Stranger { at: at.clone() }, 1);
        assert!(said.contains("when that has been mended"), "{said}");
        let reason = "nobody listens there".to_owned();
        let said = kept(&ThinError::Unreachable { at, reason }, 1);
        assert!(said.contains("sent once by the next client call"), "{said}");
    }

    #[test]
    fn a_file_that_oscore_does_not_carry_is_told_with_its_size_the_limit_and_why() {
        let needs = |bytes, max| {
            let why = "--door oscore was chosen".to_owned();
            failed(&ThinError::NeedsQuic { bytes, max, why }).to_string()
        };
        assert_eq!(
            needs(Some(300_000), 262_144),
            "error[NEEDS_QUIC]: the file has 300000 bytes, and over OSCORE one has at most 262144 \
             (256 KiB): --door oscore was chosen"
        );
        assert!(
            needs(None, 8_388_608)
                .contains("the file has more, and over OSCORE one has at most 8388608 (8 MiB)")
        );
    }
}
