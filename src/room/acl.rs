//! Which servers may take part: `m.room.server_acl`, whose patterns are those of `wire`.
//!
//! Which requests and events are asked about is the caller's; so is a room without such an event, in
//! which everyone may take part.

use std::{net::Ipv4Addr, str::FromStr as _};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};

use crate::wire::matrix::{Glob, Subject};

/// A room's `m.room.server_acl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAcl {
    ip_literals: IpLiterals,
    allow: Vec<Glob>,
    deny: Vec<Glob>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IpLiterals {
    Allowed,
    Denied,
}

/// Why a server may not take part in a room.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AclRefusal {
    /// Its name is an IP address, and the room wants none.
    #[error("the room's server ACL allows no server whose name is an IP address")]
    IpLiteral,
    /// It is on the list of those denied.
    #[error("the room's server ACL denies {0:?}")]
    Denied(Glob),
    /// It is not on the list of those allowed.
    #[error("the room's server ACL does not allow this server")]
    NotAllowed,
}

impl ServerAcl {
    /// Reads the content of the event: what is not of the right type counts as not there.
    pub fn read(content: &CanonicalJsonObject) -> Self {
        let globs = |name: &str| {
            let items = content.get(name).and_then(CanonicalJsonValue::as_array);
            let texts = items.unwrap_or_default().iter();
            texts
                .filter_map(|item| Some(Glob::new(item.as_str()?)))
                .collect()
        };
        Self {
            ip_literals: match content.get("allow_ip_literals") {
                Some(CanonicalJsonValue::Bool(false)) => IpLiterals::Denied,
                _ => IpLiterals::Allowed,
            },
            allow: globs("allow"),
            deny: globs("deny"),
        }
    }

    /// Whether a server may take part, and if not, why.
    ///
    /// spec: server-server §Server-ACLs
    pub fn check(&self, server: &ServerName) -> Result<(), AclRefusal> {
        let host = Host::of(server);
        if self.ip_literals == IpLiterals::Denied && host.is_ip_literal {
            return Err(AclRefusal::IpLiteral);
        }
        if let Some(glob) = host.first_match(&self.deny) {
            return Err(AclRefusal::Denied(glob.clone()));
        }
        match host.first_match(&self.allow) {
            Some(_) => Ok(()),
            None => Err(AclRefusal::NotAllowed),
        }
    }
}

/// A server's name without its port, made ready to be held against patterns.
#[derive(Clone, Debug)]
pub struct Host {
    is_ip_literal: bool,
    name: Subject,
}

impl Host {
    /// The name without the port.
    pub fn of(server: &ServerName) -> Self {
        let host = without_port(server.as_str());
        Self {
            is_ip_literal: host.starts_with('[') || Ipv4Addr::from_str(host).is_ok(),
            name: Subject::of(host),
        }
    }

    /// The first of these patterns that matches.
    pub fn first_match<'a>(&self, globs: &'a [Glob]) -> Option<&'a Glob> {
        self.name.first_match(globs)
    }

    /// Whether the whole name is as the pattern says.
    pub fn matches(&self, glob: &Glob) -> bool {
        self.name.matches(glob)
    }
}

/// What follows the last colon is the port, unless it is part of an IPv6 address.
fn without_port(server: &str) -> &str {
    if server.ends_with(']') {
        return server;
    }
    server.rsplit_once(':').map_or(server, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn matches(glob: &str, server: &str) -> bool {
        Host::of(server.try_into().unwrap()).matches(&Glob::new(glob))
    }

    fn check(acl: Value, server: &str) -> Result<(), AclRefusal> {
        let content = serde_json::from_value(acl).unwrap();
        ServerAcl::read(&content).check(server.try_into().unwrap())
    }

    #[test]
    fn a_star_is_any_characters_and_a_question_mark_one() {
        for (glob, server) in [
            ("*", "a"),
            ("*.evil.com", "very.evil.com"),
            ("*evil*", "notevil.com"),
            ("evil.com", "EVIL.com"),
            ("EVIL.com", "evil.com"),
            ("e?il.com", "evil.com"),
            ("**?*??", "abc"),
            ("a*a", "aa"),
            ("\u{17f}a\u{212a}e", "sake"),
            ("[2001:db8::*]", "[2001:DB8::1]:8448"),
        ] {
            assert!(matches(glob, server), "{glob} {server}");
        }
        for (glob, server) in [
            ("", "a"),
            ("*.evil.com", "evil.com"),
            ("evil.co", "evil.com"),
            ("vil.com", "evil.com"),
            ("?evil.com", "evil.com"),
            ("????", "abc"),
            ("e[vx]il.com", "evil.com"),
            ("a*a", "a"),
            ("é", "e"),
            ("evil.com:8448", "evil.com:8448"),
        ] {
            assert!(!matches(glob, server), "{glob} {server}");
        }
    }

    #[test]
    fn the_port_is_no_part_of_a_name() {
        for server in ["evil.com", "evil.com:8448", "evil.com:1234"] {
            let acl = json!({ "allow": ["*"], "deny": ["evil.com"] });
            let refusal = check(acl, server).unwrap_err();
            assert_eq!(refusal, AclRefusal::Denied(Glob::new("evil.com")));
        }
        assert_eq!(check(json!({ "allow": ["[::1]"] }), "[::1]:80"), Ok(()));
    }

    #[test]
    fn denying_comes_before_allowing_and_who_is_on_neither_list_is_out() {
        let acl = json!({ "allow": ["*.org", "evil.com"], "deny": ["evil.*", "*.evil.org"] });
        assert_eq!(check(acl.clone(), "good.org"), Ok(()));
        for server in ["evil.com", "very.evil.org"] {
            let refusal = check(acl.clone(), server).unwrap_err();
            assert!(matches!(refusal, AclRefusal::Denied(_)), "{refusal}");
        }
        assert_eq!(check(acl, "good.com"), Err(AclRefusal::NotAllowed));
        assert_eq!(check(json!({}), "good.com"), Err(AclRefusal::NotAllowed));
    }

    #[test]
    fn only_false_keeps_ip_addresses_out() {
        let acl = |literals: Value| json!({ "allow": ["*"], "allow_ip_literals": literals });
        for server in ["1.2.3.4", "1.2.3.4:80", "[::1]", "[::1]:80"] {
            let refused = Err(AclRefusal::IpLiteral);
            assert_eq!(check(acl(json!(false)), server), refused, "{server}");
            for other in [json!(true), json!(null), json!("false"), json!(0)] {
                assert_eq!(check(acl(other), server), Ok(()), "{server}");
            }
        }
        for server in ["1.2.3", "1.2.3.4.example", "1.2.3.456"] {
            assert_eq!(check(acl(json!(false)), server), Ok(()), "{server}");
        }
    }

    #[test]
    fn what_is_no_list_or_no_text_counts_as_not_there() {
        let acl = json!({ "allow": ["*", 1, null], "deny": "good.org" });
        assert_eq!(check(acl, "good.org"), Ok(()));
        let acl = json!({ "allow": { "*": true } });
        assert_eq!(check(acl, "good.org"), Err(AclRefusal::NotAllowed));
    }

    #[test]
    fn names_longer_than_a_word_of_the_machine_match_as_others_do() {
        for length in [62, 63, 64, 65, 127, 128, 129, 200] {
            let name = format!("{}.b", "a".repeat(length));
            assert!(matches(&name, &name), "{length}");
            assert!(matches(&"?".repeat(name.len()), &name), "{length}");
            assert!(!matches(&"?".repeat(name.len() + 1), &name), "{length}");
            assert!(matches("a*a.?", &name), "{length}");
            assert!(!matches(&format!("{}*.b", "a".repeat(length + 1)), &name));
        }
    }

    /// What a matcher that goes back would take 2^60 steps for.
    #[test]
    fn no_pattern_makes_matching_slow() {
        let name = "a".repeat(230);
        let glob = Glob::new("*a".repeat(30_000) + "b");
        let host = Host::of(name.as_str().try_into().unwrap());
        for _ in 0..20 {
            assert!(!host.matches(&glob));
        }
    }

    /// The plainest matcher there is.
    fn plainly(glob: &[u8], name: &[u8]) -> bool {
        match (glob, name) {
            ([], rest) => rest.is_empty(),
            ([b'*', glob @ ..], _) => (0..=name.len()).any(|from| plainly(glob, &name[from..])),
            ([b'?', glob @ ..], [_, name @ ..]) => plainly(glob, name),
            ([one, glob @ ..], [other, name @ ..]) => {
                one.eq_ignore_ascii_case(other) && plainly(glob, name)
            }
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn matching_is_what_trying_everything_finds(
            glob in "[ab.*?A]{0,8}", name in "[abB]{1,6}(\\.[ab]{1,4}){0,2}",
        ) {
            let expected = plainly(glob.as_bytes(), name.as_bytes());
            prop_assert_eq!(matches(&glob, &name), expected);
        }
    }
}
