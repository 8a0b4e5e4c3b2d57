//! What the lab shows while it runs, on stderr: three lines that renew themselves each second on a
//! terminal, elsewhere one plain line every ten seconds.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    app::output::{self, Format},
    session::lab::{Direction, Link, Micros, Rate, Stats, quantity::ShownRate},
};

/// Who watches, and what was shown last.
pub(super) struct Display {
    kind: Kind,
    last: Last,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Renewed in place.
    Live,
    /// A line each time.
    Plain,
}

/// A client, and the port that the hub sees for it.
pub(super) type Mapping = (SocketAddr, u16);

/// Lines are cut here: one that wraps could not be renewed in place.
const COLUMNS_MAX: usize = 79;

/// What the rates are counted from.
#[derive(Default)]
struct Last {
    elapsed: Duration,
    up_bytes: u64,
    down_bytes: u64,
    was_shown: bool,
}

impl Display {
    /// For whoever stderr belongs to; a program that reads JSON gets the plain kind.
    pub(super) fn new(format: Format) -> Self {
        let is_live = format == Format::Text && io::stderr().is_terminal();
        Self {
            kind: if is_live { Kind::Live } else { Kind::Plain },
            last: Last::default(),
        }
    }

    /// How often to show.
    pub(super) const fn every(&self) -> Duration {
        match self.kind {
            Kind::Live => Duration::from_secs(1),
            Kind::Plain => Duration::from_secs(10),
        }
    }

    /// Shows how things stand.
    pub(super) fn show(
        &mut self,
        link: &mut Link<SocketAddr>,
        elapsed: Duration,
        newest: Option<Mapping>,
    ) {
        let text = self.text(link, elapsed, newest);
        output::note(&text);
    }

    fn text(
        &mut self,
        link: &mut Link<SocketAddr>,
        elapsed: Duration,
        newest: Option<Mapping>,
    ) -> String {
        let span = elapsed.saturating_sub(self.last.elapsed);
        let (up, down) = (*link.stats(Direction::Up), *link.stats(Direction::Down));
        let now = Micros::ZERO + elapsed;
        let waits = [Direction::Up, Direction::Down].map(|way| link.waiting_bytes(now, way));
        let bytes = [up, down].map(|stats| stats.delivered.bytes_with_headers);
        let rates = [
            rate(bytes[0].saturating_sub(self.last.up_bytes), span),
            rate(bytes[1].saturating_sub(self.last.down_bytes), span),
        ];
        let lines = [
            lane("up  ", &up, rates[0], waits[0]),
            lane("down", &down, rates[1], waits[1]),
            nat(link, elapsed, newest),
        ];
        let text = match self.kind {
            Kind::Plain => format!("lab: {}", lines.join(" | ")),
            Kind::Live => {
                let back = if self.last.was_shown { "\x1b[3A" } else { "" };
                let cleared = lines.map(|line| {
                    let cut: String = line.chars().take(COLUMNS_MAX).collect();
                    format!("\x1b[2K{cut}")
                });
                format!("{back}{}", cleared.join("\n"))
            }
        };
        self.last = Last {
            elapsed,
            up_bytes: bytes[0],
            down_bytes: bytes[1],
            was_shown: true,
        };
        text
    }
}

fn rate(bytes: u64, span: Duration) -> Rate {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
    Rate::bits(bytes.saturating_mul(8 * 1000) / ms)
}

fn lane(name: &str, stats: &Stats, rate: Rate, waits: u64) -> String {
    let mut line = format!(
        "{name} {:>10}/s, {waits} B wait, {} in, {} out",
        ShownRate(rate).to_string().replace('-', "0bit"),
        stats.offered.datagrams,
        stats.delivered.datagrams,
    );
    for (cause, tally) in stats.lost.by_cause() {
        if tally.datagrams > 0 {
            write!(line, ", {} {cause}", tally.datagrams).expect("a string takes all");
        }
    }
    line
}

fn nat(link: &Link<SocketAddr>, elapsed: Duration, newest: Option<Mapping>) -> String {
    let mapping = newest.map(|(client, port)| format!(", newest {client} as :{port}"));
    format!(
        "{:>3}:{:02} {} clients{}, {} rebindings, {} wake-ups",
        elapsed.as_secs() / 60,
        elapsed.as_secs() % 60,
        link.clients().count(),
        mapping.unwrap_or_default(),
        link.nat_stats().rebindings,
        link.wakeups(),
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::session::lab::{Origin, Profile};

    fn display(kind: Kind) -> Display {
        Display {
            kind,
            last: Last::default(),
        }
    }

    fn used_link() -> Link<SocketAddr> {
        let mut link = Link::new(Profile::PERFECT, 1);
        let client = "127.0.0.1:4000".parse().unwrap();
        link.offer(
            Micros::ZERO,
            Origin::Client(client),
            Bytes::from(vec![0; 97]),
        );
        link.poll(Micros::ZERO).unwrap();
        link
    }

    #[test]
    fn a_log_gets_one_plain_line() {
        let text = display(Kind::Plain).text(
            &mut used_link(),
            Duration::from_secs(10),
            Some(("127.0.0.1:4000".parse().unwrap(), 5000)),
        );

        assert!(!text.contains(['\n', '\x1b']), "{text}");
        for part in [
            "100bit/s",
            "0bit/s",
            "1 in, 1 out",
            "127.0.0.1:4000 as :5000",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_terminal_gets_lines_that_renew_themselves() {
        let (mut link, mut display) = (used_link(), display(Kind::Live));

        let first = display.text(&mut link, Duration::from_secs(1), None);
        let second = display.text(&mut link, Duration::from_secs(2), None);

        assert_eq!(first.lines().count(), 3);
        assert!(!first.starts_with("\x1b[3A") && second.starts_with("\x1b[3A"));
        assert!(
            second.lines().next().unwrap().contains(" 0bit/s"),
            "{second}"
        );
    }
}
