//! SRV records, and the order in which RFC 2782 wants them tried.

use crate::{
    base::Rng,
    wire::matrix::{Host, Place},
};

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The lowest is tried first.
    pub priority: u16,
    /// How often it is the first among those of its priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host's name, with or without its final dot.
    pub target: String,
}

/// The one record there is says that there is no such service.
pub(super) struct Refused;

/// The places that the records name, in the order to try them in. What names no host is left out.
pub(super) fn in_order(
    mut records: Vec<Record>,
    rng: &mut dyn Rng,
) -> Result<Vec<(Host, u16)>, Refused> {
    if let [only] = records.as_slice()
        && only.target == "."
    {
        return Err(Refused);
    }
    records.truncate(RECORDS_MAX);
    records.sort_by_key(|record| record.priority);
    let mut places = Vec::new();
    while let Some(first) = records.first() {
        let priority = first.priority;
        let equals = records.partition_point(|record| record.priority == priority);
        let chosen = records.remove(chosen(records.get(..equals).unwrap_or_default(), rng));
        if places.len() < PLACES_MAX
            && let Some(host) = host(&chosen.target)
        {
            places.push((host, chosen.port));
        }
    }
    Ok(places)
}

/// Which of these is next: each as often as its weight says.
fn chosen(equals: &[Record], rng: &mut dyn Rng) -> usize {
    let total: u32 = equals.iter().map(|record| u32::from(record.weight)).sum();
    let mut left = rng.next_u32() % (total + 1); // a bias of 2^-12 at most: this spreads load
    for (index, record) in equals.iter().enumerate() {
        let weight = u32::from(record.weight);
        if left <= weight && (weight > 0 || left == 0) {
            return index;
        }
        left = left.saturating_sub(weight);
    }
    0
}

/// A target is a name; an address or a port has no place in it.
fn host(target: &str) -> Option<Host> {
    let place = Place::parse(target.strip_suffix('.').unwrap_or(target)).ok()?;
    match (place.host(), place.port()) {
        (host @ Host::Dns(_), None) => Some(host.clone()),
        _ => None,
    }
}

/// Records that are looked at: an answer may hold thousands.
const RECORDS_MAX: usize = 64;

/// Places that are tried: each costs a look-up and time.
const PLACES_MAX: usize = 4;
