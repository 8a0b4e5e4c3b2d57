//! One at a time per name: so that a hundred requests of one server make us ask it once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as Waiting, OwnedMutexGuard};

/// Turns by name. A name that nobody holds or waits for is forgotten.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<String, Arc<Waiting<()>>>>);

/// One's turn; over when it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    name: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    pub(super) async fn of(&self, name: &str) -> Turn<'_> {
        let waiting = {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(names.entry(name.to_owned()).or_default())
        };
        // made first: whoever gives up while waiting tidies up, too
        let mut turn = Turn {
            turns: self,
            name: name.to_owned(),
            held: None,
        };
        turn.held = Some(waiting.lock_owned().await);
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut names = self.turns.0.lock().unwrap_or_else(PoisonError::into_inner);
        // ours is gone, so one reference left is the map's own
        if names
            .get(&self.name)
            .is_some_and(|waiting| Arc::strong_count(waiting) == 1)
        {
            names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn one_name_is_held_by_one_and_forgotten_after_the_last() {
        let turns = Turns::default();
        let first = turns.of("a").await;

        let mut second = Box::pin(turns.of("a"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(turns.of("b").await);
        drop(first);
        drop(second.await);
        let held = turns.of("a").await;
        drop(Box::pin(turns.of("a")).now_or_never()); // gives up
        drop(held);

        assert!(turns.0.lock().unwrap().is_empty());
    }
}
