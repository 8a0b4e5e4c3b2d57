//! What a room's id, an alias, a user's id and a file's address look like, and what to say when one does not.
//!
//! Only the shape: whether there is such a room is the hub's to say.

use ruma::{RoomAliasId, RoomId, ServerName, UserId};

use crate::app::{cli::ClientVerb, failure::Failure};

/// Checks every id that a verb was given.
pub(super) fn check(verb: &ClientVerb) -> Result<(), Failure> {
    match verb {
        ClientVerb::Create { alias, invite, .. } => {
            alias.iter().try_for_each(|alias| alias_localpart(alias))?;
            invite.iter().try_for_each(|id| user("--invite", id))
        }
        ClientVerb::Invite {
            room: id,
            user: whom,
        } => {
            room(id)?;
            user("USER", whom)
        }
        ClientVerb::Join { room: id, via } => {
            room(id)?;
            via.iter().try_for_each(|name| server(name))
        }
        ClientVerb::Alias {
            room: id,
            alias: given,
            ..
        } => {
            room(id)?;
            given.iter().try_for_each(|given| alias(given))
        }
        ClientVerb::Leave { room: id }
        | ClientVerb::Read { room: id, .. }
        | ClientVerb::Status { room: Some(id) } => room(id),
        ClientVerb::Send { room: id, text, .. } => {
            room(id)?;
            if text.is_empty() {
                return Err(Failure::usage(
                    "TEXT",
                    "the text is empty: there is nothing to send",
                ));
            }
            Ok(())
        }
        ClientVerb::Download { uri, .. } => file(uri).map(|_| ()),
        ClientVerb::Rooms
        | ClientVerb::Upload { .. }
        | ClientVerb::Sync { .. }
        | ClientVerb::Status { room: None }
        | ClientVerb::Ledger
        | ClientVerb::LinkClass { .. }
        | ClientVerb::Approve { .. }
        | ClientVerb::Link { .. }
        | ClientVerb::Logout => Ok(()),
    }
}

fn room(given: &str) -> Result<(), Failure> {
    let is_id = given.len() > 1 && RoomId::parse(given).is_ok();
    let is_alias = RoomAliasId::parse(given).is_ok_and(|alias| !alias.alias().is_empty());
    if is_id || is_alias {
        return Ok(());
    }
    let example = match given.strip_prefix(['#', '!']).unwrap_or(given) {
        name if is_plain(name) => format!("'#{name}:hub.example'"),
        _ => "'#crew:hub.example'".to_owned(),
    };
    let reason = if given.starts_with('#') {
        format!(
            "ROOM {given:?} is not a whole alias: it ends with a colon and the server's name, as in {example}"
        )
    } else {
        format!(
            "ROOM {given:?} is no room: give its id, which begins with ! (`tramline client rooms` lists \
             them), or its alias, as in {example}; both in single quotes, because of the shell"
        )
    };
    Err(Failure::usage("ROOM_ID", reason))
}

/// `parameter` is what the command line calls it.
fn user(parameter: &str, given: &str) -> Result<(), Failure> {
    if UserId::parse(given).is_ok_and(|id| !id.localpart().is_empty()) {
        return Ok(());
    }
    let name = given.strip_prefix('@').unwrap_or(given);
    let name = if is_plain(name) { name } else { "bob" };
    let reason = format!(
        "{parameter} {given:?} is no user's id: write @, the name, a colon and the server's name, as in \
         @{name}:hub.example"
    );
    Err(Failure::usage("USER_ID", reason))
}

fn server(given: &str) -> Result<(), Failure> {
    if ServerName::parse(given).is_ok() {
        return Ok(());
    }
    let reason = format!(
        "--via {given:?} is no server's name: it is what stands behind the colon of a user's id, as in \
         --via synapse.example"
    );
    Err(Failure::usage("SERVER_NAME", reason))
}

/// The server and the media id of a file's URI.
pub(super) fn file(given: &str) -> Result<(&str, &str), Failure> {
    let parts = given
        .strip_prefix("mxc://")
        .and_then(|rest| rest.split_once('/'));
    let is_whole = |(server, id): &(&str, &str)| !server.is_empty() && !id.is_empty();
    parts.filter(is_whole).ok_or_else(|| {
        let reason = format!(
            "MXC {given:?} is no file's address: it begins with mxc:// and has the server's name and an id, \
             as in mxc://hub.example/Aqe3 (`upload` prints it)"
        );
        Failure::usage("MXC", reason)
    })
}

/// An alias, of which # and the server's name may be left out.
fn alias(given: &str) -> Result<(), Failure> {
    let name = given.strip_prefix('#').unwrap_or(given);
    let whole = if name.contains(':') {
        format!("#{name}")
    } else {
        format!("#{name}:hub.example")
    };
    let is_odd = |c: char| c.is_control() || c.is_whitespace();
    if RoomAliasId::parse(&*whole).is_ok_and(|alias| !alias.alias().is_empty())
        && !whole.contains(is_odd)
    {
        return Ok(());
    }
    let reason = format!(
        "ALIAS {given:?} is no alias: it is # and a name, and may end with a colon and the server's name, as in \
         '#crew' or '#crew:hub.example'"
    );
    Err(Failure::usage("ALIAS", reason))
}

fn alias_localpart(given: &str) -> Result<(), Failure> {
    if !given.is_empty() && !given.contains(['#', ':', '\0']) {
        return Ok(());
    }
    let bare = given.trim_start_matches('#').split(':').next();
    let bare = bare.filter(|bare| !bare.is_empty()).unwrap_or("crew");
    let reason = format!(
        "--alias {given:?}: it takes only what stands between # and the colon; the hub adds its name: \
         --alias {bare}"
    );
    Err(Failure::usage("ALIAS", reason))
}

/// Whether something can stand in an example as it is.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 32 && name.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(checked: Result<(), Failure>) -> String {
        checked.unwrap_err().to_string()
    }

    #[test]
    fn ids_and_aliases_are_taken() {
        for given in [
            "!31hneApxJ_1o-63DmFrpeqnkFFWppnzWso1JvH3ogLM",
            "!abc:hub.example",
            "#crew:hub.example",
        ] {
            assert_eq!(room(given), Ok(()), "{given}");
        }
        assert_eq!(user("USER", "@bob:hub.example"), Ok(()));
        assert_eq!(server("localhost:8448"), Ok(()));
        assert_eq!(alias_localpart("crew"), Ok(()));
        let whole = "mxc://hub.example:8448/Aqe3_-";
        assert_eq!(file(whole), Ok(("hub.example:8448", "Aqe3_-")));
    }

    #[test]
    fn what_is_malformed_is_repeated_with_the_shape_and_an_example() {
        for (given, wanted) in [
            (
                "crew",
                "ROOM \"crew\" is no room: give its id, which begins with !",
            ),
            ("crew", "'#crew:hub.example'"),
            ("", "ROOM \"\" is no room"),
            ("!", "ROOM \"!\" is no room"),
            ("@ana:hub.example", "as in '#crew:hub.example'"),
            (
                "#crew",
                "ROOM \"#crew\" is not a whole alias: it ends with a colon",
            ),
            ("#:hub.example", "not a whole alias"),
        ] {
            let said = said(room(given));
            assert!(said.starts_with("error[ROOM_ID]"), "{said}");
            assert!(said.contains(wanted), "{said}");
        }
        for given in ["bob", "@bob", "bob:hub.example", "@:hub.example"] {
            let said = said(user("--invite", given));
            assert!(said.starts_with("error[USER_ID]"), "{said}");
            assert!(said.contains(&format!("--invite {given:?}")), "{said}");
            assert!(said.ends_with("as in @bob:hub.example"), "{said}");
        }
        for given in [
            "",
            "photo.jpg",
            "mxc://hub.example",
            "mxc:///Aqe3",
            "mxc://h/",
        ] {
            let said = said(file(given).map(|_| ()));
            assert!(said.starts_with("error[MXC]"), "{said}");
            assert!(said.contains("MXC \""), "{said}");
        }
        let via = said(server("synapse/example"));
        assert!(
            via.contains("--via \"synapse/example\" is no server"),
            "{via}"
        );
        for given in ["#crew:hub.example", "#crew", "crew:hub.example", ""] {
            let said = said(alias_localpart(given));
            assert!(said.ends_with("--alias crew"), "{said}");
        }
    }

    #[test]
    fn no_message_has_the_words_of_a_parser() {
        for given in ["crew", "#crew", "@", "\u{1b}[2J"] {
            for said in [said(room(given)), said(user("USER", given))] {
                for jargon in ["sigil", "localpart", "identifier"] {
                    assert!(!said.contains(jargon), "{said}");
                }
                assert!(!said.contains('\u{1b}'), "{said}");
            }
        }
    }
}
