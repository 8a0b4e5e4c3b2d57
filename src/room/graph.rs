//! From graph to line: what an event of another server is to a room, and which events are its
//! newest ones afterwards. What it is checked against is the caller's to find.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedEventId, ServerName, UserId};

use super::auth::{
    AuthEntry, Clause, INVITE, Level, Levels, REDACT, check_auth, check_auth_events,
};
use crate::wire::matrix::{Pdu, Version};

/// What a received event is to the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Part of the graph and of the line.
    Accepted,
    /// Allowed where it stands in the graph, and not by what is current: part of the graph, and
    /// hidden from readers.
    SoftFailed(Clause),
    /// Not allowed where it stands: never part of state.
    Rejected(Clause),
}

/// What an event is checked against.
pub struct Grounds<'a> {
    /// The events that its `auth_events` name.
    pub auth: &'a [AuthEntry],
    /// The room's create event, which in v12 no event names.
    pub create: Option<&'a AuthEntry>,
    /// The room's state before it, as the graph has it.
    pub before: &'a dyn Fn(&str, &str) -> Option<Arc<Pdu>>,
    /// The room's current state.
    pub current: &'a dyn Fn(&str, &str) -> Option<Arc<Pdu>>,
}

/// Judges an event whose form, hash and signatures were checked.
///
/// spec: server-server §Checks-performed-on-receipt-of-a-PDU
pub fn judge(event: &Pdu, version: Version, grounds: &Grounds<'_>) -> Verdict {
    let fields = event.fields();
    // 4. By the events that it names itself; what it may name has rules of its own.
    let named = |kind: &str, key: &str| named(grounds, kind, key);
    let allowed = check_auth_events(fields, version, grounds.auth, grounds.create)
        .and_then(|()| check_auth(fields, version, &named))
        // 5. By the state before it.
        .and_then(|()| check_auth(fields, version, grounds.before));
    if let Err(clause) = allowed {
        return Verdict::Rejected(clause);
    }
    // 6. By the current state.
    match check_auth(fields, version, grounds.current) {
        Ok(()) => Verdict::Accepted,
        Err(clause) => Verdict::SoftFailed(clause),
    }
}

fn named(grounds: &Grounds<'_>, kind: &str, key: &str) -> Option<Arc<Pdu>> {
    let all = grounds.auth.iter().chain(grounds.create);
    let is = |entry: &&AuthEntry| {
        let fields = entry.event.fields();
        fields.kind == kind && fields.state_key.as_deref() == Some(key)
    };
    all.filter(|entry| !entry.rejected)
        .find(is)
        .map(|entry| Arc::clone(&entry.event))
}

/// How many newest events a room may have that nothing follows yet.
///
/// Each is a branch that state is resolved over, and one peer can make as many as it likes. Our own
/// events tie twenty together at a time, so only somebody who forks on purpose gets this far.
pub const TIPS_MAX: usize = 40;

/// The newest events after an accepted one: it, and those that it does not follow. `hidden` are
/// events that soft-failed or were rejected and that it names: what they follow is followed, too.
///
/// None when there would be too many.
pub fn tips_after(
    tips: &[(OwnedEventId, u64)],
    event: &Pdu,
    hidden: &[OwnedEventId],
) -> Option<Vec<(OwnedEventId, u64)>> {
    let fields = event.fields();
    let followed = |id: &OwnedEventId| fields.prev.contains(id) || hidden.contains(id);
    let open = tips.iter().filter(|(id, _)| !followed(id)).cloned();
    let mut after: Vec<_> = open.collect();
    after.push((event.id().clone(), fields.depth));
    (after.len() <= TIPS_MAX).then_some(after)
}

/// Which of a room's newest events counts as followed to make room for one more: the oldest of the
/// server that has the most of them. None where that is the newcomer's own: who forks on purpose
/// hides itself, and nobody else.
///
/// What it says is in the log all the same; only the state of its branch does not count until an
/// event comes that follows it.
pub fn crowding<'a>(
    tips: &[(&'a OwnedEventId, &'a ServerName)],
    newcomer: &ServerName,
) -> Option<&'a OwnedEventId> {
    let mut counts: BTreeMap<&ServerName, usize> = BTreeMap::new();
    for (_, server) in tips {
        *counts.entry(server).or_default() += 1;
    }
    let own = counts.remove(newcomer).unwrap_or_default() + 1;
    let most = counts.values().copied().max().filter(|most| *most >= own)?;
    let is_crowding = |(_, server): &&(_, &ServerName)| counts.get(server) == Some(&most);
    tips.iter().find(is_crowding).map(|(id, _)| *id)
}

/// Whether a redaction that was accepted takes anything from `target`: where the same server sent
/// both, or the sender has the power.
///
/// spec: matrix-v12 §Handling-redactions
pub fn may_redact(
    redaction: &Pdu,
    target: &Pdu,
    version: Version,
    (create, power_levels): (&Pdu, Option<&Pdu>),
) -> bool {
    let (sender, theirs) = (&redaction.fields().sender, target.fields());
    if theirs.room_id != redaction.fields().room_id || theirs.kind == "m.room.create" {
        return false;
    }
    if theirs.sender.server_name() == sender.server_name() {
        return true;
    }
    let levels = Levels::new(create, power_levels, version);
    match levels.of(sender.as_str()) {
        Level::Finite(has) => has >= levels.field(REDACT),
        Level::Creator => true,
    }
}

/// Whether a member has the power to invite, and so to vouch for a join into a restricted room.
pub fn may_invite(
    user: &UserId,
    version: Version,
    (create, power_levels): (&Pdu, Option<&Pdu>),
) -> bool {
    let levels = Levels::new(create, power_levels, version);
    match levels.of(user.as_str()) {
        Level::Finite(has) => has >= levels.field(INVITE),
        Level::Creator => true,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_event_id as id, server_name as name};

    use super::*;

    #[test]
    fn the_oldest_of_the_server_with_the_most_makes_room_and_who_crowds_hides_itself() {
        let ids = [id!("$1"), id!("$2"), id!("$3"), id!("$4")];
        let (evil, bob, eve) = (name!("evil"), name!("bob"), name!("eve"));
        let tips: Vec<_> = ids.iter().zip([bob, evil, evil, evil]).collect();
        assert_eq!(crowding(&tips, bob), Some(&ids[1]));
        assert_eq!(crowding(&tips, eve), Some(&ids[1]));
        assert_eq!(crowding(&tips, evil), None);

        // many servers with one each: the oldest goes, and each has one still
        let tips: Vec<_> = ids.iter().zip([evil, bob]).collect();
        assert_eq!(crowding(&tips, eve), Some(&ids[0]));
        assert_eq!(crowding(&tips, bob), None);
    }
}
