//! A room that one of our users has joined on another server: its state as that server tells it,
//! checked by itself, and the join on top.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Arrival, Fate, GraphError, in_order,
    states::key_of,
    weave::{Known, Weave, breathe},
};
use crate::{
    hub::writer::{Admitted, Onto, Spot},
    room::{AuthEntry, StateKey, check_auth, check_auth_events},
    store::{EventNid, StateNid, Status},
    wire::matrix::Pdu,
};

impl Weave<'_> {
    /// Stands the room on what it was told, and weaves the join in.
    pub(super) async fn arrive(
        &mut self,
        arrival: &Arrival,
        is_new: bool,
    ) -> Result<(), GraphError> {
        let mut told = arrival.auth_chain.clone();
        told.extend(arrival.state.iter().cloned());
        self.look_ahead(told.iter()).await?;
        for (count, at) in in_order(&told).into_iter().enumerate() {
            if let Some(event) = told.get(at) {
                self.outlier(event).await?;
            }
            breathe(count).await;
        }
        let base = self.told_state(&arrival.state).await?;
        self.tips.clear();
        self.branches.clear();
        self.line = base;
        self.onto = Onto::Arrival {
            version: is_new.then_some(arrival.version),
            base,
        };
        match self.join(&arrival.join, base).await? {
            Fate::Accepted => Ok(()),
            fate => Err(GraphError::NotAsTold(format!("our join is {fate:?}"))),
        }
    }

    /// An event that is known without the graph around it: judged by what it leans on alone.
    pub(super) async fn outlier(&mut self, event: &Arc<Pdu>) -> Result<(), GraphError> {
        if self.lookup(event.hash()).await?.is_some() {
            return Ok(());
        }
        // What leans on an event that was not told, or not believed, cannot be judged.
        let auth = match self.leans_on(event).await {
            Err(GraphError::Missing(_)) => return Ok(()),
            auth => auth?,
        };
        let status = match self.allowed_by_itself(event, &auth).await? {
            Ok(()) => Status::Outlier,
            Err(_) => Status::Rejected,
        };
        let nid = self.store.numbers().event();
        self.states.know(nid, event);
        let known = Known {
            nid,
            event: Arc::clone(event),
            status,
            soft_failed: false,
            state_after: StateNid::default(),
        };
        self.known.insert(event.hash(), known);
        self.events.push(Admitted {
            event: Arc::clone(event),
            nid,
            is_stored: false,
            status,
            soft_failed: false,
            state_after: StateNid::default(),
            spot: Spot::Nowhere,
        });
        Ok(())
    }

    pub(super) async fn leans_on(&mut self, event: &Pdu) -> Result<Vec<AuthEntry>, GraphError> {
        let mut auth = Vec::new();
        for id in &event.fields().auth {
            let known = self.named(id).await?;
            let known = known.ok_or_else(|| GraphError::Missing(id.clone()))?;
            auth.push(AuthEntry {
                event: known.event,
                rejected: known.status == Status::Rejected,
            });
        }
        Ok(auth)
    }

    async fn allowed_by_itself(
        &mut self,
        event: &Pdu,
        auth: &[AuthEntry],
    ) -> Result<Result<(), crate::room::Clause>, GraphError> {
        let version = self.room.version;
        let create = self.create_event().await?;
        let named = |kind: &str, key: &str| {
            let all = auth.iter().chain(&create);
            let mut events = all
                .filter(|entry| !entry.rejected)
                .map(|entry| &entry.event);
            let is = |event: &&Arc<Pdu>| {
                let fields = event.fields();
                fields.kind == kind && fields.state_key.as_deref() == Some(key)
            };
            events.find(is).cloned()
        };
        let fields = event.fields();
        Ok(check_auth_events(fields, version, auth, create.as_ref())
            .and_then(|()| check_auth(fields, version, &named)))
    }

    /// Since v12, the event whose id the room id is.
    async fn create_event(&mut self) -> Result<Option<AuthEntry>, GraphError> {
        if !self.room.version.room_id_is_create_hash() {
            return Ok(None);
        }
        let id = self.room.id.as_str().replacen('!', "$", 1);
        let Ok(id) = ruma::OwnedEventId::try_from(id) else {
            return Ok(None);
        };
        let known = self.named(&id).await?;
        Ok(known.map(|known| AuthEntry {
            event: known.event,
            rejected: known.status == Status::Rejected,
        }))
    }

    /// The state that was told, without what its own rules refuse.
    async fn told_state(&mut self, state: &[Arc<Pdu>]) -> Result<StateNid, GraphError> {
        let mut pieces: BTreeMap<StateKey, Option<EventNid>> = BTreeMap::new();
        for event in state {
            let Some(key) = key_of(event) else {
                let what = format!("{} is no state event", event.id());
                return Err(GraphError::NotAsTold(what));
            };
            let Some(known) = self.lookup(event.hash()).await? else {
                continue;
            };
            if known.status == Status::Rejected {
                continue;
            }
            if pieces.insert(key.clone(), Some(known.nid)).is_some() {
                let what = format!("there are two events for {key}");
                return Err(GraphError::NotAsTold(what));
            }
        }
        let create = StateKey::new("m.room.create", "");
        if !pieces.contains_key(&create) {
            return Err(GraphError::NotAsTold("there is no create event".to_owned()));
        }
        Ok(self.states.changed(StateNid::default(), pieces).await?)
    }

    async fn join(&mut self, join: &Arc<Pdu>, base: StateNid) -> Result<Fate, GraphError> {
        let known = self.lookup(join.hash()).await?;
        let auth = self.leans_on(join).await?;
        let verdict = self.judge(join, &auth, base).await?;
        self.place(join, known, (verdict, None), (base, &[])).await
    }
}
