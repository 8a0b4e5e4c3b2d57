//! What a client said once and means for its later requests: its token and its key table.
//!
//! MSC3079 ties both to a connection. Whose words are kept, and for how long, is the link's to
//! say: see [`super::link::Link`].

use std::{collections::HashMap, fmt, time::Duration};

use crate::{base::Timestamp, session::coap::Peer};

/// What each peer said last.
pub(super) struct Sticky<P> {
    keep: Keep,
    words: HashMap<P, Said>,
}

/// Of how many, and how long.
#[derive(Clone, Copy, Debug)]
pub(in crate::edge) struct Keep {
    /// How many peers' words are kept.
    pub(in crate::edge) peers_max: usize,
    /// How long after its last use a word is kept.
    pub(in crate::edge) idle_max: Duration,
}

struct Said {
    token: Option<String>,
    key_table: Option<u32>,
    used: Timestamp,
}

/// What a request says, or leaves to what was said before.
#[derive(Clone, Default, PartialEq, Eq)]
pub(in crate::edge) struct Words {
    pub(in crate::edge) token: Option<String>,
    pub(in crate::edge) key_table: Option<u32>,
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…"); // a secret must not reach a log
        write!(f, "Words({token:?}, {:?})", self.key_table)
    }
}

impl<P: Peer> Sticky<P> {
    pub(super) fn new(keep: Keep) -> Self {
        Self {
            keep,
            words: HashMap::new(),
        }
    }

    /// What `said` means, coming from `peer`; the newest word is kept.
    // spec: msc3079 §Access-Tokens
    pub(super) fn meant(&mut self, now: Timestamp, peer: &P, said: Words) -> Words {
        if !self.words.contains_key(peer) {
            if said == Words::default() || !self.has_room(now) {
                return said;
            }
            let nothing = Said {
                token: None,
                key_table: None,
                used: now,
            };
            self.words.insert(peer.clone(), nothing);
        }
        let Some(kept) = self.words.get_mut(peer) else {
            return said;
        };
        if now.since(kept.used) > self.keep.idle_max {
            (kept.token, kept.key_table) = (None, None);
        }
        kept.used = now;
        kept.token = said.token.or_else(|| kept.token.take());
        kept.key_table = said.key_table.or(kept.key_table);
        Words {
            token: kept.token.clone(),
            key_table: kept.key_table,
        }
    }

    /// A full table is swept once; peers in use are not pushed out by new ones.
    fn has_room(&mut self, now: Timestamp) -> bool {
        let Keep {
            peers_max,
            idle_max,
        } = self.keep;
        if self.words.len() >= peers_max {
            self.words
                .retain(|_, kept| now.since(kept.used) <= idle_max);
        }
        self.words.len() < peers_max
    }

    /// The peer is gone.
    pub(super) fn forget(&mut self, peer: &P) {
        self.words.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_000_000);

    const IDLE_MAX: Duration = Duration::from_mins(5);

    fn sticky() -> Sticky<u16> {
        Sticky::new(Keep {
            peers_max: 4,
            idle_max: IDLE_MAX,
        })
    }

    fn token(text: &str) -> Words {
        Words {
            token: Some(text.to_owned()),
            key_table: None,
        }
    }

    #[test]
    fn a_token_is_meant_until_another_is_said_and_for_its_peer_only() {
        let mut sticky = sticky();

        assert_eq!(sticky.meant(T0, &1, token("a")), token("a"));
        assert_eq!(sticky.meant(T0, &1, Words::default()), token("a"));
        assert_eq!(sticky.meant(T0, &2, Words::default()), Words::default());
        assert_eq!(sticky.meant(T0, &1, token("b")), token("b"));
        assert_eq!(sticky.meant(T0, &1, Words::default()), token("b"));
    }

    #[test]
    fn the_key_table_is_remembered_beside_the_token() {
        let mut sticky = sticky();
        sticky.meant(
            T0,
            &1,
            Words {
                token: None,
                key_table: Some(1),
            },
        );

        let meant = sticky.meant(T0, &1, token("a"));

        assert_eq!(
            meant,
            Words {
                token: Some("a".to_owned()),
                key_table: Some(1)
            }
        );
    }

    #[test]
    fn a_peer_that_is_gone_is_forgotten() {
        let mut sticky = sticky();
        sticky.meant(T0, &1, token("a"));

        sticky.forget(&1);

        assert_eq!(sticky.meant(T0, &1, Words::default()), Words::default());
    }

    #[test]
    fn what_was_not_used_for_a_while_is_forgotten() {
        let mut sticky = sticky();
        sticky.meant(T0, &1, token("a"));
        let later = T0 + IDLE_MAX + Duration::from_millis(1);

        assert_eq!(sticky.meant(later, &1, Words::default()), Words::default());
    }

    #[test]
    fn a_full_table_takes_nobody_new_until_somebody_is_idle() {
        let mut sticky = sticky();
        for port in 0..4 {
            sticky.meant(T0, &port, token("a"));
        }

        sticky.meant(T0, &60, token("b"));
        assert_eq!(sticky.meant(T0, &60, Words::default()), Words::default());
        let later = T0 + IDLE_MAX + Duration::from_millis(1);
        sticky.meant(later, &60, token("b"));
        assert_eq!(sticky.meant(later, &60, Words::default()), token("b"));
        assert_eq!(sticky.words.len(), 1);
    }
}
