//! The contexts a server has at hand, found by what a request says.
//!
//! Only those in use are here; the caller brings the others from its store when they are missed
//! and puts away what falls out. A hub gives each context a kid of its own: of two contexts with
//! one kid, of which one is here, a request without kid context finds that one.

use std::collections::BTreeSet;

use super::context::{ContextId, Id, SecurityContext};

/// A bounded number of contexts, of less than 300 bytes each; see the test.
#[derive(Debug)]
pub struct Contexts {
    slots: Vec<Slot>,
    /// By kid, and where: contexts with one kid differ in their ID contexts.
    by_kid: BTreeSet<(Id, u32)>,
    free: Vec<usize>,
    /// Where the search for one that is not in use goes on.
    hand: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Slot {
    context: Option<SecurityContext>,
    /// It was used since the hand passed.
    is_recent: bool,
}

/// What there is for a request.
#[derive(Debug)]
pub enum Lookup<'a> {
    /// The context.
    Found(&'a mut SecurityContext),
    /// None here: look in the store, insert it and look again; or answer
    /// [`super::Refused::ContextNotFound`].
    Missing(ContextId),
    /// Several, and the request does not say which: answer [`super::Refused::ContextNotFound`], and the
    /// client will say its kid context. spec: rfc8613 §5.1.
    Ambiguous,
}

impl Contexts {
    /// None yet, and never more than this.
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::new(),
            by_kid: BTreeSet::new(),
            free: Vec::new(),
            hand: 0,
            capacity: capacity.max(1),
        }
    }

    /// How many are here.
    pub fn len(&self) -> usize {
        self.by_kid.len()
    }

    /// Whether none is here.
    pub fn is_empty(&self) -> bool {
        self.by_kid.is_empty()
    }

    /// The context a request asks for. Without a kid context: the only one with this kid.
    ///
    /// spec: rfc8613 §8.2
    pub fn lookup(&mut self, wanted: &ContextId) -> Lookup<'_> {
        let mut same_kid = self.with_kid(wanted.kid);
        let found = if wanted.id_context.is_some() {
            self.place_of(wanted)
        } else {
            let first = same_kid.next();
            if first.is_some() && same_kid.next().is_some() {
                return Lookup::Ambiguous;
            }
            first
        };
        drop(same_kid);
        match found.and_then(|at| self.at(at)) {
            Some(context) => Lookup::Found(context),
            None => Lookup::Missing(wanted.clone()),
        }
    }

    fn with_kid(&self, kid: Id) -> impl Iterator<Item = u32> {
        self.by_kid
            .range((kid, 0)..=(kid, u32::MAX))
            .map(|(_, at)| *at)
    }

    fn place_of(&self, id: &ContextId) -> Option<u32> {
        self.with_kid(id.kid).find(|at| {
            let slot = self.slots.get(index(*at));
            let context = slot.and_then(|slot| slot.context.as_ref());
            context.is_some_and(|context| context.id_context == id.id_context)
        })
    }

    fn at(&mut self, at: u32) -> Option<&mut SecurityContext> {
        let slot = self.slots.get_mut(index(at))?;
        slot.is_recent = true;
        slot.context.as_mut()
    }

    /// Exactly this context, for sending to it unasked.
    pub fn get_mut(&mut self, id: &ContextId) -> Option<&mut SecurityContext> {
        self.at(self.place_of(id)?)
    }

    /// Puts a context in. Gives back what had to go for it: an older state of the same one, or one
    /// that was not used for long. That one's window is worth keeping; without it, and after a
    /// crash, it must come back as [`SecurityContext::resumed`].
    pub fn insert(&mut self, context: SecurityContext) -> Option<SecurityContext> {
        let id = context.id();
        let gone = self.remove(&id).or_else(|| self.make_room());
        let slot = Slot {
            context: Some(context),
            is_recent: true,
        };
        let at = self.free.pop().unwrap_or_else(|| self.add_slot());
        if let Some(place) = self.slots.get_mut(at) {
            *place = slot;
            let at = u32::try_from(at).expect("a ceiling below four thousand millions");
            self.by_kid.insert((id.kid, at));
        }
        gone
    }

    /// Takes a context out: its device was revoked, or it is to be put away.
    pub fn remove(&mut self, id: &ContextId) -> Option<SecurityContext> {
        let at = self.place_of(id)?;
        self.by_kid.remove(&(id.kid, at));
        self.free.push(index(at));
        self.slots.get_mut(index(at))?.context.take()
    }

    fn add_slot(&mut self) -> usize {
        // Doubling would leave up to half of it unused.
        if self.slots.len() == self.slots.capacity() {
            self.slots.reserve_exact(self.slots.len() / 8 + 16);
        }
        self.slots.push(Slot {
            context: None,
            is_recent: false,
        });
        self.slots.len() - 1
    }

    /// Takes out one not used since the hand passed it last, if there is no room.
    fn make_room(&mut self) -> Option<SecurityContext> {
        if self.by_kid.len() < self.capacity {
            return None;
        }
        // Twice around: the first time may only clear marks.
        for _ in 0..=self.slots.len() * 2 {
            self.hand = (self.hand + 1) % self.slots.len().max(1);
            let Some(slot) = self.slots.get_mut(self.hand) else {
                continue;
            };
            if let Some(context) = &slot.context
                && !std::mem::take(&mut slot.is_recent)
            {
                let id = context.id();
                return self.remove(&id);
            }
        }
        None
    }
}

/// A place among the slots.
fn index(at: u32) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::oscore::{Id, IdContext, Parameters};

    fn context(kid: u32, id_context: Option<&[u8]>) -> SecurityContext {
        let kid = Id::new(&kid.to_be_bytes()).unwrap();
        let mut parameters = Parameters::new(&[1; 16], Id::default(), kid);
        parameters.id_context = id_context;
        SecurityContext::new(&parameters).unwrap()
    }

    fn wanted(kid: u32, id_context: Option<&[u8]>) -> ContextId {
        ContextId {
            kid: Id::new(&kid.to_be_bytes()).unwrap(),
            id_context: id_context.map(|context| IdContext::new(context).unwrap()),
        }
    }

    fn finds(contexts: &mut Contexts, kid: u32, id_context: Option<&[u8]>) -> Option<ContextId> {
        match contexts.lookup(&wanted(kid, id_context)) {
            Lookup::Found(context) => Some(context.id()),
            _ => None,
        }
    }

    #[test]
    fn a_context_is_found_by_kid_alone_while_only_one_has_it() {
        let mut contexts = Contexts::new(10);
        contexts.insert(context(1, Some(b"a")));
        contexts.insert(context(2, None));

        assert_eq!(finds(&mut contexts, 1, None), Some(wanted(1, Some(b"a"))));
        assert_eq!(finds(&mut contexts, 2, None), Some(wanted(2, None)));
        assert_eq!(finds(&mut contexts, 2, Some(b"a")), None);
        assert!(matches!(
            contexts.lookup(&wanted(3, None)),
            Lookup::Missing(_)
        ));
        contexts.insert(context(1, Some(b"b")));
        assert!(matches!(
            contexts.lookup(&wanted(1, None)),
            Lookup::Ambiguous
        ));
        assert_eq!(
            finds(&mut contexts, 1, Some(b"b")),
            Some(wanted(1, Some(b"b")))
        );
    }

    #[test]
    fn the_one_not_used_makes_room() {
        let mut contexts = Contexts::new(3);
        for kid in 0..3 {
            assert!(contexts.insert(context(kid, None)).is_none());
        }
        // All are marked as used: this clears the marks and takes one.
        let first = contexts.insert(context(3, None)).unwrap().id();
        let others = (0..3).map(|kid| wanted(kid, None));
        let [used, idle] = others
            .filter(|id| *id != first)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        assert!(contexts.get_mut(&used).is_some());

        let second = contexts.insert(context(4, None)).unwrap().id();

        assert_eq!(second, idle);
        assert_eq!(contexts.len(), 3);
        assert!(contexts.get_mut(&used).is_some());
    }

    #[test]
    fn the_same_context_replaces_itself_and_a_removed_one_is_gone() {
        let mut contexts = Contexts::new(2);
        contexts.insert(context(1, None));

        assert!(contexts.insert(context(1, None)).is_some());
        assert_eq!(contexts.len(), 1);
        assert!(contexts.remove(&wanted(1, None)).is_some());
        assert!(contexts.is_empty());
        assert!(contexts.get_mut(&wanted(1, None)).is_none());
    }

    #[test]
    fn each_of_many_contexts_takes_at_most_three_hundred_bytes() {
        const DEVICES: u32 = 10_000;
        let mut contexts = Contexts::new(50_000);
        for kid in 0..DEVICES {
            contexts.insert(context(kid, None));
        }
        let slots = contexts.slots.capacity() * size_of::<Slot>();
        // Nodes of a BTreeMap hold 5 to 11 entries, and a sixth of a node is not entries.
        let map = contexts.by_kid.len() * size_of::<(Id, u32)>() * 11 / 5 * 7 / 6;

        let each = (slots + map) / contexts.len();

        println!("{each} bytes");
        assert!(each <= 300, "{each} bytes");
    }
}
