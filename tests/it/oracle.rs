//! Our events and our rules, judged by Synapse's own code.

mod acls;
mod forks;

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use libtest_mimic::{Failed, Trial};
use rand::{Rng, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId,
    signatures::Ed25519KeyPair,
};
use serde_json::{Value, json};
use tramline::{
    base::Timestamp,
    room::{
        Draft, Effect, Evidence, Founding, MemberChange, Part, Room, StateKey, auth_state_keys,
        check_auth, found,
    },
    wire::matrix::{Pdu, PduFields, ServerKey, Version},
};

use crate::peers::{self, Need, Oracle, Peer};

/// How many histories are compared, for each version.
const HISTORIES: usize = 500;

/// How many events each has after its first four.
const EVENTS: usize = 30;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in Version::ALL {
        trials.push(peers::trial(
            format!("oracle::synapse_accepts_hash_id_and_signature_of_our_v{version}_events"),
            Need::Required,
            &[Peer::Python],
            move || our_events(version),
        ));
        trials.push(peers::trial(
            format!("oracle::five_hundred_v{version}_histories_are_judged_alike"),
            Need::Required,
            &[Peer::Python],
            move || histories(version),
        ));
        trials.push(peers::trial(
            format!("oracle::five_hundred_forked_v{version}_histories_resolve_alike"),
            Need::Required,
            &[Peer::Python],
            move || forks::resolve_alike(version),
        ));
    }
    trials.push(peers::trial(
        "oracle::server_acls_and_globs_match_alike".to_owned(),
        Need::Required,
        &[Peer::Python],
        acls::match_alike,
    ));
    trials
}

fn key() -> ServerKey {
    let name = OwnedServerName::try_from("hub.example").expect("a server name");
    ServerKey::from_der(name, &Ed25519KeyPair::generate(), "t1").expect("a fresh key is a key")
}

fn user(name: &str) -> OwnedUserId {
    OwnedUserId::try_from(name).expect("a user id")
}

fn object(value: Value) -> CanonicalJsonObject {
    serde_json::from_value(value).expect("the tests write canonical JSON")
}

/// Everything a client can do, decided and signed by the room, then checked by Synapse.
fn our_events(version: Version) -> Result<(), Failed> {
    let key = key();
    let (ana, bob) = (user("@ana:hub.example"), user("@bob:hub.example"));
    let mut staged = Staged::found(version, &key, &ana)?;
    let member = |target: &OwnedUserId, change| Part::Member {
        target: target.clone(),
        change,
        content: object(json!({"displayname": "Ä \u{1F600}"})),
    };
    let state = |kind: &str, content| Part::Event {
        kind: kind.to_owned(),
        state_key: Some(String::new()),
        content: object(content),
    };
    staged.take(&ana, member(&ana, MemberChange::Join))?;
    let users = if version == Version::V12 {
        json!({})
    } else {
        json!({"@ana:hub.example": 100})
    };
    staged.take(&ana, state("m.room.power_levels", json!({"users": users})))?;
    staged.take(
        &ana,
        state("m.room.join_rules", json!({"join_rule": "knock"})),
    )?;
    staged.take(
        &ana,
        state(
            "m.room.topic",
            json!({"topic": "a\\\"\u{7f}\u{e000}\n\u{1}"}),
        ),
    )?;
    staged.take(&bob, member(&bob, MemberChange::Knock))?;
    staged.take(&ana, member(&bob, MemberChange::Invite))?;
    staged.take(&bob, member(&bob, MemberChange::Join))?;
    let text = staged.take(
        &bob,
        Part::Event {
            kind: "m.room.message".to_owned(),
            state_key: None,
            content: object(json!({"body": "hi", "n": 9_007_199_254_740_991_i64, "x": [null]})),
        },
    )?;
    let target = text.id().clone();
    staged.take(
        &ana,
        Part::Redact {
            target,
            reason: Some("no".to_owned()),
        },
    )?;
    staged.take(&ana, member(&bob, MemberChange::Ban))?;
    staged.take(&ana, member(&bob, MemberChange::Unban))?;

    let public = STANDARD_NO_PAD.encode(key.public());
    let mut oracle = Oracle::start()?;
    for pdu in &staged.log {
        let answer = oracle.ask(&json!({
            "op": "check_event", "version": version.as_str(), "server": "hub.example",
            "event": serde_json::from_str::<Value>(pdu.json())?,
            "verify_key": {"key_id": key.id(), "key": public},
        }))?;
        if answer["ok"] != true || answer["event_id"] != pdu.id().as_str() {
            return Err(format!("{answer:#}\n{}", pdu.json()).into());
        }
    }
    Ok(())
}

/// A room outside any store.
struct Staged<'a> {
    room: Room,
    key: &'a ServerKey,
    log: Vec<Arc<Pdu>>,
    now: u64,
}

impl<'a> Staged<'a> {
    fn found(version: Version, key: &'a ServerKey, creator: &OwnedUserId) -> Result<Self, Failed> {
        let founding = Founding {
            creator: creator.clone(),
            version,
            room_id: OwnedRoomId::try_from("!room:hub.example")?,
            content: CanonicalJsonObject::new(),
        };
        let now = 1_700_000_000_000;
        let evidence = Evidence {
            now: Timestamp(now),
            key,
            target: None,
        };
        let (mut room, create) = found(&founding, &evidence)?;
        room.apply(&Effect::Append(Arc::clone(&create)));
        Ok(Self {
            room,
            key,
            log: vec![create],
            now,
        })
    }

    fn take(&mut self, sender: &OwnedUserId, part: Part) -> Result<Arc<Pdu>, Failed> {
        let draft = Draft {
            sender: sender.clone(),
            parts: vec![part],
        };
        for key in self.room.needs(sender, &draft.parts[0]).state {
            self.room.learn(key, None); // all there is was applied here, so the rest is absent
        }
        self.now += 1;
        let target = match &draft.parts[0] {
            Part::Redact { target, .. } => self.log.iter().find(|pdu| pdu.id() == target),
            _ => None,
        };
        let evidence = Evidence {
            now: Timestamp(self.now),
            key: self.key,
            target: target.map(|pdu| &**pdu),
        };
        let effects = self.room.decide(sender, &draft.parts[0], &evidence)?;
        let mut event = None;
        for effect in &effects {
            self.room.apply(effect);
            if let Effect::Append(pdu) = effect {
                self.log.push(Arc::clone(pdu));
                event = Some(Arc::clone(pdu));
            }
        }
        event.ok_or_else(|| "the part appended nothing".into())
    }
}

/// Another one each time, unless one is to be tried again.
fn seed() -> u64 {
    let seed = std::env::var("TRAMLINE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("TRAMLINE_SEED={seed}");
    seed
}

/// Random histories, half of them nonsense, must be accepted and refused alike.
fn histories(version: Version) -> Result<(), Failed> {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let key = key();
    let mut oracle = Oracle::start()?;
    let (mut accepted, mut refused) = (0_usize, 0_usize);
    for number in 0..HISTORIES {
        let (events, ours) = history(version, &key, &mut rng);
        let texts: Vec<Value> = events
            .iter()
            .map(|pdu| serde_json::from_str(pdu.json()))
            .collect::<Result<_, _>>()?;
        let answer =
            oracle.ask(&json!({"op": "history", "version": version.as_str(), "events": texts}))?;
        let theirs = answer["results"]
            .as_array()
            .ok_or_else(|| format!("{answer:#}"))?;
        for ((event, ours), theirs) in events.iter().zip(&ours).zip(theirs) {
            let accept = theirs["accept"].as_bool().unwrap_or_default();
            if accept != ours.is_ok() || theirs["event_id"] != event.id().as_str() {
                let said = format!("history {number} of seed {seed}: ours {ours:?}, {theirs:#}");
                return Err(format!("{said}\n{}", event.json()).into());
            }
            if accept { accepted += 1 } else { refused += 1 }
        }
    }
    println!("{accepted} accepted and {refused} refused alike");
    if accepted < HISTORIES * EVENTS / 8 || refused < HISTORIES * EVENTS / 8 {
        return Err(format!("too one-sided: {accepted} accepted, {refused} refused").into());
    }
    Ok(())
}

const PEOPLE: [&str; 6] = [
    "@ana:hub.example",
    "@bob:hub.example",
    "@cyn:hub.example",
    "@dan:other.example",
    "@eve:other.example",
    "@flo:third.example",
];

type State = BTreeMap<StateKey, Arc<Pdu>>;

/// One history: its events and what our rules say of each.
fn history(
    version: Version,
    key: &ServerKey,
    rng: &mut StdRng,
) -> (Vec<Arc<Pdu>>, Vec<Result<(), String>>) {
    let mut state = State::new();
    let mut events: Vec<Arc<Pdu>> = Vec::new();
    let mut verdicts = Vec::new();
    let mut room = OwnedRoomId::try_from("!room:hub.example").expect("a room id");
    let opening = opening(version, rng);
    for index in 0..opening.len() + EVENTS {
        let (sender, kind, state_key, content) = match opening.get(index) {
            Some(step) => step.clone(),
            None => step(version, rng),
        };
        // In a room closed to other servers Synapse also refuses what concerns their users; the
        // text refuses only what they send.
        let closed = state
            .get(&StateKey::new("m.room.create", ""))
            .is_some_and(|create| {
                create.fields().content.get("m.federate") == Some(&CanonicalJsonValue::Bool(false))
            });
        let state_key = match state_key {
            Some(key) if closed && kind == "m.room.member" && !key.ends_with(":hub.example") => {
                Some(PEOPLE[1].to_owned())
            }
            other => other,
        };
        let content = match state.get(&StateKey::new("m.room.power_levels", "")) {
            Some(before) if kind == "m.room.power_levels" => {
                written_alike(&before.fields().content, &sender, content)
            }
            _ => content,
        };
        let fields = PduFields {
            room_id: room.clone(),
            kind,
            sender: user(&sender),
            state_key,
            content: object(content),
            redacts: None,
            at: Timestamp(1_700_000_000_000 + index as u64),
            depth: index as u64 + 1,
            prev: events
                .last()
                .map(|last| last.id().clone())
                .into_iter()
                .collect(),
            auth: Vec::new(),
        };
        let auth = auth_state_keys(&fields, version);
        let auth = auth
            .iter()
            .filter_map(|key| state.get(key))
            .map(|pdu| pdu.id().clone());
        let fields = PduFields {
            auth: auth.collect(),
            ..fields
        };
        let pdu = Arc::new(Pdu::sign(fields, version, key).expect("small events can be signed"));
        if index == 0 {
            room = pdu.fields().room_id.clone();
        }
        let look = |kind: &str, key: &str| state.get(&StateKey::new(kind, key)).cloned();
        let verdict = check_auth(pdu.fields(), version, &look);
        if verdict.is_ok()
            && let Some(key) = &pdu.fields().state_key
        {
            state.insert(StateKey::new(&pdu.fields().kind, key), Arc::clone(&pdu));
        }
        verdicts.push(verdict.map_err(|clause| clause.to_string()));
        events.push(pdu);
    }
    (events, verdicts)
}

type Step = (String, String, Option<String>, Value);

fn opening(version: Version, rng: &mut StdRng) -> Vec<Step> {
    let ana = PEOPLE[0].to_owned();
    let mut create = json!({"room_version": version.as_str()});
    if version == Version::V10 {
        create["creator"] = json!(ana);
    }
    if rng.random_bool(0.1) {
        create["m.federate"] = json!(false);
    }
    if version == Version::V12 && rng.random_bool(0.2) {
        create["additional_creators"] = json!([PEOPLE[1]]);
    }
    let users = if version == Version::V12 {
        json!({PEOPLE[3]: 50})
    } else {
        json!({PEOPLE[0]: 100, PEOPLE[3]: 50})
    };
    let rule = *["public", "invite", "knock", "private"]
        .choose(rng)
        .expect("not empty");
    let at = |kind: &str, key: &str, content| {
        (ana.clone(), kind.to_owned(), Some(key.to_owned()), content)
    };
    vec![
        at("m.room.create", "", create),
        at("m.room.member", PEOPLE[0], json!({"membership": "join"})),
        at("m.room.power_levels", "", json!({"users": users})),
        at("m.room.join_rules", "", json!({"join_rule": rule})),
    ]
}

fn step(version: Version, rng: &mut StdRng) -> Step {
    let pick = |rng: &mut StdRng| (*PEOPLE.choose(rng).expect("not empty")).to_owned();
    let sender = pick(rng);
    let (kind, key, content) = match rng.random_range(0..20) {
        0..9 => {
            let target = if rng.random_bool(0.55) {
                sender.clone()
            } else {
                pick(rng)
            };
            ("m.room.member", Some(target), membership(rng))
        }
        9..12 => (
            "m.room.power_levels",
            Some(String::new()),
            power_levels(version, rng),
        ),
        12..14 => {
            let rules = [
                "public",
                "invite",
                "knock",
                "restricted",
                "knock_restricted",
                "private",
                "odd",
            ];
            let rule = *rules.choose(rng).expect("not empty");
            // Always with a rule: Synapse takes a missing one for `invite`, the text refuses.
            (
                "m.room.join_rules",
                Some(String::new()),
                json!({"join_rule": rule}),
            )
        }
        14 => (
            "m.room.third_party_invite",
            Some("tok".to_owned()),
            json!({"display_name": "x"}),
        ),
        15 => ("m.room.topic", Some(String::new()), json!({"topic": "t"})),
        16 => ("m.own", Some(pick(rng)), json!({})),
        17 => ("m.room.redaction", None, json!({})),
        18 => (
            "m.room.create",
            Some(String::new()),
            json!({"room_version": version.as_str()}),
        ),
        _ => ("m.room.message", None, json!({"body": "b"})),
    };
    (sender, kind.to_owned(), key, content)
}

/// The new power levels without additions and removals of numbers whose default is out of the
/// sender's reach: Synapse compares only what is written, the text (and ruma) the defaults, too.
///
/// See matrix-v12-10.6 in the notes.
fn written_alike(before: &CanonicalJsonObject, sender: &str, mut content: Value) -> Value {
    let number = |value: Option<&CanonicalJsonValue>| match value {
        Some(CanonicalJsonValue::Integer(number)) => Some(i64::from(*number)),
        _ => None,
    };
    let own = before.get("users").and_then(CanonicalJsonValue::as_object);
    let own = own.and_then(|users| number(users.get(sender)));
    let reach = own
        .or_else(|| number(before.get("users_default")))
        .unwrap_or(0);
    let Some(members) = content.as_object_mut() else {
        return content;
    };
    for (name, default) in [
        ("ban", 50),
        ("kick", 50),
        ("redact", 50),
        ("state_default", 50),
        ("invite", 0),
        ("events_default", 0),
        ("users_default", 0),
    ] {
        match before.get(name) {
            _ if default <= reach => {}
            None => {
                members.remove(name);
            }
            Some(written) => {
                members
                    .entry(name)
                    .or_insert_with(|| written.clone().into());
            }
        }
    }
    content
}

fn membership(rng: &mut StdRng) -> Value {
    let words = [
        "join", "join", "join", "invite", "invite", "leave", "ban", "knock", "odd",
    ];
    let mut content = json!({"membership": *words.choose(rng).expect("not empty")});
    if rng.random_bool(0.1) {
        let by = if rng.random_bool(0.5) {
            PEOPLE[0]
        } else {
            PEOPLE[3]
        };
        content["join_authorised_via_users_server"] = json!(by);
    }
    if rng.random_bool(0.03) {
        content = json!({"membership": 5});
    }
    content
}

fn power_levels(version: Version, rng: &mut StdRng) -> Value {
    let level = |rng: &mut StdRng| {
        let levels = [
            json!(0),
            json!(10),
            json!(50),
            json!(100),
            json!(-1),
            json!("50"),
        ];
        levels[if rng.random_bool(0.03) {
            5
        } else {
            rng.random_range(0..5)
        }]
        .clone()
    };
    let mut content = json!({});
    for name in [
        "ban",
        "kick",
        "invite",
        "redact",
        "events_default",
        "state_default",
        "users_default",
    ] {
        if rng.random_bool(0.2) {
            content[name] = level(rng);
        }
    }
    let mut users = json!({});
    for (index, person) in PEOPLE.iter().enumerate() {
        let keep = if index == 0 {
            version != Version::V12
        } else {
            rng.random_bool(0.4)
        };
        if keep || rng.random_bool(0.03) {
            users[*person] = if index == 0 { json!(100) } else { level(rng) };
        }
    }
    content["users"] = users;
    if rng.random_bool(0.3) {
        content["events"] = json!({"m.room.topic": level(rng), "m.room.power_levels": level(rng)});
    }
    if rng.random_bool(0.1) {
        content["notifications"] = json!({"room": level(rng)});
    }
    content
}
