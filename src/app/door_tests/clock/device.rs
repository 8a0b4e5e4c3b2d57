//! A linked device of our client library as a node of the laboratory, with what it was told and when.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{door::Door, place::Place};
use crate::{
    api::DeviceCredentials,
    base::Timestamp,
    client::thin::{Answer, Ask, Conduct, Event, Follow, NatTimer, OpId, Places, ThinMachine},
    session::{
        coap::Response,
        lab::{
            Direction, Micros, Node, Profile, World,
            world::{HUB, OPENS},
        },
        oscore::{Id, Parameters, SecurityContext},
    },
    wire::thin::{Alias, Body, Draft, LinkProfile, Shown},
};

pub(super) type Lab = World<Device, Door>;

/// Far beyond what any of these takes.
pub(super) const FOR_EVER: Micros = Micros(30 * 24 * 3600 * 1_000_000);

/// Runs with other dice are other runs; this one is as good as any.
pub(super) const SEED: u64 = 11;

pub(super) struct Device {
    machine: ThinMachine,
    now: Timestamp,
    pub(super) room: Alias,
    /// The room's entries, as they were told: when, and which.
    pub(super) news: Vec<(Timestamp, u64, Body)>,
    /// The places of its drafts, as they were answered.
    pub(super) appended: Vec<(Timestamp, u64)>,
    pub(super) file: Option<Response>,
    /// What it has sent, for whoever listens in.
    pub(super) sent: Vec<Bytes>,
    /// Whether it says what it has read; what it said, and what it waits to hear of.
    pub(super) reads: bool,
    pub(super) read: u64,
    reading: Option<OpId>,
}

impl Device {
    fn new(keys: &DeviceCredentials, (room, head): (Alias, u64), class: u8) -> Self {
        let id = |id: &[u8]| Id::new(id).unwrap();
        let (sender, recipient) = (id(&keys.sender_id), id(&keys.recipient_id));
        let mut parameters = Parameters::new(&keys.master_secret.0, sender, recipient);
        parameters.master_salt = &keys.master_salt;
        let context = SecurityContext::new(&parameters).unwrap();
        let conduct = Conduct {
            class,
            tries_max: None,
            keeps_alive: false,
        };
        let through = BTreeMap::from([(room, head)]);
        let known = (Places::new(&through, None), NatTimer::default());
        let rng = Box::new(StdRng::seed_from_u64(5));
        let mut device = Self {
            machine: ThinMachine::new(OPENS, context, rng, conduct, known),
            now: OPENS,
            room,
            news: Vec::new(),
            appended: Vec::new(),
            file: None,
            sent: Vec::new(),
            reads: false,
            read: head,
            reading: None,
        };
        let daily_kilobytes = 0;
        device.ask(Ask::LinkProfile(LinkProfile {
            class,
            daily_kilobytes,
        }));
        device
    }

    pub(super) fn ask(&mut self, ask: Ask) -> OpId {
        let op = self.machine.ask(self.now, ask);
        self.go_on();
        op
    }

    /// Says something in the room.
    pub(super) fn says(&mut self, counter: u64, text: String) {
        let draft = Draft {
            counter,
            target: None,
            read: None,
            body: Body::Text(text),
        };
        let (room, draft) = (self.room, draft.encode().into());
        self.ask(Ask::Append { room, draft });
    }

    pub(super) fn follow(&mut self) {
        self.machine.follow(self.now, Follow::Room(self.room));
        self.go_on();
    }

    /// Says that it has read up to there.
    pub(super) fn has_read(&mut self, seq: u64) {
        let room = self.room;
        self.read = seq;
        self.reading = Some(self.ask(Ask::Read { room, seq }));
    }

    /// Whether the hub has answered the last of that.
    pub(super) const fn is_read(&self) -> bool {
        self.reading.is_none()
    }

    fn go_on(&mut self) {
        while let Some(ceiling) = self.machine.reserve_wanted() {
            self.machine.reserved(ceiling);
        }
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::News(records) => {
                    let shown = records.into_iter().filter_map(|record| match record.what {
                        Shown::Entry { seq, body, .. } => Some((self.now, seq, body)),
                        _ => None,
                    });
                    self.news.extend(shown);
                }
                Event::Answered { op, answer } => match answer.unwrap() {
                    Answer::Appended { seq } => self.appended.push((self.now, seq)),
                    Answer::Whole(file) => self.file = Some(file),
                    _ if self.reading == Some(op) => self.reading = None,
                    _ => {}
                },
                Event::Silent | Event::Back => {} // what the link is like is no surprise here
                other => panic!("{other:?}"),
            }
        }
        let newest = self.news.last().map_or(0, |(_, seq, _)| *seq);
        if self.reads && self.is_read() && newest > self.read {
            self.has_read(newest);
        }
    }
}

impl Node for Device {
    fn handle(&mut self, now: Timestamp, _: SocketAddr, datagram: &[u8]) {
        self.now = now;
        self.machine.handle_datagram(now, datagram);
        self.go_on();
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        let datagram = self.machine.poll_transmit(self.now)?.bytes;
        self.sent.push(datagram.clone());
        Some((HUB, datagram))
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.machine.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.now = now;
        self.machine.handle_timeout(now);
        self.go_on();
    }
}

/// A hub, and a device of `ana` linked to it, which says that its link is of this class.
pub(super) fn lab(profile: Profile, class: u8) -> Lab {
    let place = Place::new();
    let (keys, room) = place.linked(None);
    let device = Device::new(&keys, (room, place.head()), class);
    World::new(profile, SEED, Door::new(place), vec![device])
}

/// The device, which knows what time it is.
pub(super) fn device(lab: &mut Lab) -> &mut Device {
    let now = lab.now();
    let device = lab.client(0).unwrap();
    device.now = now;
    device
}

/// `ben` says something.
pub(super) fn ben_says(lab: &mut Lab, text: String) {
    let now = lab.now();
    lab.hub().hears(now, text);
}

/// Bytes on the link, both ways, IP and UDP headers included.
pub(super) fn bytes<C: Node, H: Node>(lab: &World<C, H>) -> u64 {
    let stats = |way| lab.link().stats(way).offered.bytes_with_headers;
    stats(Direction::Up) + stats(Direction::Down)
}

/// All that was said came to the device, once each and in the log's order; and in the log each has said
/// so many things once, in their own order.
pub(super) fn all_came_once_and_in_order(lab: &mut Lab, head: u64, each: u64) {
    let log = lab.hub().place.said_after(head);
    for (who, is_ben) in [("ana", false), ("ben", true)] {
        let said = log.iter().filter(|said| said.is_ben == is_ben);
        let wanted = (1..=each).map(|number| format!("{who} {number}"));
        assert!(said.map(|said| said.text.clone()).eq(wanted), "{who}");
    }
    let told = device(lab).news.iter();
    let told = told.map(|(_, seq, body)| match body {
        Body::Text(text) => (*seq, text.clone()),
        other => panic!("{other:?}"),
    });
    assert!(told.eq(log.into_iter().map(|said| (said.seq, said.text))));
}
