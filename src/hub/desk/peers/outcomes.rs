//! What became of each part of a transaction, gathered while it is worked on and told to the operator
//! when it is done: in the order in which the parts were sent.

use serde_json::value::RawValue;

use crate::{
    api::{
        Became, List, Origin, Part, PartId, Refused, Service as _, Transaction as Remembered, Why,
    },
    hub::Hub,
};

/// The outcomes so far.
#[derive(Default)]
pub(super) struct Outcomes(Vec<Outcome>);

struct Outcome {
    part: Part,
    why: Why,
    /// One before it is remembered for the same reason: what shuts a room shuts it to all of its events.
    is_repeated: bool,
}

/// Parts that were not taken and are each remembered with what would let them pass: more than the
/// answer to the operator has room for helps nobody, and makes others' forgotten.
const REFUSED_MAX: usize = 16;

/// Parts that one line of the log names.
const LOGGED_MAX: usize = 4;

/// The longest text of a part in the log, in characters.
const LOGGED_CHARS_MAX: usize = 120;

/// One of the events.
pub(super) const fn pdu(index: usize) -> PartId {
    PartId {
        list: List::Pdus,
        index,
    }
}

/// One of what comes beside them.
pub(super) const fn edu(index: usize) -> PartId {
    PartId {
        list: List::Edus,
        index,
    }
}

impl Outcomes {
    /// A part was taken, or here already.
    pub(super) fn fine(&mut self, id: PartId, what: Option<String>, became: Became) {
        self.0.push(Outcome {
            part: Part {
                id,
                what,
                became,
                code: None,
                said: None,
            },
            why: Why::default(),
            is_repeated: false,
        });
    }

    /// A part was not simply taken, and why.
    pub(super) fn not(
        &mut self,
        (id, what): (PartId, Option<String>),
        became: Became,
        mut why: Why,
        said: String,
    ) {
        why.part = Some(id);
        if id.list == List::Pdus {
            why.event = why.event.or_else(|| what.clone());
        }
        self.0.push(Outcome {
            part: Part {
                id,
                what,
                became,
                code: why.code,
                said: Some(said),
            },
            why,
            is_repeated: false,
        });
    }

    /// The same for a reason that one before it has, too.
    pub(super) fn nor(&mut self, id: (PartId, Option<String>), why: Why, said: String) {
        self.not(id, Became::Refused, why, said);
        if let Some(last) = self.0.last_mut() {
            last.is_repeated = true;
        }
    }

    /// All that is worked on was: the log and the operator are told.
    pub(super) fn told(mut self, hub: &Hub, origin: &Origin, peer: &str) {
        self.0.sort_by_key(|one| one.part.id);
        self.log(peer);
        self.remember(hub, origin, peer);
        let parts: Vec<Part> = self.0.into_iter().map(|one| one.part).collect();
        if parts.is_empty() {
            return;
        }
        let transaction = Remembered {
            request: origin.request,
            door: origin.door,
            from: peer.to_owned(),
            parts,
        };
        hub.refusals().remember_parts(hub.now(), transaction);
    }

    /// One line for all that was not taken.
    fn log(&self, peer: &str) {
        let of = self.0.len();
        let refused = self.0.iter().map(|one| &one.part);
        let refused = refused.filter(|part| part.became == Became::Refused);
        let count = refused.clone().count();
        if count == 0 {
            return;
        }
        let named: Vec<String> = refused.take(LOGGED_MAX).map(in_a_line).collect();
        let parts = named.join("; ");
        let parts = match count.saturating_sub(LOGGED_MAX) {
            0 => parts,
            more => format!("{parts}; and {more} more"),
        };
        tracing::info!(%peer, refused = count, of, parts, "parts of a transaction are not taken");
    }

    /// Among the refusals are the first events that were not taken, and one for all EDUs.
    fn remember(&self, hub: &Hub, origin: &Origin, peer: &str) {
        let remember = |outcome: &Outcome, said: String| {
            let mut why = outcome.why.clone();
            why.who = Some(peer.to_owned());
            hub.refused(Refused {
                request: origin.request,
                door: origin.door,
                endpoint: "Transaction",
                status: 200, // the transaction's: one bad part spoils none of the others
                errcode: None,
                message: said,
                why,
            });
        };
        let said = |one: &Outcome| one.part.said.clone().unwrap_or_default();
        let events = self.0.iter().filter(|one| {
            let kept_from_readers = matches!(one.part.became, Became::Refused | Became::Hidden);
            one.part.id.list == List::Pdus && kept_from_readers && !one.is_repeated
        });
        for one in events.take(REFUSED_MAX) {
            remember(one, said(one));
        }
        let is_refused_edu =
            |one: &&Outcome| one.part.id.list == List::Edus && one.part.became == Became::Refused;
        let mut edus = self.0.iter().filter(is_refused_edu);
        if let Some(first) = edus.next() {
            let more = match edus.count() {
                0 => String::new(),
                more => format!(" (and {more} more EDUs that were not taken)"),
            };
            remember(first, said(first) + &more);
        }
    }
}

/// `pdus[3] EVENT_FORM: it is a number, not an object`.
fn in_a_line(part: &Part) -> String {
    let code = part.code.unwrap_or("M_UNKNOWN");
    let said = part.said.as_deref().unwrap_or_default();
    // what is quoted of it may be anything
    let said: String = said
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LOGGED_CHARS_MAX)
        .collect();
    format!("{} {code}: {said}", part.id)
}

/// What a piece of JSON is, in words.
pub(in crate::hub::desk) fn kind_of(json: &RawValue) -> &'static str {
    match json.get().trim_start().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    }
}
