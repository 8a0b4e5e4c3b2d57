//! The one-character paths of MSC3079: version 1 of its table.
//!
//! Paths are lists of segments, as CoAP carries them, so a `/` inside a parameter stays inside it.
//! Whether the hub serves a full path, and with which method, is for the router to say.

use thiserror::Error;

/// The version of the table, as `/versions` advertises it.
// spec: msc3079 §Versioning
pub const VERSION: u32 = 1;

/// A short path that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// The one character is not in the table, perhaps of a newer version.
    #[error("the short path /{code} is not in the table")]
    UnknownCode {
        /// The character.
        code: char,
    },
    /// Too few or too many segments after the code.
    #[error("the short path /{code} takes {wanted} parameters, got {got}")]
    ParameterCount {
        /// The code.
        code: char,
        /// How many its template has.
        wanted: usize,
        /// How many came.
        got: usize,
    },
}

/// The full path that a short one stands for; a full path is given back as it came.
///
/// A path is short when its first segment is one character: no full path begins so.
// spec: msc3079 §CoAP-Path-Enums
pub fn expand<'a>(segments: &[&'a str]) -> Result<Vec<&'a str>, PathError> {
    let Some((first, parameters)) = segments.split_first() else {
        return Ok(Vec::new());
    };
    let Some(code) = only_char(first) else {
        return Ok(segments.to_vec());
    };
    let template = TEMPLATES.iter().find(|(short, _)| short == first);
    let (_, template) = template.ok_or(PathError::UnknownCode { code })?;

    let wanted = template_segments(template)
        .filter(|segment| is_parameter(segment))
        .count();
    if wanted != parameters.len() {
        return Err(PathError::ParameterCount {
            code,
            wanted,
            got: parameters.len(),
        });
    }
    let mut parameters = parameters.iter().copied();
    let fill = |segment| {
        if is_parameter(segment) {
            parameters.next()
        } else {
            Some(segment)
        }
    };
    Ok(template_segments(template).filter_map(fill).collect())
}

/// The short path that stands for a full one, if the table has it.
pub fn shorten<'a>(full: &[&'a str]) -> Option<Vec<&'a str>> {
    let (code, template) = TEMPLATES
        .iter()
        .find(|(_, template)| stands_for(template, full))?;
    let parameters = template_segments(template)
        .zip(full)
        .filter(|(segment, _)| is_parameter(segment))
        .map(|(_, parameter)| *parameter);
    Some([*code].into_iter().chain(parameters).collect())
}

fn stands_for(template: &'static str, full: &[&str]) -> bool {
    template_segments(template).count() == full.len()
        && template_segments(template)
            .zip(full)
            .all(|(segment, given)| is_parameter(segment) || segment == *given)
}

fn template_segments(template: &'static str) -> impl Iterator<Item = &'static str> {
    template.split('/').skip(1)
}

fn is_parameter(segment: &str) -> bool {
    segment.starts_with('{')
}

fn only_char(segment: &str) -> Option<char> {
    let mut chars = segment.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// Each code and the template it stands for, in the order of the MSC.
// spec: msc3079 §Appendix-B
const TEMPLATES: [(&str, &str); 57] = [
    ("0", "/_matrix/client/versions"),
    ("1", "/_matrix/client/r0/login"),
    ("2", "/_matrix/client/r0/capabilities"),
    ("3", "/_matrix/client/r0/logout"),
    ("4", "/_matrix/client/r0/register"),
    ("5", "/_matrix/client/r0/user/{userId}/filter"),
    ("6", "/_matrix/client/r0/user/{userId}/filter/{filterId}"),
    ("7", "/_matrix/client/r0/sync"),
    (
        "8",
        "/_matrix/client/r0/rooms/{roomId}/state/{eventType}/{stateKey}",
    ),
    (
        "9",
        "/_matrix/client/r0/rooms/{roomId}/send/{eventType}/{txnId}",
    ),
    ("A", "/_matrix/client/r0/rooms/{roomId}/event/{eventId}"),
    ("B", "/_matrix/client/r0/rooms/{roomId}/state"),
    ("C", "/_matrix/client/r0/rooms/{roomId}/members"),
    ("D", "/_matrix/client/r0/rooms/{roomId}/joined_members"),
    ("E", "/_matrix/client/r0/rooms/{roomId}/messages"),
    (
        "F",
        "/_matrix/client/r0/rooms/{roomId}/redact/{eventId}/{txnId}",
    ),
    ("G", "/_matrix/client/r0/createRoom"),
    ("H", "/_matrix/client/r0/directory/room/{roomAlias}"),
    ("I", "/_matrix/client/r0/joined_rooms"),
    ("J", "/_matrix/client/r0/rooms/{roomId}/invite"),
    ("K", "/_matrix/client/r0/rooms/{roomId}/join"),
    ("L", "/_matrix/client/r0/join/{roomIdOrAlias}"),
    ("M", "/_matrix/client/r0/rooms/{roomId}/leave"),
    ("N", "/_matrix/client/r0/rooms/{roomId}/forget"),
    ("O", "/_matrix/client/r0/rooms/{roomId}/kick"),
    ("P", "/_matrix/client/r0/rooms/{roomId}/ban"),
    ("Q", "/_matrix/client/r0/rooms/{roomId}/unban"),
    ("R", "/_matrix/client/r0/directory/list/room/{roomId}"),
    ("S", "/_matrix/client/r0/publicRooms"),
    ("T", "/_matrix/client/r0/user_directory/search"),
    ("U", "/_matrix/client/r0/profile/{userId}/displayname"),
    ("V", "/_matrix/client/r0/profile/{userId}/avatar_url"),
    ("W", "/_matrix/client/r0/profile/{userId}"),
    ("X", "/_matrix/client/r0/voip/turnServer"),
    ("Y", "/_matrix/client/r0/rooms/{roomId}/typing/{userId}"),
    (
        "Z",
        "/_matrix/client/r0/rooms/{roomId}/receipt/{receiptType}/{eventId}",
    ),
    ("a", "/_matrix/client/r0/rooms/{roomId}/read_markers"),
    ("b", "/_matrix/client/r0/presence/{userId}/status"),
    ("c", "/_matrix/client/r0/sendToDevice/{eventType}/{txnId}"),
    ("d", "/_matrix/client/r0/devices"),
    ("e", "/_matrix/client/r0/devices/{deviceId}"),
    ("f", "/_matrix/client/r0/delete_devices"),
    ("g", "/_matrix/client/r0/keys/upload"),
    ("h", "/_matrix/client/r0/keys/query"),
    ("i", "/_matrix/client/r0/keys/claim"),
    ("j", "/_matrix/client/r0/keys/changes"),
    ("k", "/_matrix/client/r0/pushers"),
    ("l", "/_matrix/client/r0/pushers/set"),
    ("m", "/_matrix/client/r0/notifications"),
    ("n", "/_matrix/client/r0/pushrules/"),
    ("o", "/_matrix/client/r0/search"),
    ("p", "/_matrix/client/r0/user/{userId}/rooms/{roomId}/tags"),
    (
        "q",
        "/_matrix/client/r0/user/{userId}/rooms/{roomId}/tags/{tag}",
    ),
    ("r", "/_matrix/client/r0/user/{userId}/account_data/{type}"),
    (
        "s",
        "/_matrix/client/r0/user/{userId}/rooms/{roomId}/account_data/{type}",
    ),
    ("t", "/_matrix/client/r0/rooms/{roomId}/context/{eventId}"),
    ("u", "/_matrix/client/r0/rooms/{roomId}/report/{eventId}"),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PUBLISHED: &str = include_str!("../../conformance/vectors/msc3079/paths-v1.csv");

    fn segments(path: &str) -> Vec<&str> {
        path.split('/').skip(1).collect()
    }

    #[test]
    fn the_table_is_the_published_one() {
        let rows: Vec<_> = PUBLISHED
            .lines()
            .skip(1)
            .map(|row| row.split_once(',').unwrap())
            .collect();

        assert_eq!(rows, TEMPLATES);
    }

    #[test]
    fn every_code_expands_to_its_template_and_shortens_back() {
        for (code, template) in TEMPLATES {
            let full = segments(template);
            let mut short = vec![code];
            short.extend(full.iter().filter(|segment| is_parameter(segment)));

            assert_eq!(expand(&short).as_ref(), Ok(&full));
            assert_eq!(shorten(&full), Some(short));
        }
    }

    #[test]
    fn parameters_fill_the_template_from_left_to_right() {
        let short = [
            "9",
            "!7mqP7DYBUOmwAweF:localhost",
            "m.room.message",
            "$.AAABeH6obLU",
        ];

        let full = expand(&short).unwrap();

        let wanted = "/_matrix/client/r0/rooms/!7mqP7DYBUOmwAweF:localhost/send/m.room.message\
                      /$.AAABeH6obLU";
        assert_eq!(full, segments(wanted));
    }

    #[test]
    fn a_parameter_may_hold_a_slash_or_be_empty() {
        let full = expand(&["8", "!r:x", "a/b", ""]).unwrap();

        assert_eq!(
            full,
            [
                "_matrix", "client", "r0", "rooms", "!r:x", "state", "a/b", ""
            ]
        );
        assert_eq!(shorten(&full).unwrap(), ["8", "!r:x", "a/b", ""]);
    }

    #[test]
    fn a_full_path_is_given_back_as_it_came() {
        for path in [
            "/_matrix/client/v3/sync",
            "/_matrix/client/r0/sync",
            "/.well-known/core",
            "/",
        ] {
            assert_eq!(expand(&segments(path)), Ok(segments(path)));
        }
        assert_eq!(expand(&[]), Ok(vec![]));
    }

    #[test]
    fn a_short_path_with_the_wrong_number_of_parameters_is_refused() {
        let too_few = expand(&["9", "!r:x", "m.room.message"]).unwrap_err();
        let too_many = expand(&["7", "x"]).unwrap_err();

        assert_eq!(
            too_few,
            PathError::ParameterCount {
                code: '9',
                wanted: 3,
                got: 2
            }
        );
        assert_eq!(
            too_many,
            PathError::ParameterCount {
                code: '7',
                wanted: 0,
                got: 1
            }
        );
    }

    #[test]
    fn an_unknown_code_is_refused() {
        assert_eq!(expand(&["v"]), Err(PathError::UnknownCode { code: 'v' }));
        assert_eq!(
            expand(&["é", "x"]),
            Err(PathError::UnknownCode { code: 'é' })
        );
    }

    #[test]
    fn a_path_the_table_does_not_have_is_not_shortened() {
        for path in [
            "/_matrix/client/v3/sync",
            "/_matrix/client/r0/account/whoami",
            "/",
            "/7",
        ] {
            assert_eq!(shorten(&segments(path)), None);
        }
    }

    proptest! {
        #[test]
        fn any_segments_expand_or_are_refused_and_parameters_come_through(
            given in prop::collection::vec("[0-9A-Za-z_/{]|\\PC{0,6}", 0..8)
        ) {
            let given: Vec<&str> = given.iter().map(String::as_str).collect();
            if let Ok(full) = expand(&given) {
                prop_assert!(given.iter().skip(1).all(|parameter| full.contains(parameter)));
            }
        }

        #[test]
        fn a_full_path_that_can_be_short_expands_to_itself(
            (_, template) in prop::sample::select(TEMPLATES.to_vec()),
            filling in prop::collection::vec("\\PC{0,6}", 8),
        ) {
            let mut filling = filling.iter().map(String::as_str);
            let full: Vec<&str> = template_segments(template)
                .map(|segment| if is_parameter(segment) { filling.next().unwrap() } else { segment })
                .collect();

            let short = shorten(&full).expect("it was made of a template");
            prop_assert_eq!(expand(&short), Ok(full));
        }
    }
}
