//! Which events some forks lean on and others do not, and which stand between conflicted ones.

use std::collections::{HashMap, HashSet};

use super::{
    chain::Known,
    split::{Forks, Split},
};
use crate::base::EventHash;

/// What the auth chains of the conflicted events tell.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What the conflicted events of some states lean on, and those of others do not: the auth
    /// difference, and what the unconflicted state leans on.
    pub(super) in_some: Vec<EventHash>,
    /// The conflicted state subgraph.
    pub(super) subgraph: Vec<EventHash>,
}

/// Looks through the conflicted events and all they lean on, and nothing else may be known.
///
/// spec: matrix-v12 §State-resolution
pub(super) fn among(known: &Known, split: &Split) -> Found {
    let order = known.children_first();
    Found {
        in_some: in_some(known, split, &order),
        subgraph: subgraph(known, split, &order),
    }
}

/// Each event passes the forks that it is in on to those that it leans on.
fn in_some(known: &Known, split: &Split, order: &[EventHash]) -> Vec<EventHash> {
    let mut forks: HashMap<EventHash, Forks> = HashMap::with_capacity(order.len());
    for (event, own) in &split.conflicted {
        forks.insert(*event, own.clone());
    }
    let mut found = Vec::new();
    for event in order {
        // Taken out: everything that leans on this event has passed.
        let Some(own) = forks.remove(event) else {
            continue;
        };
        for auth in known.auth(*event) {
            forks
                .entry(auth)
                .or_insert_with(|| Forks::none(split.states))
                .join(&own);
        }
        if own.count() < split.states {
            found.push(*event);
        }
    }
    found
}

/// Everything here is conflicted or leant on by what is; so what also leans on a conflicted event
/// is on a path between two.
fn subgraph(known: &Known, split: &Split, order: &[EventHash]) -> Vec<EventHash> {
    let mut within: HashSet<EventHash> = split.conflicted_events().collect();
    for event in order.iter().rev() {
        if known.auth(*event).any(|auth| within.contains(&auth)) {
            within.insert(*event);
        }
    }
    within.into_iter().collect()
}
