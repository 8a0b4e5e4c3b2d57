#!/usr/bin/env python3
"""The evil peer: what a homeserver can do to the hub that no honest one does.

It is scripted.py (same options, same commands) with more commands. Each makes one class of mischief and tells
what came back, case by case; what must come back stands in `tests/it/federation/evil/`.

  {"op": "pdus", "to": hub, "room_id", "victim": "@ana:hub", "other": 1}
      -> {"cases": [{"name", "status", "id", "before", "bad", "after", "ids"}]}
      one transaction a case: a good event, the case's, a good event; `bad` is what the answer says of it
  transactions, edus, paths, keys, invites    -> {"cases": [{"name", "status", "errcode", "error"}]}
      requests of each kind, and how each was answered
  chain, forks, endless, state_lies           what the graph of a room is burdened with, and the time it took
  enter, past, backfill                       how its own rooms answer who comes in or reads their past
  flood, ebb                                  all at once, prepared and replayed as fast as it is answered
  slow, slow_left, smuggle                    connections that are never done, and requests without a clear end
"""
import http.client
import json
import os
import socket
import ssl
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from scripted import (  # noqa: E402
    FED, FED2, OPS, Key, Room, b64, b64url, canonical, event_id, finished, main, now_ms, quoted,
    redacted, signature,
)

import hashlib  # noqa: E402


# ---- events ------------------------------------------------------------------------------------

class Case:
    """What a case of a bad event has at hand."""

    def __init__(self, home, other, room, command):
        self.home, self.other, self.room = home, other, room
        self.mal = home.user("mal")
        self.victim = command["victim"]
        self.hub = command["to"]
        self.version = room.version

    def message(self, body="bad", **fields):
        _, event = self.room.make("m.room.message", {"msgtype": "m.text", "body": body}, self.mal,
                                  **fields)
        return event

    def sealed(self, event, server=None, key=None):
        """Hash and signature over whatever is in it."""
        home = server or self.home
        return finished(self.version, event, home.name, key or home.key)

    def changed(self, **fields):
        """A message with these fields (`...` removes), sealed as it then is."""
        event = {**self.room.template("m.room.message", {"msgtype": "m.text", "body": "bad"},
                                      self.mal), **fields}
        return self.sealed({k: v for k, v in event.items() if v is not ...})

    def state(self, kind, content, key="", sender=None, **fields):
        _, event = self.room.make(kind, content, sender or self.mal, key, **fields)
        return event

    def text(self, event, old, new):
        """Its canonical text with something put in that canonical JSON has no place for."""
        whole = canonical(event)
        assert old in whole, (old, whole)
        return whole.replace(old, new, 1)

    def raw(self, old, new, **content):
        """A message of which the text itself is changed, and its hash and signature with it.

        The signature is made over the changed text: only the form is wrong."""
        event = self.room.template("m.room.message",
                                   {"msgtype": "m.text", "body": "bad", **content}, self.mal)
        bare = canonical(event).replace(old, new, 1)
        event["hashes"] = {"sha256": b64(hashlib.sha256(bare).digest())}
        left = canonical(redacted(self.version, event))
        signed = b64(self.home.key.pair.sign(left).signature)
        event["signatures"] = {self.home.name: {self.home.key.id: signed}}
        return self.text(event, old, new)


PDUS = {}


def pdu(function):
    PDUS[function.__name__] = function
    return function


# signatures

@pdu
def signature_is_changed(c):
    event = c.message()
    sig = event["signatures"][c.home.name]
    made = sig[c.home.key.id]
    sig[c.home.key.id] = ("B" if made[0] == "A" else "A") + made[1:]
    return event


@pdu
def signature_is_garbage(c):
    event = c.message()
    event["signatures"][c.home.name][c.home.key.id] = "not base64 !!"
    return event


@pdu
def signatures_are_missing(c):
    event = c.message()
    del event["signatures"]
    return event


@pdu
def signatures_are_a_list(c):
    return {**c.message(), "signatures": []}


@pdu
def key_was_never_published(c):
    return c.message(key=Key("ed25519:secret"))


@pdu
def key_has_a_published_name_and_another_secret(c):
    return c.message(key=Key(c.home.key.id))


@pdu
def signed_by_another_server(c):
    return c.message(server=c.other, key=c.other.key)


@pdu
def signed_by_another_server_in_our_name(c):
    return c.message(key=Key(c.home.key.id, bytes(c.other.key.pair)))


@pdu
def sender_is_of_another_server(c):
    """A user of the hub speaks, by our signature."""
    _, event = c.room.make("m.room.message", {"body": "I am Ana"}, c.victim)
    return event


@pdu
def sender_is_of_the_hub_and_so_is_the_signature_by_its_word(c):
    _, event = c.room.make("m.room.message", {"body": "I am Ana"}, c.victim)
    made = event["signatures"].pop(c.home.name)
    event["signatures"][c.hub] = made
    return event


@pdu
def old_key_after_its_end(c):
    key = c.home.retired
    return c.message(key=key, origin_server_ts=c.home.old_keys[key.id][1] + 60_000)


@pdu
def old_key_before_its_end(c):
    key = c.home.retired
    return c.message("old but true", key=key, origin_server_ts=c.home.old_keys[key.id][1] - 60_000)


@pdu
def key_of_a_time_far_ahead(c):
    return c.message(origin_server_ts=now_ms() + 30 * 24 * 3600 * 1000)


@pdu
def a_hundred_signatures_of_strangers(c):
    event = c.message("signed by many")
    for number in range(100):
        event["signatures"][f"s{number}.invalid"] = {"ed25519:a": "A" * 86}
    return event


@pdu
def a_hundred_wrong_keys_beside_the_right_one(c):
    event = c.message("signed often")
    for number in range(100):
        event["signatures"][c.home.name][f"ed25519:k{number}"] = "A" * 86
    return event


# hashes

@pdu
def hash_is_of_another_content(c):
    event = c.message("as it was signed")
    event["content"] = {"msgtype": "m.text", "body": "as it was changed"}
    return event


@pdu
def hashes_are_missing(c):
    event = c.message()
    del event["hashes"]
    event["signatures"] = signature(c.version, event, c.home.name, c.home.key)
    return event


@pdu
def hash_is_no_text(c):
    event = {**c.message(), "hashes": {"sha256": 1}}
    event["signatures"] = signature(c.version, event, c.home.name, c.home.key)
    return event


# auth events

@pdu
def auth_events_of_another_room(c):
    other = c.home.foreign
    return c.message(auth_events=other.auth_for("m.room.message", other.events[other.line[0]]["sender"]))


@pdu
def auth_events_with_one_of_another_room(c):
    stranger = c.home.foreign.state[("m.room.join_rules", "")]
    return c.message(auth_events=c.room.auth_for("m.room.message", c.mal) + [stranger])


@pdu
def auth_events_are_unknown(c):
    return c.message(auth_events=["$" + b64url(hashlib.sha256(b"nothing").digest())])


@pdu
def auth_events_are_none(c):
    return c.message(auth_events=[])


@pdu
def auth_events_without_the_sender(c):
    state = {k: v for k, v in c.room.state.items() if k != ("m.room.member", c.mal)}
    return c.message(auth_events=c.room.auth_for("m.room.message", c.mal, state=state))


@pdu
def auth_events_with_one_of_no_use(c):
    rules = c.room.state[("m.room.history_visibility", "")]
    return c.message(auth_events=c.room.auth_for("m.room.message", c.mal) + [rules])


@pdu
def auth_events_twice_the_same(c):
    own = c.room.state[("m.room.member", c.mal)]
    return c.message(auth_events=c.room.auth_for("m.room.message", c.mal) + [own])


@pdu
def auth_events_with_an_older_one_of_the_same_key(c):
    return c.message(auth_events=c.room.auth_for("m.room.message", c.mal) + [c.home.older_own])


@pdu
def auth_events_with_a_rejected_one(c):
    auth = [i for i in c.room.auth_for("m.room.message", c.mal)
            if i != c.room.state[("m.room.power_levels", "")]]
    return c.message(auth_events=auth + [c.home.rejected_levels])


@pdu
def auth_events_with_the_create_event_or_without(c):
    """From v12 on it must not be there, before it must."""
    create = c.room.state[("m.room.create", "")]
    auth = c.room.auth_for("m.room.message", c.mal)
    return c.message(auth_events=[create] + auth if c.version == "12" else
                     [i for i in auth if i != create])


@pdu
def auth_events_are_eleven(c):
    return c.changed(auth_events=[c.room.state[("m.room.member", c.mal)]] * 11)


@pdu
def auth_events_are_no_list(c):
    return c.changed(auth_events={"a": 1})


@pdu
def auth_events_are_numbers(c):
    return c.changed(auth_events=[1, 2])


# the graph

@pdu
def prev_events_are_none(c):
    return c.changed(prev_events=[])


@pdu
def prev_events_are_twenty_one(c):
    return c.changed(prev_events=c.room.ends + c.room.line[-20:])


@pdu
def prev_events_of_another_room(c):
    return c.changed(prev_events=[c.home.foreign.line[-1]])


@pdu
def prev_events_are_unknown_to_all(c):
    return c.changed(prev_events=["$" + b64url(hashlib.sha256(b"never").digest())])


@pdu
def prev_events_are_words(c):
    return c.changed(prev_events=["$not a hash", "", "x" * 300])


@pdu
def prev_events_twice_the_same(c):
    return c.message("follows twice", prev_events=c.room.ends * 3)


@pdu
def depth_is_two_to_the_53(c):
    return c.changed(depth=2 ** 53)


@pdu
def depth_is_the_largest(c):
    return c.message("deep", depth=2 ** 53 - 1)


@pdu
def depth_is_negative(c):
    return c.changed(depth=-1)


@pdu
def depth_is_a_word(c):
    return c.changed(depth="1")


@pdu
def depth_is_missing(c):
    return c.changed(depth=...)


@pdu
def depth_is_broken(c):
    return c.raw(b'"depth":%d' % (c.room.depth + 1), b'"depth":%d.5' % (c.room.depth + 1))


# rooms and senders

@pdu
def room_is_another_one(c):
    _, event = c.home.foreign.make("m.room.message", {"body": "where"}, c.mal)
    return event


@pdu
def room_is_missing(c):
    return c.changed(room_id=...)


@pdu
def room_is_a_number(c):
    return c.changed(room_id=7)


@pdu
def sender_is_nobody(c):
    return c.changed(sender="mal")


@pdu
def sender_has_no_server(c):
    return c.changed(sender="@mal:")


@pdu
def sender_is_too_long(c):
    name = "@" + "m" * 300 + ":" + c.home.name
    return c.changed(sender=name)


@pdu
def sender_is_not_in_the_room(c):
    _, event = c.room.make("m.room.message", {"body": "from outside"}, c.home.user("stranger"))
    return event


@pdu
def type_is_missing(c):
    return c.changed(type=...)


@pdu
def type_is_too_long(c):
    return c.changed(type="x" * 256)


@pdu
def state_key_is_too_long(c):
    return c.state("org.evil", {}, "k" * 256)


@pdu
def state_key_is_a_number(c):
    return c.changed(state_key=1)


@pdu
def content_is_a_list(c):
    return c.changed(content=[1])


@pdu
def content_is_missing(c):
    return c.changed(content=...)


@pdu
def time_is_negative(c):
    return c.changed(origin_server_ts=-5)


@pdu
def time_is_missing(c):
    return c.changed(origin_server_ts=...)


@pdu
def event_is_a_number(c):
    return b"7"


@pdu
def event_is_a_list(c):
    return b"[" + canonical(c.message()) + b"]"


@pdu
def event_is_empty(c):
    return b"{}"


@pdu
def redacts_is_a_number(c):
    return c.changed(type="m.room.redaction", redacts=7)


# bytes

@pdu
def bytes_are_one_too_many(c):
    event = c.message("")
    return c.message("x" * (65_536 - len(canonical(event)) + 1))


@pdu
def bytes_are_the_most(c):
    event = c.message("")
    return c.message("x" * (65_536 - len(canonical(event))))


@pdu
def unsigned_is_a_megabyte(c):
    return {**c.message(), "unsigned": {"x": "y" * 1_000_000}}


def number_written(text):
    return lambda c: c.raw(b'"n":7', b'"n":' + text, n=7)


PDUS.update({
    "number_is_a_fraction": number_written(b"1.5"),
    "number_is_an_exponent": number_written(b"1e3"),
    "number_is_out_of_range": number_written(b"9007199254740992"),
    "number_has_four_hundred_digits": number_written(b"9" * 400),
    "number_is_infinite": number_written(b"1e999"),
    "number_is_none": number_written(b"NaN"),
})


@pdu
def key_is_given_twice(c):
    return c.raw(b'"n":7', b'"n":7,"n":8', n=7)


@pdu
def sender_is_given_twice(c):
    event = c.message()
    mine = b'"sender":"%s"' % c.mal.encode()
    theirs = b'"sender":"%s"' % c.victim.encode()
    return c.text(event, mine, theirs + b"," + mine)


@pdu
def text_has_a_nul(c):
    return c.message("nul \u0000 within")


@pdu
def type_has_a_nul(c):
    return c.changed(type="org.evil\u0000")


@pdu
def text_has_half_a_character(c):
    return c.raw(b'"s":"half"', b'"s":"\\ud800"', s="half")


@pdu
def text_is_not_utf_8(c):
    return c.raw(b'"s":"half"', b'"s":"\xff\xfe"', s="half")


@pdu
def nesting_is_a_thousand_deep(c):
    return c.raw(b'"d":7', b'"d":' + b"[" * 1000 + b"]" * 1000, d=7)


@pdu
def nesting_is_thirty_thousand_deep(c):
    return c.raw(b'"d":7', b'"d":' + b'{"a":' * 10_000 + b"7" + b"}" * 10_000, d=7)


@pdu
def white_space_is_half_a_megabyte(c):
    return c.text(c.message("wide"), b'{"auth_events"', b"{" + b" " * 500_000 + b'"auth_events"')


# what the rules forbid

@pdu
def room_is_founded_again(c):
    event = {"type": "m.room.create", "state_key": "", "sender": c.mal, "prev_events": [],
             "auth_events": [], "depth": 1, "origin_server_ts": now_ms(), "room_id": c.room.room_id,
             "content": {"room_version": c.version, "creator": c.mal}}
    return c.sealed(event)


@pdu
def create_event_in_the_middle(c):
    return c.state("m.room.create", {"room_version": c.version, "creator": c.mal})


@pdu
def power_for_oneself(c):
    return c.state("m.room.power_levels", {"users": {c.mal: 100}})


@pdu
def power_without_a_state_key(c):
    return c.changed(type="m.room.power_levels", content={"users": {c.mal: 100}})


@pdu
def power_in_words(c):
    return c.state("m.room.power_levels", {"users": {c.mal: "100"}, "ban": "0"})


@pdu
def rules_opened(c):
    return c.state("m.room.join_rules", {"join_rule": "public"})


@pdu
def ban_of_the_founder(c):
    return c.state("m.room.member", {"membership": "ban"}, c.victim)


@pdu
def kick_of_the_founder(c):
    return c.state("m.room.member", {"membership": "leave"}, c.victim)


@pdu
def join_for_somebody_else(c):
    return c.state("m.room.member", {"membership": "join"}, c.home.user("friend"))


@pdu
def member_without_membership(c):
    return c.state("m.room.member", {}, c.mal)


@pdu
def member_of_unknown_membership(c):
    return c.state("m.room.member", {"membership": "god"}, c.mal)


@pdu
def member_key_is_no_user(c):
    return c.state("m.room.member", {"membership": "invite"}, "nobody")


@pdu
def join_vouched_for_by_the_hub_without_its_signature(c):
    return c.state("m.room.member",
                   {"membership": "join", "join_authorised_via_users_server": c.victim}, c.mal)


@pdu
def state_under_another_users_name(c):
    return c.state("org.evil.state", {"a": 1}, c.victim)


@pdu
def acl_that_bans_everybody(c):
    return c.state("m.room.server_acl", {"allow": [], "deny": ["*"]})


@pdu
def tombstone(c):
    return c.state("m.room.tombstone", {"body": "gone", "replacement_room": "!x:evil"})


@pdu
def redaction_of_what_is_not_ours(c):
    extra = {"redacts": c.home.hers}
    content = extra if c.version != "10" else {}
    fields = {} if content else extra
    _, event = c.room.make("m.room.redaction", content, c.mal, **fields)
    return event


def op_pdus(home, c, homes=None):
    room, other = home.rooms[c["room_id"]], homes[c.get("other", 1)]
    prepare(home, room, c)
    case = Case(home, other, room, c)
    told = []
    for name, make in PDUS.items():
        if c.get("only") and name not in c["only"]:
            continue
        first = room.say(case.mal, f"before {name}")
        bad = make(case)
        text = bad if isinstance(bad, bytes) else canonical(bad)
        try:
            ident = event_id(room.version, json.loads(text))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            ident = None
        last = room.say(case.mal, f"after {name}")
        started = time.time()
        status, body = send_text(home, c["to"], [room.text(first), text, room.text(last)])
        results = body.get("pdus", {})
        named = ("error" if results.get(ident, {}).get("error") else "taken") \
            if ident in results else "unnamed"
        told.append({"name": name, "status": status, "id": ident, "ids": [first, last],
                     "before": results.get(first), "bad": named, "after": results.get(last),
                     "said": results.get(ident, {}).get("error"), "seconds": time.time() - started,
                     "answered": sorted(set(results) - {first, last, ident}),
                     "body": None if status == 200 else body})
    return {"cases": told}


def prepare(home, room, c):
    """What some cases need: an older join of ours, a rejected event, a message of hers."""
    mal = home.user("mal")
    home.hers = c["hers"]
    home.foreign = home.room(room.version)
    home.older_own = room.state[("m.room.member", mal)]
    renewed = room.add("m.room.member", {"membership": "join", "displayname": "Mal"}, mal, mal)
    ident, levels = room.make("m.room.power_levels", {"users": {mal: 100}}, mal, "")
    home.rejected_levels = ident
    home.send(c["to"], [room.events[renewed], levels])


def send_text(home, to, pdus, edus=(), **fields):
    """A transaction of which the events are texts, signed to the letter."""
    body = b'{"edus":[' + b",".join(edus) + b'],"origin":' + canonical(fields.get("origin", home.name)) \
        + b',"origin_server_ts":' + canonical(now_ms()) + b',"pdus":[' + b",".join(pdus) + b"]}"
    txn = b64url(hashlib.sha256(str(time.time_ns()).encode()).digest())[:16]
    return put_text(home, to, f"{FED}/send/{txn}", body)


def authorized(home, to, method, path, body):
    """X-Matrix over a body as it is written."""
    content = b'"content":' + body + b"," if body else b""
    text = b"{" + content + b'"destination":' + canonical(to) + b',"method":' + canonical(method) \
        + b',"origin":' + canonical(home.name) + b',"uri":' + canonical(path) + b"}"
    made = b64(home.key.pair.sign(text).signature)
    return f'X-Matrix origin="{home.name}",destination="{to}",key="{home.key.id}",sig="{made}"'


def put_text(home, to, path, body, **how):
    shown = {"Authorization": authorized(home, to, "PUT", path, body)}
    return home.ask(to, "PUT", path, raw=body, signed=False, headers=shown, **how)

# ---- whole requests ----------------------------------------------------------------------------

def told(name, answer):
    status, body = answer
    return {"name": name, "status": status, "errcode": body.get("errcode"),
            "error": str(body.get("error", ""))[:300], "body": body if status == 200 else None}


def op_transactions(home, c, homes=None):
    room, other, to = home.rooms[c["room_id"]], homes[1], c["to"]
    mal, cases = home.user("mal"), []

    def case(name, answer):
        cases.append(told(name, answer))

    def says(count):
        return [room.text(room.say(mal, f"one of {count}")) for _ in range(count)]

    twice = says(1) * 2
    case("the_same_event_twice", send_text(home, to, twice))
    case("the_same_event_again", send_text(home, to, twice[:1]))
    case("fifty_events", send_text(home, to, says(50)))
    fifty_one = says(51)
    case("fifty_one_events", send_text(home, to, fifty_one))
    case("those_fifty_one_in_two", send_text(home, to, fifty_one[:26]))
    case("and_the_second", send_text(home, to, fifty_one[26:]))
    edu = canonical({"edu_type": "org.evil", "content": {}})
    case("a_hundred_and_one_edus", send_text(home, to, says(1), [edu] * 101))
    case("origin_is_another_server", send_text(home, to, says(1), origin=other.name))
    case("signed_for_another_destination", home.ask(to, "PUT", f"{FED}/send/d1", {"pdus": []}, signed=False,
         headers={"Authorization": home.authorization("elsewhere:1", "PUT", f"{FED}/send/d1", {"pdus": []})}))
    case("signed_for_another_path", home.ask(to, "PUT", f"{FED}/send/d2", {"pdus": []}, signed=False,
         headers={"Authorization": home.authorization(to, "PUT", f"{FED}/send/d1", {"pdus": []})}))
    case("signed_over_another_body", home.ask(to, "PUT", f"{FED}/send/d3", {"pdus": []},
         raw=b'{"pdus":[1]}'))
    case("signed_in_the_name_of_another_server", home.ask(to, "PUT", f"{FED}/send/d4", {"pdus": []},
         origin=other.name))
    case("signed_in_the_hubs_own_name", home.ask(to, "PUT", f"{FED}/send/d5", {"pdus": []}, origin=to))
    case("signed_with_a_key_nobody_has", home.ask(to, "PUT", f"{FED}/send/d6", {"pdus": []},
         key=Key("ed25519:nobody")))
    case("not_signed", home.ask(to, "PUT", f"{FED}/send/d7", {"pdus": []}, signed=False))
    case("header_is_garbage", home.ask(to, "PUT", f"{FED}/send/d8", {"pdus": []}, signed=False,
         headers={"Authorization": "X-Matrix origin=,,=\"=\"\\\"" * 50}))
    for name, body in [("body_is_a_list", b"[]"), ("body_is_null", b"null"), ("body_is_text", b'"x"'),
                       ("body_is_cut", b'{"pdus":[') , ("body_is_empty", b""),
                       ("body_has_its_keys_twice", b'{"pdus":[],"pdus":[7],"origin":"x"}'),
                       ("pdus_are_an_object", b'{"pdus":{},"origin":' + canonical(home.name)
                        + b',"origin_server_ts":1}'),
                       ("pdus_are_missing", b'{"origin":' + canonical(home.name)
                        + b',"origin_server_ts":1}'),
                       ("a_hundred_thousand_numbers", b'{"origin":' + canonical(home.name)
                        + b',"origin_server_ts":1,"pdus":[' + b"0," * 99_999 + b"0]}"),
                       ("a_million_empty_events", b'{"origin":' + canonical(home.name)
                        + b',"origin_server_ts":1,"pdus":[' + b"{}," * 999_999 + b"{}]}"),
                       ("nested_a_hundred_thousand_deep", b'{"origin":' + canonical(home.name)
                        + b',"origin_server_ts":1,"pdus":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
                       ("nine_mebibytes_beside", b'{"origin":' + canonical(home.name)
                        + b',"origin_server_ts":1,"pdus":[],"x":"' + b"x" * 9 * 1024 * 1024 + b'"}'),
                       ("eleven_mebibytes", b'{"origin":' + canonical(home.name)
                        + b',"origin_server_ts":1,"pdus":[],"x":"' + b"x" * 11 * 1024 * 1024 + b'"}'),
                       ]:
        try:
            case(name, put_text(home, to, f"{FED}/send/{name}", body))
        except OSError as error:
            case(name, (0, {"errcode": "closed", "error": repr(error)}))
    case("an_id_of_ten_thousand_bytes", put_text(home, to, f"{FED}/send/{'i' * 10_000}",
         b'{"origin":' + canonical(home.name) + b',"origin_server_ts":1,"pdus":[]}'))
    largest = [room.text(room.say(mal, "x" * 64_000)) for _ in range(50)]
    case("fifty_of_the_largest", send_text(home, to, largest))
    junk = [canonical({**json.loads(text), "unsigned": {"x": "y" * 100_000}}) for text in says(50)]
    case("fifty_with_junk", send_text(home, to, junk))
    case("and_an_honest_one", send_text(home, to, says(1)))
    last = room.line[-1]
    return {"cases": cases, "last": last, "line": [i for i in room.line]}


def op_edus(home, c, homes=None):
    to, room_id, victim, mal = c["to"], c["room_id"], c["victim"], home.user("mal")
    foreign = c["foreign"]
    event = c["event"]

    def typing(user, room):
        return {"edu_type": "m.typing", "content": {"room_id": room, "user_id": user, "typing": True}}

    def receipt(room, user, ident, **data):
        return {"edu_type": "m.receipt", "content": {room: {"m.read": {
            user: {"event_ids": [ident], "data": {"ts": now_ms(), **data}}}}}}

    def devices(user, **fields):
        return {"edu_type": "m.device_list_update", "content": {
            "user_id": user, "device_id": "D", "stream_id": 3, "prev_id": [], **fields}}

    def message(sender, target, device, kind="org.evil.message", ident=None, body=None):
        return {"edu_type": "m.direct_to_device", "content": {
            "sender": sender, "type": kind, "message_id": ident or str(time.time_ns()),
            "messages": {target: {device: body or {"evil": True}}}}}

    cases = {
        "types_for_a_user_of_another_server": [typing(foreign, room_id)],
        "types_for_the_hubs_own_user": [typing(victim, room_id)],
        "types_in_a_room_it_is_not_in": [typing(mal, c["elsewhere"])],
        "types_in_no_room": [typing(mal, "!none:nowhere")],
        "reads_for_a_user_of_another_server": [receipt(room_id, foreign, event)],
        "reads_for_the_hubs_own_user": [receipt(room_id, victim, event)],
        "reads_in_a_room_it_is_not_in": [receipt(c["elsewhere"], mal, event)],
        "reads_an_event_of_a_long_name": [receipt(room_id, mal, "$" + "x" * 100_000)],
        "reads_nothing": [{"edu_type": "m.receipt", "content": {room_id: {"m.read": {mal: {"event_ids": []}}}}}],
        "reads_in_ten_thousand_rooms": [{"edu_type": "m.receipt", "content": {
            f"!r{n}:x": {"m.read": {mal: {"event_ids": ["$a"], "data": {"ts": 1}}}} for n in range(10_000)}}],
        "devices_of_the_hubs_own_user": [devices(victim)],
        "devices_of_a_user_of_another_server": [devices(foreign)],
        "devices_with_keys_that_are_none": [devices(mal, keys=[1, 2])],
        "devices_with_half_a_megabyte_of_keys": [devices(mal, keys={"user_id": mal, "device_id": "D",
            "algorithms": [], "keys": {f"k{n}": "x" * 100 for n in range(4000)}, "signatures": {}})],
        "devices_that_follow_a_hundred_thousand": [devices(mal, prev_id=list(range(100_000)))],
        "keys_of_the_hubs_own_user": [{"edu_type": "m.signing_key_update", "content": {
            "user_id": victim, "master_key": {"user_id": victim, "usage": ["master"],
                                              "keys": {"ed25519:x": "A" * 43}}}}],
        "a_message_from_the_hubs_own_user": [message(victim, victim, "*")],
        "a_message_from_a_user_of_another_server": [message(foreign, victim, "*")],
        "a_message_of_a_long_type": [message(mal, victim, "*", kind="t" * 300)],
        "a_message_for_nobody": [message(mal, "@nobody:" + to, "*")],
        "a_message_that_is_no_object": [message(mal, victim, "*", body=[1])],
        "content_is_null": [{"edu_type": "m.typing", "content": None}],
        "content_is_missing": [{"edu_type": "m.direct_to_device"}],
        "type_is_a_number": [{"edu_type": 7, "content": {}}],
        "an_edu_that_is_a_list": [[]],
        "an_edu_of_unknown_type_of_five_mebibytes": [{"edu_type": "org.evil", "content": {
            "x": "y" * 5 * 1024 * 1024}}],
        "presence_for_the_hubs_own_user": [{"edu_type": "m.presence", "content": {"push": [
            {"user_id": victim, "presence": "offline"}]}}],
    }
    results = []
    for name, edus in cases.items():
        results.append(told(name, home.send(to, [], edus)))
        started = time.time()
    # a flood of messages for a device, more than one server may leave in a mailbox
    for number in range(c.get("flood", 0)):
        home.send(to, [], [message(mal, victim, "*", ident=f"flood{number}.{n}", body={"x": "y" * 40_000})
                           for n in range(100)])
    flooded = time.time() - started
    honest = homes[1]
    results.append(told("an_honest_message", honest.send(to, [], [
        message(honest.user("good"), victim, "*", kind="org.good.message", body={"good": True})])))
    results.append(told("honestly_typing", home.send(to, [], [typing(mal, room_id)])))
    return {"cases": results, "flooded": flooded}


def op_paths(home, c, homes=None):
    """Room, event and user in the path and in the body are not the same, or are none of its business."""
    to, room, secret = c["to"], home.rooms[c["room_id"]], c["elsewhere"]
    other, victim, mal = homes[1], c["victim"], home.user("mal")
    cases = []

    def case(name, method, path, body=None):
        cases.append(told(name, home.ask(to, method, path, body)))

    def member(membership, user, sender=None, where=None, **fields):
        _, event = room.make("m.room.member", {"membership": membership}, sender or user, user,
                             **({"room_id": where} if where else {}), **fields)
        return event_id(room.version, event), event

    new = home.user("newcomer")
    ident, join = member("join", new)
    sent = f"{FED2}/send_join/{quoted(room.room_id)}"
    case("joins_under_another_id", "PUT", f"{sent}/{quoted(room.line[-1])}", join)
    case("joins_another_room_by_the_path", "PUT", f"{FED2}/send_join/{quoted(secret)}/{quoted(ident)}", join)
    there, elsewhere = member("join", new, where=secret)
    case("joins_another_room_by_the_body", "PUT", f"{sent}/{quoted(there)}", elsewhere)
    for membership in ("leave", "invite", "ban", "knock"):
        i, event = member(membership, new)
        case(f"joins_with_a_{membership}", "PUT", f"{sent}/{quoted(i)}", event)
    i, event = room.make("m.room.message", {"body": "x"}, mal)
    case("joins_with_a_message", "PUT", f"{sent}/{quoted(i)}", event)
    i, event = member("join", new, sender=mal)
    case("joins_for_another_user", "PUT", f"{sent}/{quoted(i)}", event)
    theirs = other.user("theirs")
    i, event = room.make("m.room.member", {"membership": "join"}, theirs, theirs, server=other, key=other.key)
    case("joins_for_another_server", "PUT", f"{sent}/{quoted(i)}", event)
    i, event = member("join", victim)
    case("joins_for_the_hubs_own_user", "PUT", f"{sent}/{quoted(i)}", event)
    i, event = member("join", new, prev_events=[])
    case("joins_after_nothing", "PUT", f"{sent}/{quoted(i)}", event)
    i, event = member("join", new, prev_events=["$" + b64url(hashlib.sha256(b"x").digest())])
    case("joins_after_what_nobody_knows", "PUT", f"{sent}/{quoted(i)}", event)
    i, event = member("join", new, auth_events=[])
    case("joins_leaning_on_nothing", "PUT", f"{sent}/{quoted(i)}", event)
    i, event = member("join", new)
    event["signatures"][home.name][home.key.id] = "A" * 86
    case("joins_unsigned", "PUT", f"{sent}/{quoted(i)}", event)
    case("joins_with_a_list", "PUT", f"{sent}/{quoted(i)}", [event])
    i, event = member("join", home.user("stranger"))
    case("leaves_with_a_join", "PUT", f"{FED2}/send_leave/{quoted(room.room_id)}/{quoted(i)}", event)
    case("knocks_with_a_join", "PUT", f"{FED}/send_knock/{quoted(room.room_id)}/{quoted(i)}", event)
    case("asks_for_a_join_of_another_servers_user", "GET",
         f"{FED}/make_join/{quoted(room.room_id)}/{quoted(theirs)}?ver=10&ver=11&ver=12")
    case("asks_for_a_join_into_a_secret_room", "GET",
         f"{FED}/make_join/{quoted(secret)}/{quoted(mal)}?ver=10&ver=11&ver=12")
    case("asks_for_a_leave_of_the_hubs_own_user", "GET",
         f"{FED}/make_leave/{quoted(room.room_id)}/{quoted(victim)}")
    hers = c["hers"]
    for name, path in [
        ("reads_a_secret_state", f"{FED}/state/{quoted(secret)}?event_id={quoted(hers)}"),
        ("reads_secret_state_ids", f"{FED}/state_ids/{quoted(secret)}?event_id={quoted(hers)}"),
        ("reads_a_secret_event", f"{FED}/event/{quoted(hers)}"),
        ("reads_what_a_secret_leans_on", f"{FED}/event_auth/{quoted(secret)}/{quoted(hers)}"),
        ("reads_secrets_backwards", f"{FED}/backfill/{quoted(secret)}?v={quoted(hers)}&limit=10"),
        ("reads_a_secret_by_the_name_of_an_open_room",
         f"{FED}/state/{quoted(room.room_id)}?event_id={quoted(hers)}"),
        ("reads_secret_ids_by_the_name_of_an_open_room",
         f"{FED}/state_ids/{quoted(room.room_id)}?event_id={quoted(hers)}"),
        ("reads_what_it_leans_on_by_an_open_room",
         f"{FED}/event_auth/{quoted(room.room_id)}/{quoted(hers)}"),
        ("asks_for_a_file_outside", "/_matrix/federation/v1/media/download/..%2F..%2Fkeys%2Fsigning.pem"),
        ("walks_up_the_path", f"{FED}/../../../_matrix/federation/v1/event/{quoted(hers)}"),
        ("asks_for_a_user_of_another_server", f"{FED}/query/profile?user_id={quoted(theirs)}"),
    ]:
        case(name, "GET", path)
    # backwards from a secret event by the name of an open room: nothing of it may come
    status, body = home.ask(to, "GET", f"{FED}/backfill/{quoted(room.room_id)}?v={quoted(hers)}&limit=10")
    cases.append({"name": "reads_backwards_from_a_secret", "status": status, "errcode": None,
                  "error": f"{len(body.get('pdus', []))} events"})
    body = {"earliest_events": [], "latest_events": [hers], "limit": 10}
    status, body = home.ask(to, "POST", f"{FED}/get_missing_events/{quoted(room.room_id)}", body)
    cases.append({"name": "asks_what_is_missing_before_a_secret", "status": status, "errcode": None,
                  "error": f"{len(body.get('events', []))} events"})
    return {"cases": cases}


# ---- keys --------------------------------------------------------------------------------------

def op_keys(home, c, homes=None):
    """Each server of ours lies about its keys in another way, and then asks for a profile."""
    path = f"{FED}/query/profile?user_id={quoted(c['victim'])}"

    def listed(h, **fields):
        plain = {k: v for k, v in h.server_keys().items() if k != "signatures"}
        return {**plain, **fields}

    def signed(h, **fields):
        return h.key.sign(h.name, listed(h, **fields))

    honest = homes[-1]
    lies = {
        "honest": lambda h: h.server_keys(),
        "keys_of_another_server": lambda h: honest.server_keys(),
        "signed_as_another_server": lambda h: signed(h, server_name=honest.name),
        "unsigned": lambda h: listed(h),
        "signed_by_another_key": lambda h: Key(h.key.id).sign(h.name, listed(h)),
        "long_over": lambda h: signed(h, valid_until_ts=now_ms() - 3600_000),
        "valid_since_ever_until_ever": lambda h: signed(h, valid_until_ts=2 ** 53 - 1),
        "valid_beyond_all_numbers": lambda h: signed(h, valid_until_ts=2 ** 63),
        "valid_until_a_word": lambda h: signed(h, valid_until_ts="never"),
        "ten_thousand_keys": lambda h: signed(h, verify_keys={
            **{f"ed25519:k{n}": {"key": "A" * 43} for n in range(10_000)},
            h.key.id: {"key": h.key.public}}),
        "a_key_of_31_bytes": lambda h: signed(h, verify_keys={h.key.id: {"key": b64(b"x" * 31)}}),
        "no_key_at_all": lambda h: signed(h, verify_keys={}),
        "keys_are_a_list": lambda h: signed(h, verify_keys=[]),
        "an_answer_that_is_no_object": lambda h: [],
        "retired_key_only": lambda h: signed(h, verify_keys={}, old_verify_keys={
            h.key.id: {"key": h.key.public, "expired_ts": now_ms() + 3600_000}}),
    }
    cases = []
    for (name, lie), liar in zip(lies.items(), homes[1:]):
        liar.overrides["server_keys"] = (lambda lie, liar: lambda *_: {"body": lie(liar)})(lie, liar)
        cases.append(told(name, liar.ask(c["to"], "GET", path)))
    rest = homes[1 + len(lies):]
    others = {
        "an_endless_answer": {"endless": True},
        "an_answer_of_ten_mebibytes": {"filler": 10 * 1024 * 1024},
        "a_redirect_to_another_server": {"status": 302, "raw": "", "headers": {
            "Location": f"https://{honest.name}/_matrix/key/v2/server"}},
        "a_redirect_to_the_hub_itself": {"status": 307, "raw": "", "headers": {
            "Location": f"https://{c['to']}/_matrix/key/v2/server"}},
        "an_answer_of_status_500": {"status": 500},
        "no_answer_but_a_closed_door": {"close": True},
        "another_length_than_it_says": {"length": 10},
    }
    assert len(rest) > len(others), "more servers are needed"
    before = len(honest.seen)
    for (name, how), liar in zip(others.items(), rest):
        liar.overrides["server_keys"] = (lambda how: lambda *_: how)(how)
        cases.append(told(name, liar.ask(c["to"], "GET", path)))
    cases.append({"name": "the_redirected_to_was_asked", "status": len(honest.seen) - before})
    # the one that was honest has another key of the same name now
    swapper = homes[1]
    first, swapper.key = swapper.key, Key(swapper.key.id)
    cases.append(told("another_key_of_the_same_name", swapper.ask(c["to"], "GET", path)))
    swapper.key = first
    cases.append(told("and_the_one_that_was_known", swapper.ask(c["to"], "GET", path)))
    return {"cases": cases}


# ---- the graph ---------------------------------------------------------------------------------

def op_chain(home, c, homes=None):
    """The newest of a line of so many events, of which none was sent."""
    room, mal, depth = home.rooms[c["room_id"]], home.user("mal"), c["depth"]
    started = time.time()
    for number in range(depth):
        if c["kind"] == "auth":
            room.add("m.room.member", {"membership": "join", "displayname": f"Mal {number}"}, mal, mal)
        else:
            room.say(mal, f"of a long line {number}")
    tip = room.say(mal, "the end of a long line")
    made, home_seen = time.time() - started, len(home.seen)
    # another of the same transaction, for another room: nothing of this is its business
    beside = home.rooms[c["beside"]]
    good = beside.say(mal, "beside it")
    started = time.time()
    status, body = home.send(c["to"], [room.events[tip], beside.events[good]], timeout=300)
    asked = {}
    for request in home.seen[home_seen:]:
        asked[request.endpoint] = asked.get(request.endpoint, 0) + 1
    return {"status": status, "result": body.get("pdus", {}).get(tip), "id": tip, "asked": asked,
            "beside": body.get("pdus", {}).get(good), "seconds": time.time() - started, "made": made}


def op_forks(home, c, homes=None):
    """So many events that all follow the same one."""
    room, mal, count = home.rooms[c["room_id"]], home.user("mal"), c["count"]
    base, depth = list(room.ends), room.depth
    started = time.time()
    events = []
    for number in range(count):
        if c["kind"] == "state":
            content = {"membership": "join", "displayname": f"Fork {number}"}
            events.append(room.make("m.room.member", content, mal, mal, prev_events=base, depth=depth + 1))
        else:
            content = {"msgtype": "m.text", "body": f"fork {number}"}
            events.append(room.make("m.room.message", content, mal, prev_events=base, depth=depth + 1))
    made, started, results, slowest = time.time() - started, time.time(), {}, 0
    texts = [canonical(event) for _, event in events]
    for at in range(0, count, 50):
        begun = time.time()
        # by all of ours in turn: one alone would soon be answered late
        relay = homes[(at // 50) % len(homes)]
        status, body = send_text(relay, c["to"], texts[at:at + 50])
        slowest = max(slowest, time.time() - begun)
        for result in body.get("pdus", {}).values():
            word = "refused" if result else "taken"
            results[word] = results.get(word, 0) + 1
        results[str(status)] = results.get(str(status), 0) + 1
    return {"seconds": time.time() - started, "made": made, "results": results, "slowest": slowest,
            "ids": [ident for ident, _ in events]}


def op_endless(home, c, homes=None):
    """Whatever is missing, there is always more of it: each question is answered with new events that follow
    others nobody has heard of, the state is the room's, and what is asked for by its id exists."""
    room, mal = home.rooms[c["room_id"]], home.user("mal")
    made = {}

    def another():
        before = "$" + b64url(os.urandom(32))
        ident, event = room.make("m.room.message", {"body": "more"}, mal, prev_events=[before])
        made[ident] = event
        return event

    tip = another()
    home.overrides["get_missing_events"] = lambda *_: {"body": {"events": [another() for _ in range(50)]}}
    home.overrides["event"] = lambda *_: {"body": {"origin": home.name, "origin_server_ts": 1,
                                                   "pdus": [another()]}}
    before, started = len(home.seen), time.time()
    status, body = home.send(c["to"], [tip])
    home.overrides.clear()
    return {"status": status, "result": body.get("pdus"), "asked": len(home.seen) - before,
            "seconds": time.time() - started}


def op_state_lies(home, c, homes=None):
    """An event behind a gap, and a state before it that is not so."""
    room, mal, lies = home.rooms[c["room_id"]], home.user("mal"), {}
    true = dict(room.state)
    ids = list(true.values())
    chain = room.auth_chain(ids)
    forged, levels = room.make("m.room.power_levels", {"users": {mal: 100}}, mal, "")
    room.events[forged] = levels      # told when asked for, never part of the room
    foreign = home.room(room.version)
    name, named = room.make("m.room.name", {"name": "Mal's"}, mal, "")
    room.events[name] = named
    create, rules = true[("m.room.create", "")], true[("m.room.join_rules", "")]
    pl = true[("m.room.power_levels", "")]
    hers = true[("m.room.member", c["victim"])]
    lies["forged_power_levels"] = [i for i in ids if i != pl] + [forged], chain
    lies["a_name_without_the_power"] = ids + [name], chain
    lies["without_the_create_event"] = [i for i in ids if i != create], chain
    lies["without_power_levels"] = [i for i in ids if i != pl], chain
    lies["without_rules_and_members"] = [i for i in ids if i not in (rules, hers)], chain
    lies["nothing"] = [], []
    lies["another_rooms_state"] = list(foreign.state.values()), foreign.line
    lies["two_of_a_kind"] = ids + [home.older_own], chain
    lies["a_message_as_state"] = ids + [room.line[-1]], chain
    lies["ids_that_are_none"] = ["$x", "", "!room", "$" + "y" * 500], ["a"]
    lies["a_hundred_thousand_unknown_ids"] = ["$" + b64url(os.urandom(32)) for _ in range(100_001)], []
    cases = []
    for name, (state, auth) in lies.items():
        middle = room.say(mal, f"in the gap: {name}")
        for _ in range(25):
            room.say(mal, "in the gap")
        tip = room.say(mal, f"after the gap: {name}")
        home.overrides["get_missing_events"] = lambda *_: {"body": {"events": []}}
        home.overrides["state_ids"] = lambda *_: {"body": {"pdu_ids": state, "auth_chain_ids": auth}}
        started = time.time()
        status, body = home.send(c["to"], [room.events[tip]])
        home.overrides.clear()
        result = body.get("pdus", {}).get(tip)
        cases.append({"name": name, "status": status, "taken": result == {}, "error": str(result)[:200],
                      "seconds": time.time() - started, "id": tip, "middle": middle})
        # what was left out is told now: the room goes on from the same place everywhere
        at = room.place[middle]
        for begin in range(at, len(room.line), 50):
            home.send(c["to"], [room.events[i] for i in room.line[begin:begin + 50]])
    return {"cases": cases}


def op_renewed(home, c, homes=None):
    """A second membership event of Mal's; the first is remembered as the older one."""
    room, mal = home.rooms[c["room_id"]], home.user("mal")
    home.older_own = room.state[("m.room.member", mal)]
    ident = room.add("m.room.member", {"membership": "join", "displayname": "Mal"}, mal, mal)
    home.send(c["to"], [room.events[ident]])
    return {"event_id": ident}


# ---- being asked to be let in ------------------------------------------------------------------

def op_enter(home, c, homes=None):
    """A room of which the answer to a join is not as it should be; its version is `version`."""
    how, version = c["how"], c.get("version", "11")
    room = home.room(version, join_rule="public")
    founder = home.user("mal")
    for number in range(3):
        room.say(founder, f"before {number}")
    foreign = home.room(version)
    other = homes[1]

    def answer(state=None, chain=None, **fields):
        known = dict(room.events)
        known.update(foreign.events)
        known.update(extra)
        current = list(room.state.values())
        state = current if state is None else state
        chain = room.auth_chain(current) if chain is None else chain
        return {"auth_chain": [known[i] for i in chain], "state": [known[i] for i in state],
                "members_omitted": False, "origin": home.name, "servers_in_room": [home.name], **fields}

    extra = {}
    unauthorised = home.user("m1")

    def lie(request, status, honest):
        join = request.body
        user = join["state_key"]
        # the honest answer took it into the room just now
        if room.line[-1] == event_id(version, join):
            room.line.pop()
            room.state.pop(("m.room.member", user))
        ids = list(room.state.values())
        create, pl = room.state[("m.room.create", "")], room.state[("m.room.power_levels", "")]
        rules = room.state[("m.room.join_rules", "")]

        def piece(kind, content, key="", sender=founder, **fields):
            ident, event = room.make(kind, content, sender, key, **fields)
            extra[ident] = event
            return ident

        if how == "another_rooms_state":
            return {"body": answer(list(foreign.state.values()), foreign.line, event=join)}
        if how == "another_rooms_create_event":
            return {"body": answer([i for i in ids if i != create] + [foreign.line[0]], event=join)}
        if how == "no_create_event":
            return {"body": answer([i for i in ids if i != create],
                                   [i for i in room.auth_chain(ids) if i != create], event=join)}
        if how == "no_power_levels_anywhere":
            return {"body": answer([i for i in ids if i != pl],
                                   [i for i in room.auth_chain(ids) if i != pl], event=join)}
        if how == "nothing_at_all":
            return {"body": {}}
        if how == "lists_of_numbers":
            return {"body": {"auth_chain": [3], "state": [1, 2], "event": join}}
        if how == "members_omitted_and_no_state_to_ask_for":
            return {"body": answer(ids, event=join, members_omitted=True)}
        if how == "the_user_is_banned":
            ban = piece("m.room.member", {"membership": "ban"}, user)
            return {"body": answer(ids + [ban], event=join)}
        if how == "the_room_is_closed":
            closed = piece("m.room.join_rules", {"join_rule": "invite"})
            return {"body": answer([i for i in ids if i != rules] + [closed],
                                   room.auth_chain(ids), event=join)}
        if how == "two_events_of_a_kind":
            second = piece("m.room.join_rules", {"join_rule": "public", "again": True})
            return {"body": answer(ids + [second], event=join)}
        if how == "a_message_as_state":
            return {"body": answer(ids + [room.line[-1]], event=join)}
        if how == "power_levels_without_the_power":
            taken = piece("m.room.power_levels", {"users": {unauthorised: 100}}, sender=unauthorised)
            return {"body": answer([i for i in ids if i != pl] + [taken], event=join)}
        if how == "power_levels_signed_by_another_server":
            ident, event = room.make("m.room.power_levels", {"users": {founder: 100, "@x:y": 100}}, founder, "",
                                     server=other, key=other.key)
            extra[ident] = event
            return {"body": answer([i for i in ids if i != pl] + [ident], event=join)}
        if how == "a_changed_topic":
            ident, event = room.make("m.room.topic", {"topic": "true"}, founder, "")
            event["content"] = {"topic": "false"}
            extra[ident] = event
            return {"body": answer(ids + [ident], event=join)}
        if how == "another_join":
            ident, event = room.make("m.room.member", {"membership": "join", "displayname": "Mallory"},
                                     user, user)
            return {"body": answer(ids, event=event)}
        if how == "a_hundred_times_the_same":
            return {"body": answer(ids + [ids[0]] * 100, room.auth_chain(ids) * 100, event=join)}
        if how == "seventy_mebibytes":
            return {"filler": 70 * 1024 * 1024}
        if how == "another_version_of_the_founding":
            return {"body": answer([i for i in ids if i != create] + [
                piece("m.room.create", {"room_version": "10", "creator": founder}, prev_events=[],
                      auth_events=[], depth=1)], event=join)}
        if how == "cut_in_the_middle":
            return {"raw": canonical(answer(ids, event=join))[:-200]}
        return {}

    home.overrides["send_join"] = lie
    if how == "no_power_levels_anywhere":
        for endpoint in ("event", "event_auth"):
            home.overrides[endpoint] = lambda *_: {"status": 404, "body": {"errcode": "M_NOT_FOUND"}}
    if how == "members_omitted_and_no_state_to_ask_for":
        home.overrides["state"] = lambda *_: {"status": 404, "body": {"errcode": "M_NOT_FOUND"}}
    return {"room_id": room.room_id}


# ---- invites -----------------------------------------------------------------------------------

def op_invites(home, c, homes=None):
    to, victim, other, cases = c["to"], c["victim"], homes[1], []

    def invite(name, version="12", room=None, *, stripped=None, where=None, ident=None, said=None, change=None,
               body=None, user=None, content=None, sender=None, key=None, server=None):
        room = room or home.room(version, join_rule="invite")
        sender = sender or home.user("mal")
        made, event = room.make("m.room.member", content or {"membership": "invite"}, sender, user or victim,
                                key=key, server=server)
        if change:
            event = change(event)
        whole = [room.events[room.state[k]] for k in (("m.room.create", ""), ("m.room.join_rules", ""))]
        short = [{k: e[k] for k in ("type", "state_key", "sender", "content")} for e in whole]
        stripped = (whole if room.version == "12" else short) if stripped is None else stripped
        body = {"event": event, "room_version": said or room.version, "invite_room_state": stripped,
                **(body or {})}
        path = f"{FED2}/invite/{quoted(where or room.room_id)}/{quoted(ident or made)}"
        cases.append({**told(name, home.ask(to, "PUT", path, body)), "room_id": room.room_id})

    for version in ("12", "11", "10"):
        invite(f"honest_{version}", version)
    invite("another_room_in_the_path", where=home.room("12").room_id)
    invite("another_event_in_the_path", ident="$" + b64url(os.urandom(32)))
    theirs = other.user("theirs")
    invite("sender_of_another_server", "11", sender=theirs, key=other.key, server=other)
    invite("sender_of_the_hub", "11", sender=victim)
    invite("signed_by_another_server", "11", key=other.key, server=other)
    invite("user_of_another_server", "11", user=theirs)
    invite("user_that_does_not_exist", "11", user="@nobody:" + to)
    invite("user_that_is_none", "11", user="nobody")
    for membership in ("join", "leave", "ban", "knock", "?"):
        invite(f"membership_is_{membership}", "11", content={"membership": membership})
    invite("no_membership", "11", content={"reason": "x"})
    invite("another_version_than_it_has", "12", said="10")
    invite("a_version_that_nobody_speaks", "11", said="org.evil.1")
    invite("a_version_that_is_a_number", "11", body={"room_version": 11})
    invite("content_was_changed", "11",
           change=lambda e: {**e, "content": {"membership": "invite", "reason": "changed"}})
    invite("unsigned", "11", change=lambda e: {k: v for k, v in e.items() if k != "signatures"})
    invite("event_is_a_list", "11", body={"event": []})
    invite("event_is_missing", "11", change=lambda e: None)
    invite("state_of_a_hundred_pieces", "11", stripped=[
        {"type": "m.room.name", "state_key": "", "sender": home.user("mal"), "content": {"name": str(n)}}
        for n in range(100)])
    invite("state_of_a_mebibyte", "11", stripped=[
        {"type": "m.room.name", "state_key": "", "sender": home.user("mal"),
         "content": {"name": "x" * 1024 * 1024}}])
    invite("state_of_two_mebibytes", "11", stripped=[
        {"type": "m.room.name", "state_key": "", "sender": home.user("mal"),
         "content": {"name": "x" * 2 * 1024 * 1024}}])
    invite("state_of_numbers", "11", stripped=[1, 2, "x", None, [], {}])
    invite("state_is_text", "11", stripped="everything")
    invite("state_with_content_of_the_wrong_type", "11", stripped=[
        {"type": "m.room.create", "state_key": "", "sender": home.user("mal"), "content": []},
        {"type": "m.room.name", "state_key": "", "sender": 7, "content": {"name": "x"}},
        {"type": "m.room.name", "state_key": "", "sender": home.user("mal"), "content": {"name": [1]}},
        {"type": "m.room.member", "state_key": victim, "sender": victim, "content": {"membership": "join"}}])
    invite("state_of_stripped_pieces_in_12", "12", stripped=[
        {"type": "m.room.create", "state_key": "", "sender": home.user("mal"), "content": {}}])
    foreign = home.room("12")
    invite("state_of_another_room_in_12", "12", stripped=[foreign.events[i] for i in foreign.line[:4]])
    invite("state_without_the_create_event_in_12", "12", stripped=[])
    invite("state_nested_deep", "11", stripped=[
        {"type": "m.room.name", "state_key": "", "sender": home.user("mal"), "content": {"name": deep(60)}}])
    started, statuses = time.time(), {}
    for number in range(c.get("flood", 0)):
        room = Room(home, "11", f"!flood{number}:{home.name}")
        made, event = room.make("m.room.member", {"membership": "invite"}, home.user("mal"), victim,
                                auth_events=[], prev_events=["$" + b64url(os.urandom(32))])
        path = f"{FED2}/invite/{quoted(room.room_id)}/{quoted(made)}"
        status, _ = home.ask(to, "PUT", path, {"event": event, "room_version": "11", "invite_room_state": []})
        statuses[str(status)] = statuses.get(str(status), 0) + 1
    return {"cases": cases, "flood": statuses, "seconds": time.time() - started}


def deep(levels):
    return {"a": deep(levels - 1)} if levels else 7


# ---- history -----------------------------------------------------------------------------------

def op_past(home, c, homes=None):
    """A room with a past that is mostly events nobody was allowed to send; the resident believes them."""
    room = home.room(c.get("version", "11"))
    mal, stranger = home.user("mal"), home.user("stranger")
    good = [room.say(mal, f"true {number}") for number in range(c["accepted"])]
    bad = [room.say(stranger, f"false {number}") for number in range(c["rejected"])]
    return {"room_id": room.room_id, "good": good, "bad": bad}


def op_backfill(home, c, homes=None):
    """How `backfill` answers from now on."""
    room, mal, how = home.rooms[c["room_id"]], home.user("mal"), c["how"]
    foreign = home.room(room.version)
    _, unsigned = room.make("m.room.message", {"body": "unsigned"}, mal)
    del unsigned["signatures"]

    def events(idents):
        return {"body": {"origin": home.name, "origin_server_ts": 1, "pdus": idents}}

    def lie(request, status, honest):
        if how == "another_room":
            return events([foreign.events[i] for i in foreign.line])
        if how == "always_the_same":
            return events([room.events[room.line[0]]] * 100)
        if how == "newer_ones":
            return events([room.events[i] for i in room.line[-5:]])
        if how == "always_more":
            fresh = [room.make("m.room.message", {"body": f"endless {n}"}, mal,
                               prev_events=["$" + b64url(os.urandom(32))])[1] for n in range(1000)]
            return events(fresh)
        if how == "unsigned":
            return events([unsigned] * 100)
        if how == "numbers":
            return events([1, "x", None, [], {}])
        if how == "nothing":
            return events([])
        if how == "a_new_beginning":
            _, event = room.make("m.room.create", {"room_version": room.version}, mal, "", prev_events=[],
                                 auth_events=[], depth=1)
            return events([event])
        return {"status": 500}

    home.overrides["backfill"] = lie
    return {}


# ---- slowness ----------------------------------------------------------------------------------

def op_slow(home, c, homes=None):
    """So many connections of each kind that are never done; how many are still open after a while."""
    host, _, port = c["to"].rpartition(":")
    count, seconds, kinds = c["count"], c["seconds"], c["kinds"]
    open_now = {kind: [] for kind in kinds}
    for kind in kinds:
        for _ in range(count):
            plain = socket.create_connection(("127.0.0.1", int(port)), timeout=30)
            if kind != "no_handshake":
                plain = home.trust.wrap_socket(plain, server_hostname=host)
            path = f"{FED}/send/slow"
            if kind in ("body", "large_body"):
                length = 9_000_000 if kind == "large_body" else 5_000
                shown = home.authorization(c["to"], "PUT", path, {})
                plain.sendall(f"PUT {path} HTTP/1.1\r\nHost: {c['to']}\r\nAuthorization: {shown}\r\n"
                              f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode())
            if kind == "chunks":
                plain.sendall(f"PUT {path} HTTP/1.1\r\nHost: {c['to']}\r\nTransfer-Encoding: chunked\r\n"
                              "\r\n".encode())
            if kind == "header":
                plain.sendall(b"GET /_matrix/federation/v1/version HTTP/1.1\r\nX-Slow: ")
            plain.setblocking(False)
            open_now[kind].append(plain)

    def drip():
        end = time.time() + seconds
        while time.time() < end:
            for kind, sockets in open_now.items():
                for one in list(sockets):
                    try:
                        if kind == "no_handshake":
                            one.send(b"\x16")
                        else:
                            one.send(b"1\r\n \r\n" if kind == "chunks" else b" ")
                        if one.recv(4096) == b"":
                            raise OSError("closed")
                    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                        pass
                    except OSError:
                        sockets.remove(one)
                        one.close()
            time.sleep(1)

    home.slow = (open_now, threading.Thread(target=drip, daemon=True))
    home.slow[1].start()
    return {"opened": {kind: len(sockets) for kind, sockets in open_now.items()}}


def op_slow_left(home, c, homes=None):
    open_now, thread = home.slow
    thread.join(c.get("seconds", 60))
    left = {kind: len(sockets) for kind, sockets in open_now.items()}
    for sockets in open_now.values():
        for one in sockets:
            one.close()
    return {"left": left}


def op_smuggle(home, c, homes=None):
    """Requests of which it is not clear where they end."""
    host, _, port = c["to"].rpartition(":")
    head = f"PUT {FED}/send/s HTTP/1.1\r\nHost: {c['to']}\r\n"
    requests = {
        "length_and_chunks": head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two_lengths": head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        "a_negative_length": head + "Content-Length: -1\r\n\r\n",
        "a_huge_length": head + "Content-Length: 99999999999999999999\r\n\r\n",
        "chunks_of_an_endless_size": head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n",
        "another_coding": head + "Transfer-Encoding: gzip, chunked, identity\r\n\r\n0\r\n\r\n",
        "a_header_of_a_hundred_kilobytes": head + "X-Long: " + "x" * 100_000 + "\r\n\r\n",
        "ten_thousand_headers": head + "".join(f"X-{n}: 1\r\n" for n in range(10_000)) + "\r\n",
        "a_line_without_an_end": "GET /" + "a" * 200_000,
        "no_http_at_all": "\x00\x01\x02\r\n\r\n",
    }
    cases = []
    for name, text in requests.items():
        plain = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
        one = home.trust.wrap_socket(plain, server_hostname=host)
        try:
            one.sendall(text.encode("latin-1"))
            got = one.recv(4096).decode("latin-1")
        except OSError as error:
            got = repr(error)
        finally:
            one.close()
        status = got.split(" ")[1] if got.startswith("HTTP/1.1 ") else "closed"
        cases.append({"name": name, "status": status})
    return {"cases": cases}


# ---- the flood ---------------------------------------------------------------------------------

class Flood:
    """Prepared requests, replayed as fast as they are answered, each kind over a connection of its own."""

    def __init__(self):
        self.over = threading.Event()
        self.threads, self.counts = [], {}

    def begin(self, function, *args):
        thread = threading.Thread(target=function, args=(self, *args), daemon=True)
        self.threads.append(thread)
        thread.start()

    def count(self, kind, status):
        of = self.counts.setdefault(kind, {})
        of[status] = of.get(status, 0) + 1


def replay(flood, home, to, kind, requests):
    """`requests` are (method, path, body, header); the signing was done before."""
    host, _, port = to.rpartition(":")
    line = None
    while not flood.over.is_set():
        for method, path, body, shown in requests:
            if flood.over.is_set():
                break
            try:
                if line is None:
                    line = http.client.HTTPSConnection(host, int(port), timeout=60, context=home.trust)
                line.request(method, path, body, {"Authorization": shown, "Content-Type": "application/json"})
                answer = line.getresponse()
                answer.read()
                flood.count(kind, str(answer.status))
            except (OSError, http.client.HTTPException):
                flood.count(kind, "closed")
                line.close()
                line = None
                time.sleep(0.05)


def trickle(flood, home, to, count):
    """Connections that send a byte a second."""
    host, _, port = to.rpartition(":")
    lines = []
    while not flood.over.is_set():
        while len(lines) < count and not flood.over.is_set():
            plain = socket.create_connection(("127.0.0.1", int(port)), timeout=30)
            one = home.trust.wrap_socket(plain, server_hostname=host)
            one.sendall(f"PUT {FED}/send/slow HTTP/1.1\r\nHost: {to}\r\nContent-Length: 5000\r\n\r\n".encode())
            lines.append(one)
        for one in list(lines):
            try:
                one.send(b" ")
            except OSError:
                lines.remove(one)
        flood.count("slow", "open")
        flood.over.wait(1)
    for one in lines:
        one.close()


def transaction(home, to, pdus, name, wrong=False, beside=b""):
    body = b'{"edus":[],"origin":' + canonical(home.name) + b',"origin_server_ts":1,"pdus":[' \
        + b",".join(pdus) + b"]" + beside + b"}"
    path = f"{FED}/send/{name}"
    shown = authorized(home, to, "PUT", path, body if not wrong else b"{}")
    return "PUT", path, body, shown


def op_flood(home, c, homes=None):
    """Prepares a flood of all kinds (once), and lets it loose."""
    to = c["to"]
    for at, one in enumerate(homes):
        if getattr(one, "prepared", None):
            continue
        room, mal = one.rooms[c["room_id"]], one.user("mal")
        base, depth = list(room.ends), room.depth
        bad, forks = [], []
        for number in range(50):
            event = room.make("m.room.message", {"body": f"bad {number}"}, mal, prev_events=base,
                              depth=depth + 1)[1]
            event["signatures"][one.name][one.key.id] = "A" * 86
            bad.append(canonical(event))
        for number in range(c.get("forks", 10_000) // len(homes)):
            forks.append(canonical(room.make("m.room.message", {"body": f"fork {number}"}, mal,
                                             prev_events=base, depth=depth + 1)[1]))
        giant = b',"x":"' + b"y" * 9 * 1024 * 1024 + b'"'
        state = f"{FED}/state/{quoted(room.room_id)}?event_id={quoted(base[0])}"
        read = ("GET", state, None, authorized(one, to, "GET", state, b""))
        one.prepared = {
            "bad signatures": [transaction(one, to, bad, f"bad{at}")],
            "forks": [transaction(one, to, forks[i:i + 50], f"fork{at}.{i}") for i in range(0, len(forks), 50)],
            "giant": [transaction(one, to, [], f"giant{at}", beside=giant)],
            "giant, not signed": [transaction(one, to, [], f"false{at}", True, giant)],
            "not signed": [transaction(one, to, bad[:5], f"no{at}", True)],
            "state": [read],
        }
    home.flood = Flood()
    for one in homes:
        for kind, requests in one.prepared.items():
            if not c.get("kinds") or kind in c["kinds"]:
                home.flood.begin(replay, one, to, kind, requests)
    if not c.get("kinds") or "slow" in c["kinds"]:
        home.flood.begin(trickle, home, to, 50)
    return {}


def op_ebb(home, c, homes=None):
    """Ends it; how its requests were answered."""
    home.flood.over.set()
    for thread in home.flood.threads:
        thread.join(70)
    return {"counts": home.flood.counts}


EVIL_OPS = {name[3:]: f for name, f in list(globals().items())
            if name.startswith("op_") and OPS.get(name[3:]) is not f}



def run():
    def with_homes(function):
        return lambda home, c: function(home, c, homes=home.all)
    return main({**OPS, **{name: with_homes(f) for name, f in EVIL_OPS.items()}})


if __name__ == "__main__":
    run()
