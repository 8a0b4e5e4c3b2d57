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
    let found = value.and_then(|value| fault(smaller(value, &hint, said, &says), said, &says));
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
    let mut trial = Trial {
        text,
        whole: whole.clone(),
        says,
        bytes_left: Cell::new(TRIED_BYTES_MAX),
    };
    // its members may have come in another order, and the first fault is what is told
    trial.whole = trial
        .said(&trial.text)
        .filter(|said| *said != Said::Nothing)?;
    if let Some(name) = trial.whole.missing() {
        let mut way = trial.lacking(name).unwrap_or_default();
        way.push(Step::Key(name.to_owned()));
        return Some((place::path(&way), Fault::Missing));
    }
    let way = trial.way();
    let wrong = at(&trial.text, &way).filter(|_| !way.is_empty())?;
    let expected = trial.whole.alternatives().or_else(|| {
        let expected = trial.expected(&way);
        expected.filter(|expected| !kinds::is_of(expected, wrong))
    });
    if expected.is_none()
        && let Some(name) = trial.expected_name(&way)
    {
        return Some((place::path(&way), Fault::Name(name)));
    }
    let found = kinds::found_beside(expected.as_deref(), wrong);
    Some((place::path(&way), Fault::Other { expected, found }))
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

/// The text, or of a long one what stands on the way that the error tells, if that has the same fault.
fn smaller(text: Value, hint: &[Step], said: &Said, says: &dyn Fn(&str) -> Said) -> Value {
    if text.to_string().len() <= WHOLE_BYTES_MAX {
        return text;
    }
    let on_the_way = along(&text, hint);
    if says(&on_the_way.to_string()) == *said {
        return on_the_way;
    }
    text
}

fn along(text: &Value, hint: &[Step]) -> Value {
    let mut inner = at(text, hint).cloned().unwrap_or_default();
    for (depth, step) in hint.iter().enumerate().rev() {
        let around = hint.get(..depth).and_then(|way| at(text, way));
        inner = match (step, around) {
            (Step::Key(key), _) => Value::Object(Map::from_iter([(key.clone(), inner)])),
            (Step::Index(index), Some(Value::Array(items))) => {
                let before = items.iter().take(*index).cloned();
                Value::Array(before.chain([inner]).collect())
            }
            (Step::Index(_), _) => inner,
        };
    }
    inner
}

/// What can be said where nothing could be tried: in a list the index is not certain.
fn by_hint(hint: &[Step], said: &Said) -> Refusal {
    if let Some(name) = said.missing() {
        return missing(name);
    }
    let keys = hint.iter().take_while(|step| matches!(step, Step::Key(_)));
    let keys: Vec<Step> = keys.cloned().collect();
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
    whole: Said,
    says: &'a dyn Fn(&str) -> Said,
    bytes_left: Cell<usize>,
}

impl Trial<'_> {
    /// What is said of another text; nothing if enough was tried.
    fn said(&self, text: &Value) -> Option<Said> {
        let text = text.to_string();
        let cost = text.len().max(TRY_BYTES_MIN);
        let left = self.bytes_left.get().checked_sub(cost);
        self.bytes_left.set(left.unwrap_or(0));
        left.map(|_| (self.says)(&text))
    }

    /// What is said when the value at `way` is edited.
    fn edited(&self, way: &[Step], edit: impl FnOnce(&mut Value)) -> Option<Said> {
        if self.bytes_left.get() == 0 {
            return None; // to copy it costs as much as to read it
        }
        let mut text = self.text.clone();
        edit(at_mut(&mut text, way)?);
        self.said(&text)
    }

    fn is_whole(&self, said: Option<&Said>) -> bool {
        said.is_none_or(|said| *said == self.whole)
    }

    /// The object that lacks a member.
    fn lacking(&self, name: &str) -> Option<Vec<Step>> {
        let mut ways = vec![Vec::new()];
        let mut next = 0;
        while let Some(way) = ways.get(next).filter(|_| next < OBJECTS_MAX).cloned() {
            next += 1;
            let here = at(&self.text, &way)?;
            if let Value::Object(members) = here
                && !members.contains_key(name)
            {
                let said = self.edited(&way, |here| insert(here, name, Value::Null));
                if !self.is_whole(said.as_ref()) {
                    return Some(way);
                }
            }
            for step in steps(here).take(OBJECTS_MAX) {
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

    /// Which part of a value is wrong; none if it is the value itself.
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
            if self.is_whole(kept(middle).as_ref()) {
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
        match those.as_slice() {
            [] => None,
            [one] => Some(one),
            more => more
                .iter()
                .find(|part| self.is_replaceable(way, part))
                .or_else(|| more.first())
                .copied(),
        }
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

/// Of a longer text only what the error names is tried, in bytes: a hundred tries of it are read.
const WHOLE_BYTES_MAX: usize = 16 * 1024;

/// In an object of more members the wrong one is looked for by halves.
const ALONE_MAX: usize = 32;

/// Objects in which a missing member is looked for.
const OBJECTS_MAX: usize = 64;

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
}
