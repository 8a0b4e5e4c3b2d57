//! Which operation of a device its datagrams belong to: what is still being answered is counted when
//! the answer is known; acknowledgements, repetitions and later blocks belong to the operation before.

use std::{collections::HashMap, net::SocketAddr};

use bytes::Bytes;

use crate::{
    session::{coap::Peer, ledger::Traffic},
    wire::coap::Code,
};

/// Traffic that is not in the ledger yet, of every device that is there.
pub(super) struct Meter<P> {
    devices: HashMap<P, Open>,
    /// Who was heard or told since it was last settled.
    touched: Vec<P>,
    /// The datagram that was read last, until somebody is known to have sent it.
    read: Option<(SocketAddr, Traffic)>,
}

/// Some 60 bytes for each device that is there.
#[derive(Default)]
struct Open {
    operation: Option<&'static str>,
    /// A request is being answered, or comes in further blocks: the operation is not known yet.
    is_asking: bool,
    up: Traffic,
    down: Traffic,
}

impl<P: Peer> Meter<P> {
    pub(super) fn new() -> Self {
        Self {
            devices: HashMap::new(),
            touched: Vec::new(),
            read: None,
        }
    }

    /// A datagram was read.
    pub(super) fn read(&mut self, from: SocketAddr, bytes: usize) {
        self.read = Some((from, Traffic::datagram(&from, bytes)));
    }

    /// A device has sent what was read, if that came from where it is.
    pub(super) fn came(&mut self, device: &P, from: Option<SocketAddr>) {
        if let Some((_, traffic)) = self.read.take_if(|(read, _)| Some(*read) == from) {
            self.open(device).up += traffic;
        }
    }

    /// A message was sent to a device, in these datagrams.
    pub(super) fn went(&mut self, device: &P, message: &Bytes, traffic: Traffic) {
        let open = self.open(device);
        open.down += traffic;
        open.is_asking |= message.get(1) == Some(&Code::CONTINUE.0);
    }

    /// A device has asked for something.
    pub(super) fn asked(&mut self, device: &P) {
        self.open(device).is_asking = true;
    }

    /// What is said to a device now, and all that is not settled yet, is this.
    pub(super) fn is(&mut self, device: &P, operation: &'static str) {
        let open = self.open(device);
        open.operation = Some(operation);
        open.is_asking = false;
    }

    /// A device is gone.
    pub(super) fn forget(&mut self, device: &P) {
        self.devices.remove(device);
    }

    /// What can be counted by now, up and down.
    pub(super) fn settle(&mut self) -> Vec<(P, &'static str, Traffic, Traffic)> {
        let mut settled = Vec::new();
        for device in std::mem::take(&mut self.touched) {
            let open = self.devices.get_mut(&device);
            let Some(open) = open.filter(|open| !open.is_asking) else {
                continue;
            };
            let Some(operation) = open.operation else {
                continue;
            };
            let (up, down) = (std::mem::take(&mut open.up), std::mem::take(&mut open.down));
            if (up, down) != (Traffic::NONE, Traffic::NONE) {
                settled.push((device, operation, up, down));
            }
        }
        settled
    }

    fn open(&mut self, device: &P) -> &mut Open {
        if !self.touched.contains(device) {
            self.touched.push(device.clone());
        }
        self.devices.entry(device.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9))
    }

    fn traffic(payload_bytes: usize) -> Traffic {
        Traffic::datagram(&there(), payload_bytes)
    }

    #[test]
    fn a_request_is_counted_when_its_answer_is_known_and_what_follows_with_it() {
        let mut meter = Meter::new();
        meter.read(there(), 20);
        meter.came(&'a', Some(there()));
        meter.asked(&'a');
        assert_eq!(meter.settle(), []);

        meter.is(&'a', "ThinLog");
        meter.went(&'a', &Bytes::from_static(&[0x60, 0x45]), traffic(30));
        assert_eq!(meter.settle(), [('a', "ThinLog", traffic(20), traffic(30))]);

        meter.read(there(), 4);
        meter.came(&'a', Some(there()));
        assert_eq!(
            meter.settle(),
            [('a', "ThinLog", traffic(4), Traffic::NONE)]
        );
    }

    #[test]
    fn a_datagram_from_elsewhere_is_not_counted_for_a_device() {
        let mut meter = Meter::new();
        meter.is(&'a', "ThinLog");
        meter.read(there(), 4);
        meter.came(&'a', None);
        assert_eq!(meter.settle(), []);
    }
}
