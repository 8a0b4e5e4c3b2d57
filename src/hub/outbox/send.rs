//! One transaction: what is in it, and what its answer means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, OwnedTransactionId, UInt,
    api::federation::transactions::{
        edu::Edu,
        send_transaction_message::v1::{Request, Response},
    },
    serde::Raw,
};
use serde_json::{Value, value::RawValue};
use sha2::{Digest as _, Sha256};

use super::{
    beside::{Beside, Bundle, presence, typing},
    hints::Typing,
    read::{Item, Page, Reader, Rooms},
};
use crate::{
    api::{PeerCommand, PeerReply, Remote, RemoteError},
    base::{Clock, Position, Timestamp},
    hub::settings::OutboxSettings,
    store::{DestinationRecord, Mark, OutboxWrite, SharedStore, StoreError, Write},
    wire::matrix::event_id,
};

/// How many events a transaction has at most.
// spec: server-server §Transactions
pub(super) const FULL: usize = 50;
const EDUS_MAX: usize = 100;

/// How long a refusal may be that is kept for the sender to see, in characters.
const REASON_CHARS_MAX: usize = 500;

/// Parts of the log that are given up in one go before others have their turn.
const EXPIRED_PAGES_MAX: usize = 20;

/// What is to be done for one destination.
pub(super) struct Job {
    pub(super) record: DestinationRecord,
    pub(super) rooms: Rooms,
    pub(super) beside: bool,
    pub(super) typing: Vec<Typing>,
    /// What users of ours show.
    pub(super) present: Vec<Arc<Value>>,
    pub(super) parcels_after: (Position, u64),
    pub(super) width: usize,
    /// What is after this commit comes later.
    pub(super) upto: Position,
    /// What was in the transaction before, when that failed, and its id.
    pub(super) txn: Option<([u8; 32], String)>,
}

/// What came of it.
pub(super) enum Outcome {
    /// It was told, or there was nothing for it.
    Told(Told),
    /// It refused all of it: try with at most so much.
    Narrow(usize),
    /// It was not told.
    Failed {
        error: Trouble,
        txn: Option<([u8; 32], String)>,
        /// Whether that is the destination's doing.
        is_theirs: bool,
        /// What was given up all the same.
        expired: Option<Told>,
    },
}

/// Why a destination was not told.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// The stable reason, which senders are told.
    pub(super) code: &'static str,
    /// In words, for the operator: they may name addresses.
    pub(super) text: String,
    /// Whether it is a rule of this hub's operator.
    pub(super) is_ours: bool,
}

impl Trouble {
    fn of(code: &'static str, text: impl ToString) -> Self {
        Self {
            code,
            text: text.to_string(),
            is_ours: false,
        }
    }
}

/// How far a destination was told.
#[derive(Default)]
pub(super) struct Told {
    pub(super) mark: Mark,
    pub(super) beside: Position,
    pub(super) parcels: Option<(Position, u64)>,
    pub(super) rest: Rooms,
    pub(super) more_beside: bool,
    /// Whether anything was sent.
    pub(super) sent: bool,
    /// Whether the whole transaction was refused, which had one item.
    pub(super) was_refused: bool,
    pub(super) writes: Vec<Write>,
}

/// What sending leans on.
pub(super) struct Sender<'a> {
    pub(super) store: &'a SharedStore,
    pub(super) remote: &'a dyn Remote,
    pub(super) clock: &'a dyn Clock,
    pub(super) ours: &'a OwnedServerName,
    pub(super) settings: &'a OutboxSettings,
    pub(super) ids: &'a TxnIds,
}

/// Transaction ids: never used twice, also not after a restart.
pub(super) struct TxnIds {
    boot: u64,
    next: AtomicU64,
}

impl TxnIds {
    pub(super) fn new(boot: u64) -> Self {
        Self {
            boot,
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}{number:x}", self.boot)
    }
}

/// What one transaction holds.
struct Parcel {
    page: Page,
    bundle: Bundle,
    edus: Vec<String>,
    /// What was given up before it.
    lapsed: Option<Mark>,
    lapsed_events: usize,
}

impl Sender<'_> {
    /// Tells a destination what is next for it. `begun` is called with the marks between which it is.
    pub(super) async fn step(&self, job: &Job, begun: impl FnOnce(Mark)) -> Outcome {
        let parcel = match self.pack(job).await {
            Ok(parcel) => parcel,
            Err(error) => {
                tracing::warn!(%error, server = %job.record.server, "what is for a server cannot be read");
                return Outcome::Failed {
                    error: Trouble::of("HUB_IN_TROUBLE", "this hub's store failed"),
                    txn: None,
                    is_theirs: false,
                    expired: None,
                };
            }
        };
        if parcel.page.items.is_empty() && parcel.edus.is_empty() {
            return Outcome::Told(self.told(job, parcel, false));
        }
        begun(parcel.page.mark);
        let (digest, id) = self.id(job, &parcel);
        let request = self.request(id.clone(), &parcel);
        let command = PeerCommand::Transaction(Box::new(request));
        let server = &job.record.server;
        let answer = self.remote.ask(server, command, self.settings.patience);
        match answer.await {
            Ok(PeerReply::Transaction(answer)) => {
                counted("taken");
                self.accepted(job, parcel, &answer)
            }
            Ok(other) => {
                let trouble = Trouble::of("PEER_IN_TROUBLE", other.name());
                self.failed(job, parcel, trouble, (digest, id))
            }
            Err(error) if is_about_content(&error) => self.refused(job, parcel, &error),
            Err(error) => {
                let trouble = Trouble {
                    is_ours: matches!(error, RemoteError::NotAllowed { .. }),
                    ..Trouble::of(error.code(), &error)
                };
                self.failed(job, parcel, trouble, (digest, id))
            }
        }
    }

    /// What is next, without what is too old for a destination that has taken nothing for long.
    async fn pack(&self, job: &Job) -> Result<Parcel, StoreError> {
        let cutoff = self.cutoff(job);
        let mut reader = Reader {
            store: self.store,
            ours: self.ours,
            server: &job.record.server,
            mark: job.record.mark,
            upto: job.upto,
            items_max: job.width.min(FULL),
        };
        let mut page = reader.page(job.rooms.clone()).await?;
        let (mut lapsed, mut lapsed_events) = (None, 0);
        for _ in 0..EXPIRED_PAGES_MAX {
            let old = page.items.iter().take_while(|item| item.made < cutoff);
            let Some(last) = old.last().map(|item| item.at) else {
                break;
            };
            lapsed = Some(last);
            let before = page.items.len();
            page.items.retain(|item| item.at > last);
            lapsed_events += before - page.items.len();
            if !page.items.is_empty() || page.rest.is_empty() {
                break;
            }
            reader.mark = page.mark;
            let withheld = page.withheld;
            page = reader.page(page.rest).await?;
            page.withheld.splice(..0, withheld);
        }
        let is_wide = job.width >= FULL || page.items.is_empty();
        let bundle = if is_wide && job.beside {
            self.beside(job, cutoff).await?
        } else {
            Bundle {
                upto: job.record.beside,
                more: job.beside,
                ..Bundle::default()
            }
        };
        let mut edus = bundle.edus.clone();
        if job.width >= FULL {
            let room = EDUS_MAX.saturating_sub(edus.len());
            edus.extend(job.typing.iter().take(room).map(typing));
            if !job.present.is_empty() && edus.len() < EDUS_MAX {
                edus.push(presence(&job.present));
            }
        }
        Ok(Parcel {
            page,
            bundle,
            edus,
            lapsed,
            lapsed_events,
        })
    }

    async fn beside(&self, job: &Job, cutoff: Timestamp) -> Result<Bundle, StoreError> {
        let beside = Beside {
            store: self.store,
            ours: self.ours,
            server: &job.record.server,
            since: job.record.beside,
            upto: job.upto,
            parcels_after: job.parcels_after,
            max: if job.width >= FULL {
                EDUS_MAX
            } else {
                job.width
            },
            expired: cutoff,
        };
        beside.gather().await
    }

    /// Before this everything is given up; before the first second nothing is.
    fn cutoff(&self, job: &Job) -> Timestamp {
        let span = u64::try_from(self.settings.expires_after.as_millis()).unwrap_or(u64::MAX);
        let before = self.clock.now().0.saturating_sub(span);
        let since = job.record.failing_since;
        Timestamp(since.filter(|since| since.0 < before).map_or(0, |_| before))
    }

    /// The same id for the same content, when that is sent again.
    fn id(&self, job: &Job, parcel: &Parcel) -> ([u8; 32], String) {
        let mut hash = Sha256::new();
        for item in &parcel.page.items {
            hash.update(item.event.hash.0);
        }
        for edu in &parcel.edus {
            hash.update(edu.as_bytes());
            hash.update([0]);
        }
        let digest: [u8; 32] = hash.finalize().into();
        match &job.txn {
            Some((known, id)) if *known == digest => (digest, id.clone()),
            _ => (digest, self.ids.next()),
        }
    }

    fn request(&self, id: String, parcel: &Parcel) -> Request {
        let now = UInt::try_from(self.clock.now().0).unwrap_or(UInt::MAX);
        let mut request = Request::new(
            OwnedTransactionId::from(id),
            self.ours.clone(),
            MilliSecondsSinceUnixEpoch(now),
        );
        let pdus = parcel.page.items.iter();
        request.pdus = pdus.filter_map(|item| raw(&item.event.json)).collect();
        let edus = parcel.edus.iter().filter_map(|edu| raw(edu));
        request.edus = edus.map(Raw::<Edu>::from_json).collect();
        request
    }

    /// How far a parcel reaches.
    fn told(&self, job: &Job, parcel: Parcel, sent: bool) -> Told {
        let lapse = self.lapse(job, &parcel);
        let mut told = Told {
            mark: parcel.page.mark,
            beside: parcel.bundle.upto,
            parcels: parcel.bundle.parcels,
            rest: parcel.page.rest,
            more_beside: parcel.bundle.more || !parcel.bundle.overflow.is_empty(),
            sent,
            ..Told::default()
        };
        told.writes.extend(lapse);
        let at = self.clock.now();
        let withheld = parcel.page.withheld.into_iter();
        told.writes.extend(withheld.map(|entries| {
            Write::Outbox(OutboxWrite::Withheld {
                server: job.record.server.clone(),
                room: entries.room,
                from: entries.from,
                to: entries.to,
                at,
            })
        }));
        let overflow = parcel.bundle.overflow.into_iter();
        told.writes.extend(overflow.map(|edu| Write::Parcel {
            to: job.record.server.clone(),
            edu,
            at,
        }));
        told
    }

    fn lapse(&self, job: &Job, parcel: &Parcel) -> Option<Write> {
        let to = parcel.lapsed?;
        count("expired", parcel.lapsed_events);
        let server = job.record.server.clone();
        tracing::warn!(%server, "what was for a server that is not reached has expired");
        Some(Write::Outbox(OutboxWrite::Expired {
            server,
            from: job.record.mark,
            to,
            at: self.clock.now(),
        }))
    }

    fn accepted(&self, job: &Job, parcel: Parcel, answer: &Response) -> Outcome {
        let items = parcel.page.items.len();
        let mut refusals = Vec::new();
        for (event, outcome) in &answer.pdus {
            if let Err(reason) = outcome
                && let Some(item) = item_of(&parcel.page.items, event)
            {
                refusals.push(self.refusal(job, item, reason));
            }
        }
        count("taken", items.saturating_sub(refusals.len()));
        let mut told = self.told(job, parcel, true);
        told.writes.extend(refusals);
        Outcome::Told(told)
    }

    fn refusal(&self, job: &Job, item: &Item, reason: &str) -> Write {
        let server = job.record.server.clone();
        tracing::info!(%server, event = %event_id(item.event.hash), reason, "a server refused an event");
        count("refused", 1);
        Write::Outbox(OutboxWrite::Refused {
            server,
            room: item.at.room,
            seq: item.at.seq,
            reason: reason.chars().take(REASON_CHARS_MAX).collect(),
            at: self.clock.now(),
        })
    }

    /// A whole transaction was refused: the half of it, and in the end the one item that it is about.
    fn refused(&self, job: &Job, parcel: Parcel, error: &RemoteError) -> Outcome {
        counted("refused");
        let items = parcel.page.items.len();
        if items + parcel.edus.len() > 1 {
            let most = items.max(parcel.edus.len()).min(job.width);
            return Outcome::Narrow((most / 2).max(1));
        }
        let refusal = parcel.page.items.first();
        let refusal = refusal.map(|item| self.refusal(job, item, &error.to_string()));
        if refusal.is_none() {
            tracing::info!(server = %job.record.server, %error, "a server refused an EDU");
        }
        let mut told = self.told(job, parcel, true);
        told.was_refused = true;
        told.writes.extend(refusal);
        Outcome::Told(told)
    }

    fn failed(
        &self,
        job: &Job,
        parcel: Parcel,
        error: Trouble,
        txn: ([u8; 32], String),
    ) -> Outcome {
        counted("failed");
        let lapse = self.lapse(job, &parcel);
        let parcels = parcel.bundle.expired;
        let is_some = lapse.is_some() || parcels.is_some();
        let expired = is_some.then(|| Told {
            mark: parcel.lapsed.unwrap_or(job.record.mark),
            parcels,
            writes: lapse.into_iter().collect(),
            ..Told::default()
        });
        Outcome::Failed {
            error,
            txn: Some(txn),
            is_theirs: true,
            expired,
        }
    }
}

fn item_of<'a>(items: &'a [Item], event: &OwnedEventId) -> Option<&'a Item> {
    items
        .iter()
        .find(|item| event_id(item.event.hash) == *event)
}

fn raw(json: &str) -> Option<Box<RawValue>> {
    // What is stored was JSON when it was signed or built.
    RawValue::from_string(json.to_owned()).ok()
}

/// Whether a transaction will be refused however often it is sent. Who may not speak, is too fast or
/// asked something that is no Matrix server may be right another time.
fn is_about_content(error: &RemoteError) -> bool {
    const MAY_CHANGE: [u16; 8] = [401, 403, 404, 405, 408, 421, 425, 429];
    matches!(error, RemoteError::Refused { status, .. }
        if (400..500).contains(status) && !MAY_CHANGE.contains(status))
}

fn counted(outcome: &'static str) {
    metrics::counter!("tramline_outbox_transactions_total", "outcome" => outcome).increment(1);
}

fn count(outcome: &'static str, items: usize) {
    let items = u64::try_from(items).unwrap_or(u64::MAX);
    metrics::counter!("tramline_outbox_events_total", "outcome" => outcome).increment(items);
}

/// How long a server may take for a transaction, unless the settings say otherwise: it may have to
/// ask others first.
pub(in crate::hub) const PATIENCE: Duration = Duration::from_mins(1);
