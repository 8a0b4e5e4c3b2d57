//! Words of closed lists that ruma reads whatever they are, since lists of other endpoints are open:
//! one that is on no list means nothing, and whoever sends it is told.

use ruma::{
    api::client::{
        filter::{EventFormat, FilterDefinition},
        room::Visibility,
        sync::sync_events::v3::Filter,
    },
    events::room::member::MembershipState,
    presence::PresenceState,
};

use super::unread::not_inline;
use crate::api::{Command, Refusal};

/// The request, unless such a word stands in it.
// spec: client-server §Common-error-codes
pub(super) fn checked(command: Command) -> Result<Command, Refusal> {
    let visibility = |named: &Visibility| {
        let known = [Visibility::Public, Visibility::Private];
        one_of("visibility", named, &known, ["public", "private"])
    };
    let presence = |name, named: &PresenceState| {
        let known = [
            PresenceState::Online,
            PresenceState::Unavailable,
            PresenceState::Offline,
        ];
        one_of(name, named, &known, ["online", "unavailable", "offline"])
    };
    let membership = |name, named: &Option<MembershipState>| {
        use MembershipState::{Ban, Invite, Join, Knock, Leave};
        let Some(named) = named else { return Ok(()) };
        let known = [Join, Invite, Knock, Leave, Ban];
        let words = ["join", "invite", "knock", "leave", "ban"];
        one_of(name, named, &known, words)
    };
    let format = |name, named: &EventFormat| {
        let known = [EventFormat::Client, EventFormat::Federation];
        one_of(name, named, &known, ["client", "federation"])
    };
    match &command {
        Command::CreateFilter(asked) => format("event_format", &asked.filter.event_format)?,
        Command::Sync(asked) => {
            if let Some(Filter::FilterDefinition(filter)) = &asked.filter {
                format("filter.event_format", &filter.event_format)?;
            }
            presence("set_presence", &asked.set_presence)?;
            // taken for an id where it is not read as a filter; no id looks like that
            if let Some(Filter::FilterId(id)) = &asked.filter
                && id.starts_with('{')
            {
                return Err(not_inline::<FilterDefinition>("filter", id));
            }
        }
        Command::SetPresence(asked) => presence("presence", &asked.presence)?,
        Command::CreateRoom(asked) => visibility(&asked.visibility)?,
        Command::SetRoomVisibility(asked) => visibility(&asked.visibility)?,
        Command::Members(asked) => {
            membership("membership", &asked.membership)?;
            membership("not_membership", &asked.not_membership)?;
        }
        _ => {}
    }
    Ok(command)
}

fn one_of<T: PartialEq, const N: usize>(
    name: &str,
    found: &T,
    known: &[T; N],
    words: [&str; N],
) -> Result<(), Refusal> {
    if known.contains(found) {
        return Ok(());
    }
    let words = words.map(|word| format!("`{word}`")).join(", ");
    Err(Refusal::invalid_param(format!(
        "`{name}`: expected one of {words}, found another text"
    )))
}
