//! What an operator can be told of a refusal: by which rule it was made, and what would let the
//! request pass.
//!
//! Only the latest refusals are remembered, in memory and since the hub's start. What whoever asked is
//! told is the [`Refusal`]'s own; nothing of here reaches them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value as Json, json};

use super::{
    Door, PartId, Refusal, RequestId, Transaction,
    advice::{ACL, DOCTOR, ENABLE, advice},
    parts::Transactions,
};
use crate::base::Timestamp;

/// What is known where a refusal is made, beside what whoever asked is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// The stable reason, where there is a closer one than the Matrix code.
    pub code: Option<&'static str>,
    /// The rule, as it is written, and where.
    pub rule: Option<String>,
    /// The version of the list that the rule is of.
    pub list: Option<String>,
    /// Who asked: a user or a server.
    pub who: Option<String>,
    /// Whether that is only what whoever asked says: no signature was checked, or found right.
    pub is_claimed: bool,
    /// The method and the path that were asked with, where nothing is served by them.
    pub asked: Option<(String, String)>,
    /// What would let it pass, where that is more than the advice for all of its reason.
    pub passes: Option<String>,
    /// Which part of a transaction.
    pub part: Option<PartId>,
    /// What lies behind it, where the reason itself is the same for many causes.
    pub cause: Option<String>,
    /// The other server that is the reason, where it is not the one that asked.
    pub server: Option<String>,
    /// The room in question.
    pub room: Option<String>,
    /// The event in question.
    pub event: Option<String>,
}

impl Why {
    /// A reason by its stable code.
    pub fn of(code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..Self::default()
        }
    }

    /// The same with the rule.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// The same with the other server that is the reason.
    #[must_use]
    pub fn of_server(mut self, server: impl ToString) -> Self {
        self.server = Some(server.to_string());
        self
    }

    /// The same with who it says to be that asked.
    #[must_use]
    pub fn claimed_by(mut self, server: impl ToString) -> Self {
        self.who = Some(server.to_string());
        self.is_claimed = true;
        self
    }

    /// The same with what would let it pass.
    #[must_use]
    pub fn passes(mut self, when: impl Into<String>) -> Self {
        self.passes = Some(when.into());
        self
    }

    /// The same with the room.
    #[must_use]
    pub fn room(mut self, room: impl ToString) -> Self {
        self.room = Some(room.to_string());
        self
    }
}

/// A refusal as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The request.
    pub request: RequestId,
    /// How it came.
    pub door: Door,
    /// What it was for.
    pub endpoint: &'static str,
    /// What HTTP calls the answer.
    pub status: u16,
    /// What Matrix calls it; nothing for one event of many.
    pub errcode: Option<&'static str>,
    /// What whoever asked was told.
    pub message: String,
    /// Why.
    pub why: Why,
}

impl Refused {
    /// The answer to a whole request.
    pub fn answer(
        (request, door, endpoint): (RequestId, Door, &'static str),
        refusal: &Refusal,
    ) -> Self {
        let mut why = refusal.why.as_deref().cloned().unwrap_or_default();
        if let Some(allow) = &refusal.allow {
            why.passes = Some(format!("the method is one that this path takes: {allow}"));
        }
        Self {
            request,
            door,
            endpoint,
            status: refusal.status,
            errcode: Some(refusal.code.errcode()),
            message: refusal.message.clone(),
            why,
        }
    }

    /// The stable reason.
    pub fn code(&self) -> &'static str {
        self.why.code.or(self.errcode).unwrap_or("M_UNKNOWN")
    }

    fn bounded(mut self) -> Self {
        let why = &mut self.why;
        let optional = [
            &mut why.rule,
            &mut why.list,
            &mut why.who,
            &mut why.server,
            &mut why.room,
            &mut why.event,
            &mut why.cause,
            &mut why.passes,
        ];
        let asked = why.asked.iter_mut();
        let asked = asked.flat_map(|(method, path)| [method, path]);
        for text in optional.into_iter().flatten().chain(asked) {
            *text = cut(text, TEXT_BYTES_MAX);
        }
        self.message = cut(&self.message, TEXT_BYTES_MAX);
        self
    }

    /// A command with the names of this refusal. What it names and is not known is left out, or
    /// another command shows it.
    fn filled_in(&self, command: &str) -> String {
        let why = &self.why;
        let asked = why.who.as_deref();
        let user = asked.filter(|who| who.starts_with('@'));
        let server = asked.filter(|who| !who.starts_with('@'));
        let server = why.server.as_deref().or(server);
        match (command, server, user) {
            (DOCTOR, Some(server), _) => command.replace("SERVER", server),
            (DOCTOR, None, _) => "tramline doctor".to_owned(),
            (ENABLE, _, Some(user)) => command.replace("NAME", user),
            (ENABLE, _, None) => "tramline user list".to_owned(),
            (ACL, ..) => match &why.room {
                Some(room) => command.replace("ROOM", room),
                None => "tramline explain --recent".to_owned(),
            },
            _ => command.to_owned(),
        }
    }

    fn json(&self, at: Timestamp) -> Json {
        let advice = advice(self.code());
        let why = &self.why;
        let command = advice.command.map(|command| self.filled_in(command));
        json!({
            "request": self.request.to_string(),
            "at": at.rfc3339(),
            "from": why.who,
            "from_is_claimed": why.is_claimed,
            "door": self.door.as_str(),
            "endpoint": self.endpoint,
            "method": why.asked.as_ref().map(|(method, _)| method),
            "path": why.asked.as_ref().map(|(_, path)| path),
            "part": why.part.map(|part| part.to_string()),
            "status": self.status,
            "errcode": self.errcode,
            "said": self.message,
            "reason": self.code(),
            "cause": why.cause,
            "rule": why.rule,
            "list_version": why.list,
            "room_id": why.room,
            "event_id": why.event,
            "passes_when": why.passes.as_deref().unwrap_or(advice.passes),
            "do": command,
        })
    }
}

/// At most so many bytes, and nothing that steers what reads it.
pub(super) fn cut(text: &str, max: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut cut = String::with_capacity(text.len().min(max));
    for c in clean {
        if cut.len() + c.len_utf8() > max {
            break;
        }
        cut.push(c);
    }
    cut
}

/// The latest refusals, and what became of the parts of the latest transactions.
pub struct Refusals {
    since: Timestamp,
    kept: Mutex<VecDeque<(Timestamp, Refused)>>,
    transactions: Mutex<Transactions>,
}

impl Refusals {
    /// None so far.
    pub fn new(since: Timestamp) -> Self {
        Self {
            since,
            kept: Mutex::default(),
            transactions: Mutex::default(),
        }
    }

    /// Remembers one, and forgets the oldest where there are too many.
    pub fn remember(&self, at: Timestamp, refused: Refused) {
        let refused = refused.bounded();
        let mut kept = self.kept();
        if kept.len() >= REFUSALS_MAX {
            kept.pop_front();
        }
        kept.push_back((at, refused));
    }

    /// Remembers what became of the parts of a transaction.
    pub fn remember_parts(&self, at: Timestamp, transaction: Transaction) {
        self.transactions().remember(at, transaction);
    }

    /// What was refused of a request: the answer, or parts of it; and what became of each part.
    pub fn explain(&self, request: &str) -> Result<Json, Refusal> {
        let id: RequestId = request.parse()?;
        let transaction = self.transactions().of(id);
        let kept = self.kept();
        let of_it = kept.iter().filter(|(_, refused)| refused.request == id);
        let all = of_it.clone().count();
        let told = told(of_it);
        if told.is_empty() && transaction.is_none() {
            return Err(Refusal::not_found(format!(
                "no refusal of the request {id} is remembered: the hub keeps the latest {REFUSALS_MAX} in \
                 memory, since its start at {}, and has {} of them; request ids begin anew with each start",
                self.since.rfc3339(),
                kept.len(),
            )));
        }
        let more = all - told.len();
        Ok(json!({
            "refusals": told, "more": more, "since": self.since.rfc3339(), "transaction": transaction,
        }))
    }

    /// The last ones, newest first.
    pub fn recent(&self) -> Json {
        let kept = self.kept();
        let told = told(kept.iter().rev());
        let more = kept.len() - told.len();
        json!({"refusals": told, "more": more, "since": self.since.rfc3339()})
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Timestamp, Refused)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transactions(&self) -> MutexGuard<'_, Transactions> {
        let transactions = self.transactions.lock();
        transactions.unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many as one answer has room for.
fn told<'a>(refused: impl Iterator<Item = &'a (Timestamp, Refused)>) -> Vec<Json> {
    let mut bytes = 0;
    let told = refused.take(TOLD_MAX).map(|(at, one)| one.json(*at));
    told.take_while(|one| {
        bytes += one.to_string().len();
        bytes <= TOLD_BYTES_MAX
    })
    .collect()
}

/// Refusals that are remembered: at a kilobyte each, and at most two, they are a few megabytes.
pub const REFUSALS_MAX: usize = 4096;

/// Refusals in one answer.
const TOLD_MAX: usize = 16;

/// The same in bytes of JSON: half of what the operator's socket's line has room for. The other half is
/// a transaction's.
const TOLD_BYTES_MAX: usize = 30 * 1024;

/// The longest text that is remembered of a refusal, in bytes: a room's id, or an event's.
const TEXT_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::advice::ADVICE;

    fn refused(request: u64, refusal: &Refusal) -> Refused {
        Refused::answer((RequestId(request), Door::Https, "MakeJoin"), refusal)
    }

    #[test]
    fn a_refusal_is_explained_by_its_rule_and_by_what_would_let_it_pass() {
        let all = Refusals::new(Timestamp(0));
        let why = Why::of("FEDERATION_DENY")
            .rule("deny \"evil.*\"")
            .room("!r");
        let refusal = Refusal::forbidden("no").because(why);
        all.remember(Timestamp(1000), refused(0x2a, &refusal));

        let told = all.explain("0000002a").unwrap();
        let told = &told["refusals"][0];

        assert_eq!(told["reason"], "FEDERATION_DENY");
        assert_eq!(told["rule"], "deny \"evil.*\"");
        assert_eq!(told["room_id"], "!r");
        assert_eq!(
            (&told["status"], &told["errcode"]),
            (&json!(403), &json!("M_FORBIDDEN"))
        );
        assert!(
            told["passes_when"]
                .as_str()
                .unwrap()
                .contains("federation.deny")
        );
        assert!(told["do"].as_str().unwrap().contains("kill -HUP"));
    }

    #[test]
    fn a_command_names_whom_it_is_about_and_has_no_gaps() {
        let all = Refusals::new(Timestamp(0));
        let told = |why: Why| {
            all.remember(
                Timestamp(0),
                refused(1, &Refusal::forbidden("no").because(why)),
            );
            all.recent()["refusals"][0]["do"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let of_ana = |code| {
            let mut why = Why::of(code);
            why.who = Some("@ana:hub.example".to_owned());
            why
        };

        let elsewhere = told(of_ana("PEER_UNREACHABLE").of_server("b.example"));
        let nobody = told(of_ana("PEER_UNREACHABLE"));
        let ana = told(of_ana("M_USER_DEACTIVATED"));

        assert_eq!(elsewhere, "tramline doctor --peer b.example");
        assert_eq!(nobody, "tramline doctor");
        assert_eq!(ana, "tramline user enable @ana:hub.example");
        for (code, ..) in ADVICE.iter().filter(|(.., command)| command.is_some()) {
            let told = told(Why::of(code));
            for gap in ["SERVER", "ROOM", "NAME"] {
                assert!(!told.contains(gap), "{code}: {told}");
            }
        }
    }

    #[test]
    fn what_another_server_did_names_that_server() {
        use super::super::RemoteError;
        let all = Refusals::new(Timestamp(0));
        let error = RemoteError::Unreachable {
            server: "b.example".to_owned(),
            reason: "nobody there".to_owned(),
        };
        let refusal = Refusal::from(error);
        let refusal = refusal.known(|why| why.who = Some("@ana:hub.example".to_owned()));

        all.remember(Timestamp(0), refused(1, &refusal));

        let told = &all.recent()["refusals"][0];
        assert_eq!(told["reason"], "PEER_UNREACHABLE");
        assert_eq!(told["do"], "tramline doctor --peer b.example");
    }

    #[test]
    fn one_code_has_one_cause_and_each_has_advice_of_its_own() {
        let codes = [
            "SIGNATURE",
            "SIGNATURE_ABSENT",
            "SIGNATURE_FORM",
            "SIGNATURE_DESTINATION",
            "SIGNATURE_KEY",
            "EVENT_FORM",
            "EVENT_SIGNATURE",
            "EVENT_KEY",
            "EVENT_ROOM",
            "PEER_REFUSED",
            "PEER_DISBELIEVES",
            "PEER_HAS_NOT",
            "PEER_IN_TROUBLE",
            "PEER_UNREACHABLE",
            "PEER_DNS",
            "PEER_PRIVATE_ADDRESS",
            "PEER_TLS",
        ];
        let advice: std::collections::BTreeSet<_> =
            codes.iter().map(|code| advice(code).passes).collect();
        assert_eq!(advice.len(), codes.len());
        assert!(!advice.contains(super::advice("something else").passes));
    }

    #[test]
    fn without_a_closer_reason_it_is_the_matrix_code() {
        let refused = refused(1, &Refusal::not_found("none"));
        assert_eq!(refused.code(), "M_NOT_FOUND");
    }

    #[test]
    fn the_ring_keeps_the_latest_and_says_why_one_is_not_there() {
        let all = Refusals::new(Timestamp(0));
        for number in 0..=REFUSALS_MAX as u64 {
            all.remember(Timestamp(number), refused(number, &Refusal::not_found("x")));
        }

        let gone = all.explain("0").unwrap_err();
        assert_eq!(gone.status, 404);
        assert!(gone.message.contains("4096") && gone.message.contains("1970-01-01"));
        assert_eq!(all.recent()["refusals"][0]["request"], "00001000");
        assert_eq!(all.kept().len(), REFUSALS_MAX);
        assert_eq!(all.explain("zz").unwrap_err().status, 400);
    }

    #[test]
    fn of_a_wrong_method_the_methods_of_the_path_are_told() {
        let all = Refusals::new(Timestamp(0));
        let refusal = Refusal::wrong_method("GET, HEAD, OPTIONS");

        all.remember(Timestamp(0), refused(1, &refusal));

        let told = &all.recent()["refusals"][0];
        let passes = "the method is one that this path takes: GET, HEAD, OPTIONS";
        assert_eq!(told["passes_when"], passes);
    }

    #[test]
    fn what_would_let_this_request_pass_is_told_before_the_advice_for_all() {
        let all = Refusals::new(Timestamp(0));
        let why = Why::default().passes("the password fits\u{1b}");

        all.remember(
            Timestamp(0),
            refused(1, &Refusal::forbidden("no").because(why)),
        );

        let told = &all.recent()["refusals"][0];
        assert_eq!(told["passes_when"], "the password fits ");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_steers_nothing() {
        let all = Refusals::new(Timestamp(0));
        let long = "\u{1b}é".repeat(1000);
        all.remember(Timestamp(0), refused(1, &Refusal::forbidden(long)));

        let told = all.explain("1").unwrap();
        let said = told["refusals"][0]["said"].as_str().unwrap();

        assert!(said.len() <= TEXT_BYTES_MAX && !said.contains('\u{1b}'));
    }
}
