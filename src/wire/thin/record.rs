//! Records, as answers and notifications hold them, and entries in full.

use super::{
    Body, RECORDS_MAX, Record, Shown, ThinError, ThinFault, WholeEntry,
    body::{BIT_5, BIT_6, BIT_7, COVERED, HAS_TARGET, KIND_MASK, RECEIPT, TYPING},
    number,
    number::Reader,
};

const HAS_COUNTER: u8 = BIT_5;
const HAS_ROOM: u8 = BIT_6;
const HAS_LENGTH: u8 = BIT_7;

impl Record {
    /// Bytes it takes before a further record; at most what [`encode_all`] makes of it.
    pub fn encoded_len(&self) -> usize {
        let mut out = Vec::new();
        self.write(&mut out, false);
        out.len()
    }

    fn write(&self, out: &mut Vec<u8>, is_last: bool) {
        let room = if self.room.is_some() { HAS_ROOM } else { 0 };
        let length = if is_last { 0 } else { HAS_LENGTH };
        let optional = |field: Option<u64>, bit: u8| if field.is_some() { bit } else { 0 };
        let (head, fields, body): (u8, Vec<u64>, Option<&Body>) = match &self.what {
            Shown::Entry {
                seq,
                sender,
                age,
                target,
                counter,
                body,
            } => (
                body.kind() | optional(*target, HAS_TARGET) | optional(*counter, HAS_COUNTER),
                [Some(*seq), Some(*sender), Some(*age), *target, *counter]
                    .into_iter()
                    .flatten()
                    .collect(),
                Some(body),
            ),
            Shown::Receipt { seq, user } => (RECEIPT, vec![*seq, *user], None),
            Shown::Typing(_) => (TYPING, vec![0], None),
            Shown::Covered { seq, head } => (
                COVERED | optional(*head, HAS_TARGET),
                [Some(*seq), *head].into_iter().flatten().collect(),
                None,
            ),
        };
        out.push(head | room | length);
        if let Some(room) = self.room {
            number::write(out, room);
        }
        for field in fields {
            number::write(out, field);
        }
        let mut tail = Vec::new();
        if let Some(body) = body {
            body.write(&mut tail);
        }
        if let Shown::Typing(users) = &self.what {
            for user in users {
                number::write(&mut tail, *user);
            }
        }
        if !is_last {
            number::write(out, tail.len() as u64);
        }
        out.extend_from_slice(&tail);
    }

    fn read(reader: &mut Reader<'_>) -> Result<(Self, bool), ThinError> {
        let head = reader.byte()?;
        let kind = head & KIND_MASK;
        let room = field(reader, head, HAS_ROOM)?;
        let seq = reader.number()?;
        if kind == TYPING && seq != 0 {
            return Err(reader.fault(ThinFault::Reserved));
        }
        let may = match kind {
            RECEIPT | TYPING => 0,
            COVERED => HAS_TARGET,
            _ => HAS_TARGET | HAS_COUNTER,
        };
        if head & (HAS_TARGET | HAS_COUNTER) & !may != 0 {
            return Err(reader.fault(ThinFault::Reserved));
        }
        let sender = if matches!(kind, TYPING | COVERED) {
            0
        } else {
            reader.number()?
        };
        let age = if matches!(kind, RECEIPT | TYPING | COVERED) {
            0
        } else {
            reader.number()?
        };
        let target = field(reader, head, HAS_TARGET)?;
        let counter = field(reader, head, HAS_COUNTER)?;
        let goes_on = head & HAS_LENGTH != 0;
        let tail = if goes_on {
            reader.counted()?
        } else {
            reader.remainder()
        };
        let mut tail = Reader::new(tail);
        let what = match kind {
            RECEIPT => Shown::Receipt { seq, user: sender },
            COVERED => Shown::Covered { seq, head: target },
            TYPING => {
                let mut users = Vec::new();
                while !tail.is_empty() {
                    users.push(tail.number()?);
                }
                Shown::Typing(users)
            }
            _ => Shown::Entry {
                seq,
                sender,
                age,
                target,
                counter,
                body: Body::read(kind, &mut tail)?,
            },
        };
        tail.finish()?;
        Ok((Self { room, what }, goes_on))
    }
}

fn field(reader: &mut Reader<'_>, head: u8, bit: u8) -> Result<Option<u64>, ThinError> {
    (head & bit != 0).then(|| reader.number()).transpose()
}

/// Records one after the other. None are no bytes.
///
/// spec: thin-profile §7
pub fn encode_all(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, record) in records.iter().enumerate() {
        record.write(&mut out, index + 1 == records.len());
    }
    out
}

/// spec: thin-profile §7
pub fn decode_all(bytes: &[u8]) -> Result<Vec<Record>, ThinError> {
    let mut reader = Reader::new(bytes);
    let mut records = Vec::new();
    if reader.is_empty() {
        return Ok(records);
    }
    loop {
        if records.len() >= RECORDS_MAX {
            return Err(reader.fault(ThinFault::TooMany));
        }
        let (record, goes_on) = Record::read(&mut reader)?;
        records.push(record);
        if !goes_on {
            return Ok(records);
        }
    }
}

impl WholeEntry {
    /// spec: thin-profile §8
    pub fn encode(&self) -> Vec<u8> {
        let optional = |field: Option<u64>, bit: u8| if field.is_some() { bit } else { 0 };
        let head = self.body.kind()
            | optional(self.target, HAS_TARGET)
            | optional(self.counter, HAS_COUNTER);
        let mut out = vec![head];
        let fields = [Some(self.seq), Some(self.sender), Some(self.time_ms)];
        for field in fields
            .into_iter()
            .chain([self.target, self.counter])
            .flatten()
        {
            number::write(&mut out, field);
        }
        out.extend_from_slice(&self.id);
        self.body.write(&mut out);
        out
    }

    /// spec: thin-profile §8
    pub fn decode(bytes: &[u8]) -> Result<Self, ThinError> {
        let mut reader = Reader::new(bytes);
        let head = reader.byte()?;
        if head & (BIT_6 | BIT_7) != 0 {
            return Err(reader.fault(ThinFault::Reserved));
        }
        Ok(Self {
            seq: reader.number()?,
            sender: reader.number()?,
            time_ms: reader.number()?,
            target: field(&mut reader, head, HAS_TARGET)?,
            counter: field(&mut reader, head, HAS_COUNTER)?,
            id: reader.array()?,
            body: Body::read(head & KIND_MASK, &mut reader)?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::{super::*, *};

    pub(in super::super) fn bodies() -> impl Strategy<Value = Body> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let small = || 0_u64..100_000;
        prop_oneof![
            any::<String>().prop_map(Body::Text),
            any::<String>().prop_map(Body::Reaction),
            any::<String>().prop_map(Body::Redaction),
            bytes().prop_map(Body::MlsElided),
            (small(), bytes(), any::<bool>()).prop_map(|(event_type, content, deflated)| {
                Body::Event {
                    event_type,
                    content,
                    deflated,
                }
            }),
            (small(), any::<String>(), bytes(), any::<bool>()).prop_map(
                |(event_type, state_key, content, deflated)| Body::State {
                    event_type,
                    state_key,
                    content,
                    deflated,
                }
            ),
            (small(), any::<String>()).prop_map(|(user, display_name)| Body::Member {
                user,
                membership: Membership::Knock,
                display_name,
            }),
            (small(), any::<[u8; 8]>()).prop_map(|(size, etag)| Body::TooLarge { size, etag }),
        ]
    }

    fn records() -> impl Strategy<Value = Record> {
        let small = || 0_u64..100_000;
        let maybe = || proptest::option::of(0_u64..100_000);
        let what = prop_oneof![
            (small(), small(), small(), maybe(), maybe(), bodies()).prop_map(
                |(seq, sender, age, target, counter, body)| Shown::Entry {
                    seq,
                    sender,
                    age,
                    target,
                    counter,
                    body,
                }
            ),
            (small(), small()).prop_map(|(seq, user)| Shown::Receipt { seq, user }),
            proptest::collection::vec(small(), 0..5).prop_map(Shown::Typing),
            (small(), maybe()).prop_map(|(seq, head)| Shown::Covered { seq, head }),
        ];
        (maybe(), what).prop_map(|(room, what)| Record { room, what })
    }

    #[test]
    fn the_profiles_example_is_true() {
        let all = [
            Record {
                room: None,
                what: Shown::Entry {
                    seq: 7,
                    sender: 1,
                    age: 0,
                    target: None,
                    counter: None,
                    body: Body::Text("hi".to_owned()),
                },
            },
            Record {
                room: None,
                what: Shown::Covered { seq: 8, head: None },
            },
        ];

        assert_eq!(hex::encode(encode_all(&all)), "800701000268690f08");
        let aside = [
            Record {
                room: Some(7),
                what: Shown::Receipt { seq: 300, user: 1 },
            },
            Record {
                room: None,
                what: Shown::Typing(vec![1, 5]),
            },
        ];
        assert_eq!(hex::encode(encode_all(&aside)), "cd07ac0201000e000105");
    }

    #[test]
    fn a_membership_says_what_it_ended_in_one_byte_and_may_leave_it_out() {
        let entry = |target, body| Shown::Entry {
            seq: 7,
            sender: 1,
            age: 0,
            target,
            counter: None,
            body,
        };
        let leave = || Body::Member {
            user: 2,
            membership: Membership::Leave,
            display_name: String::new(),
        };
        let coded = |what: Shown| encode_all(&[Record { room: None, what }]);
        // As a hub of before sends it, which says nothing of it.
        let old = coded(entry(None, leave()));
        assert_eq!(hex::encode(&old), "0b0701000202");
        let read = decode_all(&old).unwrap();
        assert_eq!(read[0].what.membership_before(), None);

        let new = coded(entry(Some(1), leave()));
        assert_eq!(hex::encode(&new), "1b070100010202");
        let read = decode_all(&new).unwrap();
        let before = read[0].what.membership_before();
        assert_eq!(before, Some(Membership::Invite));
        let state = |event_type| Body::State {
            event_type,
            state_key: "@bob:h".to_owned(),
            content: Vec::new(),
            deflated: true,
        };
        let before = |target, body| entry(Some(target), body).membership_before();
        assert_eq!(before(4, state(MEMBER)), Some(Membership::Knock));
        assert_eq!(before(5, state(MEMBER)), None);
        assert_eq!(before(300, state(MEMBER)), None);
        assert_eq!(before(1, state(MEMBER + 1)), None);
        assert_eq!(before(1, Body::Text(String::new())), None);
    }

    proptest! {
        #[test]
        fn records_come_back_and_have_one_form(all in proptest::collection::vec(records(), 0..5)) {
            let bytes = encode_all(&all);
            let longest: usize = all.iter().map(Record::encoded_len).sum();
            prop_assert!(bytes.len() <= longest);
            prop_assert_eq!(decode_all(&bytes), Ok(all));
        }

        #[test]
        fn any_bytes_are_records_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(records) = decode_all(&bytes) {
                prop_assert_eq!(encode_all(&records), bytes.clone());
            }
            if let Ok(entry) = WholeEntry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes.clone());
            }
            if let Ok(draft) = Draft::decode(&bytes) {
                prop_assert_eq!(draft.encode(), bytes.clone());
            }
            if let Ok(names) = Name::decode_all(&bytes) {
                prop_assert_eq!(Name::encode_all(&names), bytes.clone());
            }
            let _hello = Hello::decode(&bytes);
            let _profile = LinkProfile::decode(&bytes);
        }
    }
}
