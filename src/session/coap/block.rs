//! Bodies in pieces, as a server sees them: request bodies being gathered, response bodies kept
//! for their later blocks. Both are found by everything that identifies the request.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    alarms::Alarms,
    config::{
        IDLE_BEFORE_EVICTION_SECS, KEPT_BYTES_PER_PEER_MAX, KEPT_BYTES_TOTAL_MAX,
        KEPT_PER_PEER_MAX, UPLOAD_BYTES_TOTAL_MAX, UPLOADS_PER_PEER_MAX,
    },
    key::{BodyKey, RequestKey},
    types::Peer,
};
use crate::{
    base::Timestamp,
    wire::coap::{Block, Code, Options, Szx},
};

const IDLE: Duration = Duration::from_secs(IDLE_BEFORE_EVICTION_SECS);

/// Request bodies of which blocks are missing.
#[derive(Debug)]
pub(super) struct Uploads<P> {
    by_key: BTreeMap<(P, RequestKey), Upload>,
    /// When each is given up; all wait equally long, so the first is the idlest.
    expiry: Alarms<(P, RequestKey)>,
    bytes: usize,
}

#[derive(Debug)]
struct Upload {
    body: Vec<u8>,
    touched: Timestamp,
}

/// What became of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// It fits; more are to come.
    Partly,
    /// The body is whole.
    Whole(Vec<u8>),
}

/// Why a block is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockRefusal {
    /// Not the next one of anything we have: 4.08.
    Gap,
    /// Its length is not the block size it states: 4.00.
    Length,
    /// The body passes the ceiling: 4.13.
    TooLarge,
    /// No room for another body now: 5.03.
    Full,
}

impl<P: Peer> Uploads<P> {
    pub(super) const fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            expiry: Alarms::new(),
            bytes: 0,
        }
    }

    /// Adds a block. Blocks must come in order; one that is already there is taken again.
    ///
    /// spec: rfc7959 §2.5
    pub(super) fn gather(
        &mut self,
        now: Timestamp,
        lifetime: Duration,
        key: &(P, RequestKey),
        block: Block,
        payload: &[u8],
        bytes_max: usize,
    ) -> Result<Gathered, BlockRefusal> {
        let wrong_length = if block.more() {
            payload.len() != block.szx().bytes()
        } else {
            payload.len() > block.szx().bytes()
        };
        if wrong_length {
            return Err(BlockRefusal::Length);
        }
        if block.offset().saturating_add(payload.len()) > bytes_max {
            self.drop(key);
            return Err(BlockRefusal::TooLarge);
        }
        if block.num() == 0 {
            // A client that starts over, with the same tag or none, means the new body.
            self.drop(key);
            if !block.more() {
                return Ok(Gathered::Whole(payload.to_vec()));
            }
            self.make_room(now, &key.0)?;
            self.by_key.insert(
                key.clone(),
                Upload {
                    body: Vec::new(),
                    touched: now,
                },
            );
        }
        let upload = self.by_key.get_mut(key).ok_or(BlockRefusal::Gap)?;
        if block.offset() != upload.body.len() {
            let again = upload
                .body
                .get(block.offset()..block.offset().saturating_add(payload.len()));
            let is_again = block.more() && again == Some(payload);
            return if is_again {
                Ok(Gathered::Partly)
            } else {
                Err(BlockRefusal::Gap)
            };
        }
        if self.bytes.saturating_add(payload.len()) > UPLOAD_BYTES_TOTAL_MAX {
            self.drop(key);
            return Err(BlockRefusal::Full);
        }
        upload.body.extend_from_slice(payload);
        upload.touched = now;
        self.bytes += payload.len();
        self.expiry.set(key.clone(), now + lifetime);
        if block.more() {
            return Ok(Gathered::Partly);
        }
        let body = self.drop(key).expect("the body was just extended");
        Ok(Gathered::Whole(body))
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.expiry.next()
    }

    pub(super) fn forget_expired(&mut self, now: Timestamp) {
        while let Some(key) = self.expiry.pop_due(now) {
            self.drop(&key);
        }
    }

    fn drop(&mut self, key: &(P, RequestKey)) -> Option<Vec<u8>> {
        self.expiry.clear(key);
        let upload = self.by_key.remove(key)?;
        self.bytes -= upload.body.len();
        Some(upload.body)
    }

    /// A peer's own oldest upload makes way for its next; others' only when idle.
    fn make_room(&mut self, now: Timestamp, peer: &P) -> Result<(), BlockRefusal> {
        let range = (peer.clone(), RequestKey::FIRST)..=(peer.clone(), RequestKey::LAST);
        let own: Vec<_> = self
            .by_key
            .range(range)
            .map(|(key, _)| key.clone())
            .collect();
        if own.len() >= UPLOADS_PER_PEER_MAX
            && let Some(oldest) = own.into_iter().min_by_key(|key| self.expiry.at(key))
        {
            self.drop(&oldest);
        }
        // The exact sum is held to block by block.
        while self.bytes >= UPLOAD_BYTES_TOTAL_MAX {
            let idlest = self.expiry.first().map(|(_, key)| key.clone());
            let idlest = idlest.ok_or(BlockRefusal::Full)?;
            let touched = self.by_key.get(&idlest).map(|upload| upload.touched);
            if touched.is_some_and(|touched| now.since(touched) < IDLE) {
                return Err(BlockRefusal::Full);
            }
            self.drop(&idlest);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.by_key.len(), self.bytes)
    }
}

/// A response body and what its blocks say besides it. Never changed, only replaced.
#[derive(Clone, Debug)]
pub(super) struct Representation {
    pub(super) code: Code,
    /// With `ETag`, without block options.
    pub(super) options: Options,
    pub(super) body: Bytes,
}

impl Representation {
    /// The block that starts at `offset`, and its bytes; none past the end.
    pub(super) fn block(&self, offset: usize, szx: Szx) -> Option<(Block, Bytes)> {
        if offset >= self.body.len() && offset > 0 {
            return None;
        }
        let end = offset.saturating_add(szx.bytes()).min(self.body.len());
        let block = Block::at(offset, end < self.body.len(), szx)?;
        Some((block, self.body.slice(offset..end)))
    }
}

/// Which response body: whose, to what, with which request body.
pub(super) type KeptKey<P> = (P, RequestKey, BodyKey);

/// Response bodies of which blocks may still be asked for.
#[derive(Debug)]
pub(super) struct Kept<P> {
    by_key: BTreeMap<KeptKey<P>, KeptBody>,
    expiry: Alarms<KeptKey<P>>,
    bytes: usize,
}

#[derive(Debug)]
struct KeptBody {
    representation: Representation,
    last_block_served: bool,
    touched: Timestamp,
}

/// There is no room for another body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeptFull;

impl<P: Peer> Kept<P> {
    pub(super) const fn new() -> Self {
        Self {
            by_key: BTreeMap::new(),
            expiry: Alarms::new(),
            bytes: 0,
        }
    }

    /// Keeps a body in place of any older one of the same request.
    pub(super) fn keep(
        &mut self,
        now: Timestamp,
        lifetime: Duration,
        key: KeptKey<P>,
        representation: Representation,
    ) -> Result<(), KeptFull> {
        self.drop(&key);
        self.make_room_for(&key.0, representation.body.len());
        while self.bytes.saturating_add(representation.body.len()) > KEPT_BYTES_TOTAL_MAX {
            let oldest = self
                .expiry
                .first()
                .map(|(_, key)| key.clone())
                .ok_or(KeptFull)?;
            let touched = self.by_key.get(&oldest).map(|kept| kept.touched);
            if touched.is_some_and(|touched| now.since(touched) < IDLE) {
                return Err(KeptFull);
            }
            self.drop(&oldest);
        }
        self.bytes += representation.body.len();
        self.expiry.set(key.clone(), now + lifetime);
        let kept = KeptBody {
            representation,
            last_block_served: false,
            touched: now,
        };
        self.by_key.insert(key, kept);
        Ok(())
    }

    /// Forgets the body of a request that was answered anew (lb served stale ones: defect 11).
    pub(super) fn drop(&mut self, key: &KeptKey<P>) {
        self.expiry.clear(key);
        if let Some(kept) = self.by_key.remove(key) {
            self.bytes -= kept.representation.body.len();
        }
    }

    /// The body a later block is asked of. A request that repeats its payload names it exactly.
    /// One that leaves it out (RFC 7959 §2.7 lets it) means the one transfer that is under way;
    /// when several are, we do not guess.
    pub(super) fn find(
        &self,
        peer: &P,
        request: RequestKey,
        payload: &[u8],
    ) -> Option<(KeptKey<P>, Representation)> {
        let exact = (peer.clone(), request, BodyKey::of(payload));
        let key = if self.by_key.contains_key(&exact) {
            exact
        } else if payload.is_empty() {
            let first = (peer.clone(), request, BodyKey::FIRST);
            let last = (peer.clone(), request, BodyKey::LAST);
            let mut all: Vec<_> = self.by_key.range(first..=last).collect();
            if all.iter().any(|(_, kept)| !kept.last_block_served) {
                all.retain(|(_, kept)| !kept.last_block_served);
            } else {
                all.sort_by_key(|(_, kept)| kept.touched);
                all.drain(..all.len().saturating_sub(1));
            }
            match all.as_slice() {
                [(key, _)] => (*key).clone(),
                _ => return None,
            }
        } else {
            return None;
        };
        let representation = self.by_key.get(&key)?.representation.clone();
        Some((key, representation))
    }

    /// Notes that a block was served.
    pub(super) fn served(
        &mut self,
        now: Timestamp,
        lifetime: Duration,
        key: &KeptKey<P>,
        more: bool,
    ) {
        if let Some(kept) = self.by_key.get_mut(key) {
            kept.touched = now;
            kept.last_block_served |= !more;
            self.expiry.set(key.clone(), now + lifetime);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.expiry.next()
    }

    pub(super) fn forget_expired(&mut self, now: Timestamp) {
        while let Some(key) = self.expiry.pop_due(now) {
            self.drop(&key);
        }
    }

    /// A peer's own oldest bodies make way for its next.
    fn make_room_for(&mut self, peer: &P, bytes: usize) {
        let first = (peer.clone(), RequestKey::FIRST, BodyKey::FIRST);
        let last = (peer.clone(), RequestKey::LAST, BodyKey::LAST);
        let own = self.by_key.range(first..=last);
        let mut own: Vec<_> = own
            .map(|(key, kept)| (kept.touched, key.clone(), kept.representation.body.len()))
            .collect();
        own.sort();
        let mut held: usize = own.iter().map(|(_, _, bytes)| bytes).sum();
        let mut count = own.len();
        for (_, key, freed) in own {
            if count < KEPT_PER_PEER_MAX && held.saturating_add(bytes) <= KEPT_BYTES_PER_PEER_MAX {
                break;
            }
            self.drop(&key);
            held -= freed;
            count -= 1;
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.by_key.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(247);
    const NOW: Timestamp = Timestamp(1_000_000);

    fn key(path: &str) -> (&'static str, RequestKey) {
        let options = Options::new().with(11, path);
        ("ana", RequestKey::of(Code::PUT, &options))
    }

    fn block(num: u32, more: bool) -> Block {
        Block::new(num, more, Szx::MIN).unwrap()
    }

    #[test]
    fn blocks_in_order_make_a_body_and_a_gap_is_refused() {
        let mut uploads = Uploads::new();
        let mut add = |num, more, bytes: &[u8]| {
            uploads.gather(NOW, LIFETIME, &key("a"), block(num, more), bytes, 100)
        };

        assert_eq!(add(1, true, &[1; 16]), Err(BlockRefusal::Gap));
        assert_eq!(add(0, true, &[0; 16]), Ok(Gathered::Partly));
        assert_eq!(add(2, true, &[2; 16]), Err(BlockRefusal::Gap));
        assert_eq!(add(0, true, &[0; 15]), Err(BlockRefusal::Length));
        assert_eq!(add(1, true, &[1; 16]), Ok(Gathered::Partly));
        assert_eq!(
            add(1, true, &[1; 16]),
            Ok(Gathered::Partly),
            "the same block again"
        );
        assert_eq!(
            add(1, true, &[9; 16]),
            Err(BlockRefusal::Gap),
            "other bytes"
        );
        let whole = [vec![0; 16], vec![1; 16], vec![2; 3]].concat();
        assert_eq!(add(2, false, &[2; 3]), Ok(Gathered::Whole(whole)));
        assert_eq!(uploads.len(), (0, 0));
    }

    #[test]
    fn uploads_to_two_paths_are_two_bodies() {
        let mut uploads = Uploads::new();
        for path in ["a", "b"] {
            let bytes = [path.as_bytes()[0]; 16];
            uploads
                .gather(NOW, LIFETIME, &key(path), block(0, true), &bytes, 100)
                .unwrap();
        }
        let whole = uploads.gather(NOW, LIFETIME, &key("a"), block(1, false), b"!", 100);

        assert_eq!(whole, Ok(Gathered::Whole(b"aaaaaaaaaaaaaaaa!".to_vec())));
        uploads.forget_expired(NOW + LIFETIME);
        assert_eq!(uploads.len(), (0, 0));
    }

    #[test]
    fn a_body_above_the_ceiling_is_refused_and_forgotten() {
        let mut uploads = Uploads::new();
        uploads
            .gather(NOW, LIFETIME, &key("a"), block(0, true), &[0; 16], 20)
            .unwrap();

        let refusal = uploads.gather(NOW, LIFETIME, &key("a"), block(1, true), &[0; 16], 20);

        assert_eq!(refusal, Err(BlockRefusal::TooLarge));
        assert_eq!(uploads.len(), (0, 0));
    }

    #[test]
    fn a_peer_holds_few_uploads_and_its_oldest_goes_first() {
        let mut uploads = Uploads::new();
        for n in 0..10_u64 {
            let now = NOW + Duration::from_secs(n);
            let path = n.to_string();
            uploads
                .gather(now, LIFETIME, &key(&path), block(0, true), &[0; 16], 100)
                .unwrap();
        }

        assert_eq!(
            uploads.len(),
            (UPLOADS_PER_PEER_MAX, UPLOADS_PER_PEER_MAX * 16)
        );
        let last = uploads.gather(NOW, LIFETIME, &key("9"), block(1, false), &[], 100);
        assert!(matches!(last, Ok(Gathered::Whole(_))));
    }

    fn representation(byte: u8) -> Representation {
        Representation {
            code: Code::CONTENT,
            options: Options::new(),
            body: Bytes::from(vec![byte; 40]),
        }
    }

    #[test]
    fn a_request_without_its_payload_finds_the_one_transfer_under_way() {
        let mut kept = Kept::new();
        let (peer, request) = key("fetch");
        let one = (peer, request, BodyKey::of(b"one"));
        let two = (peer, request, BodyKey::of(b"two"));
        kept.keep(NOW, LIFETIME, one, representation(1)).unwrap();
        assert_eq!(kept.find(&peer, request, b"").unwrap().0, one);
        kept.keep(NOW, LIFETIME, two, representation(2)).unwrap();

        assert!(
            kept.find(&peer, request, b"").is_none(),
            "two are under way"
        );
        assert_eq!(kept.find(&peer, request, b"one").unwrap().0, one);
        assert!(kept.find(&peer, request, b"three").is_none());
        assert!(kept.find(&"bob", request, b"one").is_none());
        kept.served(NOW, LIFETIME, &one, false);
        assert_eq!(kept.find(&peer, request, b"").unwrap().0, two);
    }

    #[test]
    fn a_representation_is_cut_at_its_end() {
        let whole = representation(1);

        let (block, bytes) = whole.block(32, Szx::MIN).unwrap();
        assert_eq!((block.num(), block.more(), bytes.len()), (2, false, 8));
        assert!(whole.block(48, Szx::MIN).is_none());
        assert!(whole.block(33, Szx::MIN).is_none());
    }
}
