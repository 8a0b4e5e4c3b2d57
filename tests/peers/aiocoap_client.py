#!/usr/bin/env python3
"""aiocoap, a CoAP library in Python, against a homeserver's plain CoAP door (MSC3079 profile).

  aiocoap_client.py --port 5683 --user ana:password --other bob:password

Logs in, creates a room, invites, joins, sends, syncs, observes /sync, pages back, moves a 40 kB event
both ways by block-wise transfer, takes a large initial sync, and is refused where it should be; with
path codes and full paths, CBOR with integer and with text keys, and JSON. One JSON line on stdout;
on failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import json
import logging
import sys
import time
from importlib.metadata import version

import aiocoap
import cbor2
from aiocoap import Code, Context, Message
from aiocoap.optiontypes import OpaqueOption

import msc3079
from msc3079 import CBOR, JSON, coded, full

PAYLOAD = "é" * 20_000  # 40 kB of UTF-8 that is not ASCII


class Wrong(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Wrong(what)


class Refusal(Exception):
    def __init__(self, code, body):
        super().__init__(f"{code} {body}")
        self.code, self.body = code, body


class Client:
    """One CoAP endpoint: its own UDP port, and so for the server its own connection."""

    def __init__(self, context, args, int_keys=True):
        self.context, self.args, self.int_keys = context, args, int_keys
        self.token = self.user = self.spoke = None
        self.largest = 0

    @classmethod
    async def open(cls, args, **how):
        return cls(await Context.create_client_context(), args, **how)

    def message(self, code, path, body=None, query=(), raw=None, content_format=CBOR, accept=None,
                options=()):
        message = Message(code=code, uri=f"coap://{self.args.host}:{self.args.port}")
        message.opt.uri_path = path
        message.opt.uri_query = query
        if body is not None or raw is not None:
            message.opt.content_format = content_format
            message.payload = raw if raw is not None else msc3079.encode(body, self.int_keys)
        message.opt.accept = accept
        for number, value in options:
            message.opt.add_option(OpaqueOption(number, value))
        # once is enough: the server keeps it for this endpoint
        if self.token and self.spoke != self.token:
            message.opt.add_option(OpaqueOption(msc3079.TOKEN_OPTION, self.token.encode()))
            self.spoke = self.token
        return message

    def read(self, answer):
        self.largest = max(self.largest, len(answer.payload))
        if answer.opt.content_format == JSON:
            body = json.loads(answer.payload)
        elif answer.opt.content_format == CBOR:
            raw = cbor2.loads(answer.payload)
            check(self.int_keys or not msc3079.int_keys_in(raw),
                  f"integer keys for a client that never used them: {raw}")
            body = msc3079.with_text_keys(raw)
        else:
            check(not answer.payload, f"{answer.code} with content format {answer.opt.content_format}: "
                                      f"{answer.payload[:80]!r}")
            body = None
        if not answer.code.is_successful():
            check(body and "errcode" in body and body.get("error"),
                  f"{answer.code} without an error code and a diagnostic: {body}")
            raise Refusal(answer.code, body)
        return body

    async def ask(self, code, path, body=None, **how):
        request = self.context.request(self.message(code, path, body, **how))
        return self.read(await request.response)

    async def get(self, path, *query, **how):
        return await self.ask(Code.GET, path, query=query, **how)

    async def put(self, path, body, **how):
        return await self.ask(Code.PUT, path, body, **how)

    async def post(self, path, body, **how):
        return await self.ask(Code.POST, path, body, **how)

    async def refused(self, what, code, errcode, asked):
        try:
            answer = await asked
        except Refusal as refusal:
            codes = (errcode,) if isinstance(errcode, str) else errcode
            check(refusal.code == code and refusal.body["errcode"] in codes,
                  f"{what}: wanted {code} {errcode}, got {refusal}")
            return
        raise Wrong(f"{what}: wanted {code} {errcode}, got {answer}")

    async def log_in(self, credentials, path):
        user, _, password = credentials.partition(":")
        answer = await self.post(path, {
            "type": "m.login.password", "password": password,
            "identifier": {"type": "m.id.user", "user": user}})
        self.token, self.user = answer["access_token"], answer["user_id"]

    async def send(self, room, body, txn, path=coded):
        content = {"msgtype": "m.text", "body": body}
        return (await self.put(path("9", room, "m.room.message", txn), content))["event_id"]


def bodies(events):
    return [e["content"]["body"] for e in events
            if e["type"] == "m.room.message" and "body" in e["content"]]


def timeline(sync, room):
    return sync.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {}).get("events", [])


async def doors(args):
    """What is answered to anybody."""
    nobody = await Client.open(args)
    versions = await nobody.get(coded("0"), options=[(msc3079.VERSION_OPTION, b"\x01")])
    check(versions["versions"], "there are versions")
    check(await nobody.get(full("0"), accept=JSON) == versions, "versions as JSON are the same")
    login = {"type": "m.login.password", "password": "not it",
             "identifier": {"type": "m.id.user", "user": args.user.partition(":")[0]}}
    await nobody.refused("a wrong password", Code.FORBIDDEN, "M_FORBIDDEN", nobody.post(coded("1"), login))
    login["identifier"]["user"] = "nobody-of-that-name"
    await nobody.refused("an unknown user", Code.FORBIDDEN, "M_FORBIDDEN", nobody.post(coded("1"), login))
    await nobody.refused("no token", Code.UNAUTHORIZED, "M_MISSING_TOKEN", nobody.get(coded("7")))
    await nobody.refused("CBOR that is none", Code.BAD_REQUEST, ("M_NOT_JSON", "M_BAD_JSON"),
                         nobody.post(coded("1"), None, raw=b"\xa1\x01"))
    await nobody.refused("an unknown integer key", Code.BAD_REQUEST, ("M_NOT_JSON", "M_BAD_JSON"),
                         nobody.post(coded("1"), None, raw=cbor2.dumps({2: "m.login.password", 2000: 1})))
    await nobody.refused("no such path", Code.NOT_FOUND, "M_UNRECOGNIZED",
                         nobody.get(["_matrix", "client", "v3", "nothing"]))
    nobody.token = "no-such-token"
    await nobody.refused("a wrong token", Code.UNAUTHORIZED, "M_UNKNOWN_TOKEN", nobody.get(coded("7")))


async def rooms_and_talk(ana, bob, args, done):
    room = (await ana.post(coded("G"), {
        "name": "coap", "preset": "private_chat", "room_version": args.room_version}))["room_id"]
    done["room_id"] = room
    await ana.post(coded("J", room), {"user_id": bob.user})
    invited = await bob.get(full("7", version="v3"), "timeout=0")
    check(room in invited["rooms"]["invite"], "the invite is in the sync of the invited")
    await bob.post(full("K", room, version="v3"), {})

    ids = [await ana.send(room, f"message {n}", f"t{n}", path) for n, path in
           enumerate((coded, full, coded, lambda *a: full(*a, version="v3"), coded))]
    check(len(set(ids)) == 5, "five sends give five event ids")
    check(await ana.send(room, "message 0", "t0") == ids[0], "the same transaction gives the same event id")
    sync = await bob.get(full("7"), f"since={invited['next_batch']}", "timeout=0")
    check(bodies(timeline(sync, room))[-5:] == [f"message {n}" for n in range(5)],
          f"in order: {bodies(timeline(sync, room))}")

    back, start = [], sync["next_batch"]
    for _ in range(50):
        page = await bob.get(coded("E", room), "dir=b", "limit=4", f"from={start}")
        check(len(page["chunk"]) <= 4, "a page keeps to its limit")
        back += page["chunk"]
        start = page.get("end")
        if not start or not page["chunk"]:
            break
    check(bodies(back)[:5] == [f"message {n}" for n in (4, 3, 2, 1, 0)], "paging back, newest first")
    check(back[-1]["type"] == "m.room.create", "paging back ends at the create event")
    done["paged_back"] = len(back)

    await ana.put(coded("F", room, ids[2], "r1"), {"reason": "why not"})
    check("body" not in (await bob.get(coded("A", room, ids[2])))["content"], "a redacted message has no body")
    await ana.put(coded("8", room, "m.room.topic", ""), {"topic": "blocks"})
    check((await bob.get(coded("8", room, "m.room.topic", "")))["topic"] == "blocks", "state is read back")
    check(len((await bob.get(coded("D", room)))["joined"]) == 2, "the room has two members")
    await bob.refused("a name without the power", Code.FORBIDDEN, "M_FORBIDDEN",
                      bob.put(coded("8", room, "m.room.name", ""), {"name": "mine"}))
    done["messages"] = 5
    return room, sync["next_batch"]


async def observe(ana, bob, room, since, done):
    """Registers for /sync; what others send then comes by itself, once and in order."""
    message = bob.message(Code.GET, coded("7"), query=[f"since={since}"])
    message.opt.observe = 0
    request = bob.context.request(message)
    arrived = request.observation.__aiter__()
    first = await request.response
    check(first.opt.observe is not None, "the answer to a registration carries Observe")
    seen = bodies(timeline(bob.read(first), room))
    want = ["pushed 0", "pushed 1", "pushed 2"]
    await ana.send(room, want[0], "p0")
    tokens = []
    while len(seen) < len(want):
        try:
            pushed = await asyncio.wait_for(anext(arrived), 15)
        except (StopAsyncIteration, aiocoap.error.Error, asyncio.TimeoutError) as error:
            raise Wrong(f"nothing more is pushed after {seen}: {error!r}") from error
        check(pushed.opt.observe is not None, "a notification carries Observe")
        sync = bob.read(pushed)
        tokens.append(sync["next_batch"])
        new = bodies(timeline(sync, room))
        seen += new
        check(seen == want[:len(seen)], f"pushed in order, once: {seen}")
        if new and len(seen) < len(want):
            await ana.send(room, want[len(seen)], f"p{len(seen)}")
    request.observation.cancel()
    # the last token stands behind all that was pushed
    later = await bob.get(coded("7"), f"since={tokens[-1]}", "timeout=0")
    check(not bodies(timeline(later, room)), "sync from a pushed token shows nothing twice")
    done["pushed"] = len(seen)
    return later["next_batch"]


async def large_event(ana, bob, room, since, done):
    event_id = await ana.send(room, PAYLOAD, "large")
    check(await ana.send(room, PAYLOAD, "large") == event_id, "a large event sent again is the same")
    got = await bob.get(coded("A", room, event_id))
    check(got["content"]["body"] == PAYLOAD, "a 40 kB event comes back as it was")
    sync = await bob.get(coded("7"), f"since={since}", "timeout=0")
    check(PAYLOAD in bodies(timeline(sync, room)), "a 40 kB event is in the sync")
    await ana.refused("an event of 70 kB", Code.REQUEST_ENTITY_TOO_LARGE, "M_TOO_LARGE",
                      ana.send(room, "x" * 70_000, "too-large"))
    done["large_event_bytes"] = len(PAYLOAD.encode())


async def large_sync(ana, args, done):
    room = (await ana.post(coded("G"), {"name": "large", "room_version": args.room_version}))["room_id"]
    for n in range(args.large):
        await ana.put(coded("8", room, "test.note", str(n)), {"text": "x" * 1000, "n": n})
    fresh = await Client.open(args)
    await fresh.log_in(args.user, coded("1"))
    began = time.monotonic()
    joined = (await fresh.get(coded("7"), "timeout=0", "full_state=true"))["rooms"]["join"][room]
    done["large_sync_ms"] = round((time.monotonic() - began) * 1000)
    notes = {e["state_key"] for e in [*joined["state"]["events"], *joined["timeline"]["events"]]
             if e["type"] == "test.note"}
    check(notes == {str(n) for n in range(args.large)}, f"{len(notes)} of {args.large} state events")
    done["large_sync_bytes"] = fresh.largest
    await fresh.post(coded("3"), {})
    await fresh.refused("a token after logout", Code.UNAUTHORIZED, "M_UNKNOWN_TOKEN", fresh.get(coded("7")))


async def run(args):
    done = {"ok": True, "peer": f"aiocoap {version('aiocoap')}"}
    await doors(args)
    ana = await Client.open(args)
    # bob never uses an integer key, so he must not be sent one
    bob = await Client.open(args, int_keys=False)
    await ana.log_in(args.user, coded("1"))
    await bob.log_in(args.other, full("1", version="v3"))
    # every sync goes on from the one before: Synapse keeps the answer to a repeated first one
    room, since = await rooms_and_talk(ana, bob, args, done)
    since = await observe(ana, bob, room, since, done)
    await large_event(ana, bob, room, since, done)
    await large_sync(ana, args, done)
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", required=True, metavar="NAME:PASSWORD")
    parser.add_argument("--other", required=True, metavar="NAME:PASSWORD")
    parser.add_argument("--room-version", default="12")
    parser.add_argument("--large", type=int, default=200, help="state events of 1 kB in the large room")
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        print(json.dumps(asyncio.run(asyncio.wait_for(run(args), args.timeout))))
    except asyncio.TimeoutError:
        sys.exit(f"aiocoap_client: not done after {args.timeout} s")
    except (Wrong, Refusal) as wrong:
        sys.exit(f"aiocoap_client: {wrong}")


if __name__ == "__main__":
    main()
