//! What a command cost, for people and for programs.

use serde_json::{Value as Json, json};

use crate::client::{Client, Cost};

/// What a client has exchanged with its hub so far.
pub(super) struct Spent {
    cost: Cost,
    over_udp: bool,
    /// Whether IP and UDP headers are in it.
    with_headers: bool,
    is_send: bool,
}

/// What sending a text of 22 characters and its answer take over HTTP/2 with JSON, in bytes with
/// TLS, TCP and IP headers: measured with nginx, HPACK warm (the README's table of bytes).
const HTTP2_SEND_BYTES: u64 = 872;

impl Spent {
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
            is_send: false,
        }
    }

    /// The same, to be compared with what others take for a message.
    pub(super) const fn of_send(mut self, is_send: bool) -> Self {
        self.is_send = is_send;
        self
    }

    const fn is_compared(&self) -> bool {
        self.is_send && self.with_headers
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
        let headers = if self.with_headers {
            ", IP and UDP headers included"
        } else {
            ""
        };
        let beside = if self.is_compared() {
            format!("; HTTP/2 with JSON takes {HTTP2_SEND_BYTES} for 22 characters")
        } else {
            String::new()
        };
        format!(
            "cost: {up} bytes up, {down} down, {datagrams} datagram{plural}{tcp}{headers}{beside}"
        )
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
            is_send: true,
        });

        assert_eq!(coap.line(), "cost: 120 bytes up, 43 down, 3 datagrams");
        let field = json!({"bytes_up": 120, "bytes_down": 43, "datagrams": 3});
        assert_eq!(coap.json(), field);
        assert_eq!(
            https.line(),
            "cost: 120 bytes up, 43 down, 0 datagrams (TCP, TLS included)"
        );
    }
}
