//! What users are to rooms that the hub is not in: each is the event that made it so, unchanged.

use ruma::OwnedUserId;

use super::{Finding, Report, Wrong, or_damaged};
use crate::{
    base::Position,
    room::Membership,
    store::{OutsideRecord, Store, StoreError},
    wire::matrix::{Pdu, check_intact},
};

/// How many accounts are read at once.
const USERS_PAGE: u32 = 256;

/// Checks what every account has.
pub(super) async fn check(store: &dyn Store, report: &mut Report) -> Result<(), StoreError> {
    let mut after: Option<OwnedUserId> = None;
    loop {
        // Accounts are not looked at: one that cannot be read hides what is after it here.
        let Ok(users) = or_damaged(store.users(after.as_deref(), USERS_PAGE).await)? else {
            return Ok(());
        };
        let Some(last) = users.last() else {
            return Ok(());
        };
        after = Some(last.user.clone());
        for user in users {
            of_user(store, user.user, report).await?;
        }
    }
}

async fn of_user(
    store: &dyn Store,
    user: OwnedUserId,
    report: &mut Report,
) -> Result<(), StoreError> {
    let all = match or_damaged(store.outside(&user, Position::ZERO).await)? {
        Ok(all) => all,
        Err(why) => {
            report.add(Finding::of_store(Wrong::Outside { user, why }));
            return Ok(());
        }
    };
    for record in all {
        if let Err(why) = sound(&record) {
            let user = record.user.clone();
            let room = record.room_id.to_string();
            report.add(Finding::of_room(room, None, Wrong::Outside { user, why }));
        }
    }
    Ok(())
}

fn sound(record: &OutsideRecord) -> Result<(), String> {
    let event = Pdu::read(&record.event, record.version).map_err(|error| error.to_string())?;
    check_intact(&record.event, event.hash(), record.version).map_err(|error| error.to_string())?;
    let fields = event.fields();
    let says = Membership::of(fields);
    let is_out = record.membership == Membership::Leave && says == Membership::Ban;
    if fields.room_id != record.room_id
        || fields.kind != "m.room.member"
        || fields.state_key.as_deref() != Some(record.user.as_str())
        || (says != record.membership && !is_out)
    {
        return Err(format!("{} says something else", event.id()));
    }
    let shown: Result<Vec<serde::de::IgnoredAny>, _> = serde_json::from_str(&record.state);
    shown
        .map(drop)
        .map_err(|error| format!("what the room shows of itself: {error}"))
}
