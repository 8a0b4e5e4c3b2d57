//! What a device has on the disk and every way of speaking uses: its state and its ledger.

use std::path::Path;

use super::{
    super::{
        ask::Answer,
        book::{Book, BookFile, Line, Way},
        state::{State, StateDir, StateError},
    },
    ThinError,
};
use crate::{
    base::Timestamp,
    client::{Cost, Credentials, World},
};

/// How often the ledger is written while following.
const BOOK_EVERY_MS: u64 = 60_000;

/// State, ledger and world.
pub(super) struct Kept {
    pub(super) state: StateDir,
    book: BookFile,
    pub(super) world: World,
    saved: Timestamp,
}

impl Kept {
    /// Opens the files beside the credential file. `renews` says whether a fresh context can be had:
    /// then a state that is lost begins anew.
    pub(super) fn open(
        file: &Path,
        credentials: &Credentials,
        world: &World,
        renews: bool,
    ) -> Result<Self, StateError> {
        let now = world.clock.now();
        let state = match StateDir::open(file, credentials) {
            // More drafts than one a second there were not, so that none of these is an old one.
            Err(StateError::Gone { .. }) if renews => {
                StateDir::begin_without_numbers(file, credentials, now.0 / 1000)?
            }
            opened => opened?,
        };
        let book = BookFile::open(&state)?;
        Ok(Self {
            state,
            book,
            world: world.clone(),
            saved: now,
        })
    }

    pub(super) fn now(&self) -> Timestamp {
        self.world.clock.now()
    }

    pub(super) const fn state(&self) -> &State {
        self.state.state()
    }

    pub(super) fn book(&self) -> Book {
        self.book.all()
    }

    pub(super) fn spent(&self) -> Line {
        self.book.run()
    }

    /// An operation is over, whatever came of it.
    pub(super) fn done(&mut self, operation: &str) -> Result<(), StateError> {
        self.book.fresh.done(self.now(), operation);
        self.book.save()
    }

    /// Counts an operation that goes on for long without an end of its own.
    pub(super) fn noted(&mut self, operation: &str) {
        self.book.fresh.done(self.now(), operation);
    }

    /// Counts a datagram with this payload.
    pub(super) fn datagram(&mut self, operation: &str, way: Way, payload: usize, headers: u64) {
        let payload = u64::try_from(payload).unwrap_or(u64::MAX);
        let bytes = payload.saturating_add(headers);
        self.book.fresh.datagram(self.now(), operation, way, bytes);
    }

    /// Counts what a connection has exchanged.
    pub(super) fn exchanged(&mut self, operation: &str, cost: Cost, headers: u64) {
        self.book
            .fresh
            .exchanged(self.now(), operation, cost, headers);
    }

    pub(super) fn save_book(&mut self) -> Result<(), StateError> {
        self.saved = self.now();
        self.book.save()
    }

    /// Writes the ledger now and then.
    pub(super) fn save_book_when_due(&mut self) -> Result<(), StateError> {
        if self.now().0.saturating_sub(self.saved.0) >= BOOK_EVERY_MS {
            self.save_book()?;
        }
        Ok(())
    }

    /// What the hub says of itself; an error where it is another one than before, and what was asked
    /// speaks of what is void.
    pub(super) fn met(&mut self, answer: &Answer) -> Result<(), ThinError> {
        let Answer::Hello(hello) = answer else {
            return Ok(());
        };
        let before = self.state().generation().map(str::to_owned);
        self.state.met(hello.generation)?;
        match before {
            Some(before) if self.state().generation() != Some(&before) => Err(ThinError::Restored),
            _ => Ok(()),
        }
    }
}
