//! Rule 4 / 5: membership.

use ruma::{CanonicalJsonValue, UserId};

use super::{
    At, Auth, Clause,
    levels::{BAN, INVITE, KICK, Level, first_creator},
    third_party,
};
use crate::room::Membership;

const BY_USER: &str = "join_authorised_via_users_server";

/// spec: matrix-v12 §Authorization-rules
pub(super) fn check(auth: &Auth<'_>) -> Result<(), Clause> {
    let content = &auth.fields.content;
    // 4.1 / 5.1. There must be a state key and a membership. The text does not say that the key
    // must be a user id; ruma and Synapse both refuse anything else, and so do we.
    let target = auth.fields.state_key.as_deref().unwrap_or("");
    if <&UserId>::try_from(target).is_err() {
        return Err(auth.refuse(
            At("4.1", "5.1"),
            format!("the state key {target:?} names no user"),
        ));
    }
    let Some(membership) = content.get("membership") else {
        return Err(auth.refuse(At("4.1", "5.1"), "`membership` is missing"));
    };
    // 4.2.1 / 5.2.1. The server of the user named here must have signed. Signatures are checked
    // before these rules; a value that names no user can be signed by no one's server.
    if let Some(by) = content.get(BY_USER)
        && by
            .as_str()
            .is_none_or(|id| <&UserId>::try_from(id).is_err())
    {
        return Err(auth.refuse(
            At("4.2.1", "5.2.1"),
            format!("`{BY_USER}` is {by}, which names no user"),
        ));
    }
    match membership.as_str().map(str::parse) {
        Some(Ok(Membership::Join)) => join(auth, target),
        Some(Ok(Membership::Invite)) => invite(auth, target),
        Some(Ok(Membership::Leave)) => leave(auth, target),
        Some(Ok(Membership::Ban)) => ban(auth, target),
        Some(Ok(Membership::Knock)) => knock(auth, target),
        // 4.8 / 5.8. Otherwise, the membership is unknown.
        _ => Err(auth.refuse(
            At("4.8", "5.8"),
            format!("the membership {membership} is unknown"),
        )),
    }
}

/// 4.3 / 5.3. If membership is join.
#[expect(clippy::match_same_arms, reason = "an arm for each clause of the text")]
fn join(auth: &Auth<'_>, target: &str) -> Result<(), Clause> {
    // 4.3.1 / 5.3.1. The creator, straight after the create event. The text asks nothing of the
    // sender here.
    let only_create = auth.fields.prev.as_slice() == std::slice::from_ref(auth.create.id());
    if only_create && first_creator(&auth.create, auth.version) == Some(target) {
        return Ok(());
    }
    // 4.3.2 / 5.3.2. Nobody else can join for someone.
    must_be_own(auth, At("4.3.2", "5.3.2"), target, "join")?;
    // 4.3.3 / 5.3.3. Not when banned.
    let now = auth.membership(target);
    if now == Membership::Ban {
        return Err(auth.refuse(At("4.3.3", "5.3.3"), format!("{target} is banned")));
    }
    let was_let_in = matches!(now, Membership::Invite | Membership::Join);
    let rule = auth.join_rule();
    match rule.as_str() {
        // 4.3.4 / 5.3.4. By invite or knock: only who is invited or already joined.
        "invite" | "knock" if was_let_in => Ok(()),
        // 4.3.5 / 5.3.5. Restricted: who is, or whom someone who may invite vouches for.
        "restricted" | "knock_restricted" if was_let_in => Ok(()),
        "restricted" | "knock_restricted" => vouched_for(auth),
        // 4.3.6 / 5.3.6. Public: anyone.
        "public" => Ok(()),
        // 4.3.7 / 5.3.7. Otherwise, reject.
        _ => Err(auth.refuse(
            At("4.3.7", "5.3.7"),
            format!("the join rule is {rule:?} and the membership of {target} is {now}"),
        )),
    }
}

/// 4.3.5.2 / 5.3.5.2. The user named must be joined and may invite.
fn vouched_for(auth: &Auth<'_>) -> Result<(), Clause> {
    let at = At("4.3.5.2", "5.3.5.2");
    let Some(by) = auth
        .fields
        .content
        .get(BY_USER)
        .and_then(CanonicalJsonValue::as_str)
    else {
        return Err(auth.refuse(
            at,
            format!("the room is restricted and `{BY_USER}` names nobody"),
        ));
    };
    let membership = auth.membership(by);
    let levels = auth.levels();
    let (has, needed) = (levels.of(by), levels.field(INVITE));
    if membership == Membership::Join && has >= Level::Finite(needed) {
        return Ok(());
    }
    Err(auth.refuse(
        at,
        format!(
            "{by} lets the sender in, has membership {membership} and {}, needs join and power level {needed}",
            has.in_words()
        ),
    ))
}

/// 4.4 / 5.4. If membership is invite.
fn invite(auth: &Auth<'_>, target: &str) -> Result<(), Clause> {
    // 4.4.1 / 5.4.1. If content has `third_party_invite`: its own rules.
    if let Some(invite) = auth.fields.content.get("third_party_invite") {
        return third_party::check(auth, target, invite);
    }
    // 4.4.2 / 5.4.2. The sender must be joined.
    auth.must_be_joined(At("4.4.2", "5.4.2"))?;
    // 4.4.3 / 5.4.3. The target must be neither joined nor banned.
    let now = auth.membership(target);
    if matches!(now, Membership::Join | Membership::Ban) {
        return Err(auth.refuse(
            At("4.4.3", "5.4.3"),
            format!("{target} cannot be invited, its membership is {now}"),
        ));
    }
    // 4.4.4, 4.4.5 / 5.4.4, 5.4.5. The sender needs the invite level.
    let levels = auth.levels();
    let has = levels.of(auth.fields.sender.as_str());
    auth.needs(At("4.4.5", "5.4.5"), has, levels.field(INVITE), "to invite")
}

/// 4.5 / 5.5. If membership is leave.
fn leave(auth: &Auth<'_>, target: &str) -> Result<(), Clause> {
    let now = auth.membership(target);
    // 4.5.1 / 5.5.1. One's own: from invite, join or knock only.
    if auth.fields.sender.as_str() == target {
        return match now {
            Membership::Invite | Membership::Join | Membership::Knock => Ok(()),
            Membership::Leave | Membership::Ban => Err(auth.refuse(
                At("4.5.1", "5.5.1"),
                format!("{target} cannot leave, its membership is {now}"),
            )),
        };
    }
    // 4.5.2 / 5.5.2. The sender must be joined.
    auth.must_be_joined(At("4.5.2", "5.5.2"))?;
    // 4.5.3 / 5.5.3. To lift a ban the sender needs the ban level too.
    let levels = auth.levels();
    let has = levels.of(auth.fields.sender.as_str());
    if now == Membership::Ban {
        auth.needs(
            At("4.5.3", "5.5.3"),
            has,
            levels.field(BAN),
            "to lift a ban",
        )?;
    }
    // 4.5.4, 4.5.5 / 5.5.4, 5.5.5. The kick level, and more power than the target.
    auth.needs(At("4.5.5", "5.5.5"), has, levels.field(KICK), "to kick")?;
    must_outrank(auth, At("4.5.5", "5.5.5"), has, target)
}

/// 4.6 / 5.6. If membership is ban.
fn ban(auth: &Auth<'_>, target: &str) -> Result<(), Clause> {
    // 4.6.1 / 5.6.1. The sender must be joined.
    auth.must_be_joined(At("4.6.1", "5.6.1"))?;
    // 4.6.2, 4.6.3 / 5.6.2, 5.6.3. The ban level, and more power than the target.
    let levels = auth.levels();
    let has = levels.of(auth.fields.sender.as_str());
    auth.needs(At("4.6.3", "5.6.3"), has, levels.field(BAN), "to ban")?;
    must_outrank(auth, At("4.6.3", "5.6.3"), has, target)
}

/// 4.7 / 5.7. If membership is knock.
fn knock(auth: &Auth<'_>, target: &str) -> Result<(), Clause> {
    // 4.7.1 / 5.7.1. The join rule must allow it.
    let rule = auth.join_rule();
    if !matches!(rule.as_str(), "knock" | "knock_restricted") {
        return Err(auth.refuse(
            At("4.7.1", "5.7.1"),
            format!("the join rule is {rule:?}, which lets nobody knock"),
        ));
    }
    // 4.7.2 / 5.7.2. Nobody else can knock for someone.
    must_be_own(auth, At("4.7.2", "5.7.2"), target, "knock")?;
    // 4.7.3, 4.7.4 / 5.7.3, 5.7.4. Not when banned, invited or joined.
    match auth.membership(target) {
        Membership::Leave | Membership::Knock => Ok(()),
        now => Err(auth.refuse(
            At("4.7.4", "5.7.4"),
            format!("{target} cannot knock, its membership is {now}"),
        )),
    }
}

fn must_be_own(auth: &Auth<'_>, at: At, target: &str, what: &str) -> Result<(), Clause> {
    let sender = auth.fields.sender.as_str();
    if sender == target {
        return Ok(());
    }
    Err(auth.refuse(at, format!("{sender} cannot {what} for {target}")))
}

fn must_outrank(auth: &Auth<'_>, at: At, has: Level, target: &str) -> Result<(), Clause> {
    let theirs = auth.levels().of(target);
    if theirs < has {
        return Ok(());
    }
    let sender = &auth.fields.sender;
    Err(auth.refuse(
        at,
        format!(
            "{target} has {}, {sender} has {}, which is not more",
            theirs.in_words(),
            has.in_words()
        ),
    ))
}
