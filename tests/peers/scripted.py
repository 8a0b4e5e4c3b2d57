#!/usr/bin/env python3
"""A homeserver that does what a script says: a peer whose every answer can be chosen.

It knows the Matrix specification (server-server API, room versions 10, 11 and 12) and neither
Tramline nor Synapse's code: hashes, ids, redaction and signatures are written here from the text.
Left to itself it is an honest, small homeserver: it publishes its keys, checks who asks, is the
resident of its rooms and answers for them. `override` and the functions of evil.py make it lie.

    PYTHON scripted.py --cert tls.crt --key tls.key --ca ca.pem [--count 2]

Its names are `localhost:PORT`, one a server. The first line printed is
  {"ready": true, "servers": ["localhost:41001", …], "keys": {"localhost:41001": "base64 …"}}
Then one JSON line for each JSON line on stdin: {"op": …} and, for all of them, "server": 0 says which
of the servers is meant. {"ok": false, "error": …} is an answer too. Rooms are called by their room id.

  {"op": "room", "version": "12", "creator": "mal", "members": 10000, "join_rule": "public"}
      -> {"room_id", "events": 10005}     a room it is the resident of, with so many members of its own
  {"op": "forget", "room_id"}             it is in that room no longer
  {"op": "member", "room_id", "user", "membership"}   -> {"event_id"}
  {"op": "say", "room_id", "user", "body", "to": [servers]}   -> {"event_id", "results": {server: …}}
  {"op": "event", "room_id", "type", "content", "sender", "state_key"?, "to"?}
  {"op": "join", "via": server, "room_id", "user"}    -> {"event_id", "state": n}   a room of others
  {"op": "invite", "to": server, "room_id", "user"}   -> {"status", "body"}
  {"op": "send", "to": server, "pdus": […], "edus": […], "txn"?}  -> {"status", "body", "seconds"}
  {"op": "ask", "to": server, "method", "path", "body"?}          -> {"status", "body", "seconds"}
  {"op": "override", "endpoint": "make_join", …}      the next answers to it; see `Override`
  {"op": "honest"}                        no override any more
  {"op": "seen", "endpoint"?, "clear"?}   -> {"requests": [{"endpoint", "method", "path", "origin", "body"}]}
  {"op": "wait", "endpoint", "count", "seconds"}  -> {"requests": n}   until so many came since "clear"
  {"op": "heard", "room_id", "event_id", "seconds"}  -> {"found"}   until it was sent that event
  {"op": "stop"}

Endpoints are named by the word in their path: make_join, send_join, make_leave, send_leave, make_knock,
send_knock, invite, send, state, state_ids, event, event_auth, backfill, get_missing_events, profile,
directory, devices, keys_query, keys_claim, version, server_keys, publicRooms, well_known; else `other`.
"""
import argparse
import base64
import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

try:
    from nacl.exceptions import BadSignatureError
    from nacl.signing import SigningKey, VerifyKey
except ImportError as error:
    sys.exit(f"scripted: needs the PyPI package PyNaCl: {error}")

FED = "/_matrix/federation/v1"
FED2 = "/_matrix/federation/v2"


# ---- bytes: canonical JSON, hashes, redaction, signatures -------------------------------------

def canonical(value):
    """Canonical JSON; scripts may put into it what canonical JSON has no place for."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def b64(data):
    return base64.b64encode(data).rstrip(b"=").decode()


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.b64decode(text + "=" * (-len(text) % 4))


class Key:
    """A signing key and its id."""

    def __init__(self, name="ed25519:scripted", seed=None):
        self.id = name
        self.pair = SigningKey(seed) if seed else SigningKey.generate()

    @property
    def public(self):
        return b64(self.pair.verify_key.encode())

    def over(self, value):
        return b64(self.pair.sign(canonical(value)).signature)

    def sign(self, server, value):
        """The object with the signature of `server` added, as appendices.md has it."""
        bare = {k: v for k, v in value.items() if k not in ("signatures", "unsigned")}
        signed = dict(value)
        signed["signatures"] = {k: dict(v) for k, v in value.get("signatures", {}).items()}
        signed["signatures"].setdefault(server, {})[self.id] = self.over(bare)
        return signed


KEPT = {"event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures",
        "depth", "prev_events", "auth_events", "origin_server_ts"}
KEPT_V10 = KEPT | {"prev_state", "origin", "membership"}
LEVELS = {"ban", "events", "events_default", "kick", "redact", "state_default", "users",
          "users_default"}


def redacted(version, event):
    """What is left of an event when it is redacted: of this are its id and its signatures."""
    old = version == "10"
    out = {k: v for k, v in event.items() if k in (KEPT_V10 if old else KEPT)}
    content = event.get("content")
    content = content if isinstance(content, dict) else {}
    kind = event.get("type")
    if kind == "m.room.create" and not old:
        out["content"] = dict(content)
        return out
    kept = {
        "m.room.member": {"membership", "join_authorised_via_users_server"},
        "m.room.create": {"creator"},
        "m.room.join_rules": {"join_rule", "allow"},
        "m.room.power_levels": LEVELS if old else LEVELS | {"invite"},
        "m.room.history_visibility": {"history_visibility"},
        "m.room.redaction": set() if old else {"redacts"},
    }.get(kind, set())
    out["content"] = {k: v for k, v in content.items() if k in kept}
    third = content.get("third_party_invite")
    if kind == "m.room.member" and not old and isinstance(third, dict) and "signed" in third:
        out["content"]["third_party_invite"] = {"signed": third["signed"]}
    return out


def content_hash(event):
    bare = {k: v for k, v in event.items() if k not in ("unsigned", "signatures", "hashes")}
    return b64(hashlib.sha256(canonical(bare)).digest())


def reference(version, event):
    left = redacted(version, event)
    bare = {k: v for k, v in left.items() if k not in ("signatures", "age_ts", "unsigned")}
    return b64url(hashlib.sha256(canonical(bare)).digest())


def event_id(version, event):
    return "$" + reference(version, event)


def finished(version, event, server, key):
    """The event with its hash and the signature of its server."""
    event = {k: v for k, v in event.items() if k not in ("hashes", "signatures")}
    event["hashes"] = {"sha256": content_hash(event)}
    event["signatures"] = signature(version, event, server, key)
    return event


def signature(version, event, server, key):
    left = redacted(version, event)
    bare = {k: v for k, v in left.items() if k not in ("signatures", "unsigned")}
    return {server: {key.id: key.over(bare)}}


def now_ms():
    return int(time.time() * 1000)


def quoted(text):
    return urllib.parse.quote(text, safe="")


# ---- a room ------------------------------------------------------------------------------------

class Room:
    """A room as its resident knows it: events in the order they came, and the state after them."""

    def __init__(self, server, version, room_id=None):
        self.server, self.version, self.room_id = server, version, room_id
        self.lock = threading.RLock()
        self.events = {}       # id -> event
        self.line = []         # ids, in order
        self.place = {}        # id -> index in line
        self.state = {}        # (type, state_key) -> id
        self.ends = []         # forward extremities
        self.depth = 0
        self.texts = {}        # id -> canonical bytes, made once
        self.before = {}       # id -> state before it, where it is not that of the line

    # -- building --

    def auth_for(self, kind, sender, state_key=None, content=None, state=None):
        """Auth events by the selection algorithm."""
        state = self.state if state is None else state
        if kind == "m.room.create":
            return []
        wanted = [("m.room.power_levels", ""), ("m.room.member", sender)]
        if self.version != "12":
            wanted.insert(0, ("m.room.create", ""))
        if kind == "m.room.member":
            content = content or {}
            if state_key != sender:
                wanted.append(("m.room.member", state_key))
            if content.get("membership") in ("join", "invite", "knock"):
                wanted.append(("m.room.join_rules", ""))
            via = content.get("join_authorised_via_users_server")
            if via and via not in (sender, state_key):
                wanted.append(("m.room.member", via))
        return [state[key] for key in wanted if key in state]

    def template(self, kind, content, sender, state_key=None, **fields):
        """An event without hash and signature, at the end of the line unless `fields` say else."""
        event = {
            "type": kind, "sender": sender, "content": content,
            "origin_server_ts": now_ms(), "depth": self.depth + 1,
            "prev_events": list(self.ends),
            "auth_events": self.auth_for(kind, sender, state_key, content),
        }
        if state_key is not None:
            event["state_key"] = state_key
        if not (self.version == "12" and kind == "m.room.create"):
            event["room_id"] = self.room_id
        event.update(fields)
        return {k: v for k, v in event.items() if v is not Ellipsis}

    def make(self, kind, content, sender, state_key=None, key=None, server=None, **fields):
        """(id, event), finished by the sender's server and not yet part of the room."""
        event = self.template(kind, content, sender, state_key, **fields)
        server = server or self.server
        event = finished(self.version, event, server.name, key or server.key)
        return event_id(self.version, event), event

    def take(self, event, ident=None, state_before=None):
        """Makes an event part of the room, at the end of the line."""
        with self.lock:
            ident = ident or event_id(self.version, event)
            if ident in self.events:
                return ident
            self.events[ident] = event
            if state_before is not None:
                self.before[ident] = state_before
            self.place[ident] = len(self.line)
            self.line.append(ident)
            named = set(event.get("prev_events", ()))
            self.ends = [e for e in self.ends if e not in named] + [ident]
            self.depth = max(self.depth, event.get("depth", 0))
            if "state_key" in event:
                self.state[(event["type"], event["state_key"])] = ident
            return ident

    def add(self, kind, content, sender, state_key=None, **fields):
        with self.lock:
            ident, event = self.make(kind, content, sender, state_key, **fields)
            return self.take(event, ident)

    def say(self, sender, body, **fields):
        return self.add("m.room.message", {"msgtype": "m.text", "body": body}, sender, **fields)

    def found(self, creator, join_rule="public", members=0, levels=None, create=None):
        """The first events of a room, and so many joins of m0, m1, …"""
        if self.room_id is None and self.version != "12":
            self.room_id = "!" + b64url(os.urandom(18)) \
                + ":" + self.server.name
        # two rooms of one moment are not the same room
        content = {"room_version": self.version, "number": b64url(os.urandom(6))}
        if self.version == "10":
            content["creator"] = creator
        ident, event = self.make("m.room.create", {**content, **(create or {})}, creator, "")
        if self.version == "12":
            self.room_id = "!" + ident[1:]
        self.take(event, ident)
        self.add("m.room.member", {"membership": "join"}, creator, creator)
        users = {} if self.version == "12" else {creator: 100}
        self.add("m.room.power_levels", {"users": users, **(levels or {})}, creator, "")
        self.add("m.room.join_rules", {"join_rule": join_rule}, creator, "")
        self.add("m.room.history_visibility", {"history_visibility": "shared"}, creator, "")
        for number in range(members):
            user = f"@m{number}:{self.server.name}"
            self.add("m.room.member", {"membership": "join", "displayname": f"Member {number}"},
                     user, user)
        return self

    # -- reading --

    def text(self, ident):
        if ident not in self.texts:
            self.texts[ident] = canonical(self.events[ident])
        return self.texts[ident]

    def several(self, idents):
        """A JSON array of events, as bytes."""
        return b"[" + b",".join(self.text(i) for i in idents if i in self.events) + b"]"

    def state_before(self, ident):
        """The state before an event, as if every event before it in the line were its past."""
        if ident in self.before:
            return self.before[ident]
        place = self.place.get(ident, len(self.line))
        if place == len(self.line):
            return dict(self.state)
        state = {}
        for earlier in self.line[:place]:
            event = self.events[earlier]
            if "state_key" in event:
                state[(event["type"], event["state_key"])] = earlier
        return state

    def auth_chain(self, idents):
        seen, todo = set(), [a for i in idents for a in self.events.get(i, {}).get("auth_events", ())]
        while todo:
            ident = todo.pop()
            if ident not in seen and ident in self.events:
                seen.add(ident)
                todo.extend(self.events[ident].get("auth_events", ()))
        return sorted(seen, key=lambda i: self.place.get(i, 0))

    def back_from(self, idents, limit):
        """Events that are these or before them, newest first."""
        last = max((self.place.get(i, -1) for i in idents), default=-1)
        return self.line[max(0, last + 1 - limit):last + 1][::-1]

    def between(self, earliest, latest, limit):
        stop, found, todo = set(earliest), [], []
        for ident in latest:
            todo.extend(self.events.get(ident, {}).get("prev_events", ()))
        seen = set(latest)
        while todo and len(found) < limit:
            ident = todo.pop(0)
            if ident in seen or ident in stop or ident not in self.events:
                continue
            seen.add(ident)
            found.append(ident)
            todo.extend(self.events[ident].get("prev_events", ()))
        return sorted(found, key=lambda i: self.place.get(i, 0))

    def servers(self):
        joined = [k[1] for k, i in self.state.items() if k[0] == "m.room.member"
                  and self.events[i]["content"].get("membership") == "join"]
        return sorted({user.split(":", 1)[1] for user in joined if ":" in user})


# ---- what it answers with ----------------------------------------------------------------------

class Override:
    """How an endpoint answers instead, for `times` requests (default: always).

    {"status": 200, "body": {…}}        this; "raw": "text" for a body that is no JSON of ours
    {"patch": {"event.room_id": "!x"}}  the honest answer with these places changed; null removes
    {"headers": {"Location": "…"}}      further headers
    {"delay": 2.0}                      first wait
    {"trickle": 1.0}                    one byte of the body every so many seconds
    {"trickle_head": 1.0}               the same from the status line on
    {"hang": true}                      take the request, never answer
    {"close": true}                     close instead
    {"endless": true}                   a chunked body that never ends
    {"filler": 100000000}               a body of so many bytes of white space before the JSON
    """

    def __init__(self, **how):
        self.how = how
        self.left = how.get("times")

    def once(self):
        if self.left is None:
            return True
        self.left -= 1
        return self.left >= 0


def patched(value, changes):
    value = json.loads(json.dumps(value))
    for where, new in changes.items():
        at, parts = value, where.split(".") if "/" not in where else where.split("/")
        for part in parts[:-1]:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        if new is None:
            at.pop(parts[-1], None)
        elif isinstance(at, list):
            at[int(parts[-1])] = new
        else:
            at[parts[-1]] = new
    return value


class Bytes:
    """A body that is already JSON text."""

    def __init__(self, data):
        self.data = data


class Status(Exception):
    def __init__(self, status, errcode, error=""):
        super().__init__(errcode)
        self.status, self.body = status, {"errcode": errcode, "error": error}


class Request:
    """One request as it came."""

    def __init__(self, method, path, body, origin, endpoint, args, query):
        self.method, self.path, self.body, self.origin = method, path, body, origin
        self.endpoint, self.args, self.query = endpoint, args, query
        self.at = time.time()


ROUTES = [
    ("GET", r"/_matrix/key/v2/server(?:/[^/]*)?", "server_keys"),
    ("GET", r"/\.well-known/matrix/server", "well_known"),
    ("GET", FED + r"/version", "version"),
    ("GET", FED + r"/make_join/([^/]+)/([^/]+)", "make_join"),
    ("PUT", FED2 + r"/send_join/([^/]+)/([^/]+)", "send_join"),
    ("GET", FED + r"/make_leave/([^/]+)/([^/]+)", "make_leave"),
    ("PUT", FED2 + r"/send_leave/([^/]+)/([^/]+)", "send_leave"),
    ("GET", FED + r"/make_knock/([^/]+)/([^/]+)", "make_knock"),
    ("PUT", FED + r"/send_knock/([^/]+)/([^/]+)", "send_knock"),
    ("PUT", FED2 + r"/invite/([^/]+)/([^/]+)", "invite"),
    ("PUT", FED + r"/send/([^/]+)", "send"),
    ("GET", FED + r"/state/([^/]+)", "state"),
    ("GET", FED + r"/state_ids/([^/]+)", "state_ids"),
    ("GET", FED + r"/event/([^/]+)", "event"),
    ("GET", FED + r"/event_auth/([^/]+)/([^/]+)", "event_auth"),
    ("GET", FED + r"/backfill/([^/]+)", "backfill"),
    ("POST", FED + r"/get_missing_events/([^/]+)", "get_missing_events"),
    ("GET", FED + r"/query/profile", "profile"),
    ("GET", FED + r"/query/directory", "directory"),
    ("GET", FED + r"/user/devices/([^/]+)", "devices"),
    ("POST", FED + r"/user/keys/query", "keys_query"),
    ("POST", FED + r"/user/keys/claim", "keys_claim"),
    ("GET", FED + r"/publicRooms", "publicRooms"),
]
ROUTES = [(method, re.compile(path + r"\Z"), name) for method, path, name in ROUTES]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 600

    def log_message(self, *_):
        pass

    def setup(self):
        # here, in the connection's own thread: a slow handshake keeps nobody waiting
        self.request.settimeout(self.timeout)
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def handle(self):
        try:
            super().handle()
        except (OSError, ssl.SSLError):
            pass

    def serve(self):
        home = self.server.home
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        split = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(split.query, keep_blank_values=True)
        endpoint, args = "other", []
        for method, pattern, name in ROUTES:
            found = pattern.match(split.path)
            if method == self.command and found:
                endpoint = name
                args = [urllib.parse.unquote(part) for part in found.groups()]
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        request = Request(self.command, self.path, body, None, endpoint, args, query)
        status, answer = 200, {}
        try:
            if endpoint not in ("server_keys", "version", "well_known"):
                request.origin = home.authenticated(self, body)
            home.note(request)
            answer = home.honest(request)
        except Status as refused:
            status, answer = refused.status, refused.body
        self.answer(home.how(request), status, answer, request)

    do_GET = do_PUT = do_POST = do_DELETE = serve

    def answer(self, how, status, answer, request):
        if callable(how):
            how = how(request, status, answer) or {}
        if how.get("close"):
            self.close_connection = True
            return
        time.sleep(how.get("delay", 0))
        if how.get("hang"):
            time.sleep(600)
        if "body" in how:
            answer = how["body"]
        if "patch" in how:
            honest = json.loads(answer.data) if isinstance(answer, Bytes) else answer
            answer = patched(honest, how["patch"])
        status = how.get("status", status)
        data = answer.data if isinstance(answer, Bytes) else canonical(answer)
        if "raw" in how:
            data = how["raw"] if isinstance(how["raw"], bytes) else how["raw"].encode()
        filler = how.get("filler", 0)
        head = [f"HTTP/1.1 {status} Scripted", "Content-Type: application/json"]
        head += [f"{k}: {v}" for k, v in how.get("headers", {}).items()]
        endless = how.get("endless")
        head.append("Transfer-Encoding: chunked" if endless
                    else f"Content-Length: {how.get('length', len(data) + filler)}")
        head = "\r\n".join(head).encode() + b"\r\n\r\n"
        if "trickle_head" in how:
            self.slowly(head + data, how["trickle_head"])
            return
        if not endless and not filler and "trickle" not in how:
            self.wfile.write(head + data)
            return
        self.wfile.write(head)
        piece = b" " * 65536
        while endless:
            self.wfile.write(b"10000\r\n" + piece + b"\r\n")
        while filler > 0:
            self.wfile.write(piece[:filler])
            filler -= len(piece)
        if "trickle" in how:
            self.slowly(data, how["trickle"])
        else:
            self.wfile.write(data)

    def slowly(self, data, pause):
        for at in range(len(data)):
            self.wfile.write(data[at:at + 1])
            self.wfile.flush()
            time.sleep(pause)


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        pass


# ---- the server --------------------------------------------------------------------------------

class Home:
    """One scripted homeserver: a name, a key, rooms, and how it answers."""

    def __init__(self, cert, key, ca, port=0, host="localhost"):
        self.cert_files, self.ca = (cert, key), ca
        self.listener = Listener(("127.0.0.1", port), Handler)
        self.listener.home = self
        self.listener.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.listener.context.load_cert_chain(cert, key)
        self.trust = ssl.create_default_context(cafile=ca)
        self.port = self.listener.server_address[1]
        self.name = f"{host}:{self.port}"
        self.key = Key()
        self.retired = Key("ed25519:retired")
        # id -> (public, expired_ts)
        self.old_keys = {self.retired.id: (self.retired.public, now_ms() - 3600 * 1000)}
        self.valid_for_ms = 24 * 3600 * 1000
        self.rooms, self.overrides = {}, {}
        self.seen, self.changed = [], threading.Condition()
        self.told = set()      # ids of every event that was sent to it
        self.peer_keys = {}
        self.local = threading.local()
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def user(self, name):
        return name if name.startswith("@") else f"@{name}:{self.name}"

    def room(self, version="12", creator="mal", **how):
        room = Room(self, version).found(self.user(creator), **how)
        self.rooms[room.room_id] = room
        return room

    # -- asking others --

    def authorization(self, to, method, path, body, key=None, origin=None):
        origin, key = origin or self.name, key or self.key
        signed = {"method": method, "uri": path, "origin": origin, "destination": to}
        if body is not None:
            signed["content"] = body
        return (f'X-Matrix origin="{origin}",destination="{to}",key="{key.id}",'
                f'sig="{key.over(signed)}"')

    def connection(self, to, fresh=False, timeout=120):
        kept = self.local.__dict__.setdefault("connections", {})
        if fresh or to not in kept:
            host, _, port = to.rpartition(":")
            kept[to] = http.client.HTTPSConnection(host, int(port), timeout=timeout,
                                                   context=self.trust)
        return kept[to]

    def ask(self, to, method, path, body=None, key=None, origin=None, raw=None, headers=None,
            signed=True, timeout=120):
        """(status, body); `raw` are the bytes to send in place of those that were signed."""
        data = raw if raw is not None else (canonical(body) if body is not None else None)
        head = {"Content-Type": "application/json"} if data is not None else {}
        if signed:
            head["Authorization"] = self.authorization(to, method, path, body, key, origin)
        head.update(headers or {})
        for fresh in (False, True):
            line = self.connection(to, fresh, timeout)
            try:
                line.request(method, path, data, head)
                answer = line.getresponse()
                text = answer.read()
                break
            except (http.client.HTTPException, OSError):
                line.close()
                self.local.connections.pop(to, None)
                if fresh:
                    raise
        try:
            return answer.status, json.loads(text or b"{}")
        except ValueError:
            return answer.status, {"text": text.decode("utf-8", "replace")[:2000]}

    def send(self, to, pdus=(), edus=(), txn=None, **how):
        body = {"origin": self.name, "origin_server_ts": now_ms(), "pdus": list(pdus)}
        if edus:
            body["edus"] = list(edus)
        txn = txn or b64url(hashlib.sha256(str(time.time_ns()).encode()).digest())[:16]
        return self.ask(to, "PUT", f"{FED}/send/{quoted(txn)}", body, **how)

    def join(self, via, room_id, user, versions=("10", "11", "12")):
        """Joins a room of another server, and knows it from then on."""
        user = self.user(user)
        query = "&".join(f"ver={v}" for v in versions)
        path = f"{FED}/make_join/{quoted(room_id)}/{quoted(user)}?{query}"
        status, made = self.ask(via, "GET", path)
        if status != 200:
            raise ValueError(f"make_join: {status} {made}")
        version, event = made["room_version"], made["event"]
        event["origin_server_ts"] = now_ms()
        event = finished(version, event, self.name, self.key)
        ident = event_id(version, event)
        path = f"{FED2}/send_join/{quoted(room_id)}/{quoted(ident)}"
        status, answer = self.ask(via, "PUT", path, event)
        if status != 200:
            raise ValueError(f"send_join: {status} {answer}")
        room = Room(self, version, room_id)
        known = {event_id(version, e): e for e in answer["auth_chain"] + answer["state"]}
        for i, e in sorted(known.items(), key=lambda pair: pair[1]["depth"]):
            room.take(e, i)
        room.state = {(e["type"], e["state_key"]): event_id(version, e) for e in answer["state"]}
        room.ends = []
        room.take(answer.get("event", event), ident)
        self.rooms[room_id] = room
        return room, ident

    def invite(self, to, room, user, stripped=None):
        content = {"membership": "invite"}
        creator = room.events[room.line[0]]["sender"]
        ident, event = room.make("m.room.member", content, creator, user)
        if stripped is None:
            keys = [("m.room.create", ""), ("m.room.join_rules", "")]
            stripped = [{k: room.events[room.state[key]][k]
                         for k in ("type", "state_key", "sender", "content")} for key in keys]
        body = {"event": event, "room_version": room.version, "invite_room_state": stripped}
        path = f"{FED2}/invite/{quoted(room.room_id)}/{quoted(ident)}"
        status, answer = self.ask(to, "PUT", path, body)
        if status == 200:
            room.take(answer["event"], ident)
        return status, answer

    # -- being asked --

    def note(self, request):
        with self.changed:
            self.seen.append(request)
            if request.endpoint == "send" and isinstance(request.body, dict):
                for pdu in request.body.get("pdus", ()):
                    room = self.rooms.get(pdu.get("room_id"))
                    self.told.add(event_id(room.version if room else "12", pdu))
            self.changed.notify_all()

    def until(self, true, seconds):
        with self.changed:
            return self.changed.wait_for(true, seconds)

    def count(self, endpoint):
        return sum(1 for r in self.seen if endpoint in (None, r.endpoint))

    def how(self, request):
        override = self.overrides.get(request.endpoint)
        if override is None:
            return {}
        if callable(override):
            return override
        return override.how if override.once() else {}

    def authenticated(self, handler, body):
        """Who asks, by X-Matrix; another than who it says it is gets 401."""
        told = handler.headers.get("Authorization") or ""
        fields = dict(re.findall(r'([a-z]+)\s*=\s*"?([^",]+)"?', told))
        origin, ident = fields.get("origin"), fields.get("key")
        if not told.startswith("X-Matrix ") or not origin or not ident:
            raise Status(401, "M_UNAUTHORIZED", "no X-Matrix")
        if fields.get("destination") != self.name:
            raise Status(401, "M_UNAUTHORIZED", "another destination")
        signed = {"method": handler.command, "uri": handler.path, "origin": origin,
                  "destination": self.name}
        if body is not None:
            signed["content"] = body
        try:
            key = self.key_of(origin, ident)
            VerifyKey(unb64(key)).verify(canonical(signed), unb64(fields["sig"]))
        except (BadSignatureError, KeyError, ValueError, OSError) as error:
            raise Status(401, "M_UNAUTHORIZED", repr(error)) from error
        return origin

    def key_of(self, server, ident):
        if (server, ident) not in self.peer_keys:
            _, told = self.ask(server, "GET", "/_matrix/key/v2/server", signed=False)
            for name, key in told["verify_keys"].items():
                self.peer_keys[(server, name)] = key["key"]
        return self.peer_keys[(server, ident)]

    def server_keys(self):
        told = {
            "server_name": self.name, "valid_until_ts": now_ms() + self.valid_for_ms,
            "verify_keys": {self.key.id: {"key": self.key.public}},
            "old_verify_keys": {i: {"key": k, "expired_ts": t}
                                for i, (k, t) in self.old_keys.items()},
        }
        return self.key.sign(self.name, told)

    def room_of(self, request):
        room = self.rooms.get(request.args[0])
        if room is None:
            raise Status(404, "M_NOT_FOUND", "no such room")
        return room

    def honest(self, request):
        answer = getattr(self, "on_" + request.endpoint, None)
        if answer is None:
            raise Status(404, "M_UNRECOGNIZED", request.path)
        return answer(request)

    def on_server_keys(self, _):
        return self.server_keys()

    def on_well_known(self, _):
        return {"m.server": self.name}

    def on_version(self, _):
        return {"server": {"name": "scripted", "version": "1"}}

    def on_make_join(self, request, membership="join"):
        room, user = self.room_of(request), request.args[1]
        if membership != "leave" and room.version not in request.query.get("ver", ["1"]):
            raise Status(400, "M_INCOMPATIBLE_ROOM_VERSION")
        event = room.template("m.room.member", {"membership": membership}, user, user)
        return {"room_version": room.version, "event": event}

    def on_make_knock(self, request):
        return self.on_make_join(request, "knock")

    def on_make_leave(self, request):
        return self.on_make_join(request, "leave")

    def on_send_join(self, request):
        room, event = self.room_of(request), request.body
        with room.lock:
            ident = event_id(room.version, event)
            if ident != request.args[1]:
                raise Status(400, "M_INVALID_PARAM", "another event than the path says")
            state = list(room.state.values())
            chain = room.auth_chain(state + [ident])
            # the event as text first: everything else is remembered text
            answer = b'{"auth_chain":' + room.several(chain) + b',"event":' + canonical(event) \
                + b',"members_omitted":false,"origin":' + canonical(self.name) \
                + b',"servers_in_room":' + canonical(room.servers()) \
                + b',"state":' + room.several(state) + b"}"
            room.take(event, ident)
        return Bytes(answer)

    def on_send_leave(self, request):
        self.room_of(request).take(request.body)
        return {}

    def on_send_knock(self, request):
        self.room_of(request).take(request.body)
        return {"knock_room_state": []}

    def on_invite(self, request):
        event = dict(request.body["event"])
        version = request.body["room_version"]
        event["signatures"] = {**event["signatures"],
                               **signature(version, event, self.name, self.key)}
        return {"event": event}

    def on_send(self, request):
        results = {}
        for pdu in request.body.get("pdus", ()):
            room = self.rooms.get(pdu.get("room_id"))
            if room is not None:
                results[room.take(pdu)] = {}
        return {"pdus": results}

    def on_state_ids(self, request):
        room = self.room_of(request)
        state = list(room.state_before(request.query["event_id"][0]).values())
        return {"pdu_ids": state, "auth_chain_ids": room.auth_chain(state)}

    def on_state(self, request):
        room = self.room_of(request)
        state = list(room.state_before(request.query["event_id"][0]).values())
        return Bytes(b'{"auth_chain":' + room.several(room.auth_chain(state)) + b',"pdus":'
                     + room.several(state) + b"}")

    def page(self, events):
        return Bytes(b'{"origin":' + canonical(self.name) + b',"origin_server_ts":'
                     + canonical(now_ms()) + b',"pdus":' + events + b"}")

    def on_event(self, request):
        for room in self.rooms.values():
            if request.args[0] in room.events:
                return self.page(room.several([request.args[0]]))
        raise Status(404, "M_NOT_FOUND")

    def on_event_auth(self, request):
        room = self.room_of(request)
        return Bytes(b'{"auth_chain":' + room.several(room.auth_chain([request.args[1]])) + b"}")

    def on_backfill(self, request):
        room = self.room_of(request)
        limit = int(request.query["limit"][0])
        return self.page(room.several(room.back_from(request.query["v"], limit)))

    def on_get_missing_events(self, request):
        room, body = self.room_of(request), request.body
        found = room.between(body["earliest_events"], body["latest_events"], body.get("limit", 10))
        return Bytes(b'{"events":' + room.several(found) + b"}")

    def on_profile(self, request):
        return {"displayname": request.query["user_id"][0].split(":")[0][1:]}

    def on_directory(self, _):
        raise Status(404, "M_NOT_FOUND")

    def on_devices(self, request):
        return {"user_id": request.args[0], "stream_id": 1, "devices": []}

    def on_keys_query(self, _):
        return {"device_keys": {}}

    def on_keys_claim(self, _):
        return {"one_time_keys": {}}

    def on_publicRooms(self, _):
        return {"chunk": []}


# ---- commands ----------------------------------------------------------------------------------

def op_room(home, c):
    started = time.time()
    room = home.room(c.get("version", "12"), c.get("creator", "mal"), members=c.get("members", 0),
                     join_rule=c.get("join_rule", "public"))
    return {"room_id": room.room_id, "events": len(room.line), "seconds": time.time() - started}


def op_forget(home, c):
    home.rooms.pop(c["room_id"], None)
    return {}


def spread(home, room, ident, c):
    results = {to: home.send(to, [room.events[ident]]) for to in c.get("to", ())}
    return {"event_id": ident, "results": results}


def op_member(home, c):
    room, user = home.rooms[c["room_id"]], home.user(c["user"])
    content = {"membership": c["membership"]}
    return spread(home, room, room.add("m.room.member", content, user, user), c)


def op_say(home, c):
    room = home.rooms[c["room_id"]]
    return spread(home, room, room.say(home.user(c["user"]), c["body"]), c)


def op_event(home, c):
    room = home.rooms[c["room_id"]]
    ident = room.add(c["type"], c["content"], home.user(c["sender"]), c.get("state_key"))
    return spread(home, room, ident, c)


def op_join(home, c):
    room, ident = home.join(c["via"], c["room_id"], c["user"])
    return {"event_id": ident, "state": len(room.state), "version": room.version}


def op_invite(home, c):
    status, body = home.invite(c["to"], home.rooms[c["room_id"]], c["user"])
    return {"status": status, "body": body}


def op_send(home, c):
    started = time.time()
    status, body = home.send(c["to"], c.get("pdus", ()), c.get("edus", ()), c.get("txn"))
    return {"status": status, "body": body, "seconds": time.time() - started}


def op_ask(home, c):
    started = time.time()
    status, body = home.ask(c["to"], c["method"], c["path"], c.get("body"))
    return {"status": status, "body": body, "seconds": time.time() - started}


def op_override(home, c):
    how = {k: v for k, v in c.items() if k not in ("op", "server", "endpoint")}
    home.overrides[c["endpoint"]] = Override(**how)
    return {}


def op_honest(home, _):
    home.overrides.clear()
    return {}


def op_seen(home, c):
    with home.changed:
        wanted = [r for r in home.seen if c.get("endpoint") in (None, r.endpoint)]
        shown = [{"endpoint": r.endpoint, "method": r.method, "path": r.path, "origin": r.origin,
                  "body": r.body} for r in wanted]
        if c.get("clear"):
            home.seen.clear()
    return {"requests": shown}


def op_wait(home, c):
    home.until(lambda: home.count(c["endpoint"]) >= c.get("count", 1), c.get("seconds", 30))
    return {"requests": home.count(c["endpoint"])}


def op_heard(home, c):
    home.until(lambda: c["event_id"] in home.told, c.get("seconds", 30))
    return {"found": c["event_id"] in home.told}


OPS = {name[3:]: f for name, f in list(globals().items()) if name.startswith("op_")}


def answered(homes, line, ops):
    command = None
    try:
        command = json.loads(line)
        home = homes[command.get("server", 0)]
        return {"ok": True, **ops[command["op"]](home, command)}
    except Exception as error:  # the next command must still be answered
        told = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        if not isinstance(command, dict) or command.get("op") not in ops:
            told["ops"] = sorted(ops)
        return told


def main(ops=OPS):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cert", required=True, help="its certificate, for localhost")
    parser.add_argument("--key", required=True)
    parser.add_argument("--ca", required=True, help="the authority that it trusts")
    parser.add_argument("--count", type=int, default=1, help="so many servers")
    arguments = parser.parse_args()
    homes = [Home(arguments.cert, arguments.key, arguments.ca) for _ in range(arguments.count)]
    for home in homes:
        home.all = homes
    print(json.dumps({"ready": True, "servers": [h.name for h in homes],
                      "keys": {h.name: h.key.public for h in homes}}), flush=True)
    for line in sys.stdin:
        if line.strip():
            if json.loads(line).get("op") == "stop":
                break
            print(json.dumps(answered(homes, line, ops)), flush=True)


if __name__ == "__main__":
    main()
