//! Random histories, judged by our rules and by ruma's: the same accept or refuse for each event.
//!
//! Where ruma and the text differ, the generator stays away and a test in `tests.rs` says what we
//! do: a `creator` that is null, an `m.federate` that is no boolean (ruma refuses every event of
//! such a room), `join_authorised_via_users_server` or `third_party_invite` that is null.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use ruma::{
    CanonicalJsonObject, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    signatures::sign_json,
    state_res::{
        Event, auth_types_for_event, check_state_dependent_auth_rules,
        check_state_independent_auth_rules,
    },
};
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    base::Timestamp,
    room::{StateKey, testing},
    wire::matrix::ServerKey,
};

/// An event as ruma wants to see it.
#[derive(Clone, Debug)]
struct Seen {
    id: OwnedEventId,
    fields: PduFields,
    kind: TimelineEventType,
    content: Box<RawValue>,
    without_room: bool,
}

impl Seen {
    fn new(id: &EventId, fields: &PduFields, version: Version) -> Self {
        Self {
            id: id.to_owned(),
            kind: fields.kind.as_str().into(),
            content: serde_json::value::to_raw_value(&fields.content).unwrap(),
            without_room: fields.kind == "m.room.create" && version.room_id_is_create_hash(),
            fields: fields.clone(),
        }
    }
}

impl Event for Seen {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.id
    }
    fn room_id(&self) -> Option<&RoomId> {
        (!self.without_room).then_some(&self.fields.room_id)
    }
    fn sender(&self) -> &UserId {
        &self.fields.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(ruma::uint!(0))
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        self.fields.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.fields.prev.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.fields.auth.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        self.fields.redacts.as_ref()
    }
    fn rejected(&self) -> bool {
        false
    }
}

const USERS: [&str; 5] = ["@ana:hub", "@ben:hub", "@cat:hub", "@far:away", "@fay:away"];

/// One step of a history: who, what, and how the event's lists are spoilt.
#[derive(Clone, Debug)]
struct Step {
    sender: usize,
    kind: &'static str,
    state_key: Option<String>,
    content: Value,
    after_create: bool,
    spoil: Spoil,
}

#[derive(Clone, Copy, Debug)]
enum Spoil {
    Nothing,
    DropAuth(usize),
    DoubleAuth(usize),
    AddAuth(usize),
}

struct History {
    version: Version,
    key: ServerKey,
    events: BTreeMap<OwnedEventId, Arc<Pdu>>,
    order: Vec<OwnedEventId>,
    state: BTreeMap<StateKey, Arc<Pdu>>,
    accepted: usize,
}

impl History {
    fn founded(version: Version, content: Value) -> Self {
        let mut history = Self {
            version,
            key: testing::key("hub"),
            events: BTreeMap::new(),
            order: Vec::new(),
            state: BTreeMap::new(),
            accepted: 0,
        };
        let mut fields = history.fields(&Step {
            sender: 0,
            kind: "m.room.create",
            state_key: Some(String::new()),
            content,
            after_create: false,
            spoil: Spoil::Nothing,
        });
        fields.prev.clear();
        history.judge(fields);
        history
    }

    fn fields(&self, step: &Step) -> PduFields {
        let mut fields = PduFields {
            room_id: self
                .state
                .get(&StateKey::new("m.room.create", ""))
                .map_or_else(
                    || "!first:hub".try_into().unwrap(),
                    |create| create.fields().room_id.clone(),
                ),
            kind: step.kind.to_owned(),
            sender: USERS[step.sender].try_into().unwrap(),
            state_key: step.state_key.clone(),
            content: testing::json(step.content.clone()),
            redacts: None,
            at: Timestamp(1),
            depth: 1,
            prev: if step.after_create {
                self.order.first().cloned().into_iter().collect()
            } else {
                self.order.last().cloned().into_iter().collect()
            },
            auth: Vec::new(),
        };
        fields.auth = auth_state_keys(&fields, self.version)
            .iter()
            .filter_map(|key| Some(self.state.get(key)?.id().clone()))
            .collect();
        let pick = |n: usize, from: &[OwnedEventId]| from.get(n % from.len().max(1)).cloned();
        match step.spoil {
            Spoil::DropAuth(n) if !fields.auth.is_empty() => {
                let n = n % fields.auth.len();
                fields.auth.remove(n);
            }
            Spoil::Nothing | Spoil::DropAuth(_) => {}
            Spoil::DoubleAuth(n) => fields.auth.extend(pick(n, &fields.auth)),
            Spoil::AddAuth(n) => fields.auth.extend(pick(n, &self.order)),
        }
        fields
    }

    /// Asks both, and takes the event when both say yes.
    fn judge(&mut self, fields: PduFields) {
        let version = self.version;
        let rules = &version.rules().authorization;
        let id: OwnedEventId = crate::wire::matrix::event_id(crate::base::EventHash([255; 32]));
        let seen = Seen::new(&id, &fields, version);
        let by_id = |id: &EventId| self.events.get(id);
        let see = |event: &Arc<Pdu>| Seen::new(event.id(), event.fields(), version);

        let entries: Vec<_> = fields
            .auth
            .iter()
            .filter_map(|id| by_id(id).cloned())
            .map(|event| AuthEntry {
                event,
                rejected: false,
            })
            .collect();
        let create = self
            .state
            .get(&StateKey::new("m.room.create", ""))
            .map(|event| AuthEntry {
                event: Arc::clone(event),
                rejected: false,
            });
        let ours_alone = if fields.kind == "m.room.create" {
            check_auth(&fields, version, &|_, _| None)
        } else {
            check_auth_events(&fields, version, &entries, create.as_ref())
        };
        let theirs_alone =
            check_state_independent_auth_rules(rules, &seen, |id: &EventId| by_id(id).map(see));
        let state = |kind: &str, key: &str| self.state.get(&StateKey::new(kind, key)).cloned();
        let ours = check_auth(&fields, version, &state);
        let theirs =
            check_state_dependent_auth_rules(rules, &seen, |kind: &StateEventType, key: &str| {
                state(&kind.to_string(), key).as_ref().map(see)
            });
        let ours_all = ours_alone.is_ok() && ours.is_ok();
        let told = format!(
            "{version}: {fields:#?}\nours: {ours_alone:?} {ours:?}\nruma: {theirs_alone:?} {theirs:?}"
        );
        assert_eq!(ours_all, theirs_alone.is_ok() && theirs.is_ok(), "{told}");
        // What ruma cannot read it refuses with the list, and we where the rule stands.
        if self.same_selection(&fields, &seen) && fields.kind != "m.room.create" {
            assert_eq!(ours_alone.is_ok(), theirs_alone.is_ok(), "{told}");
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{told}");
        }
        if ours_all {
            self.accepted += 1;
            if fields.state_key.is_some() {
                self.accept(fields);
            }
        }
    }

    /// Whether ruma can say what the event may name; then it says what we say.
    fn same_selection(&self, fields: &PduFields, seen: &Seen) -> bool {
        let theirs = auth_types_for_event(
            &seen.kind,
            &fields.sender,
            fields.state_key.as_deref(),
            &seen.content,
            &self.version.rules().authorization,
        );
        let Ok(theirs) = theirs else {
            return false;
        };
        let mut theirs: Vec<_> = theirs
            .into_iter()
            .map(|(kind, key)| StateKey::new(kind.to_string(), key))
            .collect();
        let mut ours = auth_state_keys(fields, self.version);
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs);
        true
    }

    fn accept(&mut self, fields: PduFields) {
        let pdu = Arc::new(Pdu::sign(fields, self.version, &self.key).unwrap());
        let key = pdu.fields().state_key.clone().unwrap();
        let key = StateKey::new(&pdu.fields().kind, key);
        self.order.push(pdu.id().clone());
        self.events.insert(pdu.id().clone(), Arc::clone(&pdu));
        self.state.insert(key, pdu);
    }
}

fn level() -> impl Strategy<Value = Value> {
    let top = (1_i64 << 53) - 1;
    prop_oneof![
        20 => prop::sample::select(vec![-1, 0, 0, 25, 49, 50, 50, 51, 99, 100, 100, 101, top])
            .prop_map(Value::from),
        1 => prop::sample::select(vec![json!("50"), json!(null), json!({}), json!([0])]),
    ]
}

fn power_levels() -> impl Strategy<Value = Value> {
    let number = prop::sample::select(levels::FIELDS.map(|(name, _)| name.to_owned()).to_vec());
    let user = prop_oneof![
        30 => prop::sample::select(USERS.to_vec()).prop_map(ToOwned::to_owned),
        1 => Just("someone".to_owned()),
    ];
    let kind = prop::sample::select(vec![
        "m.room.power_levels",
        "m.room.topic",
        "m.room.message",
        "m.room.join_rules",
        "m.room.third_party_invite",
        "m.room.member",
    ])
    .prop_map(ToOwned::to_owned);
    let map = |key: BoxedStrategy<String>| {
        let object = prop::collection::btree_map(key, level(), 0..4);
        prop_oneof![
            30 => object.prop_map(|map| Value::Object(map.into_iter().collect())),
            1 => prop::sample::select(vec![json!(null), json!(50), json!([])]),
        ]
    };
    (
        prop::collection::btree_map(number, level(), 0..4),
        prop::option::of(map(user.boxed())),
        prop::option::of(map(kind.boxed())),
        prop::option::weighted(0.2, map(Just("room".to_owned()).boxed())),
    )
        .prop_map(|(numbers, users, events, notifications)| {
            let mut content: serde_json::Map<_, _> = numbers.into_iter().collect();
            for (name, map) in [
                ("users", users),
                ("events", events),
                ("notifications", notifications),
            ] {
                if let Some(map) = map {
                    content.insert(name.to_owned(), map);
                }
            }
            Value::Object(content)
        })
}

/// `signed` of a third-party invite, signed by the key the invites name or by nobody.
fn signed(mxid: &str, token: &str, is_signed: bool) -> Value {
    let mut object: CanonicalJsonObject =
        testing::json(json!({ "mxid": mxid, "token": token, "signatures": {} }));
    if is_signed {
        let key = testing::key("id.example");
        sign_json("id.example", key.pair(), &mut object).unwrap();
    }
    serde_json::to_value(object).unwrap()
}

fn public_key() -> String {
    ruma::serde::Base64::<ruma::serde::base64::Standard, _>::new(testing::key("hub").public())
        .encode()
}

fn membership() -> impl Strategy<Value = (Option<String>, Value)> {
    let user = || prop::sample::select(USERS.to_vec());
    let membership = prop_oneof![
        6 => Just("join"), 4 => Just("invite"), 3 => Just("leave"), 2 => Just("ban"),
        2 => Just("knock"), 1 => Just("owner"),
    ];
    let token = prop::sample::select(vec!["t1", "t2"]);
    let invite = prop_oneof![
        4 => (user(), token, prop::bool::weighted(0.8))
            .prop_map(|(mxid, token, is_signed)| json!({ "signed": signed(mxid, token, is_signed) })),
        1 => prop::sample::select(vec![json!({}), json!({ "signed": {} })]),
    ];
    let by = prop::option::weighted(0.3, user());
    (
        user(),
        membership,
        prop::option::weighted(0.2, invite),
        by,
        0..40_u8,
    )
        .prop_map(|(target, membership, invite, by, odd)| {
            let mut content = json!({ "membership": membership });
            if let (Some(invite), "invite") = (invite, membership) {
                content["third_party_invite"] = invite;
            }
            if let (Some(by), "join") = (by, membership) {
                content["join_authorised_via_users_server"] = json!(by);
            }
            match odd {
                0 => (None, content),
                1 => (Some("nobody".to_owned()), content),
                2 => (Some(target.to_owned()), json!({})),
                3 => (Some(target.to_owned()), json!({ "membership": 7 })),
                4 => (
                    Some(target.to_owned()),
                    json!({ "membership": "join", "join_authorised_via_users_server": 5 }),
                ),
                _ => (Some(target.to_owned()), content),
            }
        })
}

fn event() -> impl Strategy<Value = (&'static str, Option<String>, Value)> {
    let empty = || Some(String::new());
    let rule = prop::sample::select(vec![
        json!({ "join_rule": "public" }),
        json!({ "join_rule": "public" }),
        json!({ "join_rule": "invite" }),
        json!({ "join_rule": "knock" }),
        json!({ "join_rule": "restricted" }),
        json!({ "join_rule": "knock_restricted" }),
        json!({ "join_rule": "private" }),
        json!({ "join_rule": "org.example" }),
        json!({}),
    ]);
    let key = prop::sample::select(vec!["", "x", "@ana:hub", "@ben:hub", "@"]);
    prop_oneof![
        8 => membership().prop_map(|(key, content)| ("m.room.member", key, content)),
        4 => power_levels().prop_map(move |content| ("m.room.power_levels", empty(), content)),
        2 => rule.prop_map(move |content| ("m.room.join_rules", empty(), content)),
        2 => prop::sample::select(vec!["t1", "t2"]).prop_map(|token| (
            "m.room.third_party_invite",
            Some(token.to_owned()),
            json!({ "public_key": public_key(), "display_name": "x" }),
        )),
        2 => key.prop_map(|key| ("m.room.topic", Some(key.to_owned()), json!({}))),
        2 => Just(("m.room.message", None, json!({ "body": "x" }))),
        1 => Just(("m.room.redaction", None, json!({}))),
        1 => Just(("m.room.create", Some(String::new()), json!({}))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let spoil = prop_oneof![
        30 => Just(Spoil::Nothing),
        1 => any::<usize>().prop_map(Spoil::DropAuth),
        1 => any::<usize>().prop_map(Spoil::DoubleAuth),
        1 => any::<usize>().prop_map(Spoil::AddAuth),
    ];
    let sender = prop_oneof![3 => Just(None), 5 => (0..USERS.len()).prop_map(Some)];
    (sender, event(), prop::bool::weighted(0.05), spoil).prop_map(
        |(sender, (kind, state_key, content), after_create, spoil)| {
            // Often the one it is about, else the creator, else anyone.
            let about = USERS
                .iter()
                .position(|user| Some(*user) == state_key.as_deref());
            Step {
                sender: sender.or(about).unwrap_or(0),
                kind,
                state_key,
                content,
                after_create,
                spoil,
            }
        },
    )
}

fn create_content(version: Version) -> impl Strategy<Value = Value> {
    let federate = prop::option::weighted(0.3, any::<bool>());
    let more = prop::option::weighted(
        0.3,
        prop::sample::select(vec![
            json!([USERS[1]]),
            json!([USERS[1], USERS[3]]),
            json!([]),
            json!(["someone"]),
            json!(USERS[1]),
        ]),
    );
    (federate, more, 0..20_u8).prop_map(move |(federate, more, odd)| {
        let mut content = json!({ "room_version": version.as_str() });
        if version == Version::V10 && odd != 0 {
            content["creator"] = json!(USERS[0]);
        }
        if let Some(federate) = federate {
            content["m.federate"] = json!(federate);
        }
        if let Some(more) = more {
            content["additional_creators"] = more;
        }
        content
    })
}

fn history() -> impl Strategy<Value = (Version, Value, bool, Vec<Step>)> {
    prop::sample::select(Version::ALL.to_vec()).prop_flat_map(|version| {
        (
            Just(version),
            create_content(version),
            prop::bool::weighted(0.9),
            prop::collection::vec(step(), 5..30),
        )
    })
}

fn play(version: Version, content: Value, creator_joins: bool, steps: &[Step]) -> usize {
    let mut history = History::founded(version, content);
    if creator_joins {
        let join = Step {
            sender: 0,
            kind: "m.room.member",
            state_key: Some(USERS[0].to_owned()),
            content: json!({ "membership": "join" }),
            after_create: true,
            spoil: Spoil::Nothing,
        };
        history.judge(history.fields(&join));
    }
    for step in steps {
        history.judge(history.fields(step));
    }
    history.accepted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn ruma_says_the_same_of_every_event((version, content, joins, steps) in history()) {
        play(version, content, joins, &steps);
    }
}

/// A generator whose events are all refused would prove nothing.
#[test]
fn random_histories_are_neither_all_taken_nor_all_refused() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut taken, mut all) = (0, 0);
    for _ in 0..60 {
        let (version, content, joins, steps) = history().new_tree(&mut runner).unwrap().current();
        all += steps.len();
        taken += play(version, content, joins, &steps);
    }
    assert!(
        taken * 5 > all && taken * 5 < all * 4,
        "{taken} of {all} were taken"
    );
}
