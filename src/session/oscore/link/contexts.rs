//! Contexts and numbers: what the link wants of its caller, and what becomes of what waited for it.

use bytes::Bytes;

use super::{Arrived, ContextKey, Device, Link, UdpPeer, Want};
use crate::{
    base::Timestamp,
    session::oscore::{Id, RESERVE_HUB, SecurityContext},
};

impl<N> Link<N> {
    /// What is to be done.
    pub fn poll_want(&mut self) -> Option<Want> {
        self.wants.pop_front()
    }

    /// Asks for numbers, if there are few.
    pub(super) fn reserve(&mut self, kid: Id) {
        let Some(device) = self.devices.get_mut(kid) else {
            return;
        };
        let wanted = device.context();
        let wanted = wanted.and_then(|context| context.reserve_wanted(RESERVE_HUB));
        if let Some(below) = wanted.filter(|_| !device.is_reserving) {
            device.is_reserving = true;
            self.wants.push_back(Want::Reserve { kid, below });
        }
    }

    /// The context that was wanted, and what its device is called. One that is here already is left as
    /// it is.
    pub fn found(&mut self, now: Timestamp, context: SecurityContext, name: N) -> ContextKey {
        let kid = context.id().kid;
        self.held.note_present(kid);
        let life = self.life;
        let device = self.devices.enter(kid, || Device::new(life, name));
        let key = device.key(kid);
        if !device.has_context() {
            let waited = device.waited();
            if let Some(gone) = self.devices.put_at_hand(context) {
                self.put_away(gone);
            }
            self.go_on(now, kid, waited);
        }
        key
    }

    /// There is no such context.
    pub fn absent(&mut self, now: Timestamp, kid: Id) {
        self.held.note_absent(now, kid);
        self.forget(kid);
        self.release(now, kid);
    }

    /// Numbers below may be used.
    pub fn reserved(&mut self, now: Timestamp, kid: Id, below: u64) {
        let Some(device) = self.devices.get_mut(kid) else {
            return;
        };
        let Some(context) = device.context() else {
            return;
        };
        context.reserved(below);
        device.is_reserving = false;
        let waited = device.waited();
        self.go_on(now, kid, waited);
    }

    /// It could not be found out, or not be stored: what waits is dropped and comes again.
    pub fn failed(&mut self, now: Timestamp, kid: Id) {
        self.held.release(now, kid);
        if let Some(device) = self.devices.get_mut(kid) {
            device.is_reserving = false;
            device.waited();
        }
    }

    /// The context is revoked: nothing of it is left.
    pub fn forget(&mut self, kid: Id) {
        self.life = self.life.wrapping_add(1);
        if let Some(device) = self.devices.remove(kid) {
            self.leave(kid, device.address());
            let peer = UdpPeer::Device(device.key(kid));
            self.arrived.push_back(Arrived::Gone { peer });
        }
    }

    fn go_on(&mut self, now: Timestamp, kid: Id, waited: Vec<(Bytes, bool)>) {
        let peer = self.devices.get(kid).map(|device| device.key(kid));
        for (message, is_proved) in waited {
            if let Some(key) = peer {
                self.send(now, &UdpPeer::Device(key), message, is_proved);
            }
        }
        self.release(now, kid);
    }

    fn release(&mut self, now: Timestamp, kid: Id) {
        for request in self.held.release(now, kid) {
            self.handle_datagram(now, request.from, &request.datagram);
        }
    }

    /// A context fell out. Its device goes with it, unless more is to be sent to it.
    fn put_away(&mut self, kid: Id) {
        if let Some(device) = self.devices.get_mut(kid) {
            device.is_reserving = false;
            if device.is_idle() {
                let peer = UdpPeer::Device(device.key(kid));
                let address = device.address();
                self.devices.remove(kid);
                self.leave(kid, address);
                self.arrived.push_back(Arrived::Gone { peer });
            }
        }
    }
}
