#!/usr/bin/env python3
"""The oracle against events made and signed here: run with the locked Python, prints one line."""
import copy
import json
import subprocess
import sys
import time
from pathlib import Path

SERVER, KEY_ID, SEED = "hub.example", "ed25519:t1", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU"
ANA, BOB, EVE = "@ana:hub.example", "@bob:hub.example", "@eve:hub.example"
EMPTY_HASH = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"


class Oracle:
    def __init__(self):
        here = Path(__file__).resolve().parent
        self.process = subprocess.Popen([sys.executable, here / "oracle.py"], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert json.loads(self.process.stdout.readline())["ready"]

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Room:
    """A history in one room version, every event signed; what Synapse says is not asked here."""

    def __init__(self, oracle, version, create=None):
        self.oracle, self.version, self.events, self.ids, self.state = oracle, version, [], [], {}
        self.create_id = None
        content = {"room_version": version, **(create or {})}
        if version == "10":
            content["creator"] = ANA
        self.add(ANA, "m.room.create", content, "")

    def add(self, sender, kind, content, key=None, auth=None, apply=True, **extra):
        event = {
            "type": kind, "sender": sender, "content": content, "depth": len(self.events) + 1,
            "origin_server_ts": 1_700_000_000_000 + len(self.events),
            "prev_events": self.ids[-1:], "auth_events": [], **extra,
        }
        if key is not None:
            event["state_key"] = key
        if self.version != "12":
            event["room_id"] = "!room:hub.example"
        elif self.create_id:
            event["room_id"] = "!" + self.create_id[1:]
        if kind != "m.room.create":
            types = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)]
            if kind == "m.room.member":
                types.append(("m.room.member", key))
                if content.get("membership") in ("join", "invite", "knock"):
                    types.append(("m.room.join_rules", ""))
            if self.version == "12":
                types.remove(("m.room.create", ""))
            found = {self.state[t] for t in types if t in self.state}
            event["auth_events"] = sorted(found) if auth is None else auth
        signed = self.oracle.ask(op="sign", version=self.version, event=event, server=SERVER,
                                 key_id=KEY_ID, seed=SEED)
        assert signed["ok"], signed
        self.key = signed["verify_key"]
        self.create_id = self.create_id or signed["event_id"]
        self.events.append(signed["event"])
        self.ids.append(signed["event_id"])
        if key is not None and apply:
            self.state[(kind, key)] = signed["event_id"]
        return signed["event_id"]

    def begin(self):
        self.add(ANA, "m.room.member", {"membership": "join"}, ANA)
        levels = {} if self.version == "12" else {ANA: 100}
        self.add(ANA, "m.room.power_levels", {"users": levels, "invite": 50}, "")
        self.add(ANA, "m.room.join_rules", {"join_rule": "invite"}, "")
        return self

    def judged(self):
        answer = self.oracle.ask(op="history", version=self.version, events=self.events, signed=True)
        assert answer["ok"], answer
        assert [r["event_id"] for r in answer["results"]] == self.ids
        return answer

    def check(self, event):
        return self.oracle.ask(op="check_event", version=self.version, event=event, server=SERVER,
                               verify_key={"key_id": KEY_ID, "key": self.key})


def a_signed_event_is_valid_until_it_is_touched(oracle, version):
    room = Room(oracle, version).begin()
    for event, event_id in zip(room.events, room.ids):
        answer = room.check(event)
        assert answer["ok"] and answer["event_id"] == event_id, answer
    message = copy.deepcopy(room.events[-1])
    message["content"]["join_rule"] = "public"
    answer = room.check(message)
    assert not answer["ok"] and not answer["signature_ok"] and not answer["content_hash_ok"], answer
    wrong_hash = copy.deepcopy(room.events[-1])
    wrong_hash["hashes"]["sha256"] = EMPTY_HASH
    assert not room.check(wrong_hash)["ok"]
    floating = copy.deepcopy(room.events[-1])
    floating["content"]["x"] = 1.5
    assert not room.check(floating)["format_ok"]
    huge = copy.deepcopy(room.events[-1])
    huge["content"]["x"] = 2**53
    assert not room.check(huge)["format_ok"]
    large = copy.deepcopy(room.events[-1])
    large["content"]["x"] = "x" * 65536
    assert not room.check(large)["format_ok"]


def a_content_change_outside_the_kept_keys_breaks_only_the_content_hash(oracle, version):
    room = Room(oracle, version).begin()
    room.add(ANA, "m.room.message", {"body": "one"})
    event = copy.deepcopy(room.events[-1])
    event["content"]["body"] = "two"
    answer = room.check(event)
    assert answer["signature_ok"] and not answer["content_hash_ok"] and not answer["ok"], answer
    assert answer["event_id"] == room.ids[-1]


def a_history_is_judged_in_order(oracle, version):
    room = Room(oracle, version).begin()
    want = [True] * 4
    room.add(EVE, "m.room.member", {"membership": "join"}, EVE, apply=False)
    room.add(ANA, "m.room.member", {"membership": "invite"}, BOB)
    room.add(BOB, "m.room.member", {"membership": "join"}, BOB)
    room.add(BOB, "m.room.message", {"body": "hello"})
    room.add(BOB, "m.room.name", {"name": "mine"}, "", apply=False)
    room.add(BOB, "m.room.member", {"membership": "ban"}, ANA, apply=False)
    room.add(ANA, "m.room.member", {"membership": "ban"}, BOB)
    room.add(BOB, "m.room.message", {"body": "still here?"})
    want += [False, True, True, True, False, False, True, False]
    answer = room.judged()
    assert [r["accept"] for r in answer["results"]] == want, answer
    assert sorted([*k, v] for k, v in room.state.items()) == answer["state"]


def an_event_that_leans_on_a_rejected_one_is_rejected(oracle, version):
    room = Room(oracle, version).begin()
    create = [] if version == "12" else [room.ids[0]]
    eve = room.add(EVE, "m.room.member", {"membership": "join"}, EVE, apply=False)
    levels = room.state[("m.room.power_levels", "")]
    room.add(EVE, "m.room.message", {"body": "x"}, auth=[*create, levels, eve])
    results = room.judged()["results"]
    assert not results[-1]["accept"] and results[-1]["stage"] == "auth_events", results[-1]


def old_auth_events_do_not_outvote_the_room(oracle, version):
    room = Room(oracle, version).begin()
    room.add(ANA, "m.room.member", {"membership": "invite"}, BOB)
    joined = room.add(BOB, "m.room.member", {"membership": "join"}, BOB)
    room.add(ANA, "m.room.member", {"membership": "ban"}, BOB)
    create = [] if version == "12" else [room.ids[0]]
    levels = room.state[("m.room.power_levels", "")]
    room.add(BOB, "m.room.message", {"body": "x"}, auth=[*create, levels, joined])
    results = room.judged()["results"]
    assert not results[-1]["accept"] and results[-1]["stage"] == "state", results[-1]


def the_rules_of_v12_are_those_of_v12(oracle):
    room = Room(oracle, "12", {"additional_creators": [BOB]}).begin()
    assert "room_id" not in room.events[0]
    assert room.check(room.events[0])["room_id"] == "!" + room.ids[0][1:]
    assert room.ids[0] not in room.events[1]["auth_events"]
    assert room.ids[0] in room.check(room.events[1])["auth_event_ids"]
    room.add(ANA, "m.room.member", {"membership": "invite"}, BOB)
    room.add(BOB, "m.room.member", {"membership": "join"}, BOB)
    room.add(BOB, "m.room.name", {"name": "ours"}, "")
    want = [True] * 7
    for named in (ANA, BOB):
        room.add(ANA, "m.room.power_levels", {"users": {named: 100}}, "", apply=False)
    room.add(ANA, "m.room.message", {"body": "x"},
             auth=[room.ids[0], *room.events[-1]["auth_events"]])
    want += [False, False, False]
    results = room.judged()["results"]
    assert [r["accept"] for r in results] == want, results
    for wrong in ("x", ["x"], [1]):
        bad = Room(oracle, "12", {"additional_creators": wrong})
        assert not bad.judged()["results"][0]["accept"], wrong


def a_graph_without_forks_is_a_history(oracle, version):
    room = Room(oracle, version).begin()
    room.add(EVE, "m.room.member", {"membership": "join"}, EVE, apply=False)
    room.add(ANA, "m.room.name", {"name": "one"}, "")
    line = oracle.ask(op="graph", version=version, events=room.events)
    assert line == room.judged(), line


def a_ban_wins_over_what_the_banned_did_meanwhile(oracle, version):
    room = Room(oracle, version).begin()
    room.add(ANA, "m.room.member", {"membership": "invite"}, BOB)
    room.add(BOB, "m.room.member", {"membership": "join"}, BOB)
    levels = {BOB: 50} if version == "12" else {ANA: 100, BOB: 50}
    fork = room.add(ANA, "m.room.power_levels", {"users": levels}, "")
    ban = room.add(ANA, "m.room.member", {"membership": "ban"}, BOB, apply=False)
    name = room.add(BOB, "m.room.name", {"name": "mine"}, "", prev_events=[fork])
    answer = oracle.ask(op="graph", version=version, events=room.events)
    assert answer["ok"] and all(r["accept"] for r in answer["results"]), answer
    kinds = {kind: event_id for kind, _, event_id in answer["state"]}
    assert "m.room.name" not in kinds and ["m.room.member", BOB, ban] in answer["state"], answer
    # the same by hand
    before = [i for i in room.state.values() if i != name]
    banned = [i for i in before if i != room.state[("m.room.member", BOB)]] + [ban]
    by_hand = oracle.ask(op="resolve", version=version, events=room.events,
                         state_sets=[banned, [*before, name]])
    assert by_hand["ok"] and by_hand["state"] == answer["state"], by_hand
    cases = oracle.ask(op="resolve", version=version, events=room.events,
                       cases=[[banned, [*before, name]], [banned]])
    assert cases["ok"] and cases["states"][0] == answer["state"], cases
    assert sorted(i for *_, i in cases["states"][1]) == sorted(banned), cases


def one_event_can_be_judged_alone(oracle, version):
    room = Room(oracle, version).begin()
    room.add(ANA, "m.room.message", {"body": "x"})
    by_id = dict(zip(room.ids, room.events))
    claimed = [by_id[i] for i in room.events[-1]["auth_events"]]
    if version == "12":
        claimed.append(room.events[0])
    ask = {"op": "auth", "version": version, "event": room.events[-1], "auth_events": claimed}
    assert oracle.ask(**ask)["accept"]
    gone = oracle.ask(**ask, state=[room.events[0]])
    assert not gone["accept"] and gone["stage"] == "state", gone
    missing = oracle.ask(**{**ask, "auth_events": claimed[:1]})
    assert not missing["accept"] and missing["stage"] == "auth_events", missing


def auth_types_are_synapses(oracle):
    room = Room(oracle, "12").begin()
    join = oracle.ask(op="auth_types", version="12", event=room.events[1])
    assert join["types"] == [["m.room.create", ""], ["m.room.join_rules", ""],
                             ["m.room.member", ANA], ["m.room.power_levels", ""]], join


def an_acl_is_asked_without_the_port(oracle):
    content = {"allow": ["*.example", 1, "[*"], "deny": ["EVIL.*"], "allow_ip_literals": False}
    servers = ["hub.example", "hub.example:8448", "evil.example:1", "hub.org", "[::1]", "1.2.3.4:1"]
    answer = oracle.ask(op="acl", content=content, servers=servers)
    assert answer == {"ok": True, "allowed": [True, True, False, False, False, False]}, answer
    content["allow_ip_literals"] = "no"
    answer = oracle.ask(op="acl", content=content, servers=["[::1]:80", "1.2.3.4"])
    assert answer == {"ok": True, "allowed": [True, False]}, answer
    answer = oracle.ask(op="globs", globs=["h?b.*", "*.ORG", "*"], servers=["hub.org:1", "b.org"])
    assert answer == {"ok": True, "matches": [[True, True, True], [False, True, True]]}, answer


def nonsense_is_answered_and_harms_nobody(oracle):
    for request in ({}, {"op": "x"}, {"op": "history"}, {"op": "history", "version": "99", "events": []},
                    {"op": "check_event", "version": "12"}):
        assert oracle.ask(**request)["ok"] is False
    for event in ({}, [], 1, {"type": 1, "depth": 1}, {"type": "m.room.create", "depth": -1}):
        assert not oracle.ask(op="check_event", version="12", event=event)["ok"]
        answer = oracle.ask(op="history", version="10", events=[event])
        assert answer["ok"] and not answer["results"][0]["accept"], answer
    assert oracle.ask(op="versions", id=7)["id"] == 7


def main():
    oracle = Oracle()
    for version in ("10", "11", "12"):
        a_signed_event_is_valid_until_it_is_touched(oracle, version)
        a_content_change_outside_the_kept_keys_breaks_only_the_content_hash(oracle, version)
        a_history_is_judged_in_order(oracle, version)
        an_event_that_leans_on_a_rejected_one_is_rejected(oracle, version)
        old_auth_events_do_not_outvote_the_room(oracle, version)
        a_graph_without_forks_is_a_history(oracle, version)
        a_ban_wins_over_what_the_banned_did_meanwhile(oracle, version)
        one_event_can_be_judged_alone(oracle, version)
    the_rules_of_v12_are_those_of_v12(oracle)
    auth_types_are_synapses(oracle)
    an_acl_is_asked_without_the_port(oracle)
    nonsense_is_answered_and_harms_nobody(oracle)

    room = Room(oracle, "12").begin()
    for i in range(40):
        room.add(ANA, "m.room.message", {"body": str(i)})
    began = time.monotonic()
    for _ in range(100):
        room.judged()
    each = (time.monotonic() - began) * 10
    print(json.dumps({"ok": True, "history_of_44_events_ms": round(each, 1)}))


if __name__ == "__main__":
    main()
