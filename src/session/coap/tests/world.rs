//! Machines with a network between them; time is a number, the network a queue.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::{Rng as _, SeedableRng, rngs::StdRng};

use super::*;

/// What the network does to a datagram.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) loss_percent: u32,
    pub(super) duplicate_percent: u32,
    /// Each copy takes its own time: datagrams overtake each other.
    pub(super) delay_ms_max: u64,
}

pub(super) const CALM: Weather = Weather {
    loss_percent: 0,
    duplicate_percent: 0,
    delay_ms_max: 1,
};
pub(super) const STORM: Weather = Weather {
    loss_percent: 30,
    duplicate_percent: 20,
    delay_ms_max: 900,
};

type Name = &'static str;

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) machines: BTreeMap<Name, Machine<Name>>,
    pub(super) weather: Weather,
    /// Every datagram sent: from, to, bytes.
    pub(super) sent: Vec<(Name, Name, Bytes)>,
    wire: BTreeMap<(Timestamp, u64), (Name, Name, Bytes)>,
    rng: StdRng,
    serial: u64,
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather, names: &[Name]) -> Self {
        let mut machines = BTreeMap::new();
        for (nth, name) in names.iter().enumerate() {
            machines.insert(*name, machine(config(), seed * 100 + nth as u64));
        }
        Self {
            now: NOW,
            machines,
            weather,
            sent: Vec::new(),
            wire: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            serial: 0,
        }
    }

    pub(super) fn machine(&mut self, name: Name) -> &mut Machine<Name> {
        self.machines.get_mut(name).unwrap()
    }

    pub(super) fn request(&mut self, from: Name, to: Name, request: Request) -> ExchangeId {
        let now = self.now;
        self.machine(from).request(now, to, request)
    }

    pub(super) fn respond(&mut self, name: Name, exchange: ExchangeId, response: Response) {
        let now = self.now;
        self.machine(name).respond(now, exchange, response).unwrap();
    }

    /// Lets time pass until something happens to somebody; none when nothing ever will.
    pub(super) fn next_event(&mut self) -> Option<(Name, Event<Name>)> {
        loop {
            self.collect();
            for (name, machine) in &mut self.machines {
                if let Some(event) = machine.poll_event() {
                    return Some((*name, event));
                }
            }
            let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
            let wake = self
                .machines
                .values()
                .filter_map(Machine::poll_timeout)
                .min();
            self.now = [arrival, wake].into_iter().flatten().min()?.max(self.now);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, (from, to, bytes)) = self.wire.pop_first().unwrap();
                let now = self.now;
                self.machine(to).handle_datagram(now, from, &bytes);
            } else {
                for machine in self.machines.values_mut() {
                    machine.handle_timeout(self.now);
                }
            }
        }
    }

    fn collect(&mut self) {
        for (from, machine) in &mut self.machines {
            while let Some((to, bytes)) = machine.poll_transmit() {
                self.sent.push((*from, to, bytes.clone()));
                let copies =
                    1 + u32::from(self.rng.random_ratio(self.weather.duplicate_percent, 100));
                for _ in 0..copies {
                    if self.rng.random_ratio(self.weather.loss_percent, 100) {
                        continue;
                    }
                    let delay = self.rng.random_range(1..=self.weather.delay_ms_max);
                    self.serial += 1;
                    let at = Timestamp(self.now.0 + delay);
                    self.wire
                        .insert((at, self.serial), (*from, to, bytes.clone()));
                }
            }
        }
    }
}
