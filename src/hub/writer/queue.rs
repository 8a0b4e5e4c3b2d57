//! The way to the committer: bounded in batches and in bytes.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc};

use crate::{
    hub::writer::{WriteError, committer::CommitJob},
    store::Batch,
};

/// How many batches wait for the committer; a shard that finds no place waits for one.
pub(super) const BATCHES_MAX: usize = 1024;

/// How many bytes the batches have together that wait or are being stored.
///
/// Four full batches of a shard, each 256 events of 64 KiB; a thousand of them would be 16 GiB. A
/// larger one goes alone.
const BYTES_MAX: u32 = 64 * 1024 * 1024;

/// The sending side.
#[derive(Clone)]
pub(super) struct CommitQueue {
    jobs: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
}

/// A job with the place it takes until it is dropped.
pub(super) struct Queued {
    pub(super) job: CommitJob,
    pub(super) place: OwnedSemaphorePermit,
}

impl CommitQueue {
    /// An empty queue and its receiving side.
    pub(super) fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (jobs, receiver) = mpsc::channel(BATCHES_MAX);
        let bytes = Arc::new(Semaphore::new(BYTES_MAX as usize));
        (Self { jobs, bytes }, receiver)
    }

    /// Waits for a place; fails when the committer is gone.
    pub(super) async fn send(&self, job: CommitJob) -> Result<(), WriteError> {
        let bytes = Arc::clone(&self.bytes);
        let place = bytes.acquire_many_owned(size(&job.batch)).await;
        let place = place.map_err(|_: AcquireError| WriteError::Busy)?;
        let sent = self.jobs.send(Queued { job, place }).await;
        sent.map_err(|_| WriteError::Busy)
    }

    /// The same for who does not wait.
    pub(super) fn try_send(&self, job: CommitJob) -> Result<(), WriteError> {
        let bytes = Arc::clone(&self.bytes);
        let place = bytes.try_acquire_many_owned(size(&job.batch));
        let place = place.map_err(|_: TryAcquireError| WriteError::Busy)?;
        let sent = self.jobs.try_send(Queued { job, place });
        sent.map_err(|_| WriteError::Busy)
    }

    /// How many more batches find a place.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.jobs.capacity()
    }

    /// Whether the committer is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.jobs.is_closed()
    }
}

/// How much of [`BYTES_MAX`] a batch takes.
fn size(batch: &Batch) -> u32 {
    u32::try_from(batch.bytes()).map_or(BYTES_MAX, |bytes| bytes.min(BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::{hub::writer::committer::Source, store::Write};

    fn job(bytes: usize) -> CommitJob {
        let write = Write::Mail {
            user: "@ana:hub.example".try_into().unwrap(),
            device: "PHONE".into(),
            origin: None,
            json: "x".repeat(bytes),
        };
        CommitJob {
            batch: Batch {
                writes: vec![write],
                may_conflict: false,
            },
            source: Source::Desk,
            touched: Vec::new(),
            reply: oneshot::channel().0,
        }
    }

    #[tokio::test]
    async fn batches_that_are_too_many_bytes_together_find_no_place_until_one_is_stored() {
        let (queue, mut jobs) = CommitQueue::new();
        let half = BYTES_MAX as usize / 2;

        queue.try_send(job(half)).unwrap();
        let refused = queue.try_send(job(half)).unwrap_err();

        assert!(matches!(refused, WriteError::Busy), "{refused:?}");
        drop(jobs.recv().await);
        queue.try_send(job(half)).unwrap();
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_ceiling_goes_alone() {
        let (queue, mut jobs) = CommitQueue::new();

        queue.send(job(BYTES_MAX as usize + 1)).await.unwrap();

        assert!(queue.try_send(job(1)).is_err());
        drop(jobs.recv().await);
        queue.try_send(job(1)).unwrap();
    }
}
