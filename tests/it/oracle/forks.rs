//! Random histories that fork and merge: our state resolution beside Synapse's and ruma's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use libtest_mimic::Failed;
use rand::{Rng, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomId, UInt, UserId,
    events::TimelineEventType,
    state_res::{self, Event},
};
use serde_json::{Value, json, value::RawValue};
use tramline::{
    base::{EventHash, Timestamp},
    room::{AuthEntry, Budget, StateKey, StateMap, auth_state_keys, check_auth, resolve},
    wire::matrix::{Pdu, PduFields, ServerKey, Version, event_hash, event_id},
};

use super::{PEOPLE, key, membership, object, seed, user};
use crate::peers::Oracle;

/// How many histories are compared, for each version.
const HISTORIES: usize = 500;

/// How many events are tried in each after its opening.
const EVENTS: usize = 20;

/// How many more sets of states of each are resolved than it needed itself.
const EXTRA_CASES: usize = 2;

/// Every resolution that a history needed, and some more, must come out alike.
pub(super) fn resolve_alike(version: Version) -> Result<(), Failed> {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let key = key();
    let mut oracle = Oracle::start()?;
    let (mut cases, mut decided) = (0, 0);
    for number in 0..HISTORIES {
        let forks = Forks::grow(version, &key, &mut rng);
        let told = format!("history {number} of seed {seed}");
        let theirs = by_synapse(&mut oracle, &forks)?;
        for (index, case) in forks.cases.iter().enumerate() {
            let ruma = by_ruma(&forks, &case.states);
            for (who, theirs) in [("Synapse", &theirs[index]), ("ruma", &ruma)] {
                if case.ours != *theirs {
                    let (ours, theirs) = (forks.spell(&case.ours), forks.spell(theirs));
                    let said = format!("{told}, case {index}: ours {ours:#?}, {who} {theirs:#?}");
                    let texts: Vec<_> = forks.events.values().map(|pdu| pdu.json()).collect();
                    return Err(format!("{said}\n{texts:#?}").into());
                }
            }
            cases += 1;
            decided += usize::from(!case.states.contains(&case.ours));
        }
    }
    println!("{cases} resolutions came out alike, {decided} as none of the forks had it");
    if cases < HISTORIES * 4 || decided < HISTORIES * 2 {
        return Err(format!("too tame: {cases} resolutions, {decided} mixed").into());
    }
    Ok(())
}

/// States, and what we make of them.
struct Case {
    states: Vec<StateMap>,
    ours: StateMap,
}

/// One history and the resolutions in it.
struct Forks {
    version: Version,
    events: BTreeMap<OwnedEventId, Arc<Pdu>>,
    /// Each accepted event, and the state after it.
    after: Vec<(Arc<Pdu>, StateMap)>,
    /// Which of them nothing follows.
    ends: Vec<usize>,
    cases: Vec<Case>,
}

type Step = (String, &'static str, Option<String>, Value);

impl Forks {
    fn grow(version: Version, key: &ServerKey, rng: &mut StdRng) -> Self {
        let mut forks = Self {
            version,
            events: BTreeMap::new(),
            after: Vec::new(),
            ends: Vec::new(),
            cases: Vec::new(),
        };
        for step in opening(version, rng) {
            let before = forks.ends.clone();
            let state = forks.state_before(&before);
            forks.take(key, &before, state, step, rng);
        }
        for _ in 0..EVENTS {
            let before = forks.before_next(rng);
            let state = forks.state_before(&before);
            let step = forks.step(&state, rng);
            forks.take(key, &before, state, step, rng);
        }
        forks.state_before(&forks.ends.clone());
        for _ in 0..EXTRA_CASES {
            let count = rng.random_range(2..6);
            let some: Vec<_> = (0..count)
                .map(|_| rng.random_range(0..forks.after.len()))
                .collect();
            forks.state_before(&some);
        }
        forks
    }

    /// A merge of some ends, a new fork somewhere in the near past, or one of the ends.
    fn before_next(&self, rng: &mut StdRng) -> Vec<usize> {
        match rng.random_range(0..20) {
            0..5 => {
                let count = rng.random_range(2..4);
                self.ends.choose_multiple(rng, count).copied().collect()
            }
            5..12 => {
                let last = self.after.len();
                vec![rng.random_range(last.saturating_sub(10)..last)]
            }
            _ => vec![*self.ends.choose(rng).expect("a history has an end")],
        }
    }

    fn state_before(&mut self, events: &[usize]) -> StateMap {
        let states: BTreeSet<_> = events.iter().map(|at| self.after[*at].1.clone()).collect();
        if states.len() < 2 {
            return states.into_iter().next().unwrap_or_default();
        }
        let states: Vec<_> = states.into_iter().collect();
        let fetch = |hash: EventHash| self.entry(hash);
        let ours = resolve(self.version, states.clone(), &fetch, Budget::DEFAULT)
            .expect("all events are there");
        self.cases.push(Case {
            states,
            ours: ours.clone(),
        });
        ours
    }

    fn entry(&self, hash: EventHash) -> Option<AuthEntry> {
        Some(AuthEntry {
            event: Arc::clone(self.events.get(&event_id(hash))?),
            rejected: false,
        })
    }

    /// Appends the step's event if the state before it allows it.
    fn take(
        &mut self,
        key: &ServerKey,
        before: &[usize],
        mut state: StateMap,
        step: Step,
        rng: &mut StdRng,
    ) {
        let (sender, kind, state_key, content) = step;
        let prev = before.iter().map(|at| self.after[*at].0.id().clone());
        let depths = before.iter().map(|at| self.after[*at].0.fields().depth);
        let room = self.after.first().map(|(pdu, _)| &pdu.fields().room_id);
        let mut fields = PduFields {
            room_id: room.cloned().unwrap_or_else(first_room),
            kind: kind.to_owned(),
            sender: user(&sender),
            state_key,
            content: object(content),
            redacts: None,
            // So close together that the id often has to decide.
            at: Timestamp(1_700_000_000_000 + rng.random_range(0..12)),
            depth: depths.max().unwrap_or(0) + 1,
            prev: prev.collect(),
            auth: Vec::new(),
        };
        let keys = auth_state_keys(&fields, self.version);
        let auth = keys.iter().filter_map(|key| state.get(key));
        fields.auth = auth.map(|hash| event_id(*hash)).collect();
        let pdu = Arc::new(Pdu::sign(fields, self.version, key).expect("it is small"));
        let look = |kind: &str, key: &str| {
            let hash = state.get(&StateKey::new(kind, key))?;
            Some(self.entry(*hash)?.event)
        };
        if check_auth(pdu.fields(), self.version, &look).is_ok() {
            if let Some(key) = &pdu.fields().state_key {
                state.insert(StateKey::new(kind, key), pdu.hash());
            }
            self.ends.retain(|end| !before.contains(end));
            self.ends.push(self.after.len());
            self.events.insert(pdu.id().clone(), Arc::clone(&pdu));
            self.after.push((pdu, state));
        }
    }

    /// Mostly by someone who is in the room where the event stands.
    fn step(&self, state: &StateMap, rng: &mut StdRng) -> Step {
        let joined: Vec<_> = PEOPLE
            .into_iter()
            .filter(|person| {
                let member = state.get(&StateKey::new("m.room.member", *person));
                let event = member.and_then(|hash| self.entry(*hash));
                event.is_some_and(|entry| {
                    entry.event.fields().content.get("membership") == Some(&"join".into())
                })
            })
            .collect();
        let pick = |rng: &mut StdRng| (*PEOPLE.choose(rng).expect("not empty")).to_owned();
        let sender = match joined.choose(rng) {
            Some(person) if rng.random_bool(0.8) => (*person).to_owned(),
            _ => pick(rng),
        };
        let (kind, key, content) = match rng.random_range(0..20) {
            0..6 => {
                let target = if rng.random_bool(0.5) {
                    sender.clone()
                } else {
                    pick(rng)
                };
                ("m.room.member", target, membership(rng))
            }
            6..9 => {
                let word = *["ban", "leave", "ban", "invite"]
                    .choose(rng)
                    .expect("not empty");
                ("m.room.member", pick(rng), json!({"membership": word}))
            }
            9..13 => {
                let levels = power_levels(self.version, rng);
                ("m.room.power_levels", String::new(), levels)
            }
            13..15 => ("m.room.join_rules", String::new(), join_rule(rng)),
            15..18 => {
                let topic = json!({"topic": rng.random_range(0..1000)});
                ("m.room.topic", String::new(), topic)
            }
            18 => ("m.own", sender.clone(), json!({})),
            _ => ("m.own", "x".to_owned(), json!({})),
        };
        (sender, kind, Some(key), content)
    }

    /// A state for people to read.
    fn spell(&self, state: &StateMap) -> Vec<String> {
        let line = |(key, hash): (&StateKey, &EventHash)| {
            let by = self
                .entry(*hash)
                .map(|entry| entry.event.fields().sender.clone());
            format!("{key}: {} by {by:?}", event_id(*hash))
        };
        state.iter().map(line).collect()
    }
}

fn first_room() -> OwnedRoomId {
    OwnedRoomId::try_from("!room:hub.example").expect("a room id")
}

fn opening(version: Version, rng: &mut StdRng) -> Vec<Step> {
    let ana = PEOPLE[0].to_owned();
    let mut create = json!({"room_version": version.as_str()});
    if version == Version::V10 {
        create["creator"] = json!(ana);
    }
    if version == Version::V12 && rng.random_bool(0.2) {
        create["additional_creators"] = json!([PEOPLE[1]]);
    }
    let joins = |who: &str| {
        let (who, content) = (who.to_owned(), json!({"membership": "join"}));
        (who.clone(), "m.room.member", Some(who), content)
    };
    let by_ana = |kind, content| (ana.clone(), kind, Some(String::new()), content);
    let mut levels = power_levels(version, rng);
    levels["users"][PEOPLE[3]] = json!(50);
    let mut steps = vec![
        by_ana("m.room.create", create),
        joins(PEOPLE[0]),
        by_ana("m.room.join_rules", json!({"join_rule": "public"})),
    ];
    steps.extend(PEOPLE[1..5].iter().map(|person| joins(person)));
    // Some rooms have none yet when they fork.
    if rng.random_bool(0.9) {
        steps.push(by_ana("m.room.power_levels", levels));
    }
    steps
}

fn join_rule(rng: &mut StdRng) -> Value {
    let rules = ["public", "public", "invite", "knock", "restricted", "odd"];
    json!({"join_rule": rules.choose(rng).expect("not empty")})
}

/// Power levels with every number written out: Synapse compares only what is written, the text
/// (and ruma) the defaults, too. See matrix-v12-10.6 in the notes.
fn power_levels(version: Version, rng: &mut StdRng) -> Value {
    let level = |rng: &mut StdRng, usual: i64| {
        if rng.random_bool(0.7) {
            usual
        } else {
            *[0, 10, 50, 100].choose(rng).expect("not empty")
        }
    };
    let mut content = json!({});
    for (name, usual) in [
        ("ban", 50),
        ("kick", 50),
        ("redact", 50),
        ("invite", 0),
        ("events_default", 0),
        ("state_default", 50),
        ("users_default", 0),
    ] {
        content[name] = json!(level(rng, usual));
    }
    let mut users = json!({});
    for (index, person) in PEOPLE.iter().enumerate() {
        match index {
            // The creator has no number since v12.
            0 if version == Version::V12 => {}
            0 => users[*person] = json!(100),
            _ if rng.random_bool(0.6) => users[*person] = json!(level(rng, 50)),
            _ => {}
        }
    }
    content["users"] = users;
    let own = if rng.random_bool(0.5) { 0 } else { 50 };
    content["events"] = json!({"m.room.topic": own, "m.room.power_levels": 50});
    content
}

fn by_synapse(oracle: &mut Oracle, forks: &Forks) -> Result<Vec<StateMap>, Failed> {
    let texts: Vec<Value> = forks
        .after
        .iter()
        .map(|(pdu, _)| serde_json::from_str(pdu.json()))
        .collect::<Result<_, _>>()?;
    let ids = |state: &StateMap| {
        state
            .values()
            .map(|hash| event_id(*hash))
            .collect::<Vec<_>>()
    };
    let cases: Vec<Vec<_>> = forks
        .cases
        .iter()
        .map(|case| case.states.iter().map(ids).collect())
        .collect();
    let answer = oracle.ask(&json!({
        "op": "resolve", "version": forks.version.as_str(), "events": texts, "cases": cases,
    }))?;
    let states: Vec<Vec<(String, String, OwnedEventId)>> =
        serde_json::from_value(answer["states"].clone())
            .map_err(|error| format!("{error}: {answer:#}"))?;
    let state = |entries: Vec<(String, String, OwnedEventId)>| {
        let entry = |(kind, key, id): (String, String, OwnedEventId)| {
            let hash = event_hash(&id).expect("Synapse names our events");
            (StateKey::new(kind, key), hash)
        };
        entries.into_iter().map(entry).collect()
    };
    Ok(states.into_iter().map(state).collect())
}

/// ruma is given its auth chains and its subgraph by the plainest search there is.
fn by_ruma(forks: &Forks, states: &[StateMap]) -> StateMap {
    let rules = forks.version.rules();
    let named = |id: &OwnedEventId| forks.events.get(id).cloned();
    let chain = |from: Vec<OwnedEventId>| {
        let mut found = HashSet::new();
        let mut pending = from;
        while let Some(id) = pending.pop() {
            if let Some(pdu) = named(&id)
                && found.insert(id)
            {
                pending.extend(pdu.fields().auth.iter().cloned());
            }
        }
        found
    };
    let maps: Vec<state_res::StateMap<OwnedEventId>> = states
        .iter()
        .map(|state| {
            let entry = |(key, hash): (&StateKey, &EventHash)| {
                ((key.kind.as_str().into(), key.key.clone()), event_id(*hash))
            };
            state.iter().map(entry).collect()
        })
        .collect();
    let chains = maps
        .iter()
        .map(|map| chain(map.values().cloned().collect()).into_iter().collect());
    let subgraph = |conflicted: &state_res::StateMap<Vec<OwnedEventId>>| {
        let all: HashSet<_> = conflicted.values().flatten().cloned().collect();
        let below = chain(all.iter().cloned().collect());
        let reaches = |id: &OwnedEventId| !chain(vec![id.clone()]).is_disjoint(&all);
        Some(below.into_iter().filter(reaches).collect())
    };
    let fetch = |id: &EventId| {
        forks
            .events
            .get(id)
            .map(|pdu| Seen::new(pdu, forks.version))
    };
    let cache: HashMap<OwnedEventId, Seen> = forks
        .events
        .keys()
        .filter_map(|id| Some((id.clone(), fetch(id)?)))
        .collect();
    let resolved = state_res::resolve(
        &rules.authorization,
        forks.version.state_resolution(),
        &maps,
        chains.collect(),
        |id: &EventId| cache.get(id).cloned(),
        subgraph,
    )
    .expect("ruma can resolve it");
    resolved
        .into_iter()
        .map(|((kind, key), id)| {
            let hash = event_hash(&id).expect("ruma names our events");
            (StateKey::new(kind.to_string(), key), hash)
        })
        .collect()
}

/// An event as ruma wants to see it.
#[derive(Clone)]
struct Seen(Arc<SeenParts>);

struct SeenParts {
    pdu: Arc<Pdu>,
    kind: TimelineEventType,
    content: Box<RawValue>,
    without_room: bool,
}

impl Seen {
    fn new(pdu: &Arc<Pdu>, version: Version) -> Self {
        let fields = pdu.fields();
        Self(Arc::new(SeenParts {
            kind: fields.kind.as_str().into(),
            content: serde_json::value::to_raw_value(&fields.content).expect("it is JSON"),
            without_room: fields.kind == "m.room.create" && version.room_id_is_create_hash(),
            pdu: Arc::clone(pdu),
        }))
    }
}

impl Event for Seen {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        self.0.pdu.id()
    }
    fn room_id(&self) -> Option<&RoomId> {
        (!self.0.without_room).then_some(&self.0.pdu.fields().room_id)
    }
    fn sender(&self) -> &UserId {
        &self.0.pdu.fields().sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        let at = UInt::try_from(self.0.pdu.fields().at.0).expect("it is near our time");
        MilliSecondsSinceUnixEpoch(at)
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.0.kind
    }
    fn content(&self) -> &RawValue {
        &self.0.content
    }
    fn state_key(&self) -> Option<&str> {
        self.0.pdu.fields().state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.pdu.fields().prev.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.pdu.fields().auth.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }
    fn rejected(&self) -> bool {
        false
    }
}
