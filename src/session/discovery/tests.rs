use std::{collections::BTreeMap, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::base::Timestamp;

fn place(text: &str) -> Place {
    Place::parse(text).unwrap()
}

fn record(priority: u16, weight: u16, port: u16, target: &str) -> Record {
    Record {
        priority,
        weight,
        port,
        target: target.to_owned(),
    }
}

/// What is known of the world: delegations by host, records by name.
#[derive(Default)]
struct World {
    files: BTreeMap<&'static str, &'static str>,
    records: BTreeMap<&'static str, Vec<Record>>,
}

/// Where a name leads, in this world, and what was asked on the way.
fn found(name: &str, world: &World) -> (Option<Route>, Vec<String>) {
    let mut asked = Vec::new();
    let mut rng = StdRng::seed_from_u64(7);
    let mut next = begin(&place(name));
    loop {
        next = match next {
            Next::WellKnown(question) => {
                asked.push(question.host().to_owned());
                let file = world.files.get(question.host()).map(|to| place(to));
                question.answered(file.as_ref())
            }
            Next::Records(question) => {
                asked.push(question.name().to_owned());
                let records = world.records.get(question.name()).cloned();
                question.answered(records.unwrap_or_default(), &mut rng)
            }
            Next::Found(route) => return (Some(route), asked),
            Next::Nowhere { .. } => return (None, asked),
        };
    }
}

fn dns(host: &str, port: u16) -> (Host, u16) {
    (Host::Dns(host.to_owned()), port)
}

#[test]
fn a_literal_address_is_where_it_says() {
    for (name, port) in [
        ("1.2.3.4", 8448),
        ("1.2.3.4:1", 1),
        ("[2a00::1]", 8448),
        ("[2a00::1]:443", 443),
    ] {
        let (route, asked) = found(name, &World::default());

        let route = route.unwrap();
        assert_eq!(route.host_header, name);
        assert!(matches!(route.certificate_for, Host::Ip(_)));
        assert_eq!(route.places, [(route.certificate_for, port)]);
        assert!(asked.is_empty());
    }
}

#[test]
fn a_name_with_a_port_asks_nobody() {
    let (route, asked) = found("hub.example:1234", &World::default());

    let route = route.unwrap();
    assert_eq!(route.host_header, "hub.example:1234");
    assert_eq!(route.certificate_for, Host::Dns("hub.example".to_owned()));
    assert_eq!(route.places, [dns("hub.example", 1234)]);
    assert!(asked.is_empty());
}

#[test]
fn without_anything_it_is_the_name_itself_at_8448() {
    let (route, asked) = found("hub.example", &World::default());

    let route = route.unwrap();
    assert_eq!(route.host_header, "hub.example");
    assert_eq!(route.places, [dns("hub.example", 8448)]);
    assert_eq!(
        asked,
        [
            "hub.example",
            "_matrix-fed._tcp.hub.example.",
            "_matrix._tcp.hub.example."
        ]
    );
}

#[test]
fn a_delegation_is_followed_with_the_delegated_name() {
    let mut world = World::default();
    for (to, host_header, certificate_for, places) in [
        ("1.2.3.4", "1.2.3.4", "1.2.3.4", ("1.2.3.4", 8448)),
        ("1.2.3.4:9", "1.2.3.4:9", "1.2.3.4", ("1.2.3.4", 9)),
        (
            "m.example:443",
            "m.example:443",
            "m.example",
            ("m.example", 443),
        ),
        ("m.example", "m.example", "m.example", ("m.example", 8448)),
    ] {
        world.files.insert("hub.example", to);

        let route = found("hub.example", &world).0.unwrap();

        assert_eq!(route.host_header, host_header);
        assert_eq!(route.certificate_for.to_string(), certificate_for);
        let [(host, port)] = route.places.as_slice() else {
            panic!("{route:?}")
        };
        assert_eq!((host.to_string().as_str(), *port), places);
    }
}

#[test]
fn a_delegated_name_has_its_records_looked_up_and_its_well_known_file_not() {
    let mut world = World::default();
    world.files.insert("hub.example", "m.example");
    world.files.insert("m.example", "elsewhere.example:1");
    let records = vec![record(1, 0, 4433, "box.example.")];
    world.records.insert("_matrix-fed._tcp.m.example.", records);

    let (route, asked) = found("hub.example", &world);

    let route = route.unwrap();
    assert_eq!(route.host_header, "m.example");
    assert_eq!(route.certificate_for, Host::Dns("m.example".to_owned()));
    assert_eq!(route.places, [dns("box.example", 4433)]);
    assert_eq!(asked, ["hub.example", "_matrix-fed._tcp.m.example."]);
}

#[test]
fn the_old_service_is_looked_up_last_and_the_certificate_stays_the_names() {
    let mut world = World::default();
    let records = vec![record(1, 0, 1, "box.example")];
    world.records.insert("_matrix._tcp.hub.example.", records);

    let route = found("hub.example", &world).0.unwrap();

    assert_eq!(route.certificate_for, Host::Dns("hub.example".to_owned()));
    assert_eq!(route.places, [dns("box.example", 1)]);
}

#[test]
fn a_record_with_a_dot_alone_means_that_there_is_no_server() {
    let mut world = World::default();
    let records = vec![record(0, 0, 0, ".")];
    world
        .records
        .insert("_matrix-fed._tcp.hub.example.", records);

    assert_eq!(found("hub.example", &world).0, None);
}

#[test]
fn records_come_by_priority_and_then_as_often_as_they_weigh() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut firsts = BTreeMap::new();
    for _ in 0..1000 {
        let found = vec![
            record(20, 0, 3, "c.example"),
            record(10, 30, 1, "a.example"),
            record(10, 10, 2, "b.example."),
            record(5, 1, 9, "1.2.3.4"),
        ];
        let Next::Found(route) = Records::new("hub.example".to_owned()).answered(found, &mut rng)
        else {
            panic!("records lead nowhere")
        };
        assert_eq!(route.places.len(), 3);
        assert_eq!(route.places[2], dns("c.example", 3));
        *firsts.entry(route.places[0].1).or_insert(0) += 1;
    }
    assert!((650..850).contains(&firsts[&1]), "{firsts:?}");
    assert_eq!(firsts[&1] + firsts[&2], 1000);
}

#[test]
fn thousands_of_records_cost_no_more_than_a_few() {
    let mut rng = StdRng::seed_from_u64(1);
    let found = vec![record(1, u16::MAX, 1, "a.example"); 5000];
    let next = Records::new("hub.example".to_owned()).answered(found, &mut rng);
    let Next::Found(route) = next else {
        panic!("{next:?}")
    };
    assert!(route.places.len() <= 4);
}

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn hours(hours: u64) -> Duration {
    Duration::from_hours(hours)
}

#[test]
fn a_delegation_holds_for_its_time() {
    let mut known = Delegations::default();
    let to = place("m.example:1");

    known.learn("hub.example", Outcome::Delegated(to.clone(), hours(2)), NOW);

    assert_eq!(known.of("hub.example", NOW + hours(1)), Some(Some(&to)));
    assert_eq!(known.of("hub.example", NOW + hours(2)), None);
    assert_eq!(known.of("other.example", NOW), None);
}

#[test]
fn that_there_is_none_holds_for_an_hour() {
    let mut known = Delegations::default();

    known.learn("hub.example", Outcome::Absent, NOW);

    assert_eq!(
        known.of("hub.example", NOW + Duration::from_mins(59)),
        Some(None)
    );
    assert_eq!(known.of("hub.example", NOW + hours(1)), None);
}

#[test]
fn failures_are_asked_about_ever_more_rarely() {
    let mut known = Delegations::default();
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(known.learn("hub.example", Outcome::Unreached, now), None);
        let mut pause = Duration::ZERO;
        while known.of("hub.example", now).is_some() {
            now = now + Duration::from_mins(1);
            pause += Duration::from_mins(1);
        }
        pauses.push(pause.as_secs() / 60);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn a_host_out_of_reach_keeps_its_delegation_for_two_days() {
    let mut known = Delegations::default();
    let to = place("m.example:1");
    known.learn("hub.example", Outcome::Delegated(to.clone(), hours(1)), NOW);

    let still = known.learn("hub.example", Outcome::Unreached, NOW + hours(47));
    assert_eq!(still, Some(&to));
    let gone = known.learn("hub.example", Outcome::Unreached, NOW + hours(48));
    assert_eq!(gone, None);
}

#[test]
fn there_is_an_end_to_what_is_remembered() {
    let mut known = Delegations::default();
    for number in 0..10_050 {
        known.learn(&format!("h{number}.example"), Outcome::Absent, NOW);
    }
    let held = (0..10_050)
        .filter(|number| known.of(&format!("h{number}.example"), NOW).is_some())
        .count();
    assert_eq!(held, 10_000);
}
