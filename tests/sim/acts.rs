//! What the people do: random commands, asked for, abandoned and asked for again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use ruma::{
    OneTimeKeyAlgorithm, OwnedRoomId, RoomVersionId, UInt,
    api::client::{
        config::set_global_account_data::v3 as account_data,
        keys::{claim_keys::v3 as claim, upload_keys::v3 as upload},
        membership::{
            ban_user::v3 as ban, invite_user::v3 as invite, join_room_by_id::v3 as join,
            kick_user::v3 as kick, leave_room::v3 as leave, unban_user::v3 as unban,
        },
        message::{get_message_events::v3 as messages, send_message_event::v3 as send},
        receipt::create_receipt::v3 as receipt,
        redact::redact_event::v3 as redact,
        room::create_room::v3 as create,
        state::send_state_event::v3 as state,
        sync::sync_events::v3 as sync,
        to_device::send_event_to_device::v3 as to_device,
    },
    serde::Raw,
    to_device::DeviceIdOrAllDevices,
};
use serde_json::json;
use tramline::{
    api::{Command, Refusal, Reply, Service as _},
    hub::Hub,
    store::TxnKey,
};

use crate::{
    model::{Model, What},
    syncing,
    world::{Person, World},
};

/// The next thing someone does: something new, or something old again. Nothing when whoever was
/// drawn cannot do it now.
pub(crate) fn plan(model: &mut Model, people: &[Person], rng: &mut StdRng) -> Option<usize> {
    if rng.random_range(0..100) < 25 {
        return again(model, rng);
    }
    let who = rng.random_range(0..people.len());
    let index = new_deed(model, people, rng, who)?;
    if model.deeds[index].what.takes_turns() {
        model.turn_taken_by = Some(index);
    }
    Some(index)
}

/// Asks again for something that has a transaction id: mostly what is still open.
fn again(model: &mut Model, rng: &mut StdRng) -> Option<usize> {
    let done_too = rng.random_range(0..5) == 0;
    let free = model.turn_taken_by;
    let open: Vec<usize> = (0..model.deeds.len())
        .rev()
        .filter(|index| {
            let deed = &model.deeds[*index];
            let may = !deed.what.takes_turns() || free.is_none_or(|taken| taken == *index);
            may && deed.what.key().is_some() && (done_too || !deed.done)
        })
        .take(30)
        .collect();
    let index = *open.choose(rng)?;
    if model.deeds[index].what.takes_turns() {
        model.turn_taken_by = Some(index);
    }
    Some(index)
}

fn new_deed(model: &mut Model, people: &[Person], rng: &mut StdRng, who: usize) -> Option<usize> {
    let n = model.deeds.len();
    let me = &people[who];
    let other = people.choose(rng)?;
    let kind = rng.random_range(0..100);
    if model.rooms.is_empty() || (kind < 3 && model.rooms.len() < 6) {
        let command = Command::CreateRoom(Box::new(creation(people, rng)));
        return Some(model.add(who, command, What::Create));
    }
    let room = model.rooms.choose(rng)?.clone();
    let mark = format!("mark-{n}");
    let (command, what) = match kind {
        0..40 => said(me, &room, n),
        40..46 => changed(room, &mark, rng),
        46..63 => membership(room, other, &mark, rng),
        63..67 => {
            let target = model.acked.choose(rng)?;
            redacted(me, &target.0.clone(), target.2.clone(), n)
        }
        67..82 => return look(model, who, rng),
        82..87 => return write_to(model, people, who, n, rng),
        87..90 => page(room, rng),
        90..92 => {
            let (room, _, event) = model.acked.choose(rng)?.clone();
            let request = receipt::Request::new(room, receipt::ReceiptType::Read, event);
            (Command::Receipt(Box::new(request)), What::Other)
        }
        92..94 => return note_down(model, me, who, n),
        94..96 => keys(model, n),
        _ => {
            let algorithm = OneTimeKeyAlgorithm::SignedCurve25519;
            let devices = BTreeMap::from([(other.device.clone(), algorithm)]);
            let request = claim::Request::new([(other.user.clone(), devices)].into());
            (Command::ClaimKeys(Box::new(request)), What::Claim)
        }
    };
    Some(model.add(who, command, what))
}

fn raw<T>(value: &serde_json::Value) -> Raw<T> {
    Raw::from_json_string(value.to_string()).unwrap()
}

fn creation(people: &[Person], rng: &mut StdRng) -> create::Request {
    let versions = [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];
    let mut request = create::Request::new();
    request.room_version = versions.choose(rng).cloned();
    request.preset = Some(match rng.random_range(0..3) {
        0 => create::RoomPreset::TrustedPrivateChat,
        _ => create::RoomPreset::PublicChat,
    });
    if rng.random_range(0..2) == 0 {
        request.invite = people
            .last()
            .map(|it| it.user.clone())
            .into_iter()
            .collect();
    }
    request
}

/// A message; also what a burst is made of.
pub(crate) fn said(me: &Person, room: &OwnedRoomId, n: usize) -> (Command, What) {
    let txn = format!("t{n}");
    let body = raw(&json!({ "msgtype": "m.text", "body": "…", "mark": format!("mark-{n}") }));
    let request = send::Request::new_raw(
        room.clone(),
        txn.clone().into(),
        "m.room.message".into(),
        body,
    );
    let key = key(me, format!("send {room} m.room.message"), txn);
    (
        Command::Send(Box::new(request)),
        What::Event { key, redacts: None },
    )
}

fn key(me: &Person, endpoint: String, txn: String) -> TxnKey {
    TxnKey {
        user: me.user.clone(),
        device: me.device.clone(),
        endpoint,
        txn,
    }
}

fn redacted(
    me: &Person,
    room: &OwnedRoomId,
    target: ruma::OwnedEventId,
    n: usize,
) -> (Command, What) {
    let txn = format!("t{n}");
    let key = key(me, format!("redact {room} {target}"), txn.clone());
    let request = redact::Request::new(room.clone(), target.clone(), txn.into());
    let what = What::Event {
        key,
        redacts: Some(target),
    };
    (Command::Redact(Box::new(request)), what)
}

fn changed(room: OwnedRoomId, mark: &str, rng: &mut StdRng) -> (Command, What) {
    let kind = ["m.room.topic", "m.room.name", "sim.state"]
        .choose(rng)
        .copied()
        .unwrap_or("x");
    let body = raw(&json!({ "topic": "…", "name": "…", "mark": mark }));
    let key = if kind == "sim.state" {
        rng.random_range(0..3).to_string()
    } else {
        String::new()
    };
    let request = state::Request::new_raw(room, kind.into(), key, body);
    let what = What::Marked {
        mark: mark.to_owned(),
    };
    (Command::SendState(Box::new(request)), what)
}

fn membership(room: OwnedRoomId, other: &Person, mark: &str, rng: &mut StdRng) -> (Command, What) {
    let reason = Some(mark.to_owned());
    let user = other.user.clone();
    let command = match rng.random_range(0..20) {
        0..11 => {
            let mut request = join::Request::new(room);
            request.reason = reason;
            Command::Join(Box::new(request))
        }
        11..13 => {
            let mut request = leave::Request::new(room);
            request.reason = reason;
            Command::Leave(Box::new(request))
        }
        13..17 => {
            let mut guest = invite::InviteUserId::new(user);
            guest.reason = reason;
            Command::Invite(Box::new(invite::Request::new(room, guest.into())))
        }
        17 => {
            let mut request = kick::Request::new(room, user);
            request.reason = reason;
            Command::Kick(Box::new(request))
        }
        18 => {
            let mut request = ban::Request::new(room, user);
            request.reason = reason;
            Command::Ban(Box::new(request))
        }
        _ => {
            let mut request = unban::Request::new(room, user);
            request.reason = reason;
            Command::Unban(Box::new(request))
        }
    };
    (
        command,
        What::Marked {
            mark: mark.to_owned(),
        },
    )
}

fn look(model: &mut Model, who: usize, rng: &mut StdRng) -> Option<usize> {
    let wait = if rng.random_range(0..3) == 0 {
        rng.random_range(1..60)
    } else {
        0
    };
    let adopt = rng.random_range(0..5) != 0;
    look_for(model, who, wait, adopt)
}

/// A sync from where the device is, unless it has one on its way.
pub(crate) fn look_for(model: &mut Model, who: usize, wait: u64, adopt: bool) -> Option<usize> {
    let device = &mut model.devices[who];
    if std::mem::replace(&mut device.syncing, true) {
        return None;
    }
    let mut request = sync::Request::new();
    request.since.clone_from(&device.since);
    request.timeout = Some(Duration::from_millis(wait));
    let command = Command::Sync(Box::new(request));
    Some(model.add(who, command, What::Sync { adopt }))
}

fn write_to(
    model: &mut Model,
    people: &[Person],
    who: usize,
    n: usize,
    rng: &mut StdRng,
) -> Option<usize> {
    if model.turn_taken_by.is_some() {
        return None;
    }
    let other = people.choose(rng)?;
    let all = rng.random_range(0..3) == 0;
    let reached = |to: &Person| to.user == other.user && (all || to.device == other.device);
    let to = (0..people.len())
        .filter(|index| reached(&people[*index]))
        .collect();
    let device = if all {
        DeviceIdOrAllDevices::AllDevices
    } else {
        DeviceIdOrAllDevices::DeviceId(other.device.clone())
    };
    let mark = format!("mail-{n}");
    let letters = BTreeMap::from([(device, raw(&json!({ "mark": mark })))]);
    let txn = format!("t{n}");
    let request = to_device::Request::new_raw(
        "sim.note".into(),
        txn.clone().into(),
        [(other.user.clone(), letters)].into(),
    );
    let key = key(&people[who], "sendToDevice sim.note".to_owned(), txn);
    let command = Command::SendToDevice(Box::new(request));
    Some(model.add(who, command, What::Mail { key, mark, to }))
}

fn page(room: OwnedRoomId, rng: &mut StdRng) -> (Command, What) {
    let mut request = messages::Request::backward(room.clone());
    request.limit = UInt::from(rng.random_range(1..40_u32));
    (Command::Messages(Box::new(request)), What::Page { room })
}

fn note_down(model: &mut Model, me: &Person, who: usize, n: usize) -> Option<usize> {
    if model.turn_taken_by.is_some() {
        return None;
    }
    let n = u64::try_from(n).ok()?;
    let data = raw(&json!({ "n": n }));
    let request = account_data::Request::new_raw(me.user.clone(), "sim.data".into(), data);
    let command = Command::SetAccountData(Box::new(request));
    Some(model.add(who, command, What::AccountData { n }))
}

/// Fresh one-time keys. They are never uploaded twice: a key that was claimed in between would be
/// given out again, and only the client can know.
fn keys(model: &mut Model, n: usize) -> (Command, What) {
    let mut request = upload::Request::new();
    let ids: Vec<String> = (0..3)
        .map(|k| format!("signed_curve25519:K{n}x{k}"))
        .collect();
    for id in &ids {
        let key = raw(&json!({ "key": id, "signatures": {} }));
        request
            .one_time_keys
            .insert(id.as_str().try_into().unwrap(), key);
    }
    model.uploaded.extend(ids.iter().cloned());
    (Command::UploadKeys(Box::new(request)), What::Keys)
}

/// One attempt; when it is dropped half-way, nobody knows how it ended.
struct Attempt {
    world: Arc<World>,
    deed: usize,
    ended: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.ended {
            self.world.model().gone(self.deed);
        }
    }
}

/// Asks the hub for a deed and compares the answer with the store. It counts as asked from now on,
/// whether or not the future is ever polled.
pub(crate) fn perform(
    world: &Arc<World>,
    hub: Arc<Hub>,
    deed: usize,
    faults_before: u64,
) -> impl Future<Output = ()> + Send + use<> {
    let (person, command, acked, tick) = {
        let mut model = world.model();
        let tick = model.issue(deed);
        let it = &model.deeds[deed];
        let person = world.people[it.who].clone();
        (person, it.command.clone(), model.acked_position, tick)
    };
    world.note(format!(
        "{tick} asks {deed} {} {}",
        command.name(),
        person.device
    ));
    let attempt = Attempt {
        world: Arc::clone(world),
        deed,
        ended: false,
    };
    async move {
        let answer = hub.ask(person.origin(), command).await;
        answered(attempt, answer, acked, faults_before);
    }
}

fn answered(
    mut attempt: Attempt,
    answer: Result<Reply, Refusal>,
    acked: tramline::base::Position,
    faults_before: u64,
) {
    let world = Arc::clone(&attempt.world);
    let deed = attempt.deed;
    attempt.ended = true;
    let said = match &answer {
        Ok(reply) => told(reply),
        Err(refusal) => format!("{} {}", refusal.status, refusal.message),
    };
    world.note(format!("  {deed} told {said}"));
    let mut model = world.model();
    model.ended(deed);
    match answer {
        Ok(reply) => settle(&world, &mut model, deed, reply, acked),
        Err(refusal) => {
            if refusal.status == 500 && world.flaky.faults() == faults_before {
                model.say(deed, "an internal error, and the store has not failed");
            }
            model.refused(&world.inner, deed, &refusal);
        }
    }
}

fn told(reply: &Reply) -> String {
    match reply {
        Reply::Send(it) => it.event_id.to_string(),
        Reply::SendState(it) => it.event_id.to_string(),
        Reply::Redact(it) => it.event_id.to_string(),
        Reply::CreateRoom(it) => it.room_id.to_string(),
        Reply::Sync(it) => {
            let rooms = it
                .rooms
                .join
                .values()
                .map(|room| room.timeline.events.len());
            let events: usize = rooms.sum();
            format!(
                "{} ({events} events, {} mail)",
                it.next_batch,
                it.to_device.events.len()
            )
        }
        Reply::Messages(it) => format!("{} to {:?}", it.start, it.end),
        _ => "ok".to_owned(),
    }
}

fn settle(
    world: &World,
    model: &mut Model,
    deed: usize,
    reply: Reply,
    acked: tramline::base::Position,
) {
    let store = &world.inner;
    match reply {
        Reply::Send(it) => model.acknowledged(store, deed, &it.event_id),
        Reply::SendState(it) => model.acknowledged(store, deed, &it.event_id),
        Reply::Redact(it) => model.acknowledged(store, deed, &it.event_id),
        Reply::CreateRoom(it) => {
            model.deeds[deed].done = true;
            if model.log(store, &it.room_id).is_empty() {
                model.say(deed, "acknowledged, and the room is not stored");
            }
            model.rooms.push(it.room_id);
        }
        Reply::Sync(it) => syncing::check(world, model, deed, &it, acked),
        Reply::Messages(it) => syncing::check_page(world, model, deed, &it),
        Reply::ClaimKeys(it) => {
            model.deeds[deed].done = true;
            for (user, devices) in it.one_time_keys {
                for (device, keys) in devices {
                    for id in keys.into_keys() {
                        let key = (user.clone(), device.to_string(), id.to_string());
                        let fresh = model.uploaded.contains(id.as_str());
                        if !model.claimed.insert(key) || !fresh {
                            model.say(deed, &format!("{id} was claimed twice, or never uploaded"));
                        }
                    }
                }
            }
        }
        Reply::SetAccountData(_) => {
            model.deeds[deed].done = true;
            if let What::AccountData { n } = model.deeds[deed].what {
                let user = world.people[model.deeds[deed].who].user.clone();
                let highest = model.account_data.entry(user).or_default();
                *highest = n.max(*highest);
            }
        }
        _ => model.deeds[deed].done = true,
    }
}
