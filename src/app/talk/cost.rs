//! What a command cost, for people and for programs.

use serde_json::{Value as Json, json};

use crate::client::{Client, Cost};

/// What a client has exchanged with its hub so far.
pub(super) struct Spent {
    cost: Cost,
    over_udp: bool,
}

impl Spent {
    pub(super) fn by(client: &Client) -> Self {
        Self {
            cost: client.ledger().total(),
            over_udp: client.is_over_udp(),
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
        let tcp = if self.over_udp {
            ""
        } else {
            " (TCP, TLS included)"
        };
        let Cost { up, down, .. } = self.cost;
        let datagrams = self.datagrams();
        let plural = if datagrams == 1 { "" } else { "s" };
        format!("cost: {up} bytes up, {down} down, {datagrams} datagram{plural}{tcp}")
    }

    pub(super) fn json(&self) -> Json {
        let Cost { up, down, .. } = self.cost;
        json!({"bytes_up": up, "bytes_down": down, "datagrams": self.datagrams()})
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
        let [coap, https] = [true, false].map(|over_udp| Spent { cost, over_udp });

        assert_eq!(coap.line(), "cost: 120 bytes up, 43 down, 3 datagrams");
        let field = json!({"bytes_up": 120, "bytes_down": 43, "datagrams": 3});
        assert_eq!(coap.json(), field);
        assert_eq!(
            https.line(),
            "cost: 120 bytes up, 43 down, 0 datagrams (TCP, TLS included)"
        );
    }
}
