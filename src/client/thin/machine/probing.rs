//! Keeping a NAT's mapping open while a device follows, and finding out how seldom that takes a
//! datagram. What is known of the NAT is in [`super::super::nat`].

use std::time::Duration;

use super::{Answer, Ask, AskError, OpId, Purpose, ThinMachine};
use crate::{
    base::Timestamp,
    session::coap::Request,
    wire::{coap::Code, thin::encode_numbers},
};

/// An answer that the hub is to give after a silence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    op: OpId,
    silence: Duration,
    /// When it should have come.
    pub(super) until: Timestamp,
}

/// How long after the silence its end may be heard of: the hub says it again in this time.
const PROBE_LATE: Duration = Duration::from_secs(15);

/// Probes of one run, some 160 bytes each: twice what finds a NAT's timer. A link on which they fail
/// at random is not worth more.
pub(super) const PROBES_MAX: u8 = 28;

/// spec: thin-profile §11
impl ThinMachine {
    pub(super) fn keep_alive_at(&self) -> Option<Timestamp> {
        let is_wanted = self.conduct.keeps_alive && self.followed.is_some();
        let sent = self.last_sent.filter(|_| is_wanted)?;
        Some(match self.probe {
            // Nothing until then, unless something else was said meanwhile.
            Some(probe) => probe.until.max(sent + self.nat.known()),
            None if self.probes_left > 0 => sent + self.nat.known().max(self.unprobed()),
            None => sent + self.nat.interval(),
        })
    }

    /// What is beyond the reach of probes is found out by pushes.
    fn unprobed(&self) -> Duration {
        match self.nat.probe() {
            Some(_) => Duration::ZERO,
            None => self.nat.interval(),
        }
    }

    /// Something has to be sent: a keep-alive, or what would also tell how long none is needed.
    pub(super) fn stay_open(&mut self, now: Timestamp) {
        self.last_sent = Some(now);
        let probe = self.nat.probe();
        let probe = probe.filter(|_| self.probes_left > 0 && self.probe.is_none());
        let Some(silence) = probe.filter(|_| self.is_idle()) else {
            return self.link.keep_alive();
        };
        self.probes_left -= 1;
        self.next_op += 1;
        let op = OpId(self.next_op);
        let until = now + silence + PROBE_LATE;
        self.probe = Some(Probe { op, silence, until });
        let wait = encode_numbers(&[silence.as_secs()]);
        let later = Request::new(Code::FETCH, &["?"]).body(wait);
        self.begin(now, op, Ask::Other(later), Purpose::Probe);
    }

    /// The hub has spoken after a silence, or will not.
    pub(super) fn probed(&mut self, now: Timestamp, op: OpId, answer: &Result<Answer, AskError>) {
        let Some(probe) = self.probe.take_if(|probe| probe.op == op) else {
            return; // too late
        };
        match answer {
            Ok(Answer::Whole(response)) if response.code.is_success() => {
                if let Some(sent) = self.last_sent {
                    self.nat.held(now.since(sent));
                }
            }
            // busy, or one that knows nothing of this
            Ok(_) => self.probes_left = 0,
            Err(_) => self.unheard(now, probe),
        }
    }

    /// An answer that should have come by now will not.
    pub(super) fn probe_ends(&mut self, now: Timestamp) {
        if let Some(probe) = self.probe.take_if(|probe| probe.until <= now) {
            self.unheard(now, probe);
        }
    }

    /// No answer came; that means something where nothing else was sent meanwhile.
    fn unheard(&mut self, now: Timestamp, probe: Probe) {
        let silence = self.last_sent.map(|sent| now.since(sent));
        if silence.is_some_and(|silence| silence >= probe.silence) {
            self.nat.failed(probe.silence);
            self.last_sent = Some(now);
            self.look(now); // the hub hears where we are now, and we what it could not push
        }
    }
}
