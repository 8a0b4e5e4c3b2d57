#!/usr/bin/env python3
"""What servers ask each other beside joining and talking, between a hub and a Synapse, each asked by the other.

  servers.py asks  --ca ca.pem --hub URL NAME KEY.pem ana:password --synapse URL NAME SIGNING.KEY TOKEN [--version 12]
  servers.py keys  --ca ca.pem --hub URL NAME KEY.pem ana:password --synapse URL NAME SIGNING.KEY TOKEN --old-key ID
  servers.py event ... --event ID
  servers.py gap   ... --event ID --pdu JSON

«asks»: profiles, aliases, directories, spaces, events by time, files and thumbnails, keys of devices, what goes beside
events, each caused by a user of one server at their own; then what reads a room's graph, asked as the Synapse with its
key, and one transaction with a good event and a bad one. «keys»: the hub's own keys after a rotation, and what it says of
others' as a notary, checked with signedjson. «event»: as the Synapse, asks the hub for an event. «gap»: as
the hub, gives the Synapse that event, of which it lacks what is before it. One JSON line on stdout; on failure a reason on stderr and exit code 1.
"""
import argparse
import base64
import json
import secrets
import ssl
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

from canonicaljson import encode_canonical_json
from cryptography.hazmat.primitives import serialization
from signedjson.key import decode_signing_key_base64, decode_verify_key_base64, encode_verify_key_base64, get_verify_key
from signedjson.sign import sign_json, verify_signed_json

EVENTUALLY_S = 60
V3, V1 = "/_matrix/client/v3", "/_matrix/client/v1"
FED = "/_matrix/federation/v1"


class Wrong(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Wrong(what)


def esc(text):
    return urllib.parse.quote(text, safe="")


class Http:
    """One server over HTTPS; every answer with its status."""

    def __init__(self, url, ca):
        self.url, self.context = url.rstrip("/"), ssl.create_default_context(cafile=ca)

    def ask(self, verb, path, body=None, headers=None, **query):
        if query:
            path += "?" + urllib.parse.urlencode(query, doseq=True)
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.url + path, body, headers, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.context) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()


class User:
    """A user at their own server."""

    def __init__(self, http, token):
        self.http, self.token = http, token
        told = self.get(V3 + "/account/whoami")
        self.id, self.device = told["user_id"], told["device_id"]

    def raw(self, verb, path, body=None, headers=None, **query):
        headers = {"Authorization": "Bearer " + self.token, **(headers or {})}
        return self.http.ask(verb, path, body, headers, **query)

    def good(self, method, path, body=None, **query):
        status, _, data = self.raw(method, path, body, **query)
        check(status == 200, f"{method} {path} of {getattr(self, 'id', 'a user')}: {status} {data[:300]!r}")
        return json.loads(data)

    def get(self, path, **query):
        return self.good("GET", path, **query)

    def post(self, path, body, **query):
        return self.good("POST", path, body, **query)

    def put(self, path, body):
        return self.good("PUT", path, body)

    def create(self, **wish):
        return self.post(V3 + "/createRoom", wish)["room_id"]

    def say(self, room, text):
        path = f"{V3}/rooms/{esc(room)}/send/m.room.message/{secrets.token_hex(6)}"
        return self.put(path, {"msgtype": "m.text", "body": text})["event_id"]

    def event(self, room, event):
        return self.get(f"{V3}/rooms/{esc(room)}/event/{esc(event)}")

    def joined(self, room):
        return self.get(f"{V3}/rooms/{esc(room)}/joined_members")["joined"]


class Server:
    """A server's own hand: whatever it signs, others take for its word."""

    def __init__(self, name, key, http):
        self.name, self.key, self.http = name, key, http

    def ask(self, other, verb, path, body=None, **query):
        """A signed request to another server: the status and the body."""
        if query:
            path += "?" + urllib.parse.urlencode(query, doseq=True)
        signed = {"method": verb, "uri": path, "origin": self.name, "destination": other.name}
        if body is not None:
            signed["content"] = body
        sign_json(signed, self.name, self.key)
        key = f"{self.key.alg}:{self.key.version}"
        sig = signed["signatures"][self.name][key]
        shown = f'X-Matrix origin="{self.name}",destination="{other.name}",key="{key}",sig="{sig}"'
        status, _, data = other.http.ask(verb, path, body, {"Authorization": shown})
        return status, data

    def good(self, other, method, path, body=None, **query):
        status, data = self.ask(other, method, path, body, **query)
        check(status == 200, f"{method} {path} of {other.name}: {status} {data[:300]!r}")
        return json.loads(data)


def hub_key(path):
    """The hub's key and its id, which is a hash of its public half."""
    import hashlib
    with open(path, "rb") as file:
        private = serialization.load_pem_private_key(file.read(), None)
    raw = serialization.Encoding.Raw
    seed = private.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    public = private.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    name = hashlib.sha256(public).hexdigest()[:8]
    return decode_signing_key_base64("ed25519", name, base64.b64encode(seed).decode())


def synapse_key(path):
    with open(path, encoding="utf-8") as file:
        algorithm, version, seed = file.read().split()
    return decode_signing_key_base64(algorithm, version, seed)


def eventually(look, what):
    end, last = time.time() + EVENTUALLY_S, None
    while time.time() < end:
        try:
            last = look()
            if last:
                return last
        except Wrong as why:
            last = why
        time.sleep(0.3)
    raise Wrong(f"never: {what}: {last}")


# -- by users of one server, of what the other has --

def profiles(here, there):
    here.user.put(f"{V3}/profile/{esc(here.user.id)}/displayname", {"displayname": f"Name of {here.user.id}"})
    told = there.user.get(f"{V3}/profile/{esc(here.user.id)}")
    check(told.get("displayname") == f"Name of {here.user.id}", f"the profile is {told}")
    told = there.user.get(f"{V3}/profile/{esc(here.user.id)}/displayname")
    check(told == {"displayname": f"Name of {here.user.id}"}, f"one field of it is {told}")
    status, _, _ = there.user.raw("GET", f"{V3}/profile/{esc('@nobody-is-this:' + here.name)}")
    check(status == 404, f"the profile of nobody: {status}")


def directories(here, there, version):
    local = "found-" + secrets.token_hex(3)
    room = here.user.create(preset="public_chat", visibility="public", name=f"Square {local}", topic="tea",
                            room_alias_name=local, room_version=version)
    told = there.user.get(f"{V3}/directory/room/{esc(f'#{local}:{here.name}')}")
    check(told["room_id"] == room and here.name in told["servers"], f"the alias is {told}")
    status, _, _ = there.user.raw("GET", f"{V3}/directory/room/{esc(f'#no-{local}:{here.name}')}")
    check(status == 404, f"an alias of nothing: {status}")
    # a limit of its own each time: a Synapse keeps such an answer for a while
    shown = there.user.get(V3 + "/publicRooms", server=here.name, limit=20 + secrets.randbelow(60))["chunk"]
    mine = [one for one in shown if one["room_id"] == room]
    check(len(mine) == 1 and mine[0]["topic"] == "tea" and mine[0]["num_joined_members"] == 1, f"the list is {shown}")
    wish = {"limit": 5, "filter": {"generic_search_term": local}}
    found = there.user.post(V3 + "/publicRooms", wish, server=here.name)["chunk"]
    check([one["room_id"] for one in found] == [room], f"{local} finds {found}")


def spaces(here, there, version):
    """A space here with a room here and one there, and the other way about: each user looks at the other's."""
    room_here = here.user.create(preset="public_chat", name="Inner here", room_version=version)
    room_there = there.user.create(preset="public_chat", name="Inner there", room_version=version)
    closed = there.user.create(preset="private_chat", name="Closed", room_version=version)
    child = lambda room, via: {"type": "m.space.child", "state_key": room, "content": {"via": [via]}}
    inner = there.user.create(preset="public_chat", name="Inner space", room_version=version,
                              creation_content={"type": "m.space"}, initial_state=[child(room_there, there.name)])
    space = here.user.create(preset="public_chat", name="Space", room_version=version,
                             creation_content={"type": "m.space"},
                             initial_state=[child(room_here, here.name), child(inner, there.name), child(closed, there.name)])
    wanted = {space: "Space", room_here: "Inner here", inner: "Inner space", room_there: "Inner there"}
    for who, says in ((here.user, "its own user"), (there.user, "the other server's")):
        # The other server's user is not in the space, and their server does not know where it is: so it is in.
        if who is there.user:
            who.post(f"{V3}/join/{esc(space)}", {}, via=here.name)
        told = who.get(f"{V1}/rooms/{esc(space)}/hierarchy")
        found = {one["room_id"]: one.get("name") for one in told["rooms"]}
        found.pop(closed, None) if who is there.user else None
        check(found == wanted, f"{says} is told {found}, not {wanted}")
        check(told["rooms"][0]["room_id"] == space and len(told["rooms"][0]["children_state"]) == 3, f"{told['rooms'][0]}")


def by_time(here, there, version):
    """Who joins later is told the event of a time before, by the other server."""
    room = here.user.create(preset="public_chat", room_version=version)
    said = []
    for number in range(3):
        said.append(here.user.say(room, f"then {number}"))
        time.sleep(0.02)
    times = [here.user.event(room, event)["origin_server_ts"] for event in said]
    there.user.post(f"{V3}/join/{esc(room)}", {}, via=here.name)
    path = f"{V1}/rooms/{esc(room)}/timestamp_to_event"
    for user in (there.user, here.user):
        told = user.get(path, ts=times[1], dir="f")
        check(told["event_id"] == said[1] and told["origin_server_ts"] == times[1], f"{user.id} is told {told}, {said}")
        told = user.get(path, ts=times[1] + 1, dir="b")
        check(told["event_id"] == said[1], f"{user.id} is told {told} backwards, {said}")
    # and can read on from there
    context = there.user.get(f"{V3}/rooms/{esc(room)}/context/{esc(said[1])}")
    check(context["event"]["content"]["body"] == "then 1", f"{context['event']}")


def png(side):
    rows = b"".join(b"\0" + bytes((x * 7 + y * 3) % 256 for x in range(side * 3)) for y in range(side))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def files(here, there):
    """An image and a text of one server, as the other gives them to its user, and as it asks for them itself."""
    image, text = png(64), b"only text\n" * 20
    uris = []
    for data, kind in ((image, "image/png"), (text, "text/plain")):
        status, _, told = here.user.raw("POST", "/_matrix/media/v3/upload", data, {"Content-Type": kind}, filename="a file")
        check(status == 200, f"upload: {status} {told}")
        uris.append(json.loads(told)["content_uri"].removeprefix("mxc://"))
    size = {"width": 32, "height": 32, "method": "scale"}
    for uri, data, kind in ((uris[0], image, "image/png"), (uris[1], text, "text/plain")):
        status, headers, told = there.user.raw("GET", f"{V1}/media/download/{uri}")
        check(status == 200 and told == data, f"{uri} of {there.user.id}: {status} {told[:200]!r}")
        check(headers.get_content_type() == kind, f"{uri} is {headers['Content-Type']}")
        _, _, identifier = uri.partition("/")
        status, told = there.server.ask(here.server, "GET", f"{FED}/media/download/{identifier}", timeout_ms=20000)
        check(status == 200 and told.count(data) == 1, f"{uri} between servers: {status} {told[:200]!r}")
        status, told = there.server.ask(here.server, "GET", f"{FED}/media/thumbnail/{identifier}", **size)
        if kind == "image/png":
            check(status == 200 and b"image/" in told, f"thumbnail of {uri} between servers: {status} {told[:200]!r}")
        else:
            check(status in (400, 404), f"thumbnail of a text between servers: {status} {told[:200]!r}")
    status, headers, told = there.user.raw("GET", f"{V1}/media/thumbnail/{uris[0]}", **size)
    check(status == 200 and headers.get_content_type().startswith("image/"), f"thumbnail of {uris[0]}: {status} {told[:200]!r}")


def device_keys(user):
    keys = {"algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"], "user_id": user.id,
            "device_id": user.device}
    seed = base64.b64encode(secrets.token_bytes(32)).decode()
    key = decode_signing_key_base64("ed25519", user.device, seed)
    public = encode_verify_key_base64(get_verify_key(key))
    curve = lambda: base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    keys["keys"] = {f"ed25519:{user.device}": public, f"curve25519:{user.device}": curve()}
    sign_json(keys, user.id, key)
    once = {"key": curve()}
    sign_json(once, user.id, key)
    return keys, {"signed_curve25519:AAAA": once}


def devices(here, there, version):
    """Device lists, keys, claims and messages for devices, while a room is shared."""
    room = here.user.create(preset="public_chat", room_version=version)
    there.user.post(f"{V3}/join/{esc(room)}", {}, via=here.name)
    since = there.user.get(V3 + "/sync", timeout=0)["next_batch"]
    keys, once = device_keys(here.user)
    here.user.post(V3 + "/keys/upload", {"device_keys": keys, "one_time_keys": once})

    def changed():
        told = there.user.get(V3 + "/sync", since=since, timeout=1000)
        return here.user.id in told.get("device_lists", {}).get("changed", [])
    eventually(changed, f"{there.user.id} hears that {here.user.id} has other devices")
    told = there.user.post(V3 + "/keys/query", {"device_keys": {here.user.id: []}})
    shown = told["device_keys"].get(here.user.id, {}).get(here.user.device, {})
    check(shown.get("keys") == keys["keys"], f"the keys are {told}")
    wish = {"one_time_keys": {here.user.id: {here.user.device: "signed_curve25519"}}}
    told = there.user.post(V3 + "/keys/claim", wish)
    check(told["one_time_keys"].get(here.user.id, {}).get(here.user.device, {}).get("signed_curve25519:AAAA", {}).get("key")
          == once["signed_curve25519:AAAA"]["key"], f"the claim is {told}")
    told = there.server.good(here.server, "GET", f"{FED}/user/devices/{esc(here.user.id)}")
    check(here.user.device in [one["device_id"] for one in told["devices"]] and told["stream_id"] > 0, f"the devices are {told}")
    told = there.server.good(here.server, "POST", f"{FED}/user/keys/query", {"device_keys": {here.user.id: []}})
    check(here.user.device in told["device_keys"][here.user.id], f"the keys between servers are {told}")

    marker = secrets.token_hex(4)
    content = {"messages": {there.user.id: {there.user.device: {"marker": marker}}}}
    here.user.put(f"{V3}/sendToDevice/m.tramline.test/{secrets.token_hex(4)}", content)

    def came():
        told = there.user.get(V3 + "/sync", since=since, timeout=1000)
        return any(one["content"].get("marker") == marker for one in told.get("to_device", {}).get("events", []))
    eventually(came, f"a message for a device of {there.user.id}")


# -- as one server, of a room's graph at the other --

def graph(here, there, version):
    """Every question about a room's graph that servers have, and whether the answers fit each other."""
    room = here.user.create(preset="public_chat", room_version=version)
    there.user.post(f"{V3}/join/{esc(room)}", {}, via=here.name)
    said = [here.user.say(room, f"graph {number}") for number in range(4)]
    last, first = said[-1], said[0]
    ask = lambda method, path, body=None, **query: there.server.good(here.server, method, FED + path, body, **query)

    told = ask("GET", f"/event/{esc(last)}")
    check(len(told["pdus"]) == 1 and told["pdus"][0]["content"]["body"] == "graph 3", f"the event is {told}")
    pdu = told["pdus"][0]
    ids = ask("GET", f"/state_ids/{esc(room)}", event_id=last)
    whole = ask("GET", f"/state/{esc(room)}", event_id=last)
    check(len(ids["pdu_ids"]) == len(whole["pdus"]) >= 6 and len(ids["auth_chain_ids"]) == len(whole["auth_chain"]),
          f"{len(ids['pdu_ids'])} {len(whole['pdus'])} {len(ids['auth_chain_ids'])} {len(whole['auth_chain'])}")
    kinds = {one["type"] for one in whole["pdus"]}
    check({"m.room.create", "m.room.member", "m.room.power_levels"} <= kinds, f"the state has {kinds}")
    chain = ask("GET", f"/event_auth/{esc(room)}/{esc(last)}")["auth_chain"]
    check({"m.room.create", "m.room.member"} <= {one["type"] for one in chain}, f"the chain is {chain}")
    page = ask("GET", f"/backfill/{esc(room)}", v=last, limit=3)["pdus"]
    check([one["content"].get("body") for one in page] in ([f"graph {n}" for n in (3, 2, 1)], [f"graph {n}" for n in (1, 2, 3)]),
          f"backfill gives {[one['content'] for one in page]}")
    body = {"earliest_events": [first], "latest_events": [last], "limit": 10, "min_depth": 0}
    gap = ask("POST", f"/get_missing_events/{esc(room)}", body)["events"]
    check([one["content"].get("body") for one in gap] == ["graph 1", "graph 2"], f"the gap is {[one['content'] for one in gap]}")
    ts = pdu["origin_server_ts"]
    found = ask("GET", f"/timestamp_to_event/{esc(room)}", ts=ts, dir="b")
    check(found["event_id"] == last, f"by time it is {found}")
    for path in (f"/state_ids/{esc(room)}?event_id={esc(last)}", f"/event/{esc(last)}", f"/backfill/{esc(room)}?v={esc(last)}&limit=1"):
        status, _, _ = here.http.ask("GET", FED + path)
        check(status == 401, f"{path} without a signature: {status}")
    return room


def outcomes(here, there, version):
    """A transaction with one event that is good and one whose signature is of another text: each has an outcome."""
    room = here.user.create(preset="public_chat", room_version=version)
    there.user.post(f"{V3}/join/{esc(room)}", {}, via=here.name)
    event = there.user.say(room, "good")
    eventually(lambda: here.user.raw("GET", f"{V3}/rooms/{esc(room)}/event/{esc(event)}")[0] == 200, "the good one is there")
    pdu = there.server.good(here.server, "GET", f"{FED}/event/{esc(event)}")["pdus"][0]
    pdu.pop("unsigned", None)
    bad = {**pdu, "origin_server_ts": pdu["origin_server_ts"] + 1}
    body = {"origin": there.name, "origin_server_ts": int(time.time() * 1000), "pdus": [bad, pdu], "edus": []}
    told = there.server.good(here.server, "PUT", f"{FED}/send/{secrets.token_hex(6)}", body)["pdus"]
    check(told.get(event) == {}, f"the good one's outcome: {told}")
    others = [outcome for one, outcome in told.items() if one != event]
    if here.is_hub:
        check(len(others) == 1 and "error" in others[0], f"the bad one's outcome: {told}")
    return told


def unknown(server):
    for method, path, status in (("GET", FED + "/nothing", 404), ("POST", FED + "/send/1", 405), ("PUT", FED + "/version", 405),
                                 ("DELETE", "/_matrix/key/v2/server", 405)):
        found, _, data = server.http.ask(method, path, {} if method != "GET" else None)
        check(found == status and json.loads(data)["errcode"] == "M_UNRECOGNIZED", f"{method} {path}: {found} {data!r}")
    status, _, data = server.http.ask("GET", FED + "/version")
    check(status == 200 and json.loads(data)["server"]["name"] == "Tramline", f"{data!r}")


# -- keys --

def verified(keys, name, key_id=None, public=None):
    """What was published, if its own keys have signed it."""
    check(keys["server_name"] == name, f"keys of {keys['server_name']}, not {name}")
    check(keys["valid_until_ts"] > time.time() * 1000, "they are over")
    for identifier, value in keys["verify_keys"].items():
        algorithm, version = identifier.split(":")
        verify_signed_json(keys, name, decode_verify_key_base64(algorithm, version, value["key"]))
    if key_id:
        algorithm, version = key_id.split(":")
        verify_signed_json(keys, public[0], decode_verify_key_base64(algorithm, version, public[1]))
    return keys


def keys(hub, synapse, old):
    status, _, data = hub.http.ask("GET", "/_matrix/key/v2/server")
    check(status == 200, f"{status} {data!r}")
    own = verified(json.loads(data), hub.name)
    now = list(own["verify_keys"])
    check(len(now) == 1 and now[0] != old, f"in use is {now}")
    check(old in own["old_verify_keys"] and own["old_verify_keys"][old]["expired_ts"] <= time.time() * 1000,
          f"old are {own['old_verify_keys']}")
    vouching = (hub.name, own["verify_keys"][now[0]]["key"])
    # Synapse has signed something for the hub by now, and so its keys are held.
    status, data = synapse.server.ask(hub.server, "GET", f"{FED}/query/profile", user_id=hub.user.id)
    check(status == 200, f"{status} {data!r}")
    for name in (hub.name, synapse.name):
        status, _, data = hub.http.ask("GET", f"/_matrix/key/v2/query/{esc(name)}")
        told = json.loads(data)["server_keys"]
        check(status == 200 and len(told) == 1, f"of {name} the notary tells {told}")
        verified(told[0], name, now[0], vouching)
    wish = {"server_keys": {hub.name: {}, synapse.name: {}, "nobody.invalid": {}}}
    status, _, data = hub.http.ask("POST", "/_matrix/key/v2/query", wish)
    told = {one["server_name"]: one for one in json.loads(data)["server_keys"]}
    check(status == 200 and set(told) == {hub.name, synapse.name}, f"of many the notary tells {list(told)}")
    for name, one in told.items():
        verified(one, name, now[0], vouching)
    # And what the Synapse, as a notary, says of the hub.
    status, _, data = synapse.http.ask("GET", f"/_matrix/key/v2/query/{esc(hub.name)}")
    told = json.loads(data)["server_keys"]
    check(status == 200 and told, f"the other notary tells {told}")
    for one in told:
        check(synapse.name in one["signatures"], f"it has not signed {one}")
    return {"now": now[0], "old": list(own["old_verify_keys"])}


def event(hub, synapse, wanted):
    """An event of the hub's, as it is given to the Synapse: which need not run, but this is a sign of life of it."""
    return synapse.server.good(hub.server, "GET", f"{FED}/event/{esc(wanted)}")["pdus"][0]


def gap(hub, synapse, event, pdu):
    """The hub's newest event of a room, given to the Synapse before those that it lacks."""
    body = {"origin": hub.name, "origin_server_ts": int(time.time() * 1000), "pdus": [pdu], "edus": []}
    transaction = f"{FED}/send/{secrets.token_hex(6)}"

    def taken():  # one transaction of a server at a time: 429 while there is another
        status, data = hub.server.ask(synapse.server, "PUT", transaction, body)
        check(status == 200, f"{status} {data[:300]!r}")
        return json.loads(data)["pdus"]
    told = eventually(taken, "the Synapse takes the event")
    check(told == {event: {}}, f"it is taken: {told}")


class Side:
    def __init__(self, url, name, key, ca, is_hub):
        self.name, self.is_hub, self.http = name, is_hub, Http(url, ca)
        self.server = Server(name, hub_key(key) if is_hub else synapse_key(key), self.http)
        self.user = None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["asks", "keys", "event", "gap"])
    parser.add_argument("--ca", required=True)
    parser.add_argument("--hub", nargs=4, required=True, metavar=("URL", "NAME", "KEY", "USER:PASSWORD"))
    parser.add_argument("--synapse", nargs=4, required=True, metavar=("URL", "NAME", "KEY", "TOKEN"))
    parser.add_argument("--version", default="12")
    parser.add_argument("--old-key")
    parser.add_argument("--event")
    parser.add_argument("--pdu")
    args = parser.parse_args()
    hub = Side(*args.hub[:3], args.ca, True)
    synapse = Side(*args.synapse[:3], args.ca, False)
    if args.verb in ("event", "gap"):
        done = event(hub, synapse, args.event) if args.verb == "event" else gap(hub, synapse, args.event, json.loads(args.pdu))
        print(json.dumps(done or {}))
        return
    name, _, password = args.hub[3].partition(":")
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": password}
    status, _, data = hub.http.ask("POST", V3 + "/login", login)
    check(status == 200, f"login: {status} {data!r}")
    hub.user = User(hub.http, json.loads(data)["access_token"])
    synapse.user = User(synapse.http, args.synapse[3])
    done = {}
    if args.verb == "keys":
        done = keys(hub, synapse, args.old_key)
    else:
        steps = []
        for here, there in ((hub, synapse), (synapse, hub)):
            whose = f"what {'the hub' if here.is_hub else 'the Synapse'} is asked"
            for step in (profiles, files) if args.version == "12" else ():
                steps.append((f"{step.__name__}: {whose}", lambda step=step, here=here, there=there: step(here, there)))
            for step in (directories, spaces, by_time, graph, outcomes, devices):
                steps.append((f"{step.__name__}: {whose}",
                              lambda step=step, here=here, there=there: step(here, there, args.version)))
        steps.append(("unknown", lambda: unknown(hub)))
        failed = []
        for what, step in steps:
            try:
                step()
                print(f"ok: {what}", file=sys.stderr)
            except (Wrong, KeyError, IndexError, TypeError, ValueError) as why:
                failed.append(f"version {args.version}, {what}: {type(why).__name__} {why}")
        check(not failed, "\n".join(failed))
        done = {"steps": len(steps)}
    print(json.dumps(done))


if __name__ == "__main__":
    try:
        main()
    except Wrong as why:
        sys.exit(str(why))
