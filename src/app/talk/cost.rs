//! What a command cost, for people and for programs.

use serde_json::{Value as Json, json};

use crate::client::{Client, Cost, thin::ThinDoor};

/// What a client has exchanged with its hub so far.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts about a cost, none of which follows from the others"
)]
pub(super) struct Spent {
    cost: Cost,
    over_udp: bool,
    /// Whether IP and UDP headers are in it.
    with_headers: bool,
    is_short_send: bool,
    has_handshake: bool,
}

/// What sending a text of 22 characters and its answer take over HTTP/2 with JSON, in bytes with
/// TLS, TCP and IP headers: measured with nginx, HPACK warm (the README's table of bytes).
const HTTP2_SEND_BYTES: u64 = 872;

/// Texts of so many bytes are compared with that one of 22 characters.
pub(super) const COMPARED_BYTES_MAX: usize = 40;

/// In what costs more than this, a handshake is no longer what makes it dear.
const HANDSHAKE_TOLD_BELOW_BYTES: u64 = 20_000;

impl Spent {
    /// What a linked device has exchanged in this run.
    pub(super) fn of(door: &ThinDoor) -> Self {
        let spent = door.spent();
        Self {
            cost: Cost {
                up: spent.up,
                down: spent.down,
                datagrams_up: spent.datagrams_up,
                datagrams_down: spent.datagrams_down,
            },
            over_udp: true,
            with_headers: true,
            is_short_send: false,
            has_handshake: false,
        }
    }

    pub(super) fn by(client: &Client) -> Self {
        let cost = match client.spent_on_the_wire() {
            None => client.ledger().total(),
            Some(line) => Cost {
                up: line.up,
                down: line.down,
                datagrams_up: line.datagrams_up,
                datagrams_down: line.datagrams_down,
            },
        };
        Self {
            cost,
            over_udp: client.is_over_udp(),
            with_headers: client.spent_on_the_wire().is_some(),
            is_short_send: false,
            has_handshake: client.is_over_quic(),
        }
    }

    /// The same, to be compared with what others take for a message: one that was sent, about as short as
    /// theirs, over OSCORE with nothing else in the price.
    pub(super) const fn of_short_send(mut self, is_short_send: bool) -> Self {
        self.is_short_send = is_short_send;
        self
    }

    const fn is_compared(&self) -> bool {
        self.is_short_send
            && self.with_headers
            && self.cost.datagrams_up == 1
            && self.cost.datagrams_down == 1
    }

    /// What a handshake for one command costs beside it, if there was one.
    const fn hint(&self) -> &'static str {
        if self.has_handshake && self.cost.up + self.cost.down < HANDSHAKE_TOLD_BELOW_BYTES {
            "; over QUIC each command has a handshake of about 4.4 kB in it: --door oscore has none"
        } else {
            ""
        }
    }

    /// What was spent after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            cost: self.cost - earlier.cost,
            ..*self
        }
    }

    /// Over TCP there are no datagrams to count: the system cuts the stream as it likes.
    fn datagrams(&self) -> u64 {
        if self.over_udp {
            self.cost.datagrams_up + self.cost.datagrams_down
        } else {
            0
        }
    }

    pub(super) fn line(&self) -> String {
        let Cost { up, down, .. } = self.cost;
        let carried = match (self.over_udp, self.datagrams()) {
            (false, _) => " over TCP, TLS included".to_owned(),
            (true, 1) => ", 1 datagram".to_owned(),
            (true, datagrams) => format!(", {datagrams} datagrams"),
        };
        let headers = if self.with_headers {
            ", IP and UDP headers included"
        } else {
            ""
        };
        let beside = if self.is_compared() {
            format!("; HTTP/2 with JSON takes {HTTP2_SEND_BYTES} for 22 characters")
        } else {
            self.hint().to_owned()
        };
        format!("cost: {up} bytes up, {down} down{carried}{headers}{beside}")
    }

    pub(super) fn json(&self) -> Json {
        let Cost { up, down, .. } = self.cost;
        let mut cost = json!({"bytes_up": up, "bytes_down": down, "datagrams": self.datagrams()});
        if let (true, Some(cost)) = (self.is_compared(), cost.as_object_mut()) {
            cost.insert("bytes_over_http2".to_owned(), HTTP2_SEND_BYTES.into());
        }
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_a_line_and_a_field_and_tcp_has_no_datagrams() {
        let cost = Cost {
            up: 120,
            down: 43,
            datagrams_up: 2,
            datagrams_down: 1,
        };
        let [coap, https] = [true, false].map(|over_udp| Spent {
            cost,
            over_udp,
            with_headers: false,
            is_short_send: true,
            has_handshake: false,
        });

        assert_eq!(coap.line(), "cost: 120 bytes up, 43 down, 3 datagrams");
        let field = json!({"bytes_up": 120, "bytes_down": 43, "datagrams": 3});
        assert_eq!(coap.json(), field);
        assert_eq!(
            https.line(),
            "cost: 120 bytes up, 43 down over TCP, TLS included"
        );
    }

    #[test]
    fn the_handshake_is_not_blamed_for_what_a_file_costs() {
        for (up, is_blamed) in [(4400, true), (128_000, false)] {
            let cost = Cost {
                up,
                ..Cost::default()
            };
            let spent = Spent {
                cost,
                over_udp: true,
                with_headers: true,
                is_short_send: false,
                has_handshake: true,
            };
            assert_eq!(spent.line().contains("handshake"), is_blamed);
        }
    }

    #[test]
    fn only_a_short_message_that_went_alone_is_compared() {
        let spent = |datagrams_up, is_short_send| Spent {
            cost: Cost {
                up: 74,
                down: 46,
                datagrams_up,
                datagrams_down: 1,
            },
            over_udp: true,
            with_headers: true,
            is_short_send,
            has_handshake: false,
        };
        for (spent, is_compared) in [
            (spent(1, true), true),
            (spent(1, false), false), // long, or not sent
            (spent(3, true), false),
        ] {
            assert_eq!(spent.line().contains("HTTP/2"), is_compared);
            assert_eq!(spent.json()["bytes_over_http2"].is_u64(), is_compared);
        }
    }
}
