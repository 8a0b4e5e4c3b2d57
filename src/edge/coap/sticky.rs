//! What a client said once and means for its later requests: its token and its key table.
//!
//! MSC3079 ties both to a connection. Plain UDP has none; the nearest thing is an address and port
//! that nobody else can send from, which holds on loopback only. For peers elsewhere nothing is
//! remembered: they say it in each request. Even on loopback a port changes hands when a program
//! ends, so what is remembered is forgotten soon after its last use.

use std::{collections::HashMap, fmt, net::SocketAddr, time::Duration};

use crate::base::Timestamp;

/// What each peer said last.
#[derive(Default)]
pub(super) struct Sticky(HashMap<SocketAddr, Said>);

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

impl Sticky {
    /// What `said` means, coming from `peer`; the newest word is kept.
    // spec: msc3079 §Access-Tokens
    pub(super) fn meant(&mut self, now: Timestamp, peer: SocketAddr, said: Words) -> Words {
        if !peer.ip().is_loopback() {
            return said;
        }
        if !self.0.contains_key(&peer) {
            if said == Words::default() || !self.has_room(now) {
                return said;
            }
            let nothing = Said {
                token: None,
                key_table: None,
                used: now,
            };
            self.0.insert(peer, nothing);
        }
        let Some(kept) = self.0.get_mut(&peer) else {
            return said;
        };
        if now.since(kept.used) > IDLE_MAX {
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
        if self.0.len() >= PEERS_MAX {
            self.0.retain(|_, kept| now.since(kept.used) <= IDLE_MAX);
        }
        self.0.len() < PEERS_MAX
    }
}

/// How many peers' words are kept: at most a kilobyte each, and a machine has few programs.
const PEERS_MAX: usize = 4096;

/// How long after its last use a word is kept. lb's clients show themselves each minute; a port
/// that was silent for longer may belong to another program.
const IDLE_MAX: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_000_000);

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn token(text: &str) -> Words {
        Words {
            token: Some(text.to_owned()),
            key_table: None,
        }
    }

    #[test]
    fn a_token_is_meant_until_another_is_said_and_for_its_peer_only() {
        let mut sticky = Sticky::default();

        assert_eq!(sticky.meant(T0, peer(1), token("a")), token("a"));
        assert_eq!(sticky.meant(T0, peer(1), Words::default()), token("a"));
        assert_eq!(
            sticky.meant(T0, peer(2), Words::default()),
            Words::default()
        );
        assert_eq!(sticky.meant(T0, peer(1), token("b")), token("b"));
        assert_eq!(sticky.meant(T0, peer(1), Words::default()), token("b"));
    }

    #[test]
    fn the_key_table_is_remembered_beside_the_token() {
        let mut sticky = Sticky::default();
        sticky.meant(
            T0,
            peer(1),
            Words {
                token: None,
                key_table: Some(1),
            },
        );

        let meant = sticky.meant(T0, peer(1), token("a"));

        assert_eq!(
            meant,
            Words {
                token: Some("a".to_owned()),
                key_table: Some(1)
            }
        );
    }

    #[test]
    fn nothing_is_remembered_of_a_peer_that_is_not_on_loopback() {
        let mut sticky = Sticky::default();
        let far = SocketAddr::from(([192, 0, 2, 1], 5683));

        assert_eq!(sticky.meant(T0, far, token("a")), token("a"));
        assert_eq!(sticky.meant(T0, far, Words::default()), Words::default());
    }

    #[test]
    fn what_was_not_used_for_a_while_is_forgotten() {
        let mut sticky = Sticky::default();
        sticky.meant(T0, peer(1), token("a"));
        let later = T0 + IDLE_MAX + Duration::from_millis(1);

        assert_eq!(
            sticky.meant(later, peer(1), Words::default()),
            Words::default()
        );
    }

    #[test]
    fn a_full_table_takes_nobody_new_until_somebody_is_idle() {
        let mut sticky = Sticky::default();
        for port in 0..u16::try_from(PEERS_MAX).unwrap() {
            sticky.meant(T0, peer(port), token("a"));
        }

        sticky.meant(T0, peer(60_000), token("b"));
        assert_eq!(
            sticky.meant(T0, peer(60_000), Words::default()),
            Words::default()
        );
        let later = T0 + IDLE_MAX + Duration::from_millis(1);
        sticky.meant(later, peer(60_000), token("b"));
        assert_eq!(
            sticky.meant(later, peer(60_000), Words::default()),
            token("b")
        );
        assert_eq!(sticky.0.len(), 1);
    }
}
