//! Filters: which rooms, events and members a client wants to hear of.

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId,
    api::client::{
        filter::{FilterDefinition, LazyLoadOptions, RoomEventFilter, RoomFilter, UrlFilter},
        sync::sync_events::v3::Filter,
    },
};

use crate::{
    api::{Caller, Refusal},
    hub::desk::sync::view::Stored,
    hub::{Hub, desk::access::ours},
    store::EventRecord,
};

/// The filter a sync names, by id or in full.
pub(super) async fn load(
    hub: &Hub,
    caller: &Caller,
    filter: Option<Filter>,
) -> Result<FilterDefinition, Refusal> {
    let id = match filter {
        None => return Ok(FilterDefinition::default()),
        Some(Filter::FilterDefinition(definition)) => return Ok(definition),
        Some(Filter::FilterId(id)) => id,
        Some(_) => return Err(Refusal::invalid_param("`filter` is neither an id nor JSON")),
    };
    let unknown = || Refusal::invalid_param(format!("no filter of yours has the id {id:?}"));
    let number: u64 = id.parse().map_err(|_| unknown())?;
    let json = hub
        .store
        .filter(&caller.user, number)
        .await
        .map_err(ours)?
        .ok_or_else(unknown)?;
    serde_json::from_str(&json).map_err(|error| {
        tracing::error!(%error, filter = number, "a stored filter cannot be read");
        Refusal::internal()
    })
}

/// Whether a room is wanted at all.
pub(super) fn wants_room(filter: &RoomFilter, room: &RoomId) -> bool {
    in_rooms(filter.rooms.as_deref(), &filter.not_rooms, room)
}

/// Whether a part of a room's section wants anything of that room.
pub(in crate::hub::desk) fn wants_any(filter: &RoomEventFilter, room: &RoomId) -> bool {
    in_rooms(filter.rooms.as_deref(), &filter.not_rooms, room)
        && filter.types.as_ref().is_none_or(|types| !types.is_empty())
        && filter
            .senders
            .as_ref()
            .is_none_or(|senders| !senders.is_empty())
}

/// Whether an event is wanted; its room is already known to be.
pub(in crate::hub::desk) fn wants_event(filter: &RoomEventFilter, event: &EventRecord) -> bool {
    if is_open(filter) {
        return true; // spares reading the event
    }
    let Some(stored) = Stored::read(event) else {
        return false;
    };
    wants_type(filter.types.as_deref(), &filter.not_types, &stored.kind)
        && wants_sender(filter, &stored.sender)
        && filter.url_filter.is_none_or(|wanted| {
            let has_url = stored.text("url").is_some();
            has_url == (wanted == UrlFilter::EventsWithUrl)
        })
}

/// Whether a type is wanted.
pub(super) fn wants_type(types: Option<&[String]>, not_types: &[String], kind: &str) -> bool {
    types.is_none_or(|types| types.iter().any(|pattern| matches(pattern, kind)))
        && !not_types.iter().any(|pattern| matches(pattern, kind))
}

/// Whether members come only with what they sent.
pub(in crate::hub::desk) fn is_lazy(filter: &RoomEventFilter) -> bool {
    filter.lazy_load_options != LazyLoadOptions::Disabled
}

fn wants_sender(filter: &RoomEventFilter, sender: &str) -> bool {
    let named = |users: &[OwnedUserId]| users.iter().any(|user| user.as_str() == sender);
    filter.senders.as_deref().is_none_or(named) && !named(&filter.not_senders)
}

fn is_open(filter: &RoomEventFilter) -> bool {
    filter.types.is_none()
        && filter.not_types.is_empty()
        && filter.senders.is_none()
        && filter.not_senders.is_empty()
        && filter.url_filter.is_none()
}

fn in_rooms(rooms: Option<&[OwnedRoomId]>, not_rooms: &[OwnedRoomId], room: &RoomId) -> bool {
    rooms.is_none_or(|rooms| rooms.iter().any(|named| named == room))
        && !not_rooms.iter().any(|named| named == room)
}

/// `*` stands for any text. Two cursors and no recursion: a pattern of a thousand stars costs its
/// length times the text's, both of which are bounded.
///
/// spec: client-server-sync §Filtering
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == text.get(t) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.*", "m.room.message", true),
            ("*", "", true),
            ("*.member", "m.room.member", true),
            ("m.*.member", "m.room.members", false),
            ("m.room", "m.room.member", false),
            ("", "m.room.member", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_not_wanted_wins_over_what_is() {
        let types = ["m.room.*".to_owned()];
        let not = ["m.room.member".to_owned()];
        assert!(wants_type(Some(&types), &not, "m.room.name"));
        assert!(!wants_type(Some(&types), &not, "m.room.member"));
        assert!(!wants_type(Some(&[]), &[], "m.room.name"));
        assert!(wants_type(None, &[], "anything"));
    }

    /// The same as [`matches`], plainly, for texts short enough for it.
    fn plainly(pattern: &str, text: &str) -> bool {
        let mut texts = (0..=text.len()).filter_map(|at| text.get(at..));
        match pattern.split_at_checked(1) {
            None => text.is_empty(),
            Some(("*", rest)) => texts.any(|text| plainly(rest, text)),
            Some((first, rest)) => text
                .strip_prefix(first)
                .is_some_and(|text| plainly(rest, text)),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn a_pattern_matches_what_it_plainly_does(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &text), plainly(&pattern, &text));
        }

        #[test]
        fn any_text_is_a_filter_or_is_refused(
            text in "\\{\"room\":\\{\"(timeline|state|rooms)\":(\\{\"(limit|types|not_senders)\":[0-9\\[\\]\"@:a*]{0,9}\\}|\\PC{0,5})\\}\\}",
            kind in "\\PC{0,8}",
        ) {
            if let Ok(filter) = serde_json::from_str::<FilterDefinition>(&text) {
                let timeline = &filter.room.timeline;
                let _ = wants_type(timeline.types.as_deref(), &timeline.not_types, &kind);
            }
        }
    }

    #[test]
    fn the_worst_pattern_against_the_longest_type_ends_at_once() {
        let pattern = "*a".repeat(16 * 1024); // as much as a stored filter holds
        assert!(!matches(&pattern, &format!("{}b", "a".repeat(254))));
    }
}
