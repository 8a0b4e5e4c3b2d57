//! What a sync and a page must hold, worked out from the log.

use ruma::{
    OwnedEventId,
    api::client::{message::get_message_events::v3 as messages, sync::sync_events::v3 as sync},
    serde::Raw,
};
use serde_json::Value;
use tramline::{
    api::Command,
    base::Position,
    store::{Devices as _, Rooms as _},
};

use crate::{
    model::{Line, Model, What, now},
    world::{Person, World},
};

/// Compares a sync with the store, and takes it over when the device gets it.
///
/// `acked` is the commit of the newest event that was acknowledged before the sync was asked for.
pub(crate) fn check(
    world: &World,
    model: &mut Model,
    deed: usize,
    reply: &sync::Response,
    acked: Position,
) {
    let who = model.deeds[deed].who;
    let person = &world.people[who];
    let What::Sync { adopt } = model.deeds[deed].what else {
        return;
    };
    let Command::Sync(request) = &model.deeds[deed].command else {
        return;
    };
    let span = Span {
        since: request.since.as_deref().map(position),
        now: position(&reply.next_batch),
    };
    let mut wrong = Vec::new();
    if span.now < span.from() || span.now < acked {
        let since = span.from();
        wrong.push(format!(
            "is at {}, since {since}, acknowledged {acked}",
            span.now
        ));
    }
    for room in now(world.inner.memberships(&person.user, None)) {
        let section = reply.rooms.join.get(&room.room_id);
        let lines = model.log(&world.inner, &room.room_id);
        if let Err(what) = timeline(lines, person, span, section) {
            wrong.push(format!("{}: {what}", room.room_id));
        }
    }
    let told = mail(world, model, who, span, reply, &mut wrong);
    for what in wrong {
        model.say(deed, &what);
    }
    model.deeds[deed].done = true;
    if adopt {
        let device = &mut model.devices[who];
        device.since = Some(reply.next_batch.clone());
        device.position = span.now;
        device.mail.extend(told);
    }
}

#[derive(Clone, Copy)]
struct Span {
    since: Option<Position>,
    now: Position,
}

impl Span {
    fn from(self) -> Position {
        self.since.unwrap_or(Position::ZERO)
    }
}

/// Who was in the room all the while is told every event since, or the last of them and that there
/// are more; who has just come in ends up at the room's end.
fn timeline(
    lines: &[Line],
    person: &Person,
    span: Span,
    section: Option<&sync::JoinedRoom>,
) -> Result<(), String> {
    let upto = &lines[..lines.partition_point(|line| line.position <= span.now)];
    let new = &upto[upto.partition_point(|line| line.position <= span.from())..];
    let (old, _) = upto.split_at(upto.len() - new.len());
    let got: Vec<OwnedEventId> = section
        .map(|it| ids(&it.timeline.events))
        .unwrap_or_default();
    let stayed = span.since.is_some()
        && membership(old, person) == "join"
        && new.iter().all(|line| !is_about(line, person));
    if !stayed {
        let ends = got
            .last()
            .is_none_or(|last| upto.last().is_some_and(|line| line.id == *last));
        let joined = membership(upto, person) == "join";
        return match (joined, section) {
            (true, None) => Err("joined, and not told of it".to_owned()),
            (true, Some(_)) if !ends => Err(format!("ends with {:?}", got.last())),
            (false, Some(_)) => Err("told as joined, which it is not".to_owned()),
            _ => Ok(()),
        };
    }
    let expected: Vec<&OwnedEventId> = new.iter().map(|line| &line.id).collect();
    let limited = section.is_some_and(|it| it.timeline.limited);
    let skipped = expected.len().checked_sub(got.len());
    let right = skipped.is_some_and(|skipped| {
        (limited || skipped == 0) && expected[skipped..].iter().copied().eq(&got)
    });
    if right {
        return Ok(());
    }
    Err(format!(
        "{} to {}: expected {expected:?}, got {got:?}",
        span.from(),
        span.now
    ))
}

fn is_about(line: &Line, person: &Person) -> bool {
    line.member
        .as_ref()
        .is_some_and(|(user, _)| *user == person.user)
}

fn membership<'a>(lines: &'a [Line], person: &Person) -> &'a str {
    let last = lines.iter().rev().find(|line| is_about(line, person));
    last.and_then(|line| line.member.as_ref())
        .map_or("leave", |(_, membership)| membership)
}

/// Mail is told once, and stays in its box until the device says that it has it.
fn mail(
    world: &World,
    model: &Model,
    who: usize,
    span: Span,
    reply: &sync::Response,
    wrong: &mut Vec<String>,
) -> Vec<String> {
    let person = &world.people[who];
    let kept = world.inner.mail(
        &person.user,
        person.device.as_str(),
        Position::ZERO,
        span.now,
        9999,
    );
    let kept: Vec<Value> = now(kept)
        .iter()
        .map(|mail| serde_json::from_str(&mail.json).unwrap())
        .collect();
    let mut told: Vec<String> = Vec::new();
    for event in &reply.to_device.events {
        let event: Value = serde_json::from_str(event.json().get()).unwrap();
        let mark = event["content"]["mark"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if told.contains(&mark) || model.devices[who].mail.contains(&mark) {
            wrong.push(format!("{mark} was told again"));
        }
        if !kept.contains(&event) {
            wrong.push(format!("{mark} was told and is not kept"));
        }
        told.push(mark);
    }
    told
}

/// A page goes back through the log without a gap.
pub(crate) fn check_page(
    world: &World,
    model: &mut Model,
    deed: usize,
    reply: &messages::Response,
) {
    model.deeds[deed].done = true;
    let What::Page { room } = model.deeds[deed].what.clone() else {
        return;
    };
    let got = ids(&reply.chunk);
    let lines = model.log(&world.inner, &room);
    let Some(newest) = got.first() else {
        return;
    };
    let at = lines.iter().position(|line| line.id == *newest);
    let expected = at.map(|at| {
        lines[..=at]
            .iter()
            .rev()
            .take(got.len())
            .map(|line| &line.id)
    });
    if !expected.is_some_and(|expected| expected.eq(&got)) {
        model.say(deed, &format!("a page with a gap: {got:?}"));
    }
}

fn ids<T>(events: &[Raw<T>]) -> Vec<OwnedEventId> {
    let id = |event: &Raw<T>| event.get_field("event_id").unwrap().unwrap();
    events.iter().map(id).collect()
}

/// The position in a sync token.
fn position(token: &str) -> Position {
    let digits = token.trim_start_matches('s').split('_').next().unwrap();
    Position(digits.parse().unwrap())
}
