#!/usr/bin/env python3
"""A thin client, written from spec-notes/thin-profile.md alone, over aiocoap's OSCORE.

  thin_client.py --self-test
  thin_client.py --credentials ana.json --other-credentials bob.json [--server coap://127.0.0.1:5683]

The JSON files are aiocoap's credentials (as `tramline link … --for aiocoap` writes them), of devices of two
users. A room for the two is made over `~`, unless --room names one that both are in. Each step prints
«ok: …», the last line is JSON; on failure a reason on stderr and exit code 1.

Nothing here knows the hub's code: where the two disagree, one of them or the specification is wrong. The codec
is thin_profile.py; here are the client (`Link`, `Log`) and then the steps.
"""
import argparse
import asyncio
import base64
import hashlib
import json
import logging
import os
import sys
from importlib.metadata import version
from pathlib import Path

import aiocoap
import cbor2
from aiocoap import Code, Context, Message
from aiocoap.credentials import CredentialsMap

import msc3079
from thin_profile import (
    EMOTE, EVENT, EVENT_DEFLATED, EVENT_TYPES, NOTICE, REACTION, RECEIPT, REDACTION, ROOM_NAME, STATE, STATE_DEFLATED,
    TEXT, TOO_LARGE, TYPE_NAME, TYPING, USER_NAME, WHERE, Entry, Hello, Reader, Record, Wrong, check, content_bytes,
    digits, draft, event_body, ok, only_uint, read_event_body, read_names, read_records, self_test, uint)


class Refusal(Exception):
    """What the hub answered instead: a CoAP code, a Matrix error code and a text."""

    def __init__(self, message):
        self.code = message.code
        if message.opt.content_format == msc3079.CBOR:  # only under `~`
            body = msc3079.decode(message.payload)
            self.errcode, self.text = body.get("errcode"), body.get("error")
        else:
            self.errcode, _, self.text = message.payload.decode("utf8", "replace").partition(" ")
        super().__init__(f"{message.code} {self.errcode} {self.text}")

    def is_final(self):
        """Whether the same bytes would be refused again later."""
        return self.code.class_ == 4 and self.code != Code.TOO_MANY_REQUESTS


# the client

class Journal:
    """The last draft of a device, kept beside its keys: written before it is sent, marked when it was answered."""

    def __init__(self, path):
        self.path = path
        self.last = json.loads(path.read_text()) if path.exists() else {"counter": 0, "answered": True}

    def next_counter(self):
        check(self.last["answered"], "a draft waits for its answer; send that one again first")
        return self.last["counter"] + 1

    def keep(self, counter, room, data, answered=False):
        self.last = {"counter": counter, "room": room, "draft": data.hex(), "answered": answered}
        beside = self.path.with_suffix(".new")
        with beside.open("w") as file:
            json.dump(self.last, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def answered(self):
        self.keep(self.last["counter"], self.last["room"], bytes.fromhex(self.last["draft"]), answered=True)


def find_context(path, server=None):
    """Server and folder that aiocoap's credentials file names; the folder is looked for beside it, too."""
    path = Path(path)
    entries = json.loads(path.read_text())
    pattern, entry = next((item for item in entries.items() if "oscore" in item[1]), (None, None))
    check(entry, f"{path} has no entry «oscore»")
    folder = Path(entry["oscore"].get("basedir") or entry["oscore"]["contextfile"])
    if not folder.is_dir():
        folder = path.resolve().parent / folder
    server = (server or pattern.rstrip("*")).rstrip("/")
    check(server.startswith("coap://") and "*" not in server, f"{path} names no server ({pattern}): use --server")
    return server, folder


class Link:
    """One linked device."""

    def __init__(self, context, server, folder, security):
        self.context, self.server, self.security = context, server, security
        self.journal = Journal(folder / "thin-journal.json")

    @classmethod
    async def open(cls, path, server=None):
        server, folder = find_context(path, server)
        credentials = CredentialsMap()
        credentials.load_from_dict({f"{server}/*": {"oscore": {"basedir": str(folder)}}})
        # aiocoap offers OSCORE by itself only where group OSCORE could be had, too
        context = await Context.create_client_context(transports=["oscore", "udp6"])
        context.client_credentials = credentials
        return cls(context, server, folder, credentials[f"{server}/*"])

    async def close(self):
        await self.context.shutdown()
        self.context.client_credentials = CredentialsMap()
        if self.security.lockfile is not None:
            self.security._destroy()  # writes the sequence number back and gives the folder free

    def message(self, code, *path, body=b"", **options):
        message = Message(code=code, uri=self.server, payload=body)
        message.opt.uri_path = path
        for name, value in options.items():
            setattr(message.opt, name, value)
        return message

    async def ask(self, code, *path, body=b"", wanted=None, **options):
        answer = await self.context.request(self.message(code, *path, body=body, **options)).response
        return self.accepted(answer, wanted)

    @staticmethod
    def accepted(answer, wanted=None):
        if not answer.code.is_successful():
            raise Refusal(answer)
        wanted = (wanted,) if isinstance(wanted, Code) else wanted
        check(not wanted or answer.code in wanted, f"answered {answer.code}, not {wanted}")
        return answer

    async def hello(self):
        return Hello.read((await self.ask(Code.GET, wanted=Code.CONTENT)).payload)

    async def names(self, *wanted):
        body = b"".join(bytes([kind]) + uint(alias) for kind, alias in wanted)
        return read_names((await self.ask(Code.FETCH, "@", body=body, wanted=Code.CONTENT)).payload)

    async def alias(self, kind, text):
        answer = await self.ask(Code.POST, "@", body=bytes([kind]) + text.encode(), wanted=Code.CHANGED)
        return only_uint(answer.payload)

    async def append(self, room, kind, body, target=None, read=None):
        counter = self.journal.next_counter()
        self.journal.keep(counter, room, draft(kind, counter, body, target, read))
        return await self.append_again()

    async def append_again(self):
        """The last draft once more, with the same bytes: after silence, a restart, or to be sure."""
        last = self.journal.last
        try:
            seq = await self.post(last["room"], bytes.fromhex(last["draft"]))
        except Refusal as refusal:
            if refusal.is_final():
                self.journal.answered()
            raise
        self.journal.answered()
        return seq

    async def post(self, room, data):
        return only_uint((await self.ask(Code.POST, digits(room), body=data, wanted=Code.CHANGED)).payload)

    async def fetch(self, room, first, max_bytes=None):
        body = uint(first) + (b"" if max_bytes is None else uint(max_bytes))
        answer = await self.ask(Code.FETCH, digits(room), body=body, wanted=Code.CONTENT)
        check(max_bytes is None or len(answer.payload) <= max_bytes,
              f"{len(answer.payload)} bytes, {max_bytes} were asked for")
        return read_records(answer.payload)

    async def entry(self, room, seq):
        answer = await self.ask(Code.GET, digits(room), digits(seq), wanted=Code.CONTENT)
        check(answer.opt.etag == hashlib.sha256(answer.payload).digest()[:8], f"entry {seq}, ETag {answer.opt.etag}")
        return Entry.read(answer.payload), answer.opt.etag, answer.payload

    async def observe(self, *path, body=b""):
        request = self.context.request(self.message(Code.FETCH, *path, body=body, observe=0))
        observation = Observation(request)
        answer = self.accepted(await request.response, (Code.CONTENT, Code.VALID))
        check(answer.opt.observe is not None, "the answer to a registration carries Observe")
        return observation, answer

    async def matrix(self, code, *path, body=None):
        """Everything else, §3: an MSC3079 path code below `~`."""
        given = {} if body is None else {"body": msc3079.encode(body), "content_format": msc3079.CBOR}
        answer = await self.ask(code, "~", *path, accept=msc3079.CBOR, **given)
        return msc3079.decode(answer.payload) if answer.payload else None


class Observation:
    """What is pushed, all of it: aiocoap's own iterator keeps only the newest."""

    def __init__(self, request):
        self.request, self.arrived = request, asyncio.Queue()
        request.observation.register_callback(self.arrived.put_nowait, _suppress_deprecation=True)
        request.observation.register_errback(self.arrived.put_nowait, _suppress_deprecation=True)

    async def next(self, wait_s=30):
        try:
            pushed = await asyncio.wait_for(self.arrived.get(), wait_s)
        except asyncio.TimeoutError:
            raise Wrong(f"nothing was pushed for {wait_s} s") from None
        check(isinstance(pushed, Message), f"the observation ended: {pushed!r}")
        check(pushed.code == Code.CONTENT and pushed.opt.observe is not None, f"pushed: {pushed.code}")
        return read_records(pushed.payload)

    async def until(self, seq):
        """The first push that has the entry `seq`; what came before it is dropped."""
        while True:
            records = await self.next()
            if any(record.is_entry() and record.seq == seq for record in records):
                return records


class Log:
    """What a client keeps of a room: entries by seq, and up to where it knows them all."""

    def __init__(self):
        self.entries, self.covered, self.head = {}, 0, 0

    def take(self, records, first=None):
        """Takes an answer to FETCH from `first`, or a push. Gives False if something between is missing."""
        where = records[-1] if records[-1].kind == WHERE else None
        for record in filter(Record.is_entry, records):
            self.entries[record.seq] = record
            self.head = max(self.head, record.seq)
            if first is None and record.seq == self.covered + 1:
                self.covered = record.seq
        if where:
            self.head = max(self.head, where.seq, where.target or 0)
        if first is not None:
            check(where, "the answer to a FETCH ends with kind 15")
            check(first <= self.covered + 1, f"asked from {first}, known up to {self.covered}")
            self.covered = max(self.covered, where.seq)
        return self.covered >= self.head

    async def repair(self, link, room, max_bytes=None):
        """FETCHes what is missing; gives the number of questions that took."""
        asked = 0
        while True:
            first = self.covered + 1
            records = await link.fetch(room, first, max_bytes)
            asked += 1
            seqs = [record.seq for record in records if record.is_entry()]
            check(seqs == sorted(set(seqs)) and all(seq >= first for seq in seqs), f"from {first}: {seqs}")
            if self.take(records, first):
                return asked
            check(self.covered >= first, f"a page from {first} covers nothing")


# the steps

async def refused(what, code, errcode, asked):
    try:
        answer = await asked
    except Refusal as refusal:
        check(refusal.code == code and refusal.errcode == errcode, f"{what}: wanted {code} {errcode}, got {refusal}")
        check(refusal.text, f"{what}: a refusal has a text")
        return
    raise Wrong(f"{what}: wanted {code} {errcode}, got {answer!r}")


async def meet(ana, bob, room_id):
    """A room for both, and the alias each of them has for it."""
    bob_id = (await bob.names((USER_NAME, 0)))[USER_NAME, 0]
    ana_id = (await ana.names((USER_NAME, 0)))[USER_NAME, 0]
    check(ana_id.startswith("@") and bob_id.startswith("@") and ana_id != bob_id, f"two users: {ana_id}, {bob_id}")
    if room_id is None:
        made = {"name": "thin", "preset": "private_chat", "invite": [bob_id]}
        room_id = (await ana.matrix(Code.POST, "G", body=made))["room_id"]
        await bob.matrix(Code.POST, "K", room_id, body={})
    aliases = []
    for link in (ana, bob):
        alias = await link.alias(ROOM_NAME, room_id)
        names = await link.names()
        check(names.get((ROOM_NAME, alias)) == room_id, f"{room_id} is {alias} in {names}")
        check(all(kind == ROOM_NAME for kind, _ in names), f"an empty question gives rooms only: {names}")
        check(await link.names((ROOM_NAME, alias)) == {(ROOM_NAME, alias): room_id}, "one name asked, one given")
        check(await link.alias(ROOM_NAME, room_id) == alias, "a name keeps its alias")
        aliases.append(alias)
    check(await ana.names((TYPE_NAME, 9)) == {(TYPE_NAME, 9): "m.room.power_levels"}, "types below 64 are fixed")
    check(await ana.alias(TYPE_NAME, "m.reaction") == 2, "and have their numbers")
    ok(f"room names: {room_id} is {aliases[0]} for {ana_id} and {aliases[1]} for {bob_id}")
    return aliases


async def append_twice(ana, room):
    said = "Meet me at the station"
    seq = await ana.append(room, TEXT, said.encode())
    check(await ana.append_again() == seq, "the same draft again gets the first answer")
    counter = ana.journal.last["counter"]
    await refused("the same counter with other bytes", Code.CONFLICT, "M_DUPLICATE_TXN",
                  ana.post(room, draft(TEXT, counter, b"another text")))
    record = next(record for record in await ana.fetch(room, seq) if record.is_entry())
    check(record == Record(TEXT, seq, 0, record.age, None, counter, None, said.encode()), f"read back: {record}")
    ok(f"append: counter {counter} is seq {seq}, twice; with other bytes M_DUPLICATE_TXN")
    return seq, said


async def page(ana, room, last):
    log, whole = Log(), Log()
    pages = await log.repair(ana, room, 96)
    await whole.repair(ana, room, 65_536)
    check(set(log.entries) == set(whole.entries), f"{sorted(log.entries)} paged, {sorted(whole.entries)} at once")
    for seq, record in log.entries.items():
        other = whole.entries[seq]
        check(record.kind == TOO_LARGE or (record.kind, record.target, record.counter) ==
              (other.kind, other.target, other.counter), f"{record} paged, {other} at once")
    check(log.covered >= last and last in log.entries, f"covered up to {log.covered}, {last} was the last")
    check(pages > 1, "96 bytes do not hold the log")
    ok(f"FETCH: {len(log.entries)} entries in {pages} pages of 96 bytes, the same at once")
    return whole


async def observe(ana, bob, room, bobs_room, log):
    await log.repair(ana, room)
    watch, answer = await ana.observe(digits(room), body=uint(log.covered + 1))
    check(log.take(read_records(answer.payload), log.covered + 1), "nothing was said between")
    seqs = [await bob.append(bobs_room, TEXT, b"pushed 1")]
    records = await watch.until(seqs[0])
    if not log.take(records):  # a seq without a record lies between
        await log.repair(ana, room)
    check(log.entries[seqs[0]].body == b"pushed 1" and log.entries[seqs[0]].counter is None, "as bob said it")
    sender = log.entries[seqs[0]].sender
    bob_id = (await bob.names((USER_NAME, 0)))[USER_NAME, 0]
    check(await ana.names((USER_NAME, sender)) == {(USER_NAME, sender): bob_id}, f"sender {sender} is bob")
    ok(f"observe: seq {seqs[0]} from {bob_id} was pushed")

    seqs.append(await bob.append(bobs_room, TEXT, b"pushed 2"))
    await watch.until(seqs[1])  # and lost
    seqs.append(await bob.append(bobs_room, EMOTE, "pushed «3»".encode()))
    records = await watch.until(seqs[2])
    check(not log.take(records) and seqs[1] not in log.entries, "the lost push is missed")
    asked = await log.repair(ana, room)
    check([log.entries[seq].body for seq in seqs] == [b"pushed 1", b"pushed 2", "pushed «3»".encode()], "all three")
    check(log.entries[seqs[2]].kind == EMOTE, "an emote is an emote")
    ok(f"gap: seq {seqs[1]} was lost, noticed at {seqs[2]} and repaired with {asked} FETCH")
    await beside(bob, bobs_room, watch, sender, seqs[2])
    return seqs[0]


async def beside(bob, bobs_room, watch, sender, seq):
    """Receipts and typing, §7: pushed, in no log."""
    await bob.ask(Code.PUT, digits(bobs_room), "!", body=b"\x3c", wanted=Code.CHANGED)
    await bob.ask(Code.PUT, digits(bobs_room), body=uint(seq), wanted=Code.CHANGED)
    told = {}
    while not {RECEIPT, TYPING} <= told.keys():
        told.update((record.kind, record) for record in await watch.next())
    check((told[RECEIPT].seq, told[RECEIPT].sender) == (seq, sender), f"read: {told[RECEIPT]}")
    check(told[TYPING].seq == 0 and told[TYPING].body == uint(sender), f"types: {told[TYPING]}")
    await bob.ask(Code.PUT, digits(bobs_room), "!", body=b"\x00", wanted=Code.CHANGED)
    while (records := await watch.next())[-1].kind != TYPING:
        pass
    check(records[-1].body == b"", f"nobody types: {records}")
    ok(f"pushed beside the log: user {sender} has read up to {seq}, types, and no more")


async def refer(ana, room, bobs_seq, own_seq, said):
    reaction = await ana.append(room, REACTION, "👍".encode(), target=bobs_seq)
    redaction = await ana.append(room, REDACTION, b"too early", target=own_seq)
    reply = await ana.append(room, TEXT, b"at six", target=bobs_seq, read=bobs_seq)
    log = Log()
    await log.repair(ana, room)
    for seq, kind, body, target in ((reaction, REACTION, "👍".encode(), bobs_seq), (reply, TEXT, b"at six", bobs_seq),
                                    (redaction, REDACTION, b"too early", own_seq)):
        got = log.entries[seq]
        check((got.kind, got.body, got.target) == (kind, body, target), f"kind {kind} read back: {got}")
    check(said.encode() not in log.entries[own_seq].body, f"redacted: {log.entries[own_seq]}")
    ok(f"reaction {reaction}, reply {reply} and redaction {redaction} of {own_seq}, read back")


async def events(ana, room):
    """Kinds 7 and 9; what comes back deflated is the hub's choice, but a room's first entries gain by it."""
    kind = await ana.alias(TYPE_NAME, "org.example.reading")
    check(kind >= 64, f"alias {kind} for a type that is not in the table")
    content = {"name": "north", "org.example.degrees": -17, "users": {"reason": ["frost", True, None]}, "body": "é"}
    first = await ana.append(room, EVENT, event_body(kind, content))
    html = {"msgtype": "m.text", "body": "see you", "format": "org.matrix.custom.html",
            "formatted_body": "<em>see you</em>", "m.relates_to": {"m.in_reply_to": {"event_id": "$" + "A" * 43}}}
    second = await ana.append(room, EVENT_DEFLATED, event_body(0, html, deflated=True))
    log = Log()
    await log.repair(ana, room, 65_536)
    for seq, type_alias, sent in ((first, kind, content), (second, 0, html)):
        got = log.entries[seq]
        check(got.kind in (EVENT, EVENT_DEFLATED), f"a message event of any type: {got}")
        alias, key, back, packed = read_event_body(got.kind, got.body)
        check((alias, key, back) == (type_alias, None, sent), f"{sent} came back as {back}, type {alias}")
        check(packed == content_bytes(sent), f"integer keys: {packed.hex()}")
    ok(f"CBOR event {first} with integer keys, as it was sent")
    deflated = [record for record in log.entries.values() if record.kind in (EVENT_DEFLATED, STATE_DEFLATED)]
    check(deflated, f"nothing was deflated: kinds {[record.kind for record in log.entries.values()]}")
    for record in deflated:
        read_event_body(record.kind, record.body)
    states = [record for record in log.entries.values() if record.kind in (STATE, STATE_DEFLATED)]
    check("m.room.create" in [EVENT_TYPES[read_event_body(record.kind, record.body)[0]] for record in states
                              if read_event_body(record.kind, record.body)[0] < len(EVENT_TYPES)], "the room's state")
    ok(f"deflated: {len(deflated)} records read with dictionary 1")


async def in_full(ana, room, bobs_seq, now_ms):
    entry, etag, _ = await ana.entry(room, bobs_seq)
    check((entry.kind, entry.seq, entry.body, entry.counter) == (TEXT, bobs_seq, b"pushed 1", None), str(entry))
    check(abs(entry.time - now_ms) < 3_600_000, f"said at {entry.time}, the hub's clock was {now_ms}")
    again = await ana.ask(Code.GET, digits(room), digits(bobs_seq), etags=[etag], wanted=Code.VALID)
    check(not again.payload, "2.03 has no body")
    answer = await ana.ask(Code.GET, digits(room), digits(bobs_seq), accept=msc3079.CBOR, wanted=Code.CONTENT)
    event = msc3079.decode(answer.payload)
    content = {"msgtype": "m.text", "body": "pushed 1"}
    check((event["type"], event["content"]) == ("m.room.message", content), f"{event}")
    name = "$" + base64.urlsafe_b64encode(entry.id).decode().rstrip("=")
    check(event.get("event_id", name) == name, f"id {name}, the event says {event.get('event_id')}")
    ok(f"GET: entry {bobs_seq} in full, ETag {etag.hex()}, {name}")

    long = "largest ".encode() * 375
    seq = await ana.append(room, TEXT, long)
    record = next(record for record in await ana.fetch(room, seq) if record.is_entry())
    check(record.kind == TOO_LARGE, f"3000 bytes in an answer of 1024: kind {record.kind}")
    reader = Reader(record.body)
    size, tag = reader.uint(), reader.rest()
    entry, etag, data = await ana.entry(room, seq)
    check(entry.kind == TEXT and entry.body == long, "block-wise, both ways")
    check((size, tag) == (len(data), etag), f"announced {size} bytes, {tag.hex()}; got {len(data)}, {etag.hex()}")
    ok(f"GET: {size} bytes of entry {seq}, announced by kind 12")


async def everywhere(ana, bob, room, bobs_room):
    """FETCH of `*`: heads of all rooms, then what came after a record."""
    heads = read_records((await ana.ask(Code.FETCH, "*", wanted=Code.CONTENT)).payload)
    check(all(record.kind == WHERE for record in heads), "an empty question gives heads")
    check(room in [record.room for record in heads], f"{room} is among {heads}")
    asked = uint(heads[-1].room) + uint(heads[-1].seq)  # the newest is last
    nothing = await ana.ask(Code.FETCH, "*", body=asked)
    check(nothing.code == Code.VALID and not nothing.payload, f"nothing new is 2.03: {nothing.code}")
    seq = await bob.append(bobs_room, NOTICE, b"from everywhere")
    new = read_records((await ana.ask(Code.FETCH, "*", body=asked, wanted=Code.CONTENT)).payload)
    new = [record for record in new if record.is_entry()]
    check([(record.room, record.seq, record.kind) for record in new] == [(room, seq, NOTICE)], f"new: {new}")
    ok(f"FETCH *: {len(heads)} heads, nothing new, then entry {seq}")
    return seq


async def small_things(ana, bob, room, bobs_room, seq):
    await ana.ask(Code.PUT, "=", body=b"\x06", wanted=Code.CHANGED)
    await bob.ask(Code.PUT, "=", body=b"\x06" + uint(1000), wanted=Code.CHANGED)
    ok("link profile: class 6, and a limit of 1000 kB a day")
    await ana.ask(Code.PUT, digits(room), body=uint(seq), wanted=Code.CHANGED)
    await bob.ask(Code.PUT, digits(bobs_room), "!", body=b"\x05", wanted=Code.CHANGED)
    await bob.ask(Code.PUT, digits(bobs_room), "!", body=b"\x00", wanted=Code.CHANGED)
    ok(f"marked as read up to {seq}; typing, and no more")
    await refused("an alias never given", Code.NOT_FOUND, "M_NOT_FOUND", ana.fetch(9_999_999, 1))
    await refused("an entry that is not there", Code.NOT_FOUND, "M_NOT_FOUND",
                  ana.ask(Code.GET, digits(room), digits(9_999_999)))
    ok("refusals: 4.04 M_NOT_FOUND")
    ledger = cbor2.loads((await ana.ask(Code.GET, "$", wanted=Code.CONTENT)).payload)
    sums = ledger.pop("")
    check(len(sums) == 6 and all(len(row) == 5 for row in ledger.values()), f"rows of five, sums of six: {ledger}")
    check(sums[:5] == [sum(column) for column in zip(*ledger.values())], f"sums {sums} of {ledger}")
    check(all(sums[:5]), f"something of each: {sums}")
    ok(f"ledger: {sums[0]} exchanges, {sums[1]} bytes up, {sums[2]} down, {sums[5]} wake-ups, {sorted(ledger)}")


async def run(args):
    ana = await Link.open(args.credentials, args.server)
    bob = await Link.open(args.other_credentials, args.server)
    for link in (ana, bob):
        if not link.journal.last["answered"]:
            await link.append_again()
    hello = await ana.hello()
    check(hello.version == 1 and hello.dictionary == 1, f"{hello}")
    ok(f"hello: version 1, generation {hello.generation.hex()}, dictionary 1, time {hello.time}")
    room, bobs_room = await meet(ana, bob, args.room)
    own_seq, said = await append_twice(ana, room)
    log = await page(ana, room, own_seq)
    bobs_seq = await observe(ana, bob, room, bobs_room, log)
    await refer(ana, room, bobs_seq, own_seq, said)
    await events(ana, room)
    await in_full(ana, room, bobs_seq, hello.time)
    seq = await everywhere(ana, bob, room, bobs_room)
    await small_things(ana, bob, room, bobs_room, seq)
    await ana.close()
    await bob.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true", help="the codec only; needs no hub")
    parser.add_argument("--credentials", metavar="FILE", help="aiocoap's credentials of the device under test")
    parser.add_argument("--other-credentials", metavar="FILE", help="the same of another user's device")
    parser.add_argument("--server", metavar="coap://HOST:PORT", help="where the credentials do not name it")
    parser.add_argument("--room", metavar="ID", help="a room both are in; left out, one is made")
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        if args.self_test:
            self_test()
        elif args.credentials and args.other_credentials:
            asyncio.run(asyncio.wait_for(run(args), args.timeout))
        else:
            parser.error("--self-test, or --credentials and --other-credentials")
        print(json.dumps({"ok": True, "peer": f"thin_client.py on aiocoap {version('aiocoap')}"}))
    except asyncio.TimeoutError:
        sys.exit(f"thin_client: not done after {args.timeout} s")
    except (Wrong, Refusal, aiocoap.error.Error) as wrong:
        sys.exit(f"thin_client: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
