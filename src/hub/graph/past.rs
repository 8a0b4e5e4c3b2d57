//! Events that come late: history from before our users were in a room, and what lies in a gap that
//! was too large to be closed one by one. They become part of the graph and get a place, never a
//! number, and change nothing of what is current.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::OwnedEventId;

use super::{
    Fate, GraphError, in_order,
    weave::{Known, Weave, breathe},
};
use crate::{
    hub::writer::{Anchor, Spot},
    room::{StateKey, Verdict},
    store::{EventNid, StateNid, Status},
    wire::matrix::Pdu,
};

/// What another server tells of a room's past. Hashes and signatures were checked.
#[derive(Clone, Debug)]
pub struct Past {
    /// The events.
    pub events: Vec<Arc<Pdu>>,
    /// The room's state before those of them whose neighbours are not known, as that server has it.
    pub told: BTreeMap<OwnedEventId, Vec<OwnedEventId>>,
    /// Events of those states, and what they lean on, that were not known here.
    pub outliers: Vec<Arc<Pdu>>,
    /// Where readers find the events.
    pub anchor: Anchor,
}

impl Weave<'_> {
    /// Gives each event its part in the graph, and a place.
    pub(super) async fn remember(&mut self, past: &Past) -> Result<Vec<Fate>, GraphError> {
        self.look_ahead(past.outliers.iter().chain(&past.events))
            .await?;
        for (count, at) in in_order(&past.outliers).into_iter().enumerate() {
            let Some(event) = past.outliers.get(at) else {
                continue;
            };
            match self.outlier(event).await {
                // What leans on nothing that is known cannot be judged, and so is of no state.
                Ok(()) | Err(GraphError::Missing(_)) => {}
                Err(error) => return Err(error),
            }
            breathe(count).await;
        }
        let mut fates = vec![Fate::Known; past.events.len()];
        for at in in_order(&past.events) {
            let (Some(event), Some(fate)) = (past.events.get(at), fates.get_mut(at)) else {
                continue;
            };
            *fate = self.late(event, past).await?;
        }
        Ok(fates)
    }

    async fn late(&mut self, event: &Arc<Pdu>, past: &Past) -> Result<Fate, GraphError> {
        let known = self.lookup(event.hash()).await?;
        if let Some(known) = &known
            && known.status != Status::Outlier
        {
            return Ok(Fate::Known);
        }
        if event.fields().prev.is_empty() && !self.is_first(event).await? {
            let reason = "the room has another first event".to_owned();
            return Ok(Fate::Refused(reason));
        }
        let told = past.told.get(event.id());
        let (auth, before) = match (self.around(event).await?, told) {
            (Ok((auth, prev)), _) => (auth, self.between(&prev).await?),
            (Err(Fate::Lacks { auth, .. }), Some(state)) if auth.is_empty() => {
                let auth = self.leans_on(event).await?;
                (auth, self.as_told(state).await?)
            }
            (Err(lacks), _) => return Ok(lacks),
        };
        let (status, fate) = match self.judge(event, &auth, before).await? {
            // What is current says nothing of the past.
            Verdict::Accepted | Verdict::SoftFailed(_) => (Status::Accepted, Fate::Accepted),
            Verdict::Rejected(clause) => (Status::Rejected, Fate::Refused(clause.to_string())),
        };
        let spot = match status {
            Status::Accepted => Spot::Place(past.anchor),
            _ => Spot::Nowhere,
        };
        let nid = self.keep(event, known, (status, false), before).await?;
        self.put(event, spot);
        if status == Status::Accepted {
            self.redact(event, nid).await?;
        }
        Ok(fate)
    }

    /// Whether an event is the room's first one.
    async fn is_first(&mut self, event: &Pdu) -> Result<bool, GraphError> {
        let create = StateKey::new("m.room.create", "");
        let first = self.states.piece(self.line, &create).await?;
        Ok(first.is_some_and(|(_, first)| first.id() == event.id()))
    }

    async fn between(&mut self, prev: &[Known]) -> Result<StateNid, GraphError> {
        let mut states: Vec<StateNid> = prev.iter().map(|known| known.state_after).collect();
        states.sort_unstable();
        states.dedup();
        self.resolve(states).await
    }

    /// A state that was told, without what is not known or what its own rules refuse. It is written
    /// as what differs from the current one, where that is little.
    async fn as_told(&mut self, state: &[OwnedEventId]) -> Result<StateNid, GraphError> {
        let mut pieces: BTreeMap<StateKey, Option<EventNid>> = BTreeMap::new();
        for id in state {
            let known = self.named(id).await?;
            let Some(known) = known.filter(|known| known.status != Status::Rejected) else {
                continue;
            };
            let key = super::states::key_of(&known.event);
            let key =
                key.ok_or_else(|| GraphError::NotAsTold(format!("{id} is no state event")))?;
            if pieces.insert(key.clone(), Some(known.nid)).is_some() {
                let what = format!("there are two events for {key}");
                return Err(GraphError::NotAsTold(what));
            }
        }
        if !pieces.contains_key(&StateKey::new("m.room.create", "")) {
            return Err(GraphError::NotAsTold("there is no create event".to_owned()));
        }
        let told: BTreeSet<EventNid> = pieces.values().flatten().copied().collect();
        let gone = self.states.gone(self.line, &told).await?;
        if gone.len() > told.len() / 2 {
            return Ok(self.states.changed(StateNid::default(), pieces).await?);
        }
        for key in gone {
            pieces.entry(key).or_insert(None);
        }
        Ok(self.states.changed(self.line, pieces).await?)
    }
}
