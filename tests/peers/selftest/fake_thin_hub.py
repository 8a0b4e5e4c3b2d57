#!/usr/bin/env python3
"""A thin hub of one room in memory, to try the OSCORE peer scripts without the hub.

  fake_thin_hub.py FOLDER      makes ana.json and bob.json there, prints {"port": N}, runs until killed

As much of spec-notes/thin-profile.md as the scripts use. aiocoap does CoAP and OSCORE, so it is no measure of the
hub's; it refuses nothing that it need not.
"""
import asyncio
import hashlib
import json
import os
import socket
import sys
import time
from pathlib import Path

import cbor2
from aiocoap import Code, Context, Message
from aiocoap.blockwise import Block1Spool, Block2Cache
from aiocoap.credentials import CredentialsMap
from aiocoap.oscore_sitewrapper import OscoreSiteWrapper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import msc3079
from thin_profile import (
    DIGITS, EVENT, EVENT_TYPES, MEMBER, RECEIPT, REDACTION, ROOM_NAME, STATE_DEFLATED, TOO_LARGE,
    TYPE_NAME, TYPING, USER_NAME, WHERE, Entry, Reader, Record, Wrong, event_body, only_uint, read_draft,
    read_event_body, uint, write_names, write_records)

ROOM_ID = "!fake:hub.example"
PUSH_BYTES = 1024


class Refused(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code, self.text = code, text


class Device:
    def __init__(self, user, room):
        self.user, self.room = f"@{user}:hub.example", room
        self.drafts, self.ledger, self.joined = {}, {}, False
        self.types = dict(enumerate(EVENT_TYPES))

    def alias_of_type(self, name):
        known = next((alias for alias, text in self.types.items() if text == name), None)
        if known is None:
            known = max(63, *self.types) + 1
            self.types[known] = name
        return known


class Hub:
    """The site behind OSCORE: `render_to_pipe` is all that aiocoap's wrapper asks of it."""

    def __init__(self, devices):
        self.devices = devices  # by their entry in the credentials
        self.log, self.rooms_made = [], 0
        self.asides = []  # receipts and typing: whose, and the record that others see
        self.grown = asyncio.Condition()
        self.block1, self.block2 = Block1Spool(), Block2Cache()

    def get_resources_as_linkheader(self):
        raise NotImplementedError

    async def render_to_pipe(self, pipe):
        request = pipe.request
        device = self.devices[request.remote.authenticated_claims[0]]
        row = device.ledger.setdefault("/".join(request.opt.uri_path)[:1] or "hello", [0] * 5)
        for place, more in enumerate((1, 60 + len(request.payload), 60, 1, 1)):
            row[place] += more
        request = self.block1.feed_and_take(request)
        answer = await self.block2.extract_or_insert(request, lambda: self.answer(device, request))
        if request.opt.block1 is not None:
            answer.opt.block1 = (request.opt.block1.block_number, False, request.opt.block1.size_exponent)
        observed = request.opt.observe == 0 and request.code == Code.FETCH and answer.code.is_successful()
        pipe.add_response(answer, is_last=not observed)
        sent, told = len(self.log), len(self.asides)
        while observed:
            async with self.grown:
                await self.grown.wait_for(lambda: len(self.log) > sent or len(self.asides) > told)
            # what comes within a moment goes in one push
            await asyncio.sleep(0)
            new = [self.record(device, seq, PUSH_BYTES // 2) for seq in range(sent + 1, len(self.log) + 1)]
            new += [record for whose, record in self.asides[told:] if whose is not device]
            sent, told = len(self.log), len(self.asides)
            if not new:
                continue
            pipe.add_response(Message(code=Code.CONTENT, payload=write_records(new)), is_last=False)

    async def answer(self, device, request):
        try:
            code, body, options = await self.decide(device, request, request.opt.uri_path)
        except Refused as refused:
            code, body, options = refused.code, refused.text.encode(), {}
        except Wrong as wrong:
            code, body, options = Code.BAD_REQUEST, f"M_BAD_JSON {wrong}".encode(), {}
        answer = Message(code=code, payload=body)
        for name, value in options.items():
            setattr(answer.opt, name, value)
        return answer

    async def decide(self, device, request, path):
        reader = Reader(request.payload)
        match request.code, path:
            case Code.GET, ():
                return Code.CONTENT, uint(1) + bytes(range(8)) + uint(1) + uint(int(time.time() * 1000)), {}
            case Code.GET, ("$",):
                sums = [sum(column) for column in zip(*device.ledger.values())]
                return Code.CONTENT, cbor2.dumps({**device.ledger, "": [*sums, 1]}), {}
            case Code.PUT, ("=",):
                return Code.CHANGED, b"", {}
            case Code.PUT, (_, "!"):
                await self.aside(device, Record(TYPING, 0, body=b"" if request.payload == b"\0" else uint(1)))
                return Code.CHANGED, b"", {}
            case Code.FETCH, ("@",):
                return Code.CONTENT, write_names(self.names(device, reader)), {}
            case Code.POST, ("@",):
                return Code.CHANGED, uint(self.alias(device, reader.byte(), reader.rest().decode())), {}
            case Code.FETCH, ("*",):
                return self.everywhere(device, reader)
            case _, ("~", *rest):
                return Code.CHANGED, msc3079.encode(await self.matrix(device, rest)), {"content_format": msc3079.CBOR}
        if number(path[0]) != device.room or not device.joined:
            raise Refused(Code.NOT_FOUND, "M_NOT_FOUND no such room")
        match request.code, path:
            case Code.POST, (_,):
                return Code.CHANGED, uint(await self.append(device, request.payload)), {}
            case Code.FETCH, (_,):
                first = reader.uint()
                return Code.CONTENT, self.page(device, first, reader.uint() if reader.more() else 1024), {}
            case Code.PUT, (_,):
                await self.aside(device, Record(RECEIPT, only_uint(request.payload), 1))
                return Code.CHANGED, b"", {}
            case Code.GET, (_, seq) if 0 < number(seq) <= len(self.log):
                return self.in_full(device, number(seq), request)
        raise Refused(Code.NOT_FOUND, "M_NOT_FOUND nothing there")

    def names(self, device, reader):
        if not reader.more():
            return {(ROOM_NAME, device.room): ROOM_ID} if device.joined else {}
        names = {}
        while reader.more():
            kind, alias = reader.byte(), reader.uint()
            users = [device.user] + [other.user for other in self.devices.values() if other is not device]
            names[kind, alias] = {ROOM_NAME: {device.room: ROOM_ID}, USER_NAME: dict(enumerate(users)),
                                  TYPE_NAME: device.types}[kind][alias]
        return names

    def alias(self, device, kind, text):
        return device.room if kind == ROOM_NAME else device.alias_of_type(text)

    async def matrix(self, device, path):
        if path[0] == "I":
            return {"joined_rooms": [f"{ROOM_ID}{n}" for n in range(self.rooms_made)]}
        if path[0] == "G":
            self.rooms_made += 1
            if self.rooms_made > 1:
                return {"room_id": f"{ROOM_ID}{self.rooms_made}"}
            create = {"room_version": "12", "m.federate": True, "creator": device.user}
            await self.add(device, STATE_DEFLATED, event_body(8, create, "", deflated=True))
            power = {"users": {}, "ban": 50, "kick": 50, "events": {f"org.example.{n}": n for n in range(9)}}
            await self.add(device, STATE_DEFLATED, event_body(9, power, "", deflated=True))
        device.joined = True
        await self.add(device, MEMBER, b"\0\0" + device.user.encode())
        return {"room_id": ROOM_ID}

    async def append(self, device, data):
        kind, counter, body, target, _ = read_draft(data)
        if counter in device.drafts:
            before, seq = device.drafts[counter]
            if before != data:
                raise Refused(Code.CONFLICT, f"M_DUPLICATE_TXN draft {counter} was another")
            return seq
        if kind == REDACTION:
            self.log[target - 1].update(kind=EVENT, body=uint(0) + b"\xa0")
        elif kind == EVENT:
            read_event_body(kind, body)
        seq = await self.add(device, kind, body, target, counter)
        device.drafts[counter] = data, seq
        return seq

    async def add(self, device, kind, body, target=None, counter=None):
        self.log.append({"kind": kind, "body": body, "target": target, "counter": counter, "by": device,
                         "time": int(time.time() * 1000)})
        async with self.grown:
            self.grown.notify_all()
        return len(self.log)

    async def aside(self, device, record):
        self.asides.append((device, record))
        async with self.grown:
            self.grown.notify_all()

    def entry(self, device, seq):
        kept = self.log[seq - 1]
        own = kept["by"] is device
        data = Entry(kept["kind"], seq, 0 if own else 1, kept["time"], kept["target"], kept["counter"] if own else None,
                     hashlib.sha256(uint(seq)).digest(), kept["body"])
        return data, hashlib.sha256(data.write()).digest()[:8]

    def record(self, device, seq, max_bytes):
        entry, etag = self.entry(device, seq)
        age = (int(time.time() * 1000) - entry.time) // 1000
        body, kind = entry.body, entry.kind
        if len(body) > max_bytes - 40:
            kind, body = TOO_LARGE, uint(len(entry.write())) + etag
        return Record(kind, seq, entry.sender, age, entry.target, entry.counter, None, body)

    def page(self, device, first, max_bytes):
        records, head = [], len(self.log)
        for seq in range(first, head + 1):
            more = [*records, self.record(device, seq, max_bytes)]
            if records and len(write_records([*more, Record(WHERE, seq, target=head)])) > max_bytes:
                return write_records([*records, Record(WHERE, seq - 1, target=head)])
            records = more
        return write_records([*records, Record(WHERE, head)])

    def everywhere(self, device, reader):
        if not reader.more():
            return Code.CONTENT, write_records([Record(WHERE, len(self.log), room=device.room)]), {}
        _, after = reader.uint(), reader.uint()
        new = [self.record(device, seq, PUSH_BYTES) for seq in range(after + 1, len(self.log) + 1)]
        for record in new:
            record.room = device.room
        return (Code.CONTENT, write_records(new), {}) if new else (Code.VALID, b"", {})

    def in_full(self, device, seq, request):
        entry, etag = self.entry(device, seq)
        if request.opt.accept == msc3079.CBOR:
            content = {"msgtype": "m.text", "body": entry.body.decode()}
            return Code.CONTENT, msc3079.encode({"type": "m.room.message", "content": content}), {"etag": etag}
        if etag in request.opt.etags:
            return Code.VALID, b"", {"etag": etag}
        return Code.CONTENT, entry.write(), {"etag": etag}


def number(text):
    value = 0
    for digit in text:
        value = value * 64 + DIGITS.index(digit)
    return value


def make_credentials(folder, port):
    """Both sides of both devices, as files; gives the hub's map."""
    hub, devices = {}, {}
    for place, user in enumerate(("ana", "bob")):
        secret, ids = os.urandom(16).hex(), (bytes([place + 1]).hex(), "fe")
        for side, (own, other) in ((f"{user}.aiocoap", ids), (f"{user}.hub", ids[::-1])):
            (folder / side).mkdir()
            (folder / side / "settings.json").write_text(json.dumps({"sender-id_hex": own, "recipient-id_hex": other}))
            (folder / side / "secret.json").write_text(json.dumps({"secret_hex": secret, "salt_hex": "00ff"}))
        (folder / f"{user}.json").write_text(json.dumps({
            f"coap://127.0.0.1:{port}/*": {"oscore": {"basedir": f"{user}.aiocoap"}}}))
        hub[f":{user}"] = {"oscore": {"basedir": str(folder / f"{user}.hub")}}
        devices[f":{user}"] = Device(user, room=3 - place)
    credentials = CredentialsMap()
    credentials.load_from_dict(hub)
    return credentials, devices


async def serve(folder):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::", 0))
        port = probe.getsockname()[1]
    credentials, devices = make_credentials(folder, port)
    site = OscoreSiteWrapper(Hub(devices), credentials)
    await Context.create_server_context(site, bind=("::", port), server_credentials=credentials, transports=["udp6"])
    print(json.dumps({"port": port}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(serve(Path(sys.argv[1]).resolve()))
    except KeyboardInterrupt:
        pass
