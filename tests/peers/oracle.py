#!/usr/bin/env python3
"""Synapse's own code as a judge of events: no server, no database, no network.

One JSON request a line on stdin, one JSON answer a line on stdout, in order. Every answer has
"ok"; where the request itself is unusable it is {"ok": false, "error": …}. A request may carry an
"id", which the answer repeats. The first line, before any request, is {"ready": true, "synapse": …}.

  {"op": "versions"}
      -> {"ok": true, "synapse": "1.163.2", "rooms": ["1", …]}
  {"op": "check_event", "version": "12", "event": {…}, "server": "hub.example",
   "verify_key": {"key_id": "ed25519:x", "key": "unpadded base64"}}
      -> {"ok", "event_id", "room_id", "reference_hash", "content_hash", "content_hash_ok",
          "signature_ok", "format_ok", "auth_event_ids", "redacted", "error"}
      ok is the three *_ok together. Without verify_key, signature_ok is null and not counted.
  {"op": "check_event", "events": [{… as above, without op …}, …]}
      -> {"ok": all of them, "results": [ … ]}
  {"op": "sign", "version": "12", "event": {…}, "server": "hub.example", "key_id": "ed25519:x",
   "seed": "unpadded base64 of 32 bytes"}
      -> {"ok": true, "event": {… with hashes and signatures …}, "event_id", "verify_key"}
  {"op": "auth_types", "version": "12", "event": {…}}
      -> {"ok": true, "types": [["m.room.create", ""], …]}   sorted. Synapse counts the create event
      in every version; that v12 events do not name it is a matter of their format.
  {"op": "auth", "version": "10", "event": {…}, "auth_events": [{…}], "state": [{…}]}
      -> {"ok", "accept", "stage", "reason", "event_id"}
      state is the room state before the event; left out, it is the auth events.
  {"op": "history", "version": "10", "events": [{…}, …]}
      -> {"ok": true, "results": [{"accept", "stage", "reason", "event_id"}, …],
          "state": [[type, state_key, event_id], …]}
      Each event is judged as Synapse judges one that came over federation, with the state that the
      accepted ones before it left, and is applied if accepted. Rejected events stay known, so
      that one that names them in its auth events is rejected too.
  {"op": "graph", "version": "10", "events": [{…}, …]}
      -> as history, for events that fork: an event is judged at the state after its prev_events,
         resolved by Synapse (v2, in room version 12 v2.1); state is that after all forward
         extremities. Every event comes after those it names.
  {"op": "resolve", "version": "10", "events": [{…}, …], "state_sets": [[event_id, …], …]}
      -> {"ok": true, "state": [[type, state_key, event_id], …]}
      events holds every event of the sets and their auth chains; "rejected": [event_id, …] names
      those of them that were turned down. With "cases": [[[event_id, …], …], …] in place of
      state_sets the answer has "states", one state for each case.
  {"op": "acl", "content": {…}, "servers": ["hub.example:8448", …]}
      -> {"ok": true, "allowed": [true, …]}   content is that of m.room.server_acl
  {"op": "globs", "globs": ["*.example", …], "servers": […]}
      -> {"ok": true, "matches": [[true, …], …]}   for each server whether each glob matches all of
      its name without the port, in either case

auth, history and graph do not verify signatures (check_event does). With "signed": true they also demand
what Synapse calls valid for the room version: sizes, and that the sender's server has signed at all.
Instead of "event", "event_json" may give the text itself.

"stage" says where a refusal came from: format, valid, auth_events (the rules that need no room
state), claimed (the state rules over the event's own auth events), state (the same over the room).
One is the oracle's own and not Synapse's: history, for a second create event.
"""
import json
import logging
import sys

try:
    from signedjson.key import decode_signing_key_base64, decode_verify_key_bytes
    from signedjson.sign import verify_signed_json
    from unpaddedbase64 import decode_base64, encode_base64

    import synapse
    from synapse import event_auth
    from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
    from synapse.crypto.event_signing import (
        add_hashes_and_signatures,
        check_event_content_hash,
        compute_content_hash,
        compute_event_reference_hash,
    )
    from synapse.events import make_event_from_dict
    from synapse.events.utils import prune_event
    from synapse.federation.federation_base import event_from_pdu_json
    from matrix_common.regex import glob_to_regex
    from synapse.state import v2
    from synapse.storage.controllers.state import server_acl_evaluator_from_event
    from synapse.storage.databases.main.event_federation import StateDifference
    from synapse.util.stringutils import parse_server_name
except ImportError as error:
    sys.exit(f"oracle: needs the PyPI package matrix-synapse: {error}")

import hashlib


class Refused(Exception):
    """An event Synapse does not take, and the stage that said so."""

    def __init__(self, stage, error):
        super().__init__(f"{type(error).__name__}: {error}")
        self.stage = stage


class Known:
    """The one look-up Synapse's auth rules make in its database, out of a dictionary."""

    def __init__(self, events=()):
        self.by_id = {event.event_id: event for event in events}

    def add(self, event):
        self.by_id[event.event_id] = event

    async def get_events(self, event_ids, redact_behaviour=None, get_prev_content=False,
                         allow_rejected=False):
        return {i: self.by_id[i] for i in event_ids if i in self.by_id}


class NothingStored:
    """For state resolution every event is in flight: Synapse finds the auth chains of those itself."""

    async def get_events(self, event_ids, allow_rejected=False):
        return {}

    async def get_auth_chain_difference(self, room_id, state_sets, conflicted, additional):
        return StateDifference(auth_difference=set(), conflicted_subgraph=set())


class NoClock:
    """Synapse lets others run now and then; here there are no others."""

    async def sleep(self, *_):
        pass


def at_once(coroutine):
    """The value of a coroutine that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("Synapse waited for something the oracle does not have")


def room_version(request):
    name = request.get("version")
    if name not in KNOWN_ROOM_VERSIONS:
        raise ValueError(f"Synapse {synapse.__version__} knows no room version {name!r}")
    return KNOWN_ROOM_VERSIONS[name]


def event_dict(request):
    if "event_json" in request:
        return json.loads(request["event_json"])
    return request["event"]


def copy_of(value):
    # event_from_pdu_json changes what it is given
    return json.loads(json.dumps(value))


def read(event, version):
    """The event as Synapse reads it off the wire; anything it trips over is a refusal."""
    try:
        parsed = event_from_pdu_json(copy_of(event), version)
        # these are computed when asked for: ask now, inside the try
        parsed.event_id, parsed.room_id, parsed.sender, parsed.type
        return parsed
    except Exception as error:
        raise Refused("format", error) from error


def judge(event, known, state, signed):
    """Synapse's checks on receipt of an event, in its order (its `_check_event_auth`)."""
    if signed:
        try:
            event_auth.validate_event_for_room_version(event)
        except Exception as error:
            raise Refused("valid", error) from error
    try:
        at_once(event_auth.check_state_independent_auth_rules(known, event))
    except Exception as error:
        raise Refused("auth_events", error) from error
    claimed = [known.by_id[i] for i in event.auth_event_ids()]
    try:
        event_auth.check_state_dependent_auth_rules(event, claimed)
    except Exception as error:
        raise Refused("claimed", error) from error
    types = event_auth.auth_types_for_event(event.room_version, event)
    selected = [state[key] for key in types if key in state]
    if {e.event_id for e in selected} == {e.event_id for e in claimed}:
        return
    try:
        event_auth.check_state_dependent_auth_rules(event, selected)
    except Exception as error:
        raise Refused("state", error) from error


def key_of(event):
    return (event.type, event.state_key)


def versions(_request):
    return {"ok": True, "synapse": synapse.__version__, "rooms": sorted(KNOWN_ROOM_VERSIONS)}


def check_event(request):
    if "events" in request:
        results = [check_event(one) for one in request["events"]]
        return {"ok": all(r["ok"] for r in results), "results": results}
    version, raw = room_version(request), event_dict(request)
    answer = {"ok": False, "format_ok": False, "content_hash_ok": False, "signature_ok": None}
    try:
        event = read(raw, version)
        event_auth.validate_event_for_room_version(event)
        answer["format_ok"] = True
    except Exception as error:
        answer["error"] = str(error)
        try:
            event = make_event_from_dict(copy_of(raw), version)
        except Exception:
            return answer
    try:
        pruned = prune_event(event)
        answer["event_id"] = event.event_id
        answer["room_id"] = event.room_id
        answer["auth_event_ids"] = list(event.auth_event_ids())
        answer["reference_hash"] = encode_base64(compute_event_reference_hash(event)[1])
        answer["content_hash"] = encode_base64(
            compute_content_hash(event.get_pdu_json(), hashlib.sha256)[1])
        answer["redacted"] = pruned.get_pdu_json()
        answer["content_hash_ok"] = check_event_content_hash(event)
        if "verify_key" in request:
            key = decode_verify_key_bytes(
                request["verify_key"]["key_id"], decode_base64(request["verify_key"]["key"]))
            answer["signature_ok"] = False
            verify_signed_json(pruned.get_pdu_json(), request["server"], key)
            answer["signature_ok"] = True
        if not answer["content_hash_ok"]:
            answer.setdefault("error", "content hash does not match")
    except Exception as error:
        answer.setdefault("error", f"{type(error).__name__}: {error}")
    answer["ok"] = (answer["format_ok"] and answer["content_hash_ok"]
                    and answer["signature_ok"] is not False)
    return answer


def sign(request):
    version, event = room_version(request), copy_of(event_dict(request))
    algorithm, _, name = request["key_id"].partition(":")
    key = decode_signing_key_base64(algorithm, name, request["seed"])
    event.pop("hashes", None)
    event.pop("signatures", None)
    add_hashes_and_signatures(version, event, request["server"], key)
    return {
        "ok": True,
        "event": event,
        "event_id": make_event_from_dict(event, version).event_id,
        "verify_key": encode_base64(key.verify_key.encode()),
    }


def auth_types(request):
    version = room_version(request)
    event = make_event_from_dict(event_dict(request), version)
    return {"ok": True, "types": sorted(event_auth.auth_types_for_event(version, event))}


def auth(request):
    version = room_version(request)
    claimed = [read(e, version) for e in request.get("auth_events", ())]
    state = [read(e, version) for e in request["state"]] if "state" in request else claimed
    known = Known(claimed + state)
    return verdict(event_dict(request), version, known, {key_of(e): e for e in state},
                   request.get("signed", False))


def history(request):
    version, known, state, results = room_version(request), Known(), {}, []
    for raw in request["events"]:
        results.append(verdict(raw, version, known, state, request.get("signed", False)))
    return {
        "ok": True,
        "results": results,
        "state": listed(state),
    }


def resolved(states, version, known):
    """The state that Synapse resolves these to; each is a map of (type, state_key) to event."""
    sets = [{key: event.event_id for key, event in state.items()} for state in states]
    if len(sets) < 2 or all(one == sets[0] for one in sets):
        return dict(states[0]) if states else {}
    room = next(iter(states[0].values())).room_id
    state = at_once(v2.resolve_events_with_store(
        NoClock(), room, version, sets, dict(known.by_id), NothingStored()))
    return {key: known.by_id[event_id] for key, event_id in state.items()}


def listed(state):
    return sorted([kind, key, event.event_id] for (kind, key), event in state.items())


def resolve(request):
    version, rejected = room_version(request), set(request.get("rejected", ()))
    known = Known(read(e, version) for e in request["events"])
    for raw in request["events"]:
        event_id = read(raw, version).event_id
        if event_id in rejected:
            known.add(make_event_from_dict(copy_of(raw), version, rejected_reason="auth_error"))

    def one(sets):
        states = [{key_of(known.by_id[i]): known.by_id[i] for i in ids} for ids in sets]
        return listed(resolved(states, version, known))

    if "cases" in request:
        return {"ok": True, "states": [one(sets) for sets in request["cases"]]}
    return {"ok": True, "state": one(request["state_sets"])}


def graph(request):
    version, known, after, results = room_version(request), Known(), {}, []
    ends = set()
    for raw in request["events"]:
        before = raw.get("prev_events", ()) if isinstance(raw, dict) else ()
        unknown = [i for i in before if i not in after]
        if unknown:
            raise ValueError(f"prev_events that did not come before: {unknown}")
        state = resolved([after[i] for i in before], version, known)
        result = verdict(raw, version, known, state, request.get("signed", False))
        results.append(result)
        if result["event_id"] is None:
            continue
        # a rejected event is in the graph too, and changes nothing
        after[result["event_id"]] = state
        ends.difference_update(before)
        ends.add(result["event_id"])
    state = resolved([after[i] for i in sorted(ends)], version, known)
    return {"ok": True, "results": results, "state": listed(state)}


class Acl:
    """As much of an m.room.server_acl event as Synapse looks at."""

    def __init__(self, content):
        self.content = content


def acl(request):
    evaluator = server_acl_evaluator_from_event(Acl(request["content"]))
    # its federation servlets ask with the name without the port
    hosts = [parse_server_name(server)[0] for server in request["servers"]]
    return {"ok": True, "allowed": [evaluator.server_matches_acl_event(host) for host in hosts]}


def globs(request):
    patterns = [glob_to_regex(glob, ignore_case=True) for glob in request["globs"]]
    hosts = [parse_server_name(server)[0] for server in request["servers"]]
    return {"ok": True, "matches": [[bool(p.match(h)) for p in patterns] for h in hosts]}


def verdict(raw, version, known, state, signed):
    """Judges one event, remembers it, and applies it to the state if it was accepted."""
    try:
        event = read(raw, version)
        if state and event.type == "m.room.create":
            raise Refused("history", ValueError("a history has one create event"))
        judge(event, known, state, signed)
    except Refused as refused:
        return {"ok": True, "accept": False, "stage": refused.stage, "reason": str(refused),
                "event_id": remember_rejected(raw, version, known)}
    known.add(event)
    if event.is_state():
        state[key_of(event)] = event
    return {"ok": True, "accept": True, "event_id": event.event_id}


def remember_rejected(raw, version, known):
    """The id of an event that was turned down, or None if it is too broken to have one."""
    try:
        event = make_event_from_dict(copy_of(raw), version, rejected_reason="auth_error")
        if event.event_id not in known.by_id:
            known.add(event)
        return event.event_id
    except Exception:
        return None


OPS = {f.__name__: f for f in (versions, check_event, sign, auth_types, auth, history, graph,
                                 resolve, acl, globs)}


def answer(line):
    request = None
    try:
        request = json.loads(line)
        out = OPS[request["op"]](request)
    except Exception as error:  # the next request must still be answered
        out = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    if isinstance(request, dict) and "id" in request:
        out["id"] = request["id"]
    return out


def main():
    logging.disable()  # what Synapse has to say of an event is in the answer
    print(json.dumps({"ready": True, "synapse": synapse.__version__}), flush=True)
    for line in sys.stdin:
        if line.strip():
            # canonical JSON would refuse floats, which a reason may quote
            print(json.dumps(answer(line)), flush=True)


if __name__ == "__main__":
    main()
