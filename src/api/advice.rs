//! What would let a refused request pass, by the stable code of its reason: one list.
//!
//! How a refusal is remembered and told is `explain`'s.

/// What would let such a request pass.
pub(super) struct Advice {
    /// In words.
    pub(super) passes: &'static str,
    /// A command that helps, in which SERVER, ROOM and NAME stand for names.
    pub(super) command: Option<&'static str>,
}

const RELOAD: &str = "edit `federation.deny`, then `kill -HUP` the hub (`systemctl reload`)";
const RELOAD_ALLOW: &str = "edit `federation.allow`, then `kill -HUP` the hub (`systemctl reload`)";
pub(super) const DOCTOR: &str = "tramline doctor --peer SERVER";
pub(super) const ENABLE: &str = "tramline user enable NAME";
pub(super) const ACL: &str = "PUT /_matrix/client/v3/rooms/ROOM/state/m.room.server_acl/";

/// What would let a request pass, and a command that helps, by the stable code. One row for each: what
/// an operator reads must not depend on who wrote the refusal's words.
pub(super) const ADVICE: &[(&str, &str, Option<&str>)] = &[
    (
        "FEDERATION_DENY",
        "no pattern of `federation.deny` matches the server's name",
        Some(RELOAD),
    ),
    (
        "FEDERATION_ALLOW",
        "a pattern of `federation.allow` matches the server's name, or the setting is unset",
        Some(RELOAD_ALLOW),
    ),
    (
        "FEDERATION_OFF",
        "`federation.enabled = true`",
        Some("set `federation.enabled = true` and start the hub again"),
    ),
    (
        "SERVER_ACL",
        "the room's `m.room.server_acl` lets the server in; those who may change the room's state change it",
        Some(ACL),
    ),
    (
        "SIGNATURE",
        "the signature is right for what was sent: nothing between the servers may change path, query or body",
        Some(DOCTOR),
    ),
    (
        "SIGNATURE_ABSENT",
        "the request has an X-Matrix Authorization header; a proxy in front of this hub has to pass it on",
        None,
    ),
    (
        "SIGNATURE_FORM",
        "the Authorization header is one of X-Matrix, of one server",
        None,
    ),
    (
        "SIGNATURE_DESTINATION",
        "the request is signed for this hub's name: see what the sending server finds at the name that it uses",
        Some("tramline doctor"),
    ),
    (
        "SIGNATURE_KEY",
        "the sending server publishes the key that it signs with, valid now, and this hub can fetch it; one in `federation.pinned_keys` has to be that key",
        Some(DOCTOR),
    ),
    (
        "EVENT_FORM",
        "the event has the form and the size of its room's version; who maintains the server that made it knows why it has not",
        None,
    ),
    (
        "EVENT_SIGNATURE",
        "the event carries right signatures of its sender's server and of whichever else its kind needs",
        Some(DOCTOR),
    ),
    (
        "EVENT_KEY",
        "the keys that signed the event can be had from the servers that they are of, and were valid when it was made",
        Some(DOCTOR),
    ),
    (
        "EVENT_ROOM",
        "the event is of the room among whose events it came",
        None,
    ),
    (
        "EVENT_AUTH",
        "the room's rules allow the event at its place in the room's graph",
        None,
    ),
    (
        "EVENT_SOFT_FAILED",
        "the room's rules allow the event in the room's present state; it is kept, and hidden from readers",
        None,
    ),
    (
        "EVENTS_MISSING",
        "the events before it can be had from the server that sent it",
        Some(DOCTOR),
    ),
    (
        "EDU_FORM",
        "it is an object with a text `edu_type` and a `content` as that type has it; who maintains the server that made it knows why it is not",
        None,
    ),
    (
        "EDU_SENDER",
        "it is sent by the server of the user whom it is about",
        None,
    ),
    (
        "EDU_NOT_JOINED",
        "the user whom it is about has joined the room",
        None,
    ),
    (
        "EDU_TOO_MUCH",
        "the transaction has less of it: the ceilings are the same for all servers, and fixed",
        None,
    ),
    (
        "EDU_REFUSED",
        "it says what such a one can say; the words beside this code name what is wrong",
        None,
    ),
    (
        "EDU_UNKNOWN",
        "nothing need be done: this hub does nothing with this type",
        None,
    ),
    (
        "EDU_PRESENCE_OFF",
        "`presence.enabled` is true, from the hub's next start on",
        None,
    ),
    ("EDU_NOBODY_HERE", "it names a user of this hub", None),
    (
        "GAP_TOO_LARGE",
        "less is missing than this hub fetches at once; a user here who leaves the room and joins it again makes it begin anew from the room as it is now",
        None,
    ),
    (
        "GAP_NOT_TOLD",
        "the other server tells the events that it builds on; its operator knows why it does not",
        Some(DOCTOR),
    ),
    (
        "PEER_REFUSED",
        "the other server allows it; its operator knows why it does not",
        Some(DOCTOR),
    ),
    (
        "PEER_DISBELIEVES",
        "the other server can fetch this hub's keys by its name, and believes them",
        Some("tramline doctor"),
    ),
    (
        "PEER_HAS_NOT",
        "the other server has what it was asked for",
        None,
    ),
    (
        "PEER_IN_TROUBLE",
        "the other server is well again: it answered with an error of its own (5xx)",
        Some(DOCTOR),
    ),
    (
        "PEER_ANSWER",
        "what the other server answers can be so; who maintains it knows why it cannot",
        Some(DOCTOR),
    ),
    ("PEER_UNREACHABLE", "the other server answers", Some(DOCTOR)),
    (
        "PEER_DNS",
        "the other server's name has an address",
        Some(DOCTOR),
    ),
    (
        "PEER_PRIVATE_ADDRESS",
        "the other server's name leads to the public internet, or `federation.allow_private_addresses` is true",
        Some(DOCTOR),
    ),
    (
        "PEER_TLS",
        "the other server shows a certificate that is good for its name, of an authority that this hub believes (`federation.ca_file`)",
        Some(DOCTOR),
    ),
    (
        "KEY_CLAIMS",
        "the server has claimed fewer keys of this device within the hour, or the device has left a fallback key",
        None,
    ),
    (
        "NOT_IN_ROOM",
        "a user of the server that asks has joined the room",
        None,
    ),
    ("NOBODY_HERE", "a user of this hub is in the room", None),
    (
        "DIRECTORY_CLOSED",
        "this hub's directory is shown to other servers",
        Some(
            "set `federation.share_directory = true`, then `kill -HUP` the hub (`systemctl reload`)",
        ),
    ),
    ("ROOM_UNKNOWN", "the room is known to this hub", None),
    (
        "POLICY_USER",
        "no pattern of `policy.deny_users` matches the sender",
        Some(POLICY),
    ),
    (
        "POLICY_SERVER",
        "no pattern of `policy.deny_servers` matches the sender's server",
        Some(POLICY),
    ),
    (
        "POLICY_TYPE",
        "no pattern of `policy.deny_types` matches the event's type",
        Some(POLICY),
    ),
    (
        "POLICY_SIZE",
        "the event is no larger than `policy.event_size`",
        Some(POLICY),
    ),
    (
        "POLICY_RATE",
        "its sender has sent less than `policy.events_per_minute` in this minute",
        Some(POLICY),
    ),
    (
        "POLICY_ELSEWHERE",
        "the room's policy server signs the event; ask its operator, or those who may change `m.room.policy`",
        None,
    ),
    (
        "M_MISSING_TOKEN",
        "the request carries an access token",
        None,
    ),
    ("M_UNKNOWN_TOKEN", "the user logs in again", None),
    ("M_USER_DEACTIVATED", "the account is enabled", Some(ENABLE)),
    (
        "M_LIMIT_EXCEEDED",
        "it comes later; the budgets are settings under `limits`",
        Some("tramline config"),
    ),
    (
        "M_TOO_LARGE",
        "it is smaller; the ceiling for files is `limits.media_size`",
        Some("tramline config"),
    ),
    (
        "M_UNRECOGNIZED",
        "this hub implements what the path names, and takes the method there",
        None,
    ),
    (
        "M_NOT_FOUND",
        "what it names is there, and may be seen by whoever asks",
        None,
    ),
    (
        "M_UNKNOWN",
        "the cause in the hub's log, under the request's id, is mended",
        None,
    ),
    (
        "M_FORBIDDEN",
        "whoever asks has the right that the answer names",
        None,
    ),
];

const POLICY: &str =
    "edit the setting under `policy`, then `kill -HUP` the hub; what was decided stays decided";

/// What would let something pass, in words, by the stable code of what kept it.
pub fn passes_when(code: &str) -> &'static str {
    advice(code).passes
}

/// The row of a code.
pub(super) fn advice(code: &str) -> Advice {
    let row = ADVICE.iter().find(|(known, ..)| *known == code);
    let (_, passes, command) = *row.unwrap_or(&(
        "",
        "the request says it otherwise: the answer names what is wrong",
        None,
    ));
    Advice { passes, command }
}
