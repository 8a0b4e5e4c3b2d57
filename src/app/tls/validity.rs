//! When a certificate counts: its `Validity`, and no more of it (RFC 5280 §4.1.2.5).
//!
//! Whether the certificate is good for a name is rustls' to say; it does not tell when it ends.

use crate::base::Timestamp;

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: Timestamp,
    /// Not after.
    pub until: Timestamp,
}

/// Reads it from a certificate in DER; nothing where that is no certificate.
pub fn validity(certificate: &[u8]) -> Option<Validity> {
    let (body, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(body, SEQUENCE)?;
    if let Some((_, after)) = element(rest, VERSION) {
        rest = after;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, rest) = element(rest, tag)?; // serial number, algorithm, issuer
    }
    let (times, _) = element(rest, SEQUENCE)?;
    let (from, rest) = time(times)?;
    let (until, _) = time(rest)?;
    Some(Validity { from, until })
}

/// Whether a certificate names itself as who issued it.
pub fn is_self_issued(certificate: &[u8]) -> bool {
    names(certificate).is_some_and(|(issuer, subject)| issuer == subject)
}

fn names(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (body, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(body, SEQUENCE)?;
    if let Some((_, after)) = element(rest, VERSION) {
        rest = after;
    }
    for tag in [INTEGER, SEQUENCE] {
        (_, rest) = element(rest, tag)?; // serial number, algorithm
    }
    let (issuer, rest) = element(rest, SEQUENCE)?;
    let (_, rest) = element(rest, SEQUENCE)?; // validity
    let (subject, _) = element(rest, SEQUENCE)?;
    Some((issuer, subject))
}

/// What is in the element that stands first, if it has this tag, and what is behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    if *found != tag {
        return None;
    }
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..=0x7f => (short, rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
            if bytes.len() > LENGTH_BYTES_MAX {
                return None;
            }
            let length = bytes
                .iter()
                .fold(0, |n, byte| (n << 8) | usize::from(*byte));
            (length, rest)
        }
    };
    rest.split_at_checked(length)
}

fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (text, years, rest) = if let Some((text, rest)) = element(der, UTC_TIME) {
        (text, 2, rest)
    } else {
        let (text, rest) = element(der, GENERALIZED_TIME)?;
        (text, 4, rest)
    };
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, text) = text.split_at_checked(years)?;
    let year: u64 = year.parse().ok()?;
    let year = match (years, year) {
        (2, 0..50) => 2000 + year,
        (2, _) => 1900 + year,
        _ => year,
    };
    let two = |at: usize| text.get(at..at + 2)?.parse::<u64>().ok();
    let (month, day) = (two(0)?, two(2)?);
    let (hour, minute, second) = (two(4)?, two(6)?, two(8)?);
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month);
    if !is_date || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // days since 1 March of the year 0, whose leap day is the last of a year
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(DAYS_TO_1970)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some((Timestamp(seconds * 1000), rest))
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Of a length: no certificate has more than 16 MiB.
const LENGTH_BYTES_MAX: usize = 3;

/// From 1 March of the year 0 to 1 January 1970, in days.
const DAYS_TO_1970: u64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_from_when_to_when_it_counts() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let made = params.self_signed(&key).unwrap();

        let found = validity(made.der()).unwrap();

        assert_eq!(found.from.rfc3339(), "2024-02-29T00:00:00Z");
        assert_eq!(found.until.rfc3339(), "2051-01-01T00:00:00Z");
    }

    #[test]
    fn a_certificate_of_an_authority_did_not_issue_itself() {
        let authority = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let name = rcgen::DnType::CommonName;
        params.distinguished_name.push(name.clone(), "authority");
        let issuer = rcgen::Issuer::new(params, authority);
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name.push(name, "hub");
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &issuer).unwrap();

        assert!(!is_self_issued(made.der()) && validity(made.der()).is_some());
    }

    #[test]
    fn what_is_cut_short_is_no_certificate() {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        let der = made.cert.der();
        assert!(validity(der).is_some() && is_self_issued(der));
        for length in 0..der.len().min(80) {
            let cut = der.get(..length).unwrap_or_default();
            assert!(validity(cut).is_none() && !is_self_issued(cut), "{length}");
        }
    }
}
