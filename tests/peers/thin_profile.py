"""The thin profile's bytes, written from spec-notes/thin-profile.md alone; what sends them is thin_client.py.

This file knows nothing of the hub's code: where the two disagree, one of them or the specification is wrong.
"""
import random
import zlib
from dataclasses import dataclass
from pathlib import Path

import cbor2

import msc3079

DICTIONARY = (Path(__file__).resolve().parents[2] / "conformance/vectors/thin/dictionary-1.bin").read_bytes()
INFLATED_MAX = 65_536
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

(TEXT, NOTICE, EMOTE, REACTION, REDACTION, MLS_ELIDED, MLS_WHOLE, EVENT, STATE, EVENT_DEFLATED, STATE_DEFLATED, MEMBER,
 TOO_LARGE, RECEIPT, TYPING, WHERE) = range(16)
ROOM_NAME, USER_NAME, TYPE_NAME = range(3)
EVENT_TYPES = """
    m.room.message m.room.encrypted m.reaction m.room.redaction
    m.room.member m.room.name m.room.topic m.room.avatar
    m.room.create m.room.power_levels m.room.join_rules m.room.history_visibility
    m.room.guest_access m.room.canonical_alias m.room.encryption m.room.pinned_events
    m.room.tombstone m.room.server_acl m.room.third_party_invite m.space.child
    m.space.parent m.sticker m.call.invite m.call.candidates
    m.call.answer m.call.hangup m.poll.start m.poll.response
    m.poll.end m.beacon_info m.beacon m.location
""".split()


class Wrong(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Wrong(what)


def ok(what):
    print(f"ok: {what}", flush=True)


# numbers, §2

def uint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes(out) + bytes([number])


def digits(number):
    out = DIGITS[number % 64]
    while number := number // 64:
        out = DIGITS[number % 64] + out
    return out


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(self.at + count <= len(self.data),
              f"{count} bytes wanted at {self.at} of {len(self.data)}: {self.data.hex(' ')}")
        self.at += count
        return self.data[self.at - count:self.at]

    def byte(self):
        return self.take(1)[0]

    def uint(self):
        number = 0
        for place in range(9):
            byte = self.byte()
            number |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                check(byte or not place, f"a uint that is not the shortest, before {self.at}: {self.data.hex(' ')}")
                return number
        raise Wrong(f"a uint of more than 9 bytes before {self.at}: {self.data.hex(' ')}")

    def rest(self):
        return self.take(len(self.data) - self.at)

    def more(self):
        return self.at < len(self.data)


def only_uint(data):
    reader = Reader(data)
    number = reader.uint()
    check(not reader.more(), f"one uint and nothing more: {data.hex(' ')}")
    return number


# hello, §4

@dataclass
class Hello:
    version: int
    generation: bytes
    dictionary: int
    time: int

    @classmethod
    def read(cls, data):
        reader = Reader(data)
        return cls(reader.uint(), reader.take(8), reader.uint(), reader.uint())  # later versions fill the rest


# drafts, records and entries: §5, §7, §8

def draft(kind, counter, body=b"", target=None, read=None):
    head = kind | (target is not None) << 4 | (read is not None) << 5
    return bytes([head]) + b"".join(uint(part) for part in (counter, target, read) if part is not None) + body


def read_draft(data):
    reader = Reader(data)
    head = reader.byte()
    check(head < 0x40, f"a draft whose first byte is {head:02x}")
    counter = reader.uint()
    target = reader.uint() if head & 0x10 else None
    read = reader.uint() if head & 0x20 else None
    return head & 0x0F, counter, reader.rest(), target, read


@dataclass
class Record:
    kind: int
    seq: int
    sender: int | None = None
    age: int | None = None
    target: int | None = None
    counter: int | None = None
    room: int | None = None
    body: bytes = b""

    def is_entry(self):
        return self.kind not in (RECEIPT, TYPING, WHERE)


def read_records(data):
    reader, records, room, follows = Reader(data), [], None, True
    while follows:
        head = reader.byte()
        kind, follows = head & 0x0F, head & 0x80
        room = reader.uint() if head & 0x40 else room
        record = Record(kind, reader.uint(), room=room)
        record.sender = None if kind in (TYPING, WHERE) else reader.uint()
        record.age = reader.uint() if record.is_entry() else None
        record.target = reader.uint() if head & 0x10 else None
        record.counter = reader.uint() if head & 0x20 else None
        record.body = reader.take(reader.uint()) if follows else reader.rest()
        records.append(record)
    return records


def write_records(records):
    out, room = b"", None
    for record in records:
        last = record is records[-1]
        head = (record.kind | (record.target is not None) << 4 | (record.counter is not None) << 5
                | (record.room != room) << 6 | (not last) << 7)
        numbers = [record.room if record.room != room else None, record.seq, record.sender, record.age, record.target,
                   record.counter, None if last else len(record.body)]
        out += bytes([head]) + b"".join(uint(number) for number in numbers if number is not None) + record.body
        room = record.room
    return out


@dataclass
class Entry:
    kind: int
    seq: int
    sender: int
    time: int
    target: int | None
    counter: int | None
    id: bytes
    body: bytes

    @classmethod
    def read(cls, data):
        reader = Reader(data)
        head = reader.byte()
        check(head < 0x40, f"an entry whose first byte is {head:02x}")
        return cls(head & 0x0F, reader.uint(), reader.uint(), reader.uint(), reader.uint() if head & 0x10 else None,
                   reader.uint() if head & 0x20 else None, reader.take(32), reader.rest())

    def write(self):
        head = self.kind | (self.target is not None) << 4 | (self.counter is not None) << 5
        numbers = [self.seq, self.sender, self.time, self.target, self.counter]
        return bytes([head]) + b"".join(uint(number) for number in numbers if number is not None) + self.id + self.body


# bodies, §6 and §10

def deterministic(value):
    """RFC 8949 §4.2.1; cbor2's own `canonical` sorts shorter keys first, as RFC 7049 did."""
    if isinstance(value, dict):
        pairs = sorted((cbor2.dumps(key), key, item) for key, item in value.items())
        return {key: deterministic(item) for _, key, item in pairs}
    return [deterministic(item) for item in value] if isinstance(value, list) else value


def content_bytes(content):
    return cbor2.dumps(deterministic(msc3079.with_int_keys(content)))


def deflate(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    return packer.compress(data) + packer.flush()


def inflate(data):
    unpacker = zlib.decompressobj(-15, zdict=DICTIONARY)
    out = unpacker.decompress(data, INFLATED_MAX + 1)
    check(len(out) <= INFLATED_MAX, f"a body inflates to more than {INFLATED_MAX} bytes")
    check(unpacker.eof and not unpacker.unused_data, "a deflated body does not end where its record ends")
    return out


def event_body(type_alias, content, key=None, deflated=False):
    """Kinds 7 to 10."""
    head = uint(type_alias) if key is None else uint(type_alias) + uint(len(key.encode())) + key.encode()
    packed = content_bytes(content)
    return head + (deflate(packed) if deflated else packed)


def read_event_body(kind, body):
    """Type alias, state key or None, content with text keys, and its CBOR as it was on the way."""
    check(kind in (EVENT, STATE, EVENT_DEFLATED, STATE_DEFLATED), f"kind {kind} has no content")
    reader = Reader(body)
    type_alias = reader.uint()
    key = reader.take(reader.uint()).decode() if kind in (STATE, STATE_DEFLATED) else None
    packed = inflate(reader.rest()) if kind in (EVENT_DEFLATED, STATE_DEFLATED) else reader.rest()
    content = msc3079.decode(packed)
    check(cbor2.dumps(deterministic(cbor2.loads(packed))) == packed, f"content is not deterministic: {packed.hex()}")
    return type_alias, key, content, packed


def mls_parts(message):
    """group_id, epoch, sender data and ciphertext of a PrivateMessage that may be elided; else None."""
    try:
        reader = Reader(message)
        check(reader.take(4) == b"\0\x01\0\x02", "mls10, PrivateMessage")
        group, epoch = reader.take(mls_length(reader)), int.from_bytes(reader.take(8), "big")
        check(reader.take(3) == b"\x01\0\x1c", "application, no authenticated data, 28 bytes of sender data")
        sender_data, ciphertext = reader.take(28), reader.take(mls_length(reader))
        check(not reader.more(), "nothing more")
    except Wrong:
        return None
    return group, epoch, sender_data, ciphertext


def mls_length(reader):
    """RFC 9420 §2.1.2; the shortest form only."""
    first = reader.byte()
    extra = {0: 0, 1: 1, 2: 3}.get(first >> 6)
    check(extra is not None, "a length that starts with bits 11")
    length = int.from_bytes(bytes([first & 0x3F]) + reader.take(extra), "big")
    check(mls_vector_head(length)[0] >> 6 == first >> 6, "a length that is not the shortest")
    return length


def mls_vector_head(length):
    size, top = (1, 0) if length < 1 << 6 else (2, 1 << 14) if length < 1 << 14 else (4, 1 << 31)
    return (length | top).to_bytes(size, "big")


def mls_elide(message, group, epoch):
    """The body of kind 5, or None: then kind 6 it is."""
    parts = mls_parts(message)
    if not parts or parts[0] != group:
        return None
    elided = bytes([parts[1] & 0xFF]) + parts[2] + parts[3]
    return elided if mls_restore(elided, group, epoch) == message else None


def mls_restore(elided, group, epoch):
    reader = Reader(elided)
    ahead = (reader.byte() - epoch) % 256
    epoch += ahead - 256 if ahead > 128 else ahead
    if epoch < 0:
        return None
    sender_data, ciphertext = reader.take(28), reader.rest()
    return (b"\0\x01\0\x02" + mls_vector_head(len(group)) + group + epoch.to_bytes(8, "big") + b"\x01\0\x1c"
            + sender_data + mls_vector_head(len(ciphertext)) + ciphertext)


# names, §9

def read_names(data):
    reader, names = Reader(data), {}
    while reader.more():
        kind, alias = reader.byte(), reader.uint()
        names[kind, alias] = reader.take(reader.uint()).decode()
    return names


def write_names(names):
    return b"".join(bytes([kind]) + uint(alias) + uint(len(text.encode())) + text.encode()
                    for (kind, alias), text in names.items())


# the specification's examples

def self_test():
    for number, data in ((0, "00"), (127, "7f"), (128, "80 01"), (300, "ac 02")):
        check(uint(number) == bytes.fromhex(data) and only_uint(uint(number)) == number, f"§2: {number}")
    for data in ("80 00", "80", "ff " * 9 + "01", ""):
        must_fail(Reader(bytes.fromhex(data)).uint, data)
    for number, text in ((0, "A"), (63, "_"), (64, "BA"), (300, "Es")):
        check(digits(number) == text, f"§2 in a path: {number}")
    ok("§2: numbers")

    data = bytes.fromhex("01 0001020304050607 01 80d095ffbc31")
    want = Hello(1, bytes(range(8)), 1, 1_700_000_000_000)
    check(Hello.read(data) == want and Hello.read(data + b"more") == want, "§4")
    ok("§4: hello")

    data = bytes.fromhex("00 ac02 4d656574206d65206174207468652073746174696f6e")
    said = b"Meet me at the station"
    check(draft(TEXT, 300, said) == data and len(data) == 22 + 3 and read_draft(data)[:3] == (TEXT, 300, said), "§5")
    must_fail(lambda: read_draft(b"\x40\x01"), "bit 6")
    ok("§5: draft")

    data = bytes.fromhex("80 07 01 00 02 6869 0f 08")
    records = [Record(TEXT, 7, 1, 0, body=b"hi"), Record(WHERE, 8)]
    check(read_records(data) == records and write_records(records) == data, "§7")
    must_fail(lambda: read_records(data[:-2]), "a record must follow")
    must_fail(lambda: read_records(b""), "no record at all")
    ok("§7: records")
    round_trips(random.Random(1))


def round_trips(rng):
    def maybe(number):
        return number if rng.random() < 0.5 else None

    for _ in range(500):
        number = rng.getrandbits(rng.randrange(1, 64))
        check(only_uint(uint(number)) == number, f"{number}")
        body = rng.randbytes(rng.randrange(200))
        given = (rng.randrange(16), number, body, maybe(number), maybe(7))
        check(read_draft(draft(*given)) == given, f"draft {given}")
        records, room = [], maybe(3)
        for _ in range(rng.randrange(1, 6)):
            kind = rng.randrange(16)
            sender = None if kind in (TYPING, WHERE) else rng.randrange(300)
            age = None if kind in (RECEIPT, TYPING, WHERE) else rng.randrange(100_000)
            room = rng.randrange(300) if room is not None and rng.random() < 0.5 else room
            records.append(Record(kind, number, sender, age, maybe(5), maybe(6), room, body))
        check(read_records(write_records(records)) == records, f"{records}")
        entry = Entry(rng.randrange(16), 9, 1, number, maybe(5), maybe(6), rng.randbytes(32), body)
        check(Entry.read(entry.write()) == entry, f"{entry}")
    ok("drafts, records and entries survive a round trip")

    content = {"body": "hi", "msgtype": "m.text", "": 1, "x": {"user_id": [1, -1, None, True]}, "users": {}}
    check(list(cbor2.loads(content_bytes(content))) == [27, 28, 51, "", "x"], "RFC 8949 §4.2.1, integer keys")
    for kind in (EVENT, STATE, EVENT_DEFLATED, STATE_DEFLATED):
        key = "k" if kind in (STATE, STATE_DEFLATED) else None
        body = event_body(64, content, key, deflated=kind > STATE)
        check(read_event_body(kind, body) == (64, key, content, content_bytes(content)), f"kind {kind}")
    check(len(EVENT_TYPES) == 32, "32 event types are fixed")
    must_fail(lambda: inflate(deflate(bytes(INFLATED_MAX + 1))), "too large when inflated")
    must_fail(lambda: inflate(deflate(bytes(10)) + b"x"), "more behind the end")
    names = {(ROOM_NAME, 0): "!r:a.example", (USER_NAME, 300): "@bob:a.example", (TYPE_NAME, 64): "x"}
    check(read_names(write_names(names)) == names, "names")
    ok("contents, deflated contents and names survive a round trip")

    for size, group_size in ((0, 1), (63, 16), (64, 63), (16_383, 64), (16_384, 300)):
        group, at = rng.randbytes(group_size), rng.randrange(1000, 1 << 40)
        for ahead in (-128, -127, -1, 0, 1, 128, 129):
            message = (b"\0\x01\0\x02" + mls_vector_head(group_size) + group + (at + ahead).to_bytes(8, "big")
                       + b"\x01\0\x1c" + rng.randbytes(28) + mls_vector_head(size) + rng.randbytes(size))
            elided = mls_elide(message, group, at)
            if ahead in (-128, 129):
                check(elided is None, f"{ahead} epochs ahead is too far")
            else:
                check(len(elided) == 29 + size and mls_restore(elided, group, at) == message, f"{ahead} epochs ahead")
        check(mls_elide(message, group + b"x", at) is None, "another group")
        check(mls_elide(message + b"x", group, at) is None, "more behind the end")
    check(mls_elide(b"", b"", 0) is None and mls_restore(b"\xff" + bytes(28), b"", 0) is None, "no such epoch")
    ok("elided MLS messages are rebuilt from −127 to +128 epochs")


def must_fail(decode, what):
    try:
        decode()
    except Wrong:
        return
    raise Wrong(f"was read: {what}")
