//! The log as tests see it.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::Once,
};

/// What is logged on this thread, down to the last detail, from [`Log::begin`] on.
///
/// One subscriber for the whole process: with one per thread, tracing may remember of a place in
/// the code that nobody listens there, because nobody did on the thread that came by first.
#[derive(Clone, Copy)]
pub(crate) struct Log;

thread_local! {
    static LOGGED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

impl Log {
    /// Takes the process's log over, before anything else does.
    pub(crate) fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_ansi(false)
                .with_writer(|| Self)
                .finish();
            tracing::subscriber::set_global_default(subscriber).expect("only this sets one");
        });
    }

    /// Starts to keep what this thread logs.
    pub(crate) fn begin() {
        Self::install();
        LOGGED.set(Some(Vec::new()));
    }

    /// What this thread has logged by now; it goes on.
    pub(crate) fn so_far() -> String {
        let logged = LOGGED.with_borrow(|logged| logged.clone().unwrap());
        String::from_utf8(logged).unwrap()
    }

    /// What this thread has logged since.
    pub(crate) fn text() -> String {
        String::from_utf8(LOGGED.take().unwrap()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| match logged {
            Some(logged) => logged.write(bytes),
            None => Ok(bytes.len()),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
