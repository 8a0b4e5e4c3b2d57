//! What other servers send by themselves: up to fifty events at a time, each with its own outcome.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UInt, UserId,
    api::federation::{event::get_missing_events, transactions::send_transaction_message},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Acl, edus,
    gaps::{self, Fault, Faults},
    is_in,
    outcomes::{self, Outcomes, kind_of},
    past, policy, tying, unknown,
};
use crate::{
    api::{
        Became, Code, Origin, PartId, PeerCommand, PeerReply, Refusal, RequestId, Unverified, Why,
    },
    hub::{
        Hub,
        desk::{access::ours, remote},
        graph::{self, Fate, GraphError, Received},
    },
    room::PolicyServer,
    store::RoomRecord,
    wire::matrix::{PREV_EVENTS_MAX, Pdu, Version},
};

/// spec: server-server §Transactions
const EVENTS_MAX: usize = 50;
const EDUS_MAX: usize = 100;

/// How many events are asked for to close a gap.
const GAP_MAX: u32 = 20;

/// How long another server may take to send them.
const GAP_PATIENCE: Duration = Duration::from_secs(10);

/// What became of an event, as the sender is told.
type Outcome = Result<(), String>;

/// See `api::PeerCommand::Transaction`. One event that is wrong spoils none of the others.
// spec: server-server §Transactions
pub(super) async fn receive(
    hub: &Hub,
    (peer, origin): (&OwnedServerName, &Origin),
    asked: send_transaction_message::v1::Request,
) -> Result<send_transaction_message::v1::Response, Refusal> {
    if asked.origin != *peer {
        let message = format!(
            "the transaction is of {}, its signature of {peer}",
            asked.origin
        );
        let why = Why::default().passes("`origin` and the signature name the same server");
        return Err(Refusal::forbidden(message).because(why));
    }
    if asked.pdus.len() > EVENTS_MAX || asked.edus.len() > EDUS_MAX {
        let message = format!("a transaction has at most {EVENTS_MAX} PDUs and {EDUS_MAX} EDUs");
        return Err(Refusal::invalid_param(message));
    }
    let mut parts = Outcomes::default();
    let mut outcomes = BTreeMap::new();
    let taken = take(hub, (peer, origin), &asked, (&mut outcomes, &mut parts)).await;
    parts.told(hub, origin, peer.as_str());
    taken?;
    Ok(send_transaction_message::v1::Response::new(outcomes))
}

/// Takes what can be taken, and notes what became of each part. Fails where the whole of it has to come
/// again.
async fn take(
    hub: &Hub,
    (peer, origin): (&OwnedServerName, &Origin),
    asked: &send_transaction_message::v1::Request,
    (outcomes, parts): (&mut BTreeMap<OwnedEventId, Outcome>, &mut Outcomes),
) -> Result<(), Refusal> {
    let mut rooms: BTreeMap<OwnedRoomId, Vec<Sent<'_>>> = BTreeMap::new();
    for (at, pdu) in asked.pdus.iter().enumerate() {
        let id = outcomes::pdu(at);
        // What names no room has no id that could be answered for either.
        match room_of(pdu) {
            Ok(room) => rooms.entry(room).or_default().push((id, pdu)),
            Err(said) => {
                let why = Why::of("EVENT_FORM");
                parts.not((id, None), Became::Refused, why, said);
            }
        }
    }
    for (room, pdus) in rooms {
        let request = origin.request;
        in_room(hub, (peer, request), (&room, &pdus), outcomes, parts).await?;
    }
    // After the events: a receipt is often for one of them.
    edus::receive(hub, peer, &asked.edus, parts).await
}

/// An event as it was sent, and where in the list.
type Sent<'a> = (PartId, &'a RawValue);

/// The room that an event is of; if it names none, what is wrong with it.
fn room_of(pdu: &RawValue) -> Result<OwnedRoomId, String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        room_id: Option<&'a RawValue>,
    }
    let what = kind_of(pdu);
    if what != "an object" {
        return Err(format!("it is {what}, not an object"));
    }
    let named: Named<'_> =
        serde_json::from_str(pdu.get()).map_err(|_| "`room_id` is there twice".to_owned())?;
    let named = named
        .room_id
        .ok_or_else(|| "`room_id` is missing".to_owned())?;
    let room: String = serde_json::from_str(named.get())
        .map_err(|_| format!("`room_id` is {}, not a text", kind_of(named)))?;
    OwnedRoomId::try_from(room.as_str()).map_err(|_| {
        let room: String = room.chars().take(ROOM_TOLD_CHARS_MAX).collect();
        format!("`room_id` is no room's id, which begins with `!`: {room:?}")
    })
}

/// Of what should be a room's id and is none, so many characters are told.
const ROOM_TOLD_CHARS_MAX: usize = 60;

/// Takes the events of one room.
async fn in_room(
    hub: &Hub,
    (peer, request): (&OwnedServerName, RequestId),
    (room, pdus): (&RoomId, &[Sent<'_>]),
    outcomes: &mut BTreeMap<OwnedEventId, Outcome>,
    parts: &mut Outcomes,
) -> Result<(), Refusal> {
    let gate = match Gate::of(hub, peer, room).await {
        Ok(gate) => gate,
        Err(closed) => {
            shut(hub, peer, (room, pdus), closed, (outcomes, parts)).await;
            return Ok(());
        }
    };
    let (mut events, mut ids) = (Vec::new(), Vec::new());
    let texts: Vec<&str> = pdus.iter().map(|(_, pdu)| pdu.get()).collect();
    for ((id, pdu), checked) in pdus.iter().zip(gate.checked(peer, &texts).await) {
        match checked {
            Ok(event) => {
                events.push(event);
                ids.push(*id);
            }
            Err(Unbelieved { code, said, told }) => {
                // what cannot be read has no id under which it could be answered
                let read = Pdu::read(pdu.get(), gate.room.version).ok();
                let what = read.as_ref().map(|read| read.id().to_string());
                if let Some(read) = read {
                    outcomes.insert(read.id().clone(), Err(told));
                }
                let why = Why::of(code).room(room);
                parts.not((*id, what), Became::Refused, why, said);
            }
        }
    }
    let woven = gate.weave(peer, &events, Some(request)).await?;
    for ((received, fate), id) in events.iter().zip(woven.fates).zip(ids) {
        let event = received.event.id();
        let id = (id, Some(event.to_string()));
        let became = match fate {
            Fate::Accepted => Became::Taken,
            Fate::Known => Became::Known,
            Fate::SoftFailed(_) => Became::Hidden,
            Fate::Refused(_) | Fate::Lacks { .. } => Became::Refused,
        };
        match gate.reason(received, &fate, woven.gap.as_ref()) {
            Some((reason, said)) => parts.not(id, became, reason, said),
            None => parts.fine(id.0, id.1, became),
        }
        let outcome = match fate {
            // What is hidden was taken all the same: the sender need not send it again.
            Fate::Accepted | Fate::Known | Fate::SoftFailed(_) => Ok(()),
            Fate::Refused(why) => Err(why),
            Fate::Lacks { .. } => Err("events before it could not be had".to_owned()),
        };
        outcomes.insert(event.clone(), outcome);
    }
    Ok(())
}

/// No event of the room is taken: all that is heard of a room that we are not in is that an invite is
/// taken back.
async fn shut(
    hub: &Hub,
    peer: &OwnedServerName,
    (room, pdus): (&RoomId, &[Sent<'_>]),
    Closed { version, refusal }: Closed,
    (outcomes, parts): (&mut BTreeMap<OwnedEventId, Outcome>, &mut Outcomes),
) {
    let said = refusal.message;
    let why = refusal.why.map_or_else(Why::default, |why| *why).room(room);
    let mut is_first = true;
    for (id, pdu) in pdus {
        let read = version.and_then(|version| Pdu::read(pdu.get(), version).ok());
        let event = read.map(|event| event.id().clone());
        if let Some((event, outcome)) = remote::out(hub, peer, pdu.get()).await {
            let what = (*id, Some(event.to_string()));
            match &outcome {
                Ok(()) => parts.fine(what.0, what.1, Became::Taken),
                Err(said) => {
                    let why = Why::of("M_FORBIDDEN").room(room);
                    parts.not(what, Became::Refused, why, said.clone());
                }
            }
            outcomes.insert(event, outcome);
            continue;
        }
        let what = (*id, event.as_ref().map(ToString::to_string));
        if std::mem::take(&mut is_first) {
            parts.not(what, Became::Refused, why.clone(), said.clone());
        } else {
            parts.nor(what, why.clone(), said.clone());
        }
        outcomes.extend(event.map(|event| (event, Err(said.clone()))));
    }
}

/// Takes one event of ours that a server of the room has helped to make; what it follows and has not
/// come yet is asked of that server.
pub(in crate::hub::desk) async fn take_in(
    hub: &Hub,
    helper: &OwnedServerName,
    room: &RoomId,
    event: Arc<Pdu>,
) -> Result<(), Refusal> {
    let gate = Gate::of(hub, helper, room).await;
    let gate = gate.map_err(|closed| closed.refusal)?;
    let woven = gate.weave(helper, &[event.into()], None).await?;
    match woven.fates.into_iter().next() {
        Some(Fate::Accepted | Fate::Known) => Ok(()),
        Some(Fate::SoftFailed(why) | Fate::Refused(why)) => Err(Refusal::forbidden(why)),
        Some(Fate::Lacks { .. }) | None => {
            let message = "it follows events that could not be had";
            let mut why = Why::of("EVENTS_MISSING").room(room).of_server(helper);
            why.cause = woven.gap.as_ref().map(told_cause);
            let refusal = Refusal::new(Code::Unknown, message).with_status(502);
            Err(refusal.because(why))
        }
    }
}

/// A room that takes events of other servers, and what they have to pass.
struct Gate<'a> {
    hub: &'a Hub,
    room: RoomRecord,
    acl: Option<Acl>,
    policy: Option<PolicyServer>,
}

/// A room that does not, as its sender is told.
struct Closed {
    version: Option<Version>,
    refusal: Refusal,
}

impl<'a> Gate<'a> {
    async fn of(hub: &'a Hub, peer: &OwnedServerName, room: &RoomId) -> Result<Self, Closed> {
        let closed = |version: Option<Version>| move |refusal: Refusal| Closed { version, refusal };
        let record = hub.store.room(room).await.map_err(ours);
        let record = record.map_err(closed(None))?;
        let Some(record) = record else {
            return Err(closed(None)(unknown(room)));
        };
        let closed = closed(Some(record.version));
        let keys = [Acl::state_key(), PolicyServer::state_key()];
        let rules = hub.store.current(record.nid, &keys).await.map_err(ours);
        let mut rules = rules.map_err(&closed)?.into_iter();
        let (acl, policy) = (rules.next().flatten(), rules.next().flatten());
        let acl = super::acl_of(&record, acl).map_err(&closed)?;
        if let Some(Err(refusal)) = acl.as_ref().map(|acl| acl.check(peer)) {
            return Err(closed(refusal));
        }
        // What comes after the last of our users left is nobody's news here.
        if !is_in(hub, &record, hub.key.name()).await.map_err(&closed)? {
            let why = format!("nobody of this server is in {room}");
            let reason = Why::of("NOBODY_HERE").room(room);
            return Err(closed(Refusal::forbidden(why).because(reason)));
        }
        let policy = policy::policy_server_of(hub, &record, policy);
        let policy = policy.await.map_err(&closed)?;
        Ok(Self {
            hub,
            room: record,
            acl,
            policy,
        })
    }

    /// Events that are what they say to be, in their order.
    async fn checked(
        &self,
        peer: &ServerName,
        events: &[&str],
    ) -> Vec<Result<Received, Unbelieved>> {
        let remote = &self.hub.remote;
        let verified = remote.verified_from(peer, events, self.room.version);
        let mut checked = Vec::with_capacity(events.len());
        for event in verified.await {
            checked.push(self.received(event).await);
        }
        checked
    }

    /// One of a server that is kept out is hidden, not refused: others' events follow it.
    async fn received(&self, event: Result<Pdu, Unverified>) -> Result<Received, Unbelieved> {
        let event = event.map_err(|error| Unbelieved {
            code: error.code(),
            said: error.to_string(),
            told: error.told().to_owned(),
        })?;
        if event.fields().room_id != self.room.id {
            let said = format!("it is of room {}", event.fields().room_id);
            return Err(Unbelieved {
                code: "EVENT_ROOM",
                told: said.clone(),
                said,
            });
        }
        let event = Arc::new(event);
        if let Some((_, said)) = self.unwelcome(&event) {
            let hide = Some(said);
            return Ok(Received { event, hide });
        }
        Ok(policy::vouched_for(self.hub, &self.room, self.policy.as_ref(), event).await)
    }

    /// Why nobody here is to see an event, if so: the room or the operator keeps its sender's server
    /// out, or the operator another one that it names.
    fn unwelcome(&self, event: &Pdu) -> Option<(Why, String)> {
        let sender = event.fields().sender.server_name();
        if let Some(Err(refusal)) = self.acl.as_ref().map(|acl| acl.check(sender)) {
            let said = format!("{sender}: {}", refusal.message);
            return Some((refusal.why.map(|why| *why).unwrap_or_default(), said));
        }
        let mut named = named_by(event).into_iter();
        named.find_map(|server| {
            let why = self.hub.remote.welcomes(&server).err()?;
            let rule = why.rule.as_deref().unwrap_or_default();
            let said = format!("{server}: {rule}");
            Some((*why, said))
        })
    }

    /// Why an event is hidden or was not taken, if so, for whoever asks about it later.
    fn reason(
        &self,
        received: &Received,
        fate: &Fate,
        gap: Option<&Fault>,
    ) -> Option<(Why, String)> {
        let (code, said) = match fate {
            Fate::Accepted | Fate::Known => return None,
            Fate::SoftFailed(said) => ("EVENT_SOFT_FAILED", said.clone()),
            Fate::Refused(said) => ("EVENT_AUTH", said.clone()),
            Fate::Lacks { .. } => {
                let said = "events before it could not be had";
                ("EVENTS_MISSING", said.to_owned())
            }
        };
        let (mut why, said) = match (&received.hide, fate) {
            // hidden before the room's rules were asked
            (Some(hidden), Fate::SoftFailed(_)) => {
                let by_policy = || (policy::policy_why(hidden, &self.room.id), hidden.clone());
                self.unwelcome(&received.event).unwrap_or_else(by_policy)
            }
            _ => (Why::of(code), said),
        };
        if matches!(fate, Fate::Lacks { .. }) {
            why.cause = gap.map(told_cause);
        }
        why.event = Some(received.event.id().to_string());
        Some((why.room(&self.room.id), said))
    }

    /// Weaves events in, and asks for what is missing before them: first for what lies between, and if
    /// that is more than a page, for the room as it was just before.
    async fn weave(
        &self,
        peer: &OwnedServerName,
        events: &[Received],
        request: Option<RequestId>,
    ) -> Result<Woven, Refusal> {
        let mut woven = Woven::default();
        if events.is_empty() {
            return Ok(woven);
        }
        let mut all = events.to_vec();
        let mut fates = self.woven(&all).await?;
        let (mut faults, mut closing) = (Faults::default(), None);
        for step in [Step::Between, Step::Before] {
            let lacking: Vec<&Received> = all
                .iter()
                .zip(&fates)
                .filter(|(_, fate)| matches!(fate, Fate::Lacks { .. }))
                .map(|(received, _)| received)
                .collect();
            if lacking.is_empty() {
                break;
            }
            let more = match step {
                Step::Between => {
                    let latest = lacking.iter().map(|one| one.event.id().clone());
                    self.missing(peer, latest.collect(), &mut faults).await
                }
                Step::Before => {
                    let open = open_ends(&all, &fates);
                    let behind = (&open, &mut faults);
                    if let Err(why) = past::close(self.hub, peer, &self.room, behind).await {
                        closing = Some(why.fault());
                        break;
                    }
                    Vec::new()
                }
            };
            if step == Step::Between && more.is_empty() {
                continue;
            }
            all.extend(more);
            let again = self.woven(&all).await?;
            fates.resize(all.len(), Fate::Known);
            for (fate, again) in fates.iter_mut().zip(again) {
                // What was taken in the first time is known the second time.
                if again != Fate::Known || matches!(fate, Fate::Lacks { .. }) {
                    *fate = again;
                }
            }
        }
        // Each event makes one branch more at most.
        if self.room.heads.tips.len() + all.len() > PREV_EVENTS_MAX {
            tying::tie(self.hub, &self.room.id).await;
        }
        let ends = open_ends(&all, &fates);
        fates.truncate(events.len());
        if fates.iter().any(|fate| matches!(fate, Fate::Lacks { .. })) {
            let cause = faults.cause(peer, closing);
            gaps::stays_open(self.hub, (&self.room.id, peer), &ends, request, &cause);
            woven.gap = Some(cause);
        }
        woven.fates = fates;
        Ok(woven)
    }

    /// What became of each. What is ours to mend is not told as the events' fault: their sender is to
    /// send them again.
    async fn woven(&self, events: &[Received]) -> Result<Vec<Fate>, Refusal> {
        let (hub, room) = (self.hub, &self.room.id);
        let error = match graph::weave(&hub.store, &hub.writer, room, events).await {
            Ok((fates, _)) => return Ok(fates),
            Err(error) => error,
        };
        tracing::warn!(%error, %room, "events could not be taken");
        match error {
            GraphError::Write(error) => Err(error.into()),
            GraphError::Store(error) => Err(ours(error)),
            other => Ok(vec![Fate::Refused(other.to_string()); events.len()]),
        }
    }

    /// Events between what is known here and what was sent.
    async fn missing(
        &self,
        peer: &OwnedServerName,
        latest: Vec<OwnedEventId>,
        faults: &mut Faults,
    ) -> Vec<Received> {
        let (hub, room) = (self.hub, &self.room);
        let known = room.heads.tips.iter().map(|(id, _)| id.clone()).collect();
        let mut asked = get_missing_events::v1::Request::new(room.id.clone(), known, latest);
        asked.limit = UInt::from(GAP_MAX);
        let command = PeerCommand::MissingEvents(Box::new(asked));
        let answer = match hub.remote.ask(peer, command, GAP_PATIENCE).await {
            Ok(PeerReply::MissingEvents(answer)) => answer,
            Ok(_) => return Vec::new(),
            Err(error) => {
                tracing::info!(%error, room = %room.id, "what lies in a gap is not told");
                return Vec::new();
            }
        };
        let count = usize::try_from(GAP_MAX).unwrap_or(usize::MAX);
        let texts = answer.events.iter().take(count).map(|pdu| pdu.get());
        let texts: Vec<&str> = texts.collect();
        let mut events = Vec::new();
        for (json, checked) in texts.iter().zip(self.checked(peer, &texts).await) {
            match checked {
                Ok(event) => events.push(event),
                Err(Unbelieved { code, said, .. }) => {
                    let read = Pdu::read(json, room.version).ok();
                    faults.note(code, gaps::of_event(read.as_ref(), said));
                }
            }
        }
        events
    }
}

/// What became of events, and why a gap before some of them stays open, if one does.
#[derive(Default)]
struct Woven {
    fates: Vec<Fate>,
    gap: Option<Fault>,
}

/// `EVENT_SIGNATURE: far told an event that is not taken: …`.
fn told_cause(fault: &Fault) -> String {
    format!("{}: {}", fault.code, fault.said)
}

/// Why an event is not even looked at.
struct Unbelieved {
    /// The stable reason.
    code: &'static str,
    /// In words, for the operator.
    said: String,
    /// What its sender is told.
    told: String,
}

/// How a gap is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Between,
    Before,
}

/// The servers of the users that an event names: its sender, whom it is about, who vouches.
fn named_by(event: &Pdu) -> BTreeSet<OwnedServerName> {
    let fields = event.fields();
    let vouching = fields.content.get("join_authorised_via_users_server");
    let others = [
        fields.state_key.as_deref(),
        vouching.and_then(|by| by.as_str()),
    ];
    let others = others.into_iter().flatten();
    let others = others.filter_map(|id| <&UserId>::try_from(id).ok());
    let named = std::iter::once(&*fields.sender).chain(others);
    named.map(|user| user.server_name().to_owned()).collect()
}

/// What events name that neither is known nor is among them.
fn open_ends(events: &[Received], fates: &[Fate]) -> past::OpenEnds {
    let here: HashSet<&OwnedEventId> = events.iter().map(|one| one.event.id()).collect();
    let mut ends = past::OpenEnds::default();
    let mut leant_on: HashSet<&OwnedEventId> = HashSet::new();
    for (Received { event, .. }, fate) in events.iter().zip(fates) {
        let Fate::Lacks { prev, auth } = fate else {
            continue;
        };
        let unknown = prev.iter().filter(|id| !here.contains(id));
        ends.prev.extend(unknown.cloned());
        // Often all lean on one that is unknown: it is asked for once.
        let unknown = auth.iter().filter(|id| !here.contains(id));
        if unknown.filter(|id| leant_on.insert(*id)).count() > 0 {
            ends.leaning.insert(event.id().clone());
        }
    }
    ends
}
