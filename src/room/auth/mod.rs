//! The authorization rules of room versions 10, 11 and 12, clause by clause in the text's order.
//!
//! One copy of the code serves all three: what differs is data, ruma's `AuthorizationRules` flags
//! and the pair of numbers in [`At`]. Every check has its clause above it, numbered as v10 and v11
//! / v12. What is not here: signatures and hashes (`wire::matrix`), whether a redaction is
//! performed (`decide`), and the state an event is checked against (the caller's).

mod create;
mod entries;
mod levels;
mod member;
mod power_levels;
mod select;
mod third_party;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ruma::CanonicalJsonValue;

use crate::{
    room::Membership,
    wire::matrix::{Pdu, PduFields, Version},
};

pub use entries::{AuthEntry, check_auth_events};
pub use levels::Level;
pub(super) use levels::{INVITE, Levels, REDACT};
pub use select::auth_state_keys;
pub(super) use select::select;

/// The clause that refused an event.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{rule} (authorization rule {clause})")]
pub struct Clause {
    /// The clause's number in the room version's text, such as `5.3.2`.
    pub clause: &'static str,
    /// The rule in our words, with the values that disagreed.
    pub rule: String,
}

/// A clause's number: in v10 and v11, which count alike, and in v12, which inserts rule 2 and
/// rule 10.4.
#[derive(Clone, Copy, Debug)]
struct At(&'static str, &'static str);

/// How many characters a refusal has at most: the values it quotes come from outside and can be as
/// long as an event.
const RULE_CHARS_MAX: usize = 400;

impl At {
    fn refuse(self, version: Version, rule: impl Into<String>) -> Clause {
        let mut rule = rule.into();
        if let Some((end, _)) = rule.char_indices().nth(RULE_CHARS_MAX) {
            rule.truncate(end);
            rule.push('…');
        }
        Clause {
            clause: match version {
                Version::V10 | Version::V11 => self.0,
                Version::V12 => self.1,
            },
            rule,
        }
    }
}

/// Looks a piece of state up by type and key.
type State<'a> = &'a dyn Fn(&str, &str) -> Option<Arc<Pdu>>;

/// Whether `state` (looked up by type and key) allows the event.
///
/// These are all rules but those about the `auth_events` list itself, which
/// [`check_auth_events`] has: an event of ours chooses the list by [`auth_state_keys`].
///
/// spec: matrix-v12 §Authorization-rules
pub fn check_auth(
    fields: &PduFields,
    version: Version,
    state: &dyn Fn(&str, &str) -> Option<Arc<Pdu>>,
) -> Result<(), Clause> {
    // 1 / 1. If type is m.room.create: its own rules, and no others.
    if fields.kind == "m.room.create" {
        return create::check(fields, version);
    }
    let create = the_create_event(fields, version, state)?;
    let auth = Auth {
        fields,
        version,
        power_levels: state("m.room.power_levels", ""),
        create,
        state,
    };
    auth.check()
}

fn the_create_event(
    fields: &PduFields,
    version: Version,
    state: State<'_>,
) -> Result<Arc<Pdu>, Clause> {
    // 2.4 / 2. There must be a create event; in v12 the room id says which.
    let Some(create) = state("m.room.create", "") else {
        return Err(At("2.4", "2").refuse(
            version,
            format!("the room {} has no create event", fields.room_id),
        ));
    };
    // 2.5 / 2. It must be this room's.
    if create.fields().room_id != fields.room_id {
        return Err(At("2.5", "2").refuse(
            version,
            format!(
                "the event is for room {}, the create event made {}",
                fields.room_id,
                create.fields().room_id
            ),
        ));
    }
    Ok(create)
}

/// An event that is not a create event, beside the state it is checked against.
struct Auth<'a> {
    fields: &'a PduFields,
    version: Version,
    create: Arc<Pdu>,
    power_levels: Option<Arc<Pdu>>,
    state: State<'a>,
}

impl Auth<'_> {
    fn check(&self) -> Result<(), Clause> {
        let fields = self.fields;
        // 3 / 4. Not federated, and the sender is of another server than the creator.
        let federate = self.create.fields().content.get("m.federate");
        let (own, creating) = (
            fields.sender.server_name(),
            self.create.fields().sender.server_name(),
        );
        if federate.and_then(CanonicalJsonValue::as_bool) == Some(false) && own != creating {
            return Err(self.refuse(
                At("3", "4"),
                format!("only {creating} may take part in this room, the sender is of {own}"),
            ));
        }
        // 4 / 5. If type is m.room.member: its own rules.
        if fields.kind == "m.room.member" {
            return member::check(self);
        }
        // 5 / 6. The sender must be joined.
        let sender = fields.sender.as_str();
        self.must_be_joined(At("5", "6"))?;

        let levels = self.levels();
        let has = levels.of(sender);
        // 6.1 / 7.1. A third-party invite needs the invite level and nothing else.
        if fields.kind == "m.room.third_party_invite" {
            return self.needs(At("6.1", "7.1"), has, levels.field(INVITE), "to invite");
        }
        // 7 / 8. The level that the type needs.
        let needed = levels.needed_for(&fields.kind, fields.state_key.is_some());
        let what = format!("to send `{}`", fields.kind);
        self.needs(At("7", "8"), has, needed, &what)?;
        // 8 / 9. A state key that names a user must name the sender.
        if let Some(key) = &fields.state_key
            && key.starts_with('@')
            && key != sender
        {
            return Err(self.refuse(
                At("8", "9"),
                format!("the state key {key} is someone else's, the sender is {sender}"),
            ));
        }
        // 9 / 10. If type is m.room.power_levels: its own rules.
        if fields.kind == "m.room.power_levels" {
            return power_levels::check(self);
        }
        // 10 / 11. Otherwise, allow.
        Ok(())
    }

    fn must_be_joined(&self, at: At) -> Result<(), Clause> {
        let sender = self.fields.sender.as_str();
        match self.membership(sender) {
            Membership::Join => Ok(()),
            other => Err(self.refuse(
                at,
                format!("the sender {sender} must be joined, but its membership is {other}"),
            )),
        }
    }

    /// Refuses unless `has` reaches `needed`.
    fn needs(&self, at: At, has: Level, needed: i64, what: &str) -> Result<(), Clause> {
        if has >= Level::Finite(needed) {
            return Ok(());
        }
        let sender = &self.fields.sender;
        Err(self.refuse(
            at,
            format!("{what} needs power level {needed}, {sender} has {has}"),
        ))
    }

    fn refuse(&self, at: At, rule: impl Into<String>) -> Clause {
        at.refuse(self.version, rule)
    }

    fn levels(&self) -> Levels<'_> {
        Levels::new(&self.create, self.power_levels.as_deref(), self.version)
    }

    /// A user's membership: `leave` without an event.
    fn membership(&self, user: &str) -> Membership {
        (self.state)("m.room.member", user)
            .map(|event| Membership::of(event.fields()))
            .unwrap_or_default()
    }

    /// The join rule. Without one none of the rules that let someone in applies, so nobody new
    /// comes in: the text names no default.
    fn join_rule(&self) -> String {
        (self.state)("m.room.join_rules", "")
            .and_then(|event| {
                Some(
                    event
                        .fields()
                        .content
                        .get("join_rule")?
                        .as_str()?
                        .to_owned(),
                )
            })
            .unwrap_or_default()
    }
}
