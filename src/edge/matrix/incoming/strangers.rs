//! Servers that must first be asked for their keys because somebody says to be one of them. Whoever
//! names servers makes us ask them, and those that are silent take their time: from one address so
//! many are asked at a time, so that no address takes all the places that there are for asking.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::OwnedServerName;

/// By address, the servers that it names, and how often at the moment.
type Named = HashMap<IpAddr, BTreeMap<OwnedServerName, usize>>;

/// Who is waited for.
#[derive(Default)]
pub(super) struct Strangers(Mutex<Named>);

/// One who waits until a server has told its keys; over when it is dropped.
pub(super) struct Waiting {
    strangers: Arc<Strangers>,
    address: IpAddr,
    server: OwnedServerName,
}

impl Strangers {
    /// None where the address names too many others already.
    pub(super) fn wait(
        self: &Arc<Self>,
        address: IpAddr,
        server: &OwnedServerName,
    ) -> Option<Waiting> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = all.entry(address).or_default();
        if named.len() >= PER_ADDRESS_MAX && !named.contains_key(server) {
            return None;
        }
        *named.entry(server.clone()).or_default() += 1;
        Some(Waiting {
            strangers: Arc::clone(self),
            address,
            server: server.clone(),
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let strangers = &self.strangers.0;
        let mut all = strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(named) = all.get_mut(&self.address) else {
            return;
        };
        if let Some(count) = named.get_mut(&self.server) {
            *count -= 1;
            if *count == 0 {
                named.remove(&self.server);
            }
        }
        if named.is_empty() {
            all.remove(&self.address);
        }
    }
}

/// Servers that one address names, of which none has told its keys yet: a quarter of those that the key
/// ring asks at a time. Behind one address there are rarely more new ones within a second.
const PER_ADDRESS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_few_servers_at_a_time_and_each_as_often_as_it_likes() {
        let strangers = Arc::new(Strangers::default());
        let (here, there) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let name = |n: usize| OwnedServerName::try_from(format!("s{n}.example")).unwrap();
        let waiting: Vec<_> = (0..PER_ADDRESS_MAX)
            .map(|n| strangers.wait(here, &name(n)).unwrap())
            .collect();

        assert!(strangers.wait(here, &name(100)).is_none());
        let again = strangers.wait(here, &name(0));
        assert!(again.is_some());
        assert!(strangers.wait(there, &name(100)).is_some());
        drop(waiting);
        assert!(strangers.wait(here, &name(100)).is_some());
        drop(again);
        assert!(strangers.0.lock().unwrap().is_empty());
    }
}
