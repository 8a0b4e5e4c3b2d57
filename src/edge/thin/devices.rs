//! What the doors remember of linked devices: what each said of its link, and what it used today.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    api::{DeviceName, Links},
    base::{Recent, Seq, Timestamp},
    session::{
        budget::{Daily, Thrift},
        ledger::ACCOUNTS_MAX,
    },
    wire::thin::{Alias, LinkProfile},
};

pub(super) struct Devices {
    links: Arc<dyn Links>,
    /// Only those of whom there is more to know than nothing.
    known: Mutex<Recent<Arc<DeviceName>, State>>,
}

#[derive(Default)]
struct State {
    /// None until it was read.
    profile: Option<LinkProfile>,
    daily: Daily,
    /// The last record of `*` that the device was told of.
    inbox: Option<(Alias, Seq)>,
}

impl Devices {
    pub(super) fn new(links: Arc<dyn Links>) -> Self {
        Self {
            links,
            known: Mutex::new(Recent::new(ACCOUNTS_MAX)),
        }
    }

    fn with<R>(&self, device: &DeviceName, work: impl FnOnce(&mut State) -> R) -> R {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let own = || Arc::new(device.clone());
        work(known.entry(device, own, State::default))
    }

    /// The same for a device of whom something is known.
    fn with_known<R>(&self, device: &DeviceName, work: impl FnOnce(&mut State) -> R) -> Option<R> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_mut(device).map(work)
    }

    /// What the device said of its link, now or before a restart. Of one that said nothing nothing
    /// is remembered: whoever reads it has that in memory, too.
    pub(super) async fn profile(&self, device: &DeviceName) -> LinkProfile {
        if let Some(profile) = self.with_known(device, |state| state.profile).flatten() {
            return profile;
        }
        match self.links.link_profile(device).await {
            Ok(read) if read == LinkProfile::default() => read,
            // what it has said meanwhile is newer
            Ok(read) => self.with(device, |state| *state.profile.get_or_insert(read)),
            Err(refusal) => {
                tracing::debug!(%refusal, "a link profile could not be read");
                LinkProfile::default()
            }
        }
    }

    pub(super) fn said(&self, device: &DeviceName, profile: LinkProfile) {
        self.with(device, |state| state.profile = Some(profile));
    }

    /// An answer or notification of `*` went to the device.
    pub(super) fn told_inbox(&self, device: &DeviceName, through: (Alias, Seq)) {
        self.with(device, |state| state.inbox = Some(through));
    }

    pub(super) fn inbox_told(&self, device: &DeviceName) -> Option<(Alias, Seq)> {
        self.with_known(device, |state| state.inbox).flatten()
    }

    /// Counts against the allowance of a device, if it is known to have one.
    pub(super) fn count(&self, now: Timestamp, device: &DeviceName, bytes: u64) {
        self.with_known(device, |state| state.daily.add(now, bytes));
    }

    pub(super) fn thrift(
        &self,
        now: Timestamp,
        device: &DeviceName,
        profile: LinkProfile,
    ) -> Thrift {
        let known = self.with_known(device, |state| state.daily.thrift(now, profile));
        known.unwrap_or_else(|| Daily::default().thrift(now, profile))
    }
}
