//! Membership calls: what they presuppose, and which of them change nothing.

use std::sync::Arc;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId};

use super::decide::{Wanted, with_membership, wrong};
use crate::{
    base::Timestamp,
    room::{Effect, Evidence, MemberChange, Membership, Refusal, Room},
    wire::matrix::PduFields,
};

/// The words of `membership`.
const MEMBERSHIPS: &str = "one of `join`, `invite`, `knock`, `leave`, `ban`";

impl Room {
    /// A user's membership as far as it is known: `leave` without an event.
    pub fn membership(&self, user: &UserId) -> Membership {
        self.state("m.room.member", user.as_str())
            .map(|event| Membership::of(event.fields()))
            .unwrap_or_default()
    }

    /// Which call a membership event written as state stands for.
    pub(super) fn read_member(
        &self,
        sender: &UserId,
        target: &str,
        content: &CanonicalJsonObject,
    ) -> Result<(OwnedUserId, MemberChange), Refusal> {
        let target = OwnedUserId::try_from(target)
            .map_err(|_| wrong("m.room.member", "the state key", "a user id"))?;
        let membership = Membership::named_in(content)
            .ok_or_else(|| wrong("m.room.member", "`membership`", MEMBERSHIPS))?;
        let change = match membership {
            Membership::Join => MemberChange::Join,
            Membership::Invite => MemberChange::Invite,
            Membership::Ban => MemberChange::Ban,
            Membership::Knock => MemberChange::Knock,
            Membership::Leave if target == sender => MemberChange::Leave,
            Membership::Leave if self.membership(&target) == Membership::Ban => MemberChange::Unban,
            Membership::Leave => MemberChange::Kick,
        };
        Ok((target, change))
    }

    pub(super) fn decide_member(
        &self,
        sender: &UserId,
        target: &UserId,
        change: MemberChange,
        content: &CanonicalJsonObject,
        evidence: &Evidence<'_>,
    ) -> Result<Vec<Effect>, Refusal> {
        let now = self.membership(target);
        self.precondition(sender, target, change, now)?;
        if change == MemberChange::Leave && now == Membership::Leave {
            return self.already_out(target);
        }
        let content = with_membership(content, change);
        if let Some(already) = self.already(sender, "m.room.member", target.as_str(), &content) {
            return Ok(vec![already]);
        }
        let wanted = Wanted {
            kind: "m.room.member".to_owned(),
            state_key: Some(target.to_string()),
            content,
            redacts: None,
        };
        let fields = self.authorised(sender, wanted, evidence.now)?;
        Ok(vec![Effect::Append(self.signed(fields, evidence)?)])
    }

    /// What a user of another server would say to join, leave or knock, for that server to sign.
    /// `vouching` is a user of ours who lets them into a restricted room. Everything that
    /// [`Room::needs`] names for it, and the membership of whoever vouches, must have been learnt.
    pub fn template(
        &self,
        user: &UserId,
        change: MemberChange,
        vouching: Option<&UserId>,
        now: Timestamp,
    ) -> Result<PduFields, Refusal> {
        let mut content = with_membership(&CanonicalJsonObject::new(), change);
        if let Some(vouching) = vouching {
            let name = "join_authorised_via_users_server";
            content.insert(name.to_owned(), vouching.as_str().into());
        }
        let wanted = Wanted {
            kind: "m.room.member".to_owned(),
            state_key: Some(user.to_string()),
            content,
            redacts: None,
        };
        self.authorised(user, wanted, now)
    }

    /// What the client API presupposes and the rules do not say, or do not say as clearly.
    fn precondition(
        &self,
        sender: &UserId,
        target: &UserId,
        change: MemberChange,
        now: Membership,
    ) -> Result<(), Refusal> {
        let for_oneself = matches!(
            change,
            MemberChange::Join | MemberChange::Leave | MemberChange::Knock
        );
        if !for_oneself {
            self.must_be_joined(sender)?;
        } else if sender != target {
            return Err(Refusal::Membership(
                "one can join, leave and knock only for oneself",
            ));
        }
        let is_in = matches!(
            now,
            Membership::Join | Membership::Invite | Membership::Knock
        );
        match change {
            MemberChange::Kick if !is_in => Err(Refusal::Membership(
                "only who is joined, invited or knocking can be kicked",
            )),
            MemberChange::Unban if now != Membership::Ban => {
                Err(Refusal::Membership("only who is banned can be unbanned"))
            }
            MemberChange::Invite if !self.may_be_reached(target) => Err(Refusal::Membership(
                "this room is not federated: only users of its server can be invited",
            )),
            // TODO(once memberships in other rooms can be evidence): choose who lets them in.
            // A knock lets nobody in; a ban the rules name themselves.
            MemberChange::Join
                if matches!(now, Membership::Leave | Membership::Knock) && self.is_restricted() =>
            {
                Err(Refusal::Membership(
                    "this room lets in only who is invited: whether its conditions for others \
                     hold cannot be checked yet",
                ))
            }
            _ => Ok(()),
        }
    }

    fn already_out(&self, user: &UserId) -> Result<Vec<Effect>, Refusal> {
        let event = self
            .state("m.room.member", user.as_str())
            .ok_or_else(|| Refusal::NotMember(user.to_owned()))?;
        Ok(vec![Effect::Already {
            event: Some(event.id().clone()),
            user: user.to_owned(),
        }])
    }

    fn is_restricted(&self) -> bool {
        self.state("m.room.join_rules", "")
            .and_then(|event| event.fields().content.get("join_rule")?.as_str())
            .is_some_and(|rule| matches!(rule, "restricted" | "knock_restricted"))
    }

    /// Whether a user of that server could ever join; the rules would refuse only the join.
    fn may_be_reached(&self, target: &UserId) -> bool {
        self.state("m.room.create", "")
            .map(Arc::as_ref)
            .is_none_or(|create| {
                let fields = create.fields();
                let federate = fields.content.get("m.federate");
                federate.and_then(CanonicalJsonValue::as_bool) != Some(false)
                    || fields.sender.server_name() == target.server_name()
            })
    }
}
