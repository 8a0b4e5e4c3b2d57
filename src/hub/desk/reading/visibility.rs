//! Who may read what of a room. [`Sight`] is the only place that asks [`may_see`].
//!
//! The visibility in force and the reader's membership are looked up once per page, at the state
//! before it, and then moved along the log.

use ruma::{OwnedUserId, RoomId, UserId};

use crate::{
    api::Refusal,
    base::Seq,
    hub::desk::{
        access::ours,
        reading::{outsider::outside, pieces},
        sync::view::Stored,
    },
    room::{HistoryVisibility, Membership, Reader, StateKey, may_see, may_see_change},
    store::{
        EventRecord, MembershipRecord, Order, RoomNid, RoomRecord, SharedStore, StateNid,
        StoreError,
    },
};

/// How many of one's own earlier memberships are looked through to find when one was last joined.
///
/// Someone invited and rejected more often than this since they were last joined reads nothing.
const MEMBERSHIPS_BACK_MAX: u32 = 64;

/// A reader of a room: what they are to it now and were before.
#[derive(Clone, Debug)]
pub(in crate::hub::desk) struct Standing {
    pub(in crate::hub::desk) room: RoomRecord,
    pub(in crate::hub::desk) user: OwnedUserId,
    pub(in crate::hub::desk) now: Membership,
    /// From this entry on the reader has been joined without a break.
    pub(in crate::hub::desk) joined_after: Option<Seq>,
    /// The newest entry at which the reader was joined by an event of their own, when they are
    /// joined no more.
    last_join: Option<Seq>,
    /// The event that ended that.
    pub(in crate::hub::desk) ended: Option<EventRecord>,
    /// How they came to be out, where they are.
    pub(in crate::hub::desk) out: Option<Out>,
}

/// What made somebody an outsider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub::desk) struct Out {
    /// Whether they did it themselves.
    pub(in crate::hub::desk) is_own: bool,
    /// What they were before.
    pub(in crate::hub::desk) was: Membership,
}

/// Which state of a room a reader may ask for.
#[derive(Clone, Debug)]
pub(in crate::hub::desk) enum Horizon {
    /// Whatever is current.
    Current,
    /// As it was when the reader left.
    Left(Box<EventRecord>),
}

impl Standing {
    /// Looks a reader up. A room nobody knows and a room nobody let them into look the same.
    pub(in crate::hub::desk) async fn of(
        store: &SharedStore,
        user: &UserId,
        room: &RoomId,
    ) -> Result<Self, Refusal> {
        let record = store.room(room).await.map_err(ours)?;
        let record = record.ok_or_else(|| not_in(room))?;
        let membership = store.membership(user, record.nid).await.map_err(ours)?;
        Self::with(store, record, user, membership.as_ref())
            .await
            .map_err(ours)
    }

    /// The same where room and membership are known.
    pub(in crate::hub::desk) async fn with(
        store: &SharedStore,
        room: RoomRecord,
        user: &UserId,
        membership: Option<&MembershipRecord>,
    ) -> Result<Self, StoreError> {
        let now = membership.map_or(Membership::Leave, |record| record.membership);
        let mut standing = Self {
            room,
            user: user.to_owned(),
            now,
            joined_after: None,
            last_join: None,
            ended: None,
            out: None,
        };
        let Some(record) = membership.filter(|record| !record.forgotten) else {
            return Ok(standing);
        };
        let newest = store.events(&[record.event]).await?.into_iter().next();
        match newest {
            Some(event) if now == Membership::Join => standing.joined_after = event.seq,
            Some(event) => standing.look_back(store, event).await?,
            None => {}
        }
        Ok(standing)
    }

    /// A reader who is joined and has been since `seq`; asks nobody.
    pub(in crate::hub::desk) fn joined(room: RoomRecord, user: &UserId, seq: Option<Seq>) -> Self {
        Self {
            room,
            user: user.to_owned(),
            now: Membership::Join,
            joined_after: seq,
            last_join: None,
            ended: None,
            out: None,
        }
    }

    /// Follows the reader's own member events back to the last join.
    async fn look_back(
        &mut self,
        store: &SharedStore,
        newest: EventRecord,
    ) -> Result<(), StoreError> {
        let key = StateKey::member(&self.user);
        let sender = Stored::read(&newest).map(|stored| stored.sender.into_owned());
        self.out = Some(Out {
            is_own: sender.as_deref() == Some(self.user.as_str()),
            was: Membership::Leave,
        });
        let (mut later, mut is_newest) = (newest, true);
        for _ in 0..MEMBERSHIPS_BACK_MAX {
            let Some(seq) = later.seq else { break };
            let before = state_at(store, self.room.nid, Seq(seq.0.saturating_sub(1))).await?;
            let keys = std::slice::from_ref(&key);
            let found = pieces(store, &self.room, before, keys).await?;
            let Some(earlier) = found.into_iter().flatten().next() else {
                break;
            };
            if let Some(out) = self.out.as_mut().filter(|_| is_newest) {
                out.was = membership_in(&earlier);
            }
            is_newest = false;
            if membership_in(&earlier) == Membership::Join {
                self.last_join = earlier.seq;
                self.ended = Some(later);
                break;
            }
            later = earlier;
        }
        Ok(())
    }

    /// Which state the reader may ask for; refused when none.
    ///
    /// spec: client-server-rooms §Getting-events-for-a-room
    pub(in crate::hub::desk) async fn horizon(
        &self,
        store: &SharedStore,
    ) -> Result<Horizon, Refusal> {
        if self.now == Membership::Join {
            return Ok(Horizon::Current);
        }
        if self.is_open_now(store).await.map_err(ours)? {
            return Ok(Horizon::Current);
        }
        match &self.ended {
            Some(event) => Ok(Horizon::Left(Box::new(event.clone()))),
            None => Err(outside(&self.room.id, self.now, self.out)),
        }
    }

    /// Refused unless joined right now.
    pub(in crate::hub::desk) fn must_be_joined(&self) -> Result<(), Refusal> {
        if self.now == Membership::Join {
            return Ok(());
        }
        Err(outside(&self.room.id, self.now, self.out))
    }

    /// The reader's view of one event that is on no page: the state before it and their membership
    /// at it. Nothing if they may not see it.
    pub(in crate::hub::desk) async fn sees(
        &self,
        store: &SharedStore,
        event: &EventRecord,
    ) -> Result<Option<(StateNid, Membership)>, StoreError> {
        let state = match event.seq {
            Some(seq) => state_at(store, self.room.nid, Seq(seq.0.saturating_sub(1))).await?,
            None => event.state_after, // history without a place in the log: the best that is known
        };
        let mut sight = Sight::at(store, self, state).await?;
        let before = sight.state();
        let line = event.state_after;
        let visible = sight.pass(store, line, event).await?;
        Ok(visible.then(|| (before, sight.membership())))
    }

    /// Whether anyone may read the room as it is now.
    pub(super) async fn is_open_now(&self, store: &SharedStore) -> Result<bool, StoreError> {
        let key = StateKey::new(VISIBILITY, "");
        let found = store.current(self.room.nid, &[key]).await?;
        let visibility = visibility_in(found.first().and_then(Option::as_ref));
        Ok(visibility == HistoryVisibility::WorldReadable)
    }
}

impl Horizon {
    /// The last entry before the horizon.
    pub(in crate::hub::desk) fn seq(&self, standing: &Standing) -> Seq {
        match self {
            Self::Current => standing.room.heads.seq,
            Self::Left(event) => event.seq.unwrap_or(standing.room.heads.seq),
        }
    }
}

/// What a reader may see at one point of the log; moves along it.
pub(in crate::hub::desk) struct Sight<'a> {
    standing: &'a Standing,
    visibility: HistoryVisibility,
    membership: Membership,
    state: StateNid,
}

impl<'a> Sight<'a> {
    /// Looks the reader up in a state of the room.
    pub(in crate::hub::desk) async fn at(
        store: &SharedStore,
        standing: &'a Standing,
        state: StateNid,
    ) -> Result<Self, StoreError> {
        let keys = [
            StateKey::new(VISIBILITY, ""),
            StateKey::member(&standing.user),
        ];
        let found = pieces(store, &standing.room, state, &keys).await?;
        let mut found = found.into_iter();
        let visibility = visibility_in(found.next().flatten().as_ref());
        let membership = found.next().flatten();
        Ok(Self {
            standing,
            visibility,
            membership: membership.map_or(Membership::Leave, |event| membership_in(&event)),
            state,
        })
    }

    /// For a reader who is joined all along, whom the visibility does not concern.
    pub(in crate::hub::desk) fn joined(standing: &'a Standing, state: StateNid) -> Self {
        Self {
            standing,
            visibility: HistoryVisibility::default(),
            membership: Membership::Join,
            state,
        }
    }

    /// The state just before the next event.
    pub(in crate::hub::desk) fn state(&self) -> StateNid {
        self.state
    }

    /// The reader's membership here.
    pub(in crate::hub::desk) fn membership(&self) -> Membership {
        self.membership
    }

    /// Moves past an event, after which the room's state is `line`, and tells whether the reader
    /// may see it.
    pub(in crate::hub::desk) async fn pass(
        &mut self,
        store: &SharedStore,
        line: StateNid,
        event: &EventRecord,
    ) -> Result<bool, StoreError> {
        if line == event.state_after {
            return Ok(self.pass_on_the_line(event));
        }
        // What its own branch says of the reader decides, not what the others have come to.
        let own = Self::at(store, self.standing, event.state_after).await?;
        let visible = may_see(own.reader(event.seq));
        self.turn(store, line).await?;
        Ok(visible)
    }

    /// Moves past a marker, after which the room's state is `line`.
    pub(in crate::hub::desk) async fn turn(
        &mut self,
        store: &SharedStore,
        line: StateNid,
    ) -> Result<(), StoreError> {
        *self = Self::at(store, self.standing, line).await?;
        Ok(())
    }

    fn pass_on_the_line(&mut self, event: &EventRecord) -> bool {
        let before = self.reader(event.seq);
        self.state = event.state_after;
        let Some(stored) = Stored::read(event) else {
            return false;
        };
        match stored.state_key.as_deref() {
            Some("") if stored.kind == VISIBILITY => {
                self.visibility = visibility_in(Some(event));
            }
            Some(key) if stored.kind == MEMBER && key == self.standing.user.as_str() => {
                self.membership = membership_in(event);
            }
            _ => {}
        }
        may_see_change(before, self.reader(event.seq))
    }

    fn reader(&self, seq: Option<Seq>) -> Reader {
        // What has no place in the log is older than all that has.
        let seq = seq.unwrap_or(Seq::ZERO);
        Reader {
            visibility: self.visibility,
            at_event: self.membership,
            now: self.standing.now,
            joined_later: self.standing.last_join.is_some_and(|join| join > seq),
        }
    }
}

/// The state after an entry of a log; the empty one before the first.
pub(in crate::hub::desk) async fn state_at(
    store: &SharedStore,
    room: RoomNid,
    seq: Seq,
) -> Result<StateNid, StoreError> {
    if seq == Seq::ZERO {
        return Ok(StateNid::default());
    }
    let entries = store.log(room, Seq::ZERO, seq, Order::Backward, 1).await?;
    let entry = entries.first();
    entry
        .map(|entry| entry.state)
        .ok_or_else(|| StoreError::Damaged {
            what: format!("no entry of room {room:?} up to {seq}"),
        })
}

/// The `membership` of a stored member event.
pub(in crate::hub::desk) fn membership_in(event: &EventRecord) -> Membership {
    Stored::read(event)
        .and_then(|stored| stored.text("membership")?.parse().ok())
        .unwrap_or_default()
}

/// «Not in the room» and «no such room», which nobody outside can tell apart.
pub(in crate::hub::desk) fn not_in(room: &RoomId) -> Refusal {
    Refusal::forbidden(format!(
        "you are not in {room}, or no such room is known here"
    ))
}

fn visibility_in(event: Option<&EventRecord>) -> HistoryVisibility {
    event
        .and_then(Stored::read)
        .and_then(|stored| stored.text("history_visibility")?.parse().ok())
        .unwrap_or_default()
}

const VISIBILITY: &str = "m.room.history_visibility";
const MEMBER: &str = "m.room.member";
