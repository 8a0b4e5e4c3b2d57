//! Which member of a JSON text keeps it from being read, and why.
//!
//! Members are left out until the text is read otherwise than before; others are put in that place.
//! How often is bounded: whoever sends a body may not make the hub read it without end.

use std::{borrow::Cow, cell::Cell, collections::BTreeMap};

use serde_json::{Map, Value, value::RawValue};

use super::{Fault, Said, Unread, kinds, missing, told};
use crate::{
    api::{Code, Refusal},
    base::limits::{BODY_BYTES_MAX, NESTING_MAX},
    edge::client_api::{
        body::unreadable,
        place::{self, Step},
    },
    wire::{DecodeError, json},
};

/// The refusal of a body, after the error with which it could not be read and what that says.
pub(super) fn refusal(unread: &Unread<'_>, error: &serde_json::Error, said: &Said) -> Refusal {
    let hint = place::steps(unread.body, error.line(), error.column());
    let value = match value(unread.body, &hint) {
        Ok(value) => value,
        Err(error) => return unreadable(&error),
    };
    if value.is_none() && !error.is_data() {
        return Refusal::new(Code::NotJson, "the body is not JSON");
    }
    if let Some(other) = value.as_ref().filter(|value| !value.is_object()) {
        let found = json::kind_lax(other);
        return Refusal::bad_json(format!("expected an object, found {found}"));
    }
    let says = |json: &str| unread.says(unread.query, json.as_bytes());
    let found = value.and_then(|value| {
        let smaller = smaller(value, &hint, said, &says);
        fault_in(smaller, said, &says)
    });
    match found {
        Some((place, Fault::Missing)) => missing(&place),
        Some((place, fault)) => Refusal::bad_json(told(&place, &fault)),
        None => by_hint(&hint, said),
    }
}

/// The way to what is wrong in a text that `says` does not read, and what it is. `whole` is what was
/// said of it.
pub(super) fn fault(
    text: Value,
    whole: &Said,
    says: &dyn Fn(&str) -> Said,
) -> Option<(String, Fault)> {
    fault_in(Smaller::whole(text), whole, says)
}

fn fault_in(
    Smaller { text, stood_at }: Smaller,
    whole: &Said,
    says: &dyn Fn(&str) -> Said,
) -> Option<(String, Fault)> {
    let mut trial = Trial {
        bytes: text.to_string().len(),
        text,
        stood_at,
        whole: whole.clone(),
        says,
        bytes_left: Cell::new(TRIED_BYTES_MAX),
    };
    // its members may have come in another order, and the first fault is what is told
    trial.whole = trial
        .said(&trial.text)
        .filter(|said| *said != Said::Nothing)?;
    if let Some(name) = trial.whole.missing() {
        let mut way = trial.lacking(name)?;
        way.push(Step::Key(name.to_owned()));
        return Some((trial.path(&way), Fault::Missing));
    }
    let way = trial.way();
    let wrong = at(&trial.text, &way).filter(|_| !way.is_empty())?;
    if trial.bytes_left.get() == 0 && steps(wrong).next().is_some() {
        return Some((trial.path(&way), Fault::Within));
    }
    let expected = trial.whole.alternatives().or_else(|| {
        let expected = trial.expected(&way);
        expected.filter(|expected| !kinds::is_of(expected, wrong))
    });
    if expected.is_none()
        && let Some(name) = trial.expected_name(&way)
    {
        return Some((trial.path(&way), Fault::Name(name)));
    }
    let found = kinds::found_beside(expected.as_deref(), wrong);
    Some((trial.path(&way), Fault::Other { expected, found }))
}

/// The body, or of a large one the member at its top that the error is about, if that is small.
fn value(body: &[u8], hint: &[Step]) -> Result<Option<Value>, DecodeError> {
    if body.is_empty() {
        return Ok(Some(Value::Object(Map::new()))); // so it is read
    }
    if body.len() <= BODY_BYTES_MAX {
        return json::read_lax(body).map(Some);
    }
    let (Ok(members), Some(Step::Key(key))) = (
        serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(body),
        hint.first(),
    ) else {
        return Ok(None);
    };
    let member = members.get(key.as_str());
    let Some(member) = member.filter(|member| member.get().len() <= BODY_BYTES_MAX) else {
        return Ok(None);
    };
    let member = json::read_lax(member.get().as_bytes())?;
    Ok(Some(Value::Object(Map::from_iter([(key.clone(), member)]))))
}

/// A text with the fault of another one.
struct Smaller {
    text: Value,
    /// The way in the other one: of a list on it only this item is left, as the first.
    stood_at: Vec<Step>,
}

impl Smaller {
    /// All of it.
    const fn whole(text: Value) -> Self {
        let stood_at = Vec::new();
        Self { text, stood_at }
    }
}

/// The text, or of a long one what stands on the way that the error tells, if that has the same fault.
/// In a list it may be the item before.
fn smaller(text: Value, hint: &[Step], said: &Said, says: &dyn Fn(&str) -> Said) -> Smaller {
    if text.to_string().len() <= WHOLE_BYTES_MAX {
        return Smaller::whole(text);
    }
    let ways = [Some(hint.to_vec()), item(hint, 0), item(hint, 1)];
    for stood_at in ways.into_iter().flatten() {
        let alone = along(&text, &stood_at);
        if let Some(text) = alone.filter(|text| says(&text.to_string()) == *said) {
            return Smaller { text, stood_at };
        }
    }
    Smaller::whole(text)
}

/// The way to the item of the innermost list, or to the one that is so many before it.
fn item(hint: &[Step], before: usize) -> Option<Vec<Step>> {
    let is_index = |step: &Step| matches!(step, Step::Index(_));
    let depth = hint.iter().rposition(is_index)?;
    let Some(Step::Index(index)) = hint.get(depth) else {
        return None;
    };
    let item = Step::Index(index.checked_sub(before)?);
    let around = hint.get(..depth)?.iter().cloned();
    Some(around.chain([item]).collect())
}

fn along(text: &Value, way: &[Step]) -> Option<Value> {
    let mut inner = at(text, way)?.clone();
    for step in way.iter().rev() {
        inner = match step {
            Step::Key(key) => Value::Object(Map::from_iter([(key.clone(), inner)])),
            Step::Index(_) => Value::Array(vec![inner]),
        };
    }
    Some(inner)
}

/// What can be said where nothing could be tried: in a list the index is not certain.
fn by_hint(hint: &[Step], said: &Said) -> Refusal {
    let keys = hint.iter().take_while(|step| matches!(step, Step::Key(_)));
    let keys: Vec<Step> = keys.cloned().collect();
    if let Some(name) = said.missing() {
        if keys.is_empty() || keys.len() == hint.len() {
            return missing(name);
        }
        let list = place::path(&keys);
        let message = format!("`{name}` is missing in an item of `{list}`");
        return Refusal::new(Code::MissingParam, message);
    }
    if keys.is_empty() {
        return Refusal::bad_json("the body is not what is expected at this path");
    }
    let expected = said.alternatives();
    let expected = expected.map_or_else(String::new, |expected| format!("; expected {expected}"));
    Refusal::bad_json(format!(
        "`{}`: what stands there, or in it, cannot stand there{expected}",
        place::path(&keys)
    ))
}

/// A text that is not read, and tries with others like it.
struct Trial<'a> {
    text: Value,
    /// Its length.
    bytes: usize,
    /// See [`Smaller`].
    stood_at: Vec<Step>,
    whole: Said,
    says: &'a dyn Fn(&str) -> Said,
    bytes_left: Cell<usize>,
}

impl Trial<'_> {
    /// The way as it was in the whole text.
    fn path(&self, way: &[Step]) -> String {
        let mut real: Vec<Step> = Vec::with_capacity(way.len());
        for (depth, step) in way.iter().enumerate() {
            let stood_at = self.stood_at.get(depth);
            let stood_at = stood_at.filter(|_| self.stood_at.get(..depth) == Some(&*real));
            real.push(match (step, stood_at) {
                (Step::Index(_), Some(index @ Step::Index(_))) => index.clone(),
                _ => step.clone(),
            });
        }
        place::path(&real)
    }

    /// Whether so many bytes may still be worked on; if not, nothing is any more.
    fn pays(&self, bytes: usize) -> bool {
        let cost = bytes.max(TRY_BYTES_MIN);
        let left = self.bytes_left.get().checked_sub(cost);
        self.bytes_left.set(left.unwrap_or(0));
        left.is_some()
    }

    /// What is said of another text; nothing if enough was tried.
    fn said(&self, text: &Value) -> Option<Said> {
        let text = text.to_string();
        self.pays(text.len()).then(|| (self.says)(&text))
    }

    /// What is said when the value at `way` is edited. To copy the text costs as much as to read it.
    fn edited(&self, way: &[Step], edit: impl FnOnce(&mut Value)) -> Option<Said> {
        if !self.pays(self.bytes) {
            return None;
        }
        let mut text = self.text.clone();
        edit(at_mut(&mut text, way)?);
        let text = text.to_string();
        let more = text.len().saturating_sub(self.bytes.max(TRY_BYTES_MIN));
        (more == 0 || self.pays(more)).then(|| (self.says)(&text))
    }

    fn is_whole(&self, said: Option<&Said>) -> bool {
        said.is_none_or(|said| *said == self.whole)
    }

    /// The object that lacks a member; none if it was not found.
    fn lacking(&self, name: &str) -> Option<Vec<Step>> {
        let mut ways = vec![Vec::new()];
        let (mut next, mut tries) = (0, 0);
        while let Some(way) = ways.get(next).filter(|_| tries < OBJECTS_MAX).cloned() {
            next += 1;
            let here = at(&self.text, &way)?;
            if let Value::Object(members) = here
                && !members.contains_key(name)
            {
                tries += 1;
                let said = self.edited(&way, |here| insert(here, name, Value::Null))?;
                if said != self.whole {
                    return Some(way);
                }
            }
            for step in steps(here).take(LOOKED_AT_MAX.saturating_sub(ways.len())) {
                ways.push([way.as_slice(), &[step]].concat());
            }
        }
        None
    }

    /// The way to the innermost value that is wrong.
    fn way(&self) -> Vec<Step> {
        let mut way = Vec::new();
        while let Some(step) = self.inside(&way).filter(|_| way.len() <= NESTING_MAX) {
            way.push(step);
        }
        way
    }

    /// Which part of a value is wrong; none if it is the value itself, or enough was tried.
    fn inside(&self, way: &[Step]) -> Option<Step> {
        let parts: Vec<Step> = steps(at(&self.text, way)?).collect();
        let kept = |count: usize| self.edited(way, |here| keep(here, count));
        let few_members = matches!(parts.first(), Some(Step::Key(_))) && parts.len() <= ALONE_MAX;
        if parts.is_empty() || self.is_whole(kept(0).as_ref()) {
            // one of several forms, of which none fits without any of them
            let mut parts = parts.into_iter().filter(|_| few_members);
            return parts.find(|part| self.is_replaceable(way, part));
        }
        if few_members {
            let alone = self.alone(way, &parts);
            if alone.is_some() {
                return alone.cloned();
            }
        }
        // The fewest first ones with which it is wrong: the last of these is.
        let (mut right, mut wrong) = (0, parts.len());
        while wrong - right > 1 {
            let middle = usize::midpoint(right, wrong);
            if kept(middle)? == self.whole {
                wrong = middle;
            } else {
                right = middle;
            }
        }
        parts.into_iter().nth(right)
    }

    /// The member without which something else is said. That may be another one, too, which may not be
    /// left out: the one in whose place something can stand is the wrong one.
    fn alone<'a>(&self, way: &[Step], parts: &'a [Step]) -> Option<&'a Step> {
        let matters = |part: &&Step| {
            let said = self.edited(way, |here| remove(here, part));
            !self.is_whole(said.as_ref())
        };
        let those: Vec<&Step> = parts.iter().filter(matters).collect();
        let alone = match those.as_slice() {
            [] => None,
            [one] => Some(*one),
            more => more
                .iter()
                .find(|part| self.is_replaceable(way, part))
                .or_else(|| more.first())
                .copied(),
        };
        // Else some may not have been tried.
        alone.filter(|_| self.bytes_left.get() > 0)
    }

    fn is_replaceable(&self, way: &[Step], part: &Step) -> bool {
        let way = [way, std::slice::from_ref(part)].concat();
        let (Some(expected), Some(here)) = (self.expected(&way), at(&self.text, &way)) else {
            return false;
        };
        !kinds::is_of(&expected, here)
    }

    /// What the name of the member could be with which its value can stand there.
    fn expected_name(&self, way: &[Step]) -> Option<String> {
        let (last, around) = way.split_last()?;
        let Step::Key(_) = last else { return None };
        let inner = at(&self.text, way)?;
        kinds::taken_as_name(|name| {
            let said = self.edited(around, |here| {
                remove(here, last);
                insert(here, name, inner.clone());
            });
            said == Some(Said::Nothing)
        })
    }

    /// What could stand there.
    fn expected(&self, way: &[Step]) -> Option<String> {
        let (last, around) = way.split_last()?;
        let absent = self.edited(around, |here| remove(here, last));
        kinds::taken(|value| {
            let Some(said) = self.edited(way, |here| *here = value) else {
                return false;
            };
            // the next fault, which is another one
            let is_next = absent.as_ref() == Some(&said) && said != self.whole;
            match said.missing() {
                Some(name) => !matches!(last, Step::Key(key) if key == name),
                None => said == Said::Nothing || is_next,
            }
        })
    }
}

fn at<'a>(text: &'a Value, way: &[Step]) -> Option<&'a Value> {
    way.iter().try_fold(text, |here, step| match step {
        Step::Key(key) => here.get(key),
        Step::Index(index) => here.get(index),
    })
}

fn at_mut<'a>(text: &'a mut Value, way: &[Step]) -> Option<&'a mut Value> {
    way.iter().try_fold(text, |here, step| match step {
        Step::Key(key) => here.get_mut(key),
        Step::Index(index) => here.get_mut(index),
    })
}

/// The ways to the parts of a list or an object.
fn steps(value: &Value) -> Box<dyn Iterator<Item = Step> + '_> {
    match value {
        Value::Array(items) => Box::new((0..items.len()).map(Step::Index)),
        Value::Object(members) => Box::new(members.keys().cloned().map(Step::Key)),
        _ => Box::new(std::iter::empty()),
    }
}

/// Keeps so many of the first parts.
fn keep(value: &mut Value, count: usize) {
    match value {
        Value::Array(items) => items.truncate(count),
        Value::Object(members) => {
            let kept = std::mem::take(members).into_iter().take(count);
            *members = kept.collect();
        }
        _ => {}
    }
}

fn remove(value: &mut Value, part: &Step) {
    match (value, part) {
        (Value::Object(members), Step::Key(key)) => drop(members.remove(key)),
        (Value::Array(items), Step::Index(index)) if *index < items.len() => {
            drop(items.remove(*index));
        }
        _ => {}
    }
}

fn insert(value: &mut Value, name: &str, inner: Value) {
    if let Value::Object(members) = value {
        members.insert(name.to_owned(), inner);
    }
}

/// How much is read in all to find out what is wrong with a text, in bytes: about as much as four of the
/// largest bodies of clients. Whoever asks may not be known yet.
const TRIED_BYTES_MAX: usize = 1024 * 1024;

/// What one try counts at least, in bytes: so there are a thousand at most.
const TRY_BYTES_MIN: usize = 1024;

/// Of a longer text only what the error names is tried, in bytes: of what is not longer there are more
/// than a hundred tries.
const WHOLE_BYTES_MAX: usize = 8 * 1024;

/// In an object of more members the wrong one is looked for by halves.
const ALONE_MAX: usize = 32;

/// Objects without it in which a missing member is tried.
const OBJECTS_MAX: usize = 64;

/// Values that are looked at for such objects.
const LOOKED_AT_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_tried_without_end() {
        let tries = Cell::new(0);
        let says = |text: &str| {
            tries.set(tries.get() + 1);
            let wrong = text.contains("\"m0\":null");
            Said::Body(if wrong { "one thing" } else { "another" }.to_owned())
        };
        let mut text = Value::Null;
        for _ in 0..60 {
            let members = (0..30).map(|n| (format!("m{n}"), Value::Array(Vec::new())));
            let mut members: Map<String, Value> = members.collect();
            members.insert("m0".to_owned(), text);
            text = Value::Object(members);
        }
        let whole = says(&text.to_string());

        let found = fault(text, &whole, &says);

        assert!(
            found.is_some(),
            "at least the way is told as far as it goes"
        );
        assert!(tries.get() <= TRIED_BYTES_MAX / TRY_BYTES_MIN, "{tries:?}");
    }

    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "it is only read")]
    struct Members {
        members: Vec<Member>,
    }

    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "it is only read")]
    struct Member {
        name: String,
        age: u8,
    }

    fn read(text: &str) -> Said {
        match serde_json::from_str::<Members>(text) {
            Ok(_) => Said::Nothing,
            Err(error) => super::super::said_of(&error.into()),
        }
    }

    /// So many members with a name of so many bytes, all of them right.
    fn members(count: usize, bytes: usize) -> Vec<Value> {
        let member = || serde_json::json!({ "name": "x".repeat(bytes), "age": 7 });
        std::iter::repeat_with(member).take(count).collect()
    }

    #[test]
    fn where_enough_was_tried_the_list_is_named_and_no_item_of_it() {
        let mut items = members(2000, 90);
        items[5]["age"] = "old".into();
        let text = serde_json::json!({ "members": items });
        assert!(text.to_string().len() > 200 * 1024);
        let copied = Cell::new(0);
        let says = |text: &str| {
            copied.set(copied.get() + 1);
            read(text)
        };

        let (place, found) = fault(text.clone(), &read(&text.to_string()), &says).unwrap();

        assert_eq!((&*place, &found), ("members", &Fault::Within));
        assert!(
            copied.get() <= 5,
            "each costs as much as the whole: {copied:?}"
        );
        let told = told(&place, &found);
        assert_eq!(told, "`members`: something in it cannot stand there");
    }

    #[test]
    fn of_a_long_list_the_item_that_the_error_names_is_tried_alone() {
        for wrong in [0, 1234, 1999] {
            let mut items = members(2000, 80);
            items[wrong]["age"] = "old".into();
            let text = serde_json::json!({ "members": items });
            for named in [wrong, wrong + 1] {
                let hint = [Step::Key("members".to_owned()), Step::Index(named)];
                let said = read(&text.to_string());
                let smaller = smaller(text.clone(), &hint, &said, &read);
                let (place, found) = fault_in(smaller, &said, &read).unwrap();
                assert_eq!(
                    told(&place, &found),
                    format!(
                        "`members[{wrong}].age`: expected a whole number from 0 on, found a text"
                    )
                );
            }
        }
    }

    #[test]
    fn a_member_that_the_last_of_many_objects_lacks_is_missing_there() {
        let mut items = members(70, 5);
        items.push(serde_json::json!({ "name": "x" }));
        let text = serde_json::json!({ "members": items });

        let found = fault(text.clone(), &read(&text.to_string()), &read);

        assert_eq!(found, Some(("members[70].age".to_owned(), Fault::Missing)));
    }

    #[test]
    fn a_missing_member_that_is_not_found_is_told_to_be_in_an_item() {
        let items = vec![serde_json::json!({ "name": "x", "other": [{}, {}, {}] }); 1];
        let items = [members(3000, 1), items].concat();
        let text = serde_json::json!({ "members": items }).to_string();
        let error = serde_json::from_str::<Members>(&text).err().unwrap();
        let hint = [Step::Key("members".to_owned()), Step::Index(3001)];
        let said = super::super::said_of(&error.into());

        assert_eq!(
            fault(serde_json::from_str(&text).unwrap(), &said, &read),
            None
        );
        let refusal = by_hint(&hint, &said);
        assert_eq!(refusal.message, "`age` is missing in an item of `members`");
        assert_eq!(refusal.code, Code::MissingParam);
    }
}
