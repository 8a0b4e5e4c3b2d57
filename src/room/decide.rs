//! From a wanted part to the effects it has. Changes nothing; see [`Room::apply`].

use std::sync::Arc;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedUserId, UserId};

use crate::{
    base::Timestamp,
    room::{
        MemberChange, Membership, Needs, Part, Refusal, Room, StateKey,
        auth::{Level, Levels, REDACT, check_auth, select},
    },
    wire::matrix::{DEPTH_MAX, PREV_EVENTS_MAX, Pdu, PduFields, ServerKey},
};

/// What the decision may look at besides the staged room.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The time of the decision; becomes `origin_server_ts`.
    pub now: Timestamp,
    /// The name and key our events are signed with.
    pub key: &'a ServerKey,
    /// The event a redaction names, when it is stored in this room.
    pub target: Option<&'a Pdu>,
}

/// One thing that follows from a part.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The event becomes the next entry of the log.
    Append(Arc<Pdu>),
    /// The stored event loses what redaction removes; follows the `Append` of the redaction.
    Redact {
        /// The event redacted.
        target: OwnedEventId,
        /// The redaction.
        because: OwnedEventId,
    },
    /// Nothing is to be done: the room is already as wanted (a second join).
    Already {
        /// The event that made it so, where there is one.
        event: Option<OwnedEventId>,
        /// Whose membership it is.
        user: OwnedUserId,
    },
}

/// An event as the sender means it, before the room gives it its place.
pub(super) struct Wanted {
    pub(super) kind: String,
    pub(super) state_key: Option<String>,
    pub(super) content: CanonicalJsonObject,
    pub(super) redacts: Option<OwnedEventId>,
}

impl Room {
    /// What has to be learnt before [`Room::decide`] can say something about the part.
    pub fn needs(&self, sender: &UserId, part: &Part) -> Needs {
        let mut state = Vec::new();
        self.touched(sender, part, &mut |kind, key| {
            if !self.knows(kind, key) {
                state.push(StateKey::new(kind, key));
            }
        });
        state.sort_unstable();
        state.dedup();
        let event = match part {
            Part::Redact { target, .. } => Some(target.clone()),
            Part::Event { kind, content, .. } if kind == "m.room.redaction" => redacts(content),
            Part::Event { .. } | Part::Member { .. } => None,
        };
        Needs { state, event }
    }

    /// Names the state that the rules or the preconditions look at, known or not.
    fn touched(&self, sender: &UserId, part: &Part, name: &mut dyn FnMut(&str, &str)) {
        name("m.room.create", ""); // not among the auth events since v12
        name("m.room.power_levels", "");
        name("m.room.member", sender.as_str());
        name("m.room.policy", ""); // no rule looks at it, who vouches for events does
        let version = self.version();
        match part {
            Part::Event {
                kind,
                state_key: Some(key),
                content,
            } => {
                for (kind, key) in select(kind, sender, Some(key), content, version) {
                    name(kind, key);
                }
                name(kind, key); // it may say so already
            }
            Part::Event { kind, .. } if kind == "m.room.member" => {
                name("m.room.join_rules", "");
            }
            Part::Event { .. } | Part::Redact { .. } => {}
            Part::Member {
                target,
                change,
                content,
            } => {
                let content = with_membership(content, *change);
                let target = Some(target.as_str());
                for (kind, key) in select("m.room.member", sender, target, &content, version) {
                    name(kind, key);
                }
            }
        }
    }

    /// Turns a part into its effects, or says why not. Everything [`Room::needs`] named must have
    /// been learnt.
    pub fn decide(
        &self,
        sender: &UserId,
        part: &Part,
        evidence: &Evidence<'_>,
    ) -> Result<Vec<Effect>, Refusal> {
        debug_assert_eq!(
            self.needs(sender, part).state,
            [],
            "not everything was learnt"
        );
        match part {
            Part::Event {
                kind,
                state_key,
                content,
            } => self.decide_event(sender, kind, state_key.as_deref(), content, evidence),
            Part::Redact { target, reason } => {
                let reason = reason
                    .clone()
                    .map(|reason| ("reason".to_owned(), reason.into()));
                let content = reason.into_iter().collect();
                self.decide_redaction(sender, target, content, evidence)
            }
            Part::Member {
                target,
                change,
                content,
            } => self.decide_member(sender, target, *change, content, evidence),
        }
    }

    fn decide_event(
        &self,
        sender: &UserId,
        kind: &str,
        state_key: Option<&str>,
        content: &CanonicalJsonObject,
        evidence: &Evidence<'_>,
    ) -> Result<Vec<Effect>, Refusal> {
        match (kind, state_key) {
            ("m.room.create", _) | ("m.room.redaction", Some(_)) => {
                self.must_be_joined(sender)?;
                return Err(Refusal::NotForClients(kind.to_owned()));
            }
            // The membership calls in another dress: the same way in.
            ("m.room.member", Some(target)) => {
                let read = self.read_member(sender, target, content);
                if read.is_err() {
                    self.must_be_joined(sender)?;
                }
                let (target, change) = read?;
                return self.decide_member(sender, &target, change, content, evidence);
            }
            ("m.room.redaction", None) => {
                self.must_be_joined(sender)?;
                let target =
                    redacts(content).ok_or_else(|| wrong(kind, "`redacts`", "an event id"))?;
                let mut content = content.clone();
                content.remove("redacts"); // goes where the room version wants it
                return self.decide_redaction(sender, &target, content, evidence);
            }
            _ => {}
        }
        // Before the content is looked at: what is wrong with that is told to who is in the room.
        self.must_be_joined(sender)?;
        if let Some(key) = state_key
            && let Some(already) = self.already(sender, kind, key, content)
        {
            return Ok(vec![already]);
        }
        if state_key == Some("") {
            let now = self.state(kind, "").map(|event| &event.fields().content);
            super::content::check(kind, content, now)?;
        }
        let wanted = Wanted {
            kind: kind.to_owned(),
            state_key: state_key.map(ToOwned::to_owned),
            content: content.clone(),
            redacts: None,
        };
        let fields = self.authorised(sender, wanted, evidence.now)?;
        Ok(vec![Effect::Append(self.signed(fields, evidence)?)])
    }

    /// spec: matrix-v12 §Handling-redactions. Our own users may redact what is theirs; the text's
    /// second condition, the same server, is how others' redactions are received.
    fn decide_redaction(
        &self,
        sender: &UserId,
        target: &OwnedEventId,
        content: CanonicalJsonObject,
        evidence: &Evidence<'_>,
    ) -> Result<Vec<Effect>, Refusal> {
        self.must_be_joined(sender)?;
        let theirs = evidence
            .target
            .filter(|event| event.id() == target && event.fields().room_id == *self.id())
            .ok_or(Refusal::UnknownTarget)?
            .fields();
        if theirs.kind == "m.room.create" {
            // In v10 it would take the room's version and `m.federate` away.
            return Err(wrong(
                "m.room.redaction",
                "its target",
                "another event than the first",
            ));
        }
        let wanted = Wanted {
            kind: "m.room.redaction".to_owned(),
            state_key: None,
            content,
            redacts: Some(target.clone()),
        };
        let fields = self.authorised(sender, wanted, evidence.now)?;
        if theirs.sender != sender
            && let Some(levels) = self.levels()
        {
            let needed = levels.field(REDACT);
            match levels.of(sender.as_str()) {
                Level::Finite(has) if has < needed => {
                    return Err(Refusal::MayNotRedact { needed, has });
                }
                _ => {}
            }
        }
        let redaction = self.signed(fields, evidence)?;
        let because = redaction.id().clone();
        let target = target.clone();
        Ok(vec![
            Effect::Append(redaction),
            Effect::Redact { target, because },
        ])
    }

    /// Gives the event its place in the graph and asks the rules.
    pub(super) fn authorised(
        &self,
        sender: &UserId,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<PduFields, Refusal> {
        let tips = &self.heads().tips;
        let deepest = tips.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
        let state_key = wanted.state_key.as_deref();
        let (kind, content) = (&wanted.kind, &wanted.content);
        let auth = select(kind, sender, state_key, content, self.version())
            .into_iter()
            .filter_map(|(kind, key)| Some(self.state(kind, key)?.id().clone()))
            .collect();
        let fields = PduFields {
            room_id: self.id().clone(),
            kind: wanted.kind,
            sender: sender.to_owned(),
            state_key: wanted.state_key,
            content: wanted.content,
            redacts: wanted.redacts,
            at: now,
            depth: deepest.saturating_add(1).min(DEPTH_MAX),
            prev: tips
                .iter()
                .take(PREV_EVENTS_MAX)
                .map(|(id, _)| id.clone())
                .collect(),
            auth,
        };
        let state = |kind: &str, key: &str| self.state(kind, key).cloned();
        check_auth(&fields, self.version(), &state)?;
        Ok(fields)
    }

    /// Hashes and signs what the rules allowed.
    pub(super) fn signed(
        &self,
        fields: PduFields,
        evidence: &Evidence<'_>,
    ) -> Result<Arc<Pdu>, Refusal> {
        Ok(Arc::new(Pdu::sign(fields, self.version(), evidence.key)?))
    }

    /// The current state that already says what this sender wants it to say.
    pub(super) fn already(
        &self,
        sender: &UserId,
        kind: &str,
        key: &str,
        content: &CanonicalJsonObject,
    ) -> Option<Effect> {
        let current = self.state(kind, key)?;
        let fields = current.fields();
        (fields.sender == sender && fields.content == *content).then(|| Effect::Already {
            event: Some(current.id().clone()),
            user: sender.to_owned(),
        })
    }

    pub(super) fn must_be_joined(&self, sender: &UserId) -> Result<(), Refusal> {
        if self.membership(sender) == Membership::Join {
            return Ok(());
        }
        Err(Refusal::NotMember(sender.to_owned()))
    }

    pub(super) fn levels(&self) -> Option<Levels<'_>> {
        let create = self.state("m.room.create", "")?;
        let levels = self.state("m.room.power_levels", "").map(Arc::as_ref);
        Some(Levels::new(create, levels, self.version()))
    }
}

/// What a membership call asks for, as content.
pub(super) fn with_membership(
    content: &CanonicalJsonObject,
    change: MemberChange,
) -> CanonicalJsonObject {
    let membership = match change {
        MemberChange::Join => Membership::Join,
        MemberChange::Invite => Membership::Invite,
        MemberChange::Leave | MemberChange::Kick | MemberChange::Unban => Membership::Leave,
        MemberChange::Ban => Membership::Ban,
        MemberChange::Knock => Membership::Knock,
    };
    let mut content = content.clone();
    content.insert("membership".to_owned(), membership.as_str().into());
    // Ours to say, never the client's: it makes a server vouch for the join.
    content.remove("join_authorised_via_users_server");
    content
}

/// What a redaction written as an event names; clients put it here in every room version.
fn redacts(content: &CanonicalJsonObject) -> Option<OwnedEventId> {
    let id = content
        .get("redacts")
        .and_then(CanonicalJsonValue::as_str)?;
    OwnedEventId::try_from(id).ok()
}

pub(super) fn wrong(kind: &str, field: &str, wanted: &str) -> Refusal {
    Refusal::Content {
        kind: kind.to_owned(),
        wrong: format!("{field} must be {wanted}"),
    }
}
