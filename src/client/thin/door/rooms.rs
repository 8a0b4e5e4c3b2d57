//! What a device asks of its rooms: their names, their entries, and how far it has got.

use std::collections::BTreeMap;

use super::{
    super::{
        ask::{Answer, Ask, AskError},
        state::{NAMES_MAX, NotedRoom, OpenRoom, Titles},
    },
    ThinDoor, ThinError,
};
use crate::wire::coap::Code;
use crate::wire::thin::{Alias, Body, LinkProfile, NameKind, Record, Shown};

impl ThinDoor {
    /// The alias of a room: its id, or an alias with `#`.
    pub async fn room(&mut self, room: &str) -> Result<Alias, ThinError> {
        self.meet().await?;
        if let Some(alias) = self.state().alias(NameKind::Room, room) {
            return Ok(alias);
        }
        let (kind, text) = (NameKind::Room, room.to_owned());
        match self.ask("names", Ask::Alias { kind, text }).await? {
            Answer::Alias(alias) => {
                if room.starts_with('!') {
                    self.kept.state.named([(kind, alias, room.to_owned())])?;
                }
                Ok(alias)
            }
            _ => Err(ThinError::OtherAnswer),
        }
    }

    /// Asks for the names of those of these aliases that are not known yet.
    pub async fn learn(&mut self, aliases: &[(NameKind, Alias)]) -> Result<(), ThinError> {
        let is_unknown = |(kind, alias): &&(NameKind, Alias)| {
            self.state().name(*kind, *alias).is_none()
                && !(*kind == NameKind::EventType && *alias < 64)
        };
        let mut unknown: Vec<_> = aliases.iter().filter(is_unknown).copied().collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        self.names(unknown).await
    }

    /// Asks for the names of all rooms.
    pub async fn learn_rooms(&mut self) -> Result<Vec<(Alias, String)>, ThinError> {
        let answer = self.ask("rooms", Ask::Names(Vec::new())).await?;
        let Answer::Names(names) = answer else {
            return Err(ThinError::OtherAnswer);
        };
        let all = names
            .iter()
            .map(|one| (one.kind, one.alias, one.text.clone()));
        self.kept.state.named(all)?;
        Ok(names.into_iter().map(|one| (one.alias, one.text)).collect())
    }

    /// Keeps what rooms are called: name and main alias by the room's id; and those that the user is not in
    /// yet.
    pub fn keep_titles(
        &mut self,
        mut rooms: BTreeMap<String, (String, String)>,
        mut open: BTreeMap<String, OpenRoom>,
    ) -> Result<(), ThinError> {
        while rooms.len() > NAMES_MAX {
            rooms.pop_last();
        }
        while open.len() > NAMES_MAX {
            open.pop_last();
        }
        let titles = Titles {
            told_ms: self.kept.now().0,
            rooms,
            open,
        };
        Ok(self
            .kept
            .state
            .change(|state| state.titles = Some(titles))?)
    }

    /// Whether names of rooms are known, and were told lately. Who has asked to join a room is not told by
    /// the list of rooms whether that still stands.
    pub fn has_titles(&self) -> bool {
        self.state().titles.as_ref().is_some_and(|titles| {
            let is_fresh = self.kept.now().0.saturating_sub(titles.told_ms) < TITLES_FOR_MS;
            is_fresh && titles.open.values().all(|open| open.membership == "invite")
        })
    }

    /// What a room is called that the user is in: its name and its main alias, where that is known.
    pub fn title(&self, room: &str) -> Option<(String, String)> {
        self.state().titles.as_ref()?.rooms.get(room).cloned()
    }

    /// A room that the user is invited to, where that is known.
    pub fn open_room(&self, room: &str) -> Option<&OpenRoom> {
        self.state().titles.as_ref()?.open.get(room)
    }

    /// What a room is called, whatever the user is to it: its name and its main alias, where that is known.
    pub fn called(&self, room: &str) -> Option<(String, String)> {
        let open = || {
            let open = self.open_room(room)?;
            Some((open.name.clone(), open.alias.clone()))
        };
        let by_number = || {
            let alias = self.state().alias(NameKind::Room, room)?;
            let name = self.state().name(NameKind::RoomName, alias)?;
            Some((name.to_owned(), String::new()))
        };
        let in_passing = || {
            let noted = self.noted_room(room)?;
            let is_told = !(noted.name.is_empty() && noted.alias.is_empty());
            is_told.then(|| (noted.name.clone(), noted.alias.clone()))
        };
        self.title(room)
            .or_else(open)
            .or_else(by_number)
            .or_else(in_passing)
    }

    /// What was said of a room in passing.
    pub fn noted_room(&self, room: &str) -> Option<&NotedRoom> {
        self.state().noted.get(room)
    }

    /// Notes what was said of a room in passing. Being in it is nothing to note of one of which nothing else is.
    pub fn note_room(
        &mut self,
        room: &str,
        change: impl FnOnce(&mut NotedRoom),
    ) -> Result<(), ThinError> {
        let old = self.noted_room(room);
        let mut new = old.cloned().unwrap_or_default();
        change(&mut new);
        let is_named = !(new.name.is_empty() && new.alias.is_empty());
        let is_worth_it = old.is_some() || is_named || new.membership == "invite";
        if !is_worth_it || old == Some(&new) {
            return Ok(());
        }
        Ok(self.kept.state.change(|state| {
            if state.noted.len() >= NAMES_MAX && !state.noted.contains_key(room) {
                state.noted.pop_first();
            }
            state.noted.insert(room.to_owned(), new);
        })?)
    }

    /// A room has another name or main alias now, or a first one.
    pub fn retitle(
        &mut self,
        room: Alias,
        change: impl FnOnce(&mut (String, String)),
    ) -> Result<(), ThinError> {
        let state = self.state();
        let id = state.name(NameKind::Room, room).unwrap_or_default();
        let mut title = self.called(id).unwrap_or_default();
        let id = id.to_owned();
        change(&mut title);
        Ok(self.kept.state.change(|state| {
            let rooms = state.titles.as_mut().map(|titles| &mut titles.rooms);
            if let Some(known) = rooms.and_then(|rooms| rooms.get_mut(&id)) {
                *known = title.clone();
            } else {
                state.titles = None; // what is told of it then is the whole
            }
            if let Some(noted) = state.noted.get_mut(&id) {
                (noted.name, noted.alias) = title.clone();
            }
            state.call(room, title.0);
        })?)
    }

    /// A room that was just made has this name, and no alias.
    pub fn made(&mut self, room: &str, name: &str) -> Result<(), ThinError> {
        let is_known = self.state().titles.is_some();
        if !is_known {
            return Ok(());
        }
        Ok(self.kept.state.change(|state| {
            let rooms = state.titles.as_mut().map(|titles| &mut titles.rooms);
            if let Some(rooms) = rooms.filter(|rooms| rooms.len() < NAMES_MAX) {
                rooms.insert(room.to_owned(), (name.to_owned(), String::new()));
            }
        })?)
    }

    /// One of the rooms has another name now, perhaps.
    pub fn forget_titles(&mut self) -> Result<(), ThinError> {
        if self.state().titles.is_none() {
            return Ok(());
        }
        Ok(self.kept.state.change(|state| state.titles = None)?)
    }

    async fn names(&mut self, mut wanted: Vec<(NameKind, Alias)>) -> Result<(), ThinError> {
        let asked = self.ask("names", Ask::Names(wanted.clone())).await;
        let is_newer = |(kind, _): &(NameKind, Alias)| *kind == NameKind::RoomName;
        let answer = match asked {
            // Earlier hubs do not know what that is.
            Err(ThinError::Ask(AskError::Refused { code, .. }))
                if code == Code::BAD_REQUEST && wanted.iter().any(is_newer) =>
            {
                wanted.retain(|one| !is_newer(one));
                if wanted.is_empty() {
                    return Ok(());
                }
                self.ask("names", Ask::Names(wanted)).await?
            }
            answer => answer?,
        };
        match answer {
            Answer::Names(names) => {
                let all = names.into_iter().map(|one| (one.kind, one.alias, one.text));
                Ok(self.kept.state.named(all)?)
            }
            _ => Err(ThinError::OtherAnswer),
        }
    }

    /// Tells the hub what the link is like, and keeps to it from the next run on.
    pub async fn set_link(&mut self, link: LinkProfile) -> Result<(), ThinError> {
        self.ask("link profile", Ask::LinkProfile(link)).await?;
        Ok(self.kept.state.change(|state| state.set_link(link))?)
    }

    /// What came in all rooms since the last time, and no waiting. Keep it with
    /// [`ThinDoor::keep_places`] once it is dealt with.
    pub async fn news(&mut self) -> Result<Vec<Record>, ThinError> {
        let mut news = Vec::new();
        let mut places = self.places().clone();
        if places.inbox().is_none() {
            self.forget_titles()?; // what was changed before is not told
        }
        let bytes_max = self.records_bytes_max().unwrap_or(NEWS_BYTES_MAX);
        loop {
            let ask = Ask::Inbox {
                after: places.inbox(),
                bytes_max: Some(bytes_max),
                observe: false,
            };
            let before = places.inbox();
            let Answer::Records(records) = self.ask("sync", ask).await? else {
                return Err(ThinError::OtherAnswer);
            };
            let found = places.inbox_answered(records);
            news.extend(found.news);
            // The first time there are only heads: what was before is for `read`.
            if !found.more || places.inbox() == before {
                break;
            }
        }
        *self.places_mut() = places;
        Ok(news)
    }

    /// The last seq of a room that the user may know of: of a room they are out of, the end of that.
    pub async fn head(&mut self, room: Alias) -> Result<u64, ThinError> {
        let (bytes_max, observe) = (None, false);
        let ask = Ask::Log {
            room,
            from: BEYOND,
            bytes_max,
            observe,
        };
        let Answer::Records(records) = self.ask("read", ask).await? else {
            return Err(ThinError::OtherAnswer);
        };
        let ends = records.iter().find_map(|record| match record.what {
            Shown::Covered { seq, head } => Some(head.unwrap_or(seq)),
            _ => None,
        });
        Ok(ends.unwrap_or_default())
    }

    /// A room's visible entries from one to another.
    pub async fn log(
        &mut self,
        room: Alias,
        from: u64,
        through: u64,
    ) -> Result<Vec<Record>, ThinError> {
        let (mut news, mut next) = (Vec::new(), from);
        let bytes_max = self.records_bytes_max();
        while next <= through {
            let ask = Ask::Log {
                room,
                from: next,
                bytes_max,
                observe: false,
            };
            let Answer::Records(records) = self.ask("read", ask).await? else {
                return Err(ThinError::OtherAnswer);
            };
            let before = next;
            for mut record in records {
                record.room = Some(room);
                match record.what {
                    Shown::Covered { seq, .. } => next = next.max(seq.saturating_add(1)),
                    Shown::Entry { seq, .. } if seq <= through => {
                        next = next.max(seq.saturating_add(1));
                        news.push(record);
                    }
                    _ => {}
                }
            }
            if next == before {
                break; // asking again would bring the same
            }
        }
        Ok(news)
    }

    /// What was told so far has been dealt with.
    pub fn keep_places(&mut self) -> Result<(), ThinError> {
        let places = self.places();
        let (through, inbox) = (places.through(), places.inbox());
        let (is_whole, nat) = (places.is_whole(), self.nat());
        let old = self.state();
        if old.through == through && old.inbox == inbox && old.nat == nat {
            return Ok(());
        }
        Ok(self.kept.state.change(|state| {
            state.through = through;
            state.nat = nat;
            // With a gap, the next run begins where there was none.
            if is_whole {
                state.inbox = inbox;
            }
        })?)
    }
}

/// Beyond the end of about every log, in four bytes; an answer that begins before the end says where it is.
const BEYOND: u64 = (1 << 28) - 1;

/// How long names of rooms are good for: a device that only sends does not hear of another one.
const TITLES_FOR_MS: u64 = 24 * 3600 * 1000;

/// Bytes of records asked for at once over OSCORE: what fits into one datagram without blocks.
const NEWS_BYTES_MAX: u64 = 1024;

/// Senders, rooms and types that records speak of.
pub fn aliases_of(records: &[Record]) -> Vec<(NameKind, Alias)> {
    let mut aliases = Vec::new();
    for record in records {
        aliases.extend(record.room.map(|room| (NameKind::Room, room)));
        match &record.what {
            Shown::Entry { sender, body, .. } => {
                aliases.push((NameKind::User, *sender));
                match body {
                    Body::Event { event_type, .. } | Body::State { event_type, .. } => {
                        aliases.push((NameKind::EventType, *event_type));
                    }
                    Body::Member { user, .. } => aliases.push((NameKind::User, *user)),
                    _ => {}
                }
            }
            Shown::Receipt { user, .. } => aliases.push((NameKind::User, *user)),
            Shown::Typing(users) => {
                aliases.extend(users.iter().map(|user| (NameKind::User, *user)));
            }
            Shown::Covered { .. } => {}
        }
    }
    // 0 is the device's own user, whom it knows.
    aliases.retain(|(kind, alias)| (*kind, *alias) != (NameKind::User, 0));
    aliases
}
