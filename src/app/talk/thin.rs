//! The verbs of a linked device: what the thin profile has resources for. The others go below `~`,
//! and are those of every client.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{
    Said,
    cost::Spent,
    files,
    happened::{self, Happened},
};
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
            door::aliases_of, places::elsewhere,
        },
    },
    wire::{
        cbor,
        thin::{
            Alias, Body, FIXED_EVENT_TYPES, LinkProfile, Membership, NameKind, Record, Shown,
            deflate::inflate,
        },
    },
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
    if let Err(Unsent::Kept(error @ ThinError::Unreachable { .. })) = flushed {
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
            let news = door.news().await.map_err(wrong)?;
            show(door, me, &news, format).await?;
            door.keep_places().map_err(wrong)?;
            end_of_sync(format)
        }
        ClientVerb::Status { room: None } => status(door, me).await?,
        ClientVerb::LinkClass {
            class,
            daily_kilobytes,
        } => link_class(door, *class, *daily_kilobytes).await?,
        ClientVerb::Upload {
            file,
            media_type,
            name,
        } => {
            let file = FileToSend {
                path: file,
                media_type: media_type.as_deref(),
                name: name.as_deref(),
            };
            files::upload(door, file, format).await?
        }
        ClientVerb::Download { uri, out } => files::download(door, uri, out, format).await?,
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
    let body = Body::Text(text.to_owned());
    let counter = door.queue(room, body).map_err(wrong)?;
    let flushed = flush(door, Some(counter), format).await;
    if format == Format::Json && door.has_waiting(counter) {
        // For a program that would send it again.
        format.print("", &sent(door, room, counter, None))?;
    }
    match flushed {
        Ok(Some(seq)) => Ok(Said::one(
            format!("sent: number {seq} of {}", visible(room)),
            sent(door, room, counter, Some(seq)),
        )),
        Ok(None) => Err(Failure::failed("QUEUE", "the message is not in the queue")),
        Err(Unsent::Refused(failure)) => Err(failure),
        Err(Unsent::Kept(error)) => {
            let waiting = door.waiting();
            let reason = format!(
                "{error}; it is kept, and will be sent once by the next client call: do not send it again ({waiting} waiting)"
            );
            Err(Failure::failed("QUEUED", reason))
        }
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

/// What a program has to hear as well, and will find on stderr.
fn tell(format: Format, text: &str) {
    match format {
        Format::Text => output::note(text),
        Format::Json => output::note(&json!({ "note": text }).to_string()),
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
            .map_err(|error| Failure::usage("FROM", format!("{before:?}: {error}")))?
            .saturating_sub(1),
    };
    let from = through.saturating_sub(u64::from(limit)).saturating_add(1);
    let records = door.log(alias, from, through).await.map_err(wrong)?;
    show(door, me, &records, format).await?;
    if from > 1 {
        let end = json!({ "end": from.to_string() });
        format.print(&format!("-- older: --from {from}"), &end)?;
    }
    Ok(Said::Lines)
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
        () = interrupts.next() => return Ok(Said::Lines),
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
                    shown = show(door, me, &records, format) => shown?,
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
            Some(Event::Silent) => tell(format, "-- the hub does not answer; trying on"),
            Some(Event::Back) => tell(format, "-- the hub answers again"),
            Some(Event::Answered { .. } | Event::Hint(_)) => {}
        }
    }
    door.unfollow().await.map_err(wrong)?;
    Ok(match within {
        Some(_) => end_of_sync(format),
        None => Said::Lines,
    })
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

async fn status(door: &mut ThinDoor, me: &Credentials) -> Result<Said, Failure> {
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
    let text = [
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
        format!(
            "this question cost: {} bytes up, {} down",
            spent.up, spent.down
        ),
    ];
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
        json!({"day": null, "operation": "", "times": null, "bytes_up": total.up, "bytes_down": total.down,
            "datagrams_up": total.datagrams_up, "datagrams_down": total.datagrams_down,
            "wakeups": total.wakeups}),
    ))
}

/// Prints records, with the names they speak of.
async fn show(
    door: &mut ThinDoor,
    me: &Credentials,
    records: &[Record],
    format: Format,
) -> Result<(), Failure> {
    door.learn(&aliases_of(records)).await.map_err(wrong)?;
    if records.iter().any(is_title) {
        door.forget_titles().map_err(wrong)?;
    }
    let now = SystemClock::new().now();
    let mut room_before = None;
    for record in records {
        let record = whole(door, record, format).await?;
        let Some((text, json)) = told(door, me, &record, now) else {
            continue;
        };
        if format == Format::Text && record.room != room_before {
            room_before = record.room;
            output::line(&visible(&room_of(door, &record)))?;
        }
        format.print(&format!("  {text}"), &json)?;
    }
    Ok(())
}

/// The entry itself, where its record says only that it is large.
async fn whole(door: &mut ThinDoor, record: &Record, format: Format) -> Result<Record, Failure> {
    let Shown::Entry {
        seq,
        sender,
        age,
        body: Body::TooLarge { size, .. },
        ..
    } = record.what
    else {
        return Ok(record.clone());
    };
    let Some(room) = record.room else {
        return Ok(record.clone());
    };
    note(format, &format!("-- fetching an entry of {size} bytes"));
    let answer = door.ask("entry", Ask::Entry { room, seq }).await;
    let Answer::Entry(entry) = answer.map_err(wrong)? else {
        return Err(wrong(ThinError::OtherAnswer));
    };
    let what = Shown::Entry {
        seq,
        sender,
        age,
        target: entry.target,
        counter: entry.counter,
        body: entry.body,
    };
    Ok(Record {
        room: record.room,
        what,
    })
}

fn room_of(door: &ThinDoor, record: &Record) -> String {
    if let Shown::Entry { body, .. } = &record.what
        && let Some((room, _)) = elsewhere(body)
    {
        return room.to_owned();
    }
    let alias = record.room.unwrap_or_default();
    name(door, NameKind::Room, alias)
}

fn name(door: &ThinDoor, kind: NameKind, alias: Alias) -> String {
    let fixed = usize::try_from(alias)
        .ok()
        .and_then(|at| FIXED_EVENT_TYPES.get(at))
        .filter(|_| kind == NameKind::EventType);
    match (fixed, door.state().name(kind, alias)) {
        (Some(fixed), _) => (*fixed).to_owned(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => format!("(number {alias})"),
    }
}

/// A record for a person and for a program; none where it says nothing to either.
fn told(
    door: &ThinDoor,
    me: &Credentials,
    record: &Record,
    now: Timestamp,
) -> Option<(String, Json)> {
    let user = |alias| match alias {
        0 => me.user_id.clone(),
        alias => name(door, NameKind::User, alias),
    };
    let room_id = room_of(door, record);
    match &record.what {
        Shown::Entry {
            seq,
            sender,
            age,
            target,
            body,
            ..
        } => {
            let at = Timestamp(now.0.saturating_sub(age.saturating_mul(1000)));
            let sender = user(*sender);
            if let Some((room, content)) = elsewhere(body) {
                return Some(told_elsewhere(me, (room, content), &sender, at));
            }
            let words = words(door, body, &user);
            let about = target.map_or(String::new(), |target| format!(" (to {target})"));
            let text = format!("{} {seq} {}{about}{words}", at.rfc3339(), visible(&sender));
            let (event_type, state_key, content) = event_of(door, body, &user);
            let happened = Happened {
                room_id: room_id.into(),
                seq: (*seq).into(),
                sender: sender.into(),
                at_ms: at.0.into(),
                event_type,
                state_key,
                content,
                target_seq: (*target).into(),
                ..Happened::default()
            };
            let json = happened.json();
            Some((text, json))
        }
        Shown::Receipt { seq, user: who } => {
            let who = user(*who);
            let text = format!("{} has read up to {seq}", visible(&who));
            let json = happened::receipt(&room_id, Json::Null, (*seq).into(), &who);
            Some((text, json))
        }
        Shown::Typing(who) => {
            let who: Vec<_> = who.iter().map(|one| user(*one)).collect();
            let shown = visible(&who.join(", "));
            let json = happened::typing(&room_id, &who.into());
            Some((format!("typing: {shown}"), json))
        }
        Shown::Covered { .. } => None,
    }
}

/// What the user is to a room that the hub is not in.
fn told_elsewhere(
    me: &Credentials,
    (room, content): (&str, &[u8]),
    sender: &str,
    at: Timestamp,
) -> (String, Json) {
    let content = content_of(content, false);
    let said = |name: &str| visible(content[name].as_str().unwrap_or_default());
    let (membership, title) = (said("membership"), said("name"));
    let (time, who, id) = (at.rfc3339(), visible(sender), visible(room));
    let text = match membership.as_str() {
        "invite" => {
            format!("{time} {who} invites you into {id} \"{title}\": `join` it, or `leave` it")
        }
        membership => format!("{time} {who}: {membership}, {id}"),
    };
    let happened = Happened {
        room_id: room.into(),
        sender: sender.into(),
        at_ms: at.0.into(),
        event_type: "m.room.member".into(),
        state_key: me.user_id.as_str().into(),
        content,
        ..Happened::default()
    };
    (text, happened.json())
}

fn words(door: &ThinDoor, body: &Body, user: &dyn Fn(Alias) -> String) -> String {
    let event = |event_type: Alias, content: &[u8], deflated: bool, verb: &str| {
        let event_type = name(door, NameKind::EventType, event_type);
        let content = content_of(content, deflated).to_string();
        format!(" {verb} {} {}", visible(&event_type), visible(&content))
    };
    match body {
        Body::Text(text) | Body::Notice(text) => format!(": {}", visible(text)),
        Body::Emote(text) => format!(" {}", visible(text)),
        Body::Reaction(text) => format!(" reacted with {}", visible(text)),
        Body::Redaction(text) => format!(" redacted it: {}", visible(text)),
        Body::MlsElided(_) | Body::MlsWhole(_) => ": (encrypted)".to_owned(),
        Body::Event {
            event_type,
            content,
            deflated,
        } => event(*event_type, content, *deflated, "sent"),
        Body::State {
            event_type,
            content,
            deflated,
            ..
        } => event(*event_type, content, *deflated, "set"),
        Body::Member {
            user: whose,
            membership,
            ..
        } => format!(
            ": {} of {}",
            membership_name(*membership),
            visible(&user(*whose))
        ),
        Body::TooLarge { size, .. } => format!(": (an entry of {size} bytes)"),
    }
}

/// Type, state key and content, as they are in the event that this is.
fn event_of(door: &ThinDoor, body: &Body, user: &dyn Fn(Alias) -> String) -> (Json, Json, Json) {
    let message = |kind: &str, text: &str| {
        let content = json!({"msgtype": kind, "body": text});
        ("m.room.message".into(), Json::Null, content)
    };
    let event_type = |alias: Alias| Json::from(name(door, NameKind::EventType, alias));
    match body {
        Body::Text(text) => message("m.text", text),
        Body::Notice(text) => message("m.notice", text),
        Body::Emote(text) => message("m.emote", text),
        Body::Reaction(key) => {
            let relation = json!({"rel_type": "m.annotation", "key": key});
            let content = json!({ "m.relates_to": relation });
            ("m.reaction".into(), Json::Null, content)
        }
        Body::Redaction(reason) => {
            let content = json!({ "reason": reason });
            ("m.room.redaction".into(), Json::Null, content)
        }
        Body::MlsElided(bytes) | Body::MlsWhole(bytes) => {
            let content = json!({ "mls": hex::encode(bytes) });
            ("m.room.encrypted".into(), Json::Null, content)
        }
        Body::Event {
            event_type: alias,
            content,
            deflated,
        } => (
            event_type(*alias),
            Json::Null,
            content_of(content, *deflated),
        ),
        Body::State {
            event_type: alias,
            state_key,
            content,
            deflated,
        } => (
            event_type(*alias),
            state_key.as_str().into(),
            content_of(content, *deflated),
        ),
        Body::Member {
            user: whose,
            membership,
            display_name,
        } => {
            let mut content = json!({"membership": membership_name(*membership)});
            if let (false, Some(content)) = (display_name.is_empty(), content.as_object_mut()) {
                let name = display_name.as_str().into();
                content.insert("displayname".to_owned(), name);
            }
            ("m.room.member".into(), user(*whose).into(), content)
        }
        Body::TooLarge { size, .. } => (Json::Null, Json::Null, json!({ "bytes": size })),
    }
}

fn content_of(content: &[u8], deflated: bool) -> Json {
    let inflated = if deflated {
        inflate(content).unwrap_or_default()
    } else {
        content.to_vec()
    };
    cbor::decode(&inflated).map_or(Json::Null, |body| body.value)
}

/// Whether it says what a room is called.
fn is_title(record: &Record) -> bool {
    let Shown::Entry {
        body: Body::State { event_type, .. },
        ..
    } = &record.what
    else {
        return false;
    };
    let event_type = usize::try_from(*event_type).ok();
    let event_type = event_type.and_then(|at| FIXED_EVENT_TYPES.get(at));
    event_type.is_some_and(|fixed| ["m.room.name", "m.room.canonical_alias"].contains(fixed))
}

const fn membership_name(membership: Membership) -> &'static str {
    match membership {
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
        Membership::Knock => "knock",
    }
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
    };
    Failure::failed(code, error)
}
