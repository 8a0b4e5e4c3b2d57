#!/usr/bin/env python3
"""How many bytes each UDP door gives to somebody who has shown nothing, for each that came: at most three.

  amplification.py --coap 192.0.2.2:5683 --coaps 192.0.2.2:5684 --quic 192.0.2.2:8449 [--credentials aiocoap.json]

Every datagram is sent from a socket of its own, and all that comes back within --seconds counts, as bytes of UDP
payload. With a device's credentials its requests are captured, too, and sent again by others; they are written to --captured,
and sent once more by a run that is given that file instead (the hub was restarted meanwhile). Whoever is on loopback counts as
being where it is: the doors must listen on another address to show what strangers get. A table, JSON in the last line;
exit code 1 when a door gave more.
"""
import argparse
import asyncio
import json
import os
import select
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiocoap
import cbor2
import lakers
from aiocoap import Code, Message
from aiocoap.numbers.types import Type
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from aioquic_client import FETCH, message
from device import credentials
from hostile_dtls import ALERT, DATA, DTLS12, HANDSHAKE, record
from hostile_oscore import Device
from raw import address
from revoked import Quic
from thin_profile import Wrong, check, digits, uint

FACTOR = 3
SEND_PAUSE_S = 0.002
SHOWN_MAX = 25  # rows of a table, the worst first


# CoAP

def coap(code, *path, kind=Type.CON, token=b"\x01", body=b"", mid=0x4711, **options):
    message = Message(code=code, payload=body)
    message.opt.uri_path = path
    for name, value in options.items():
        setattr(message.opt, name, value)
    message.mtype, message.mid, message.token = kind, mid, token
    return message.encode()


def raw_coap(code, options, body=b"", head=0x40):
    """With options given as (number, value), which aiocoap may not want."""
    out, number = bytes([head, code, 0x12, 0x34]), 0
    for option, value in options:
        check(option - number < 13 + 256 and len(value) < 13, "this writer knows short options only")
        delta = option - number
        out += bytes([delta << 4 | len(value)]) if delta < 13 else bytes([13 << 4 | len(value), delta - 13])
        out += value
        number = option
    return out + (b"\xff" + body if body else b"")


def oscore_option(kid, piv=b"\x05", context=None):
    head = len(piv) | 0x08 | (0x10 if context is not None else 0)
    middle = b"" if context is None else bytes([len(context)]) + context
    return bytes([head]) + piv + middle + kid


def coap_probes(kid):
    yield "nothing", b""
    yield "one byte", b"\0"
    yield "a ping", bytes([0x40, 0, 1, 2])
    yield "a stray acknowledgement", bytes([0x60, 0, 1, 2])
    yield "a stray reset", bytes([0x70, 0, 1, 2])
    yield "half a header", bytes([0x40, 1])
    yield "another version", bytes([0x80, 1, 1, 2])
    yield "a reserved token length", bytes([0x49, 1, 1, 2]) + bytes(9)
    yield "a response to nothing", coap(Code.CONTENT, body=b"x")
    yield "an unknown method", raw_coap(0x1F, [])
    yield "a reserved class", raw_coap(0x3F, [])
    yield "a critical option", raw_coap(1, [(9 + 12, b""), (33, b"x")])
    for kind in (Type.CON, Type.NON):
        for path in ("", "_matrix/client/versions", ".well-known/core", ".well-known/matrix/client",
                     "_matrix/client/v3/login", "_matrix/client/v3/sync", "_matrix/client/v3/publicRooms"):
            segments = path.split("/") if path else []
            yield f"{kind.name} GET /{path}", coap(Code.GET, *segments, kind=kind)
            yield f"{kind.name} GET /{path}, no token", coap(Code.GET, *segments, kind=kind, token=b"")
            yield f"{kind.name} GET /{path}, token of 8", coap(Code.GET, *segments, kind=kind, token=bytes(8))
        for path in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789":
            yield f"{kind.name} GET /{path}", coap(Code.GET, path, kind=kind, token=b"")
        yield f"{kind.name} POST login", coap(Code.POST, "_matrix", "client", "v3", "login", kind=kind, body=b"{}")
        yield f"{kind.name} POST register", coap(Code.POST, "_matrix", "client", "v3", "register", kind=kind, body=b"{}")
        yield f"{kind.name} GET with Observe", coap(Code.GET, "_matrix", "client", "v3", "sync", kind=kind, observe=0)
        yield f"{kind.name} GET a block", coap(Code.GET, "_matrix", "client", "versions", kind=kind, block2=(0, False, 6))
        yield f"{kind.name} PUT a block", coap(Code.PUT, "x", kind=kind, body=bytes(64), block1=(0, True, 2))
        yield f"{kind.name} GET with a wrong Echo", coap(Code.GET, "_matrix", "client", "versions", kind=kind, echo=bytes(8))
        for name, option, body in (
            ("of nobody", oscore_option(b"\x7e\x7e\x7e"), bytes(20)), ("of nobody, short", oscore_option(b"\x7d"), bytes(9)),
            ("of a device, forged", oscore_option(kid), bytes(20)),
            ("with a kid context", oscore_option(kid, context=b"ctx"), bytes(20)),
            ("without a kid", b"\x01\x05", bytes(20)), ("empty", b"", bytes(20)), ("reserved", b"\xff\xff", bytes(20)),
            ("without a body", oscore_option(kid), b""),
        ):
            head = 0x40 if kind == Type.CON else 0x50
            yield f"{kind.name} OSCORE {name}", raw_coap(2, [(9, option)], body, head)
        yield f"{kind.name} EDHOC message 3 in front, garbage", raw_coap(2, [(9, oscore_option(b"\x17")), (21, b"")],
                                                                        cbor2.dumps(bytes(19)) + bytes(20), head)
        yield f"{kind.name} EDHOC beside nothing", raw_coap(2, [(21, b"")], b"x", head)
        message_1 = lakers.EdhocInitiator().prepare_message_1(b"\x07", [])
        for name, body in (("message 1", b"\xf5" + message_1), ("message 1, cut", b"\xf5" + message_1[:9]),
                           ("message 3 of nobody", b"\x05" + cbor2.dumps(bytes(19))), ("nothing", b""), ("garbage", bytes(range(64)))):
            yield f"{kind.name} EDHOC {name}", coap(Code.POST, ".well-known", "edhoc", kind=kind, body=body)
        yield f"{kind.name} EDHOC, GET", coap(Code.GET, ".well-known", "edhoc", kind=kind)


# DTLS

def extension(number, body):
    return number.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def vector(size, body):
    return len(body).to_bytes(size, "big") + body


def client_hello(suites, extensions, cookie=b""):
    body = DTLS12 + os.urandom(32) + b"\0" + vector(1, cookie) + vector(2, b"".join(one.to_bytes(2, "big") for one in suites))
    return body + b"\x01\0" + vector(2, b"".join(extensions))


def handshake(kind, body, offset=0, length=None):
    part = body[offset:] if length is None else body[offset:offset + length]
    head = bytes([kind]) + len(body).to_bytes(3, "big") + bytes(2)
    return head + offset.to_bytes(3, "big") + len(part).to_bytes(3, "big") + part


def hellos():
    common = [extension(23, b""), extension(0xFF01, b"\0"), extension(13, vector(2, b"\x04\x03\x05\x03\x08\x04")),
              extension(10, vector(2, b"\0\x17\0\x1d")), extension(11, b"\x01\0")]
    yield "PSK", client_hello([0xC0A8], [extension(23, b"")])
    yield "PSK and certificates", client_hello([0xC0A8, 0xC02B, 0xCCA9], common)
    yield "certificates", client_hello([0xC02B, 0xC0AE], common)
    yield "a wrong cookie", client_hello([0xC0A8], [extension(23, b"")], cookie=bytes(32))
    x25519 = vector(2, b"\0\x1d" + vector(2, os.urandom(32)))
    thirteen = [extension(43, b"\x02\xfe\xfc"), extension(51, x25519)] + common[2:4]
    yield "DTLS 1.3", client_hello([0x1301, 0x1303], thirteen)
    yield "DTLS 1.3 without a key share", client_hello([0x1301], [thirteen[0], extension(51, vector(2, b""))] + common[2:4])
    yield "both versions", client_hello([0x1301, 0xC02B, 0xC0A8], [extension(43, b"\x04\xfe\xfc\xfe\xfd"), thirteen[1]] + common)


def coaps_probes():
    yield "nothing", b""
    yield "one byte", b"\x16"
    yield "garbage", bytes(range(100))
    yield "plain CoAP", coap(Code.GET, "_matrix", "client", "versions")
    for kind in range(19, 28):
        for epoch in (0, 1):
            yield f"a record {kind} of epoch {epoch}", record(kind, epoch, 5, bytes(40))
    yield "an alert", record(ALERT, 0, 1, b"\x02\x28")
    yield "a farewell", record(ALERT, 0, 1, b"\x01\x00")
    yield "data in clear", record(DATA, 0, 1, coap(Code.GET))
    for name, hello in hellos():
        whole = record(HANDSHAKE, 0, 0, handshake(1, hello))
        yield f"ClientHello, {name}", whole
        yield f"ClientHello, {name}, twice", whole + record(HANDSHAKE, 0, 1, handshake(1, hello))
        yield f"ClientHello, {name}, a first fragment", record(HANDSHAKE, 0, 0, handshake(1, hello, 0, 20))
        yield f"ClientHello, {name}, a last fragment", record(HANDSHAKE, 0, 0, handshake(1, hello, len(hello) - 8))
        yield f"ClientHello, {name}, cut", whole[:-5]
        yield f"ClientHello, {name}, of DTLS 1.0", record(HANDSHAKE, 0, 0, handshake(1, hello), version=b"\xfe\xff")
    yield "ClientHello without suites", record(HANDSHAKE, 0, 0, handshake(1, client_hello([], [])))
    yield "ClientHello without anything", record(HANDSHAKE, 0, 0, handshake(1, b""))
    for kind in (0, 2, 3, 11, 12, 13, 14, 15, 16, 20):
        yield f"a handshake message {kind}", record(HANDSHAKE, 0, 0, handshake(kind, bytes(40)))


# QUIC

def initial(alpn, **changed):
    config = QuicConfiguration(is_client=True, alpn_protocols=[alpn], server_name="localhost", verify_mode=0)
    for name, value in changed.items():
        setattr(config, name, value)
    client = QuicConnection(configuration=config)
    client.connect(("127.0.0.1", 1), now=time.time())
    return b"".join(datagram for datagram, _ in client.datagrams_to_send(now=time.time()))


def long_header(first, version, destination=bytes(8), source=bytes(8), size=1200):
    head = bytes([first]) + version.to_bytes(4, "big") + vector(1, destination) + vector(1, source)
    return head + os.urandom(size)[:max(0, size - len(head))]


def quic_probes():
    yield "nothing", b""
    for alpn in ("tramline-x509/1", "tramline-thin/1", "h3"):
        yield f"Initial, {alpn}", initial(alpn)
    def fresh():  # of its own connection, so that no other probe is answered with it
        return initial("tramline-x509/1")

    whole = fresh()
    yield "Initial, changed", whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]
    yield "Initial, cut to 600", fresh()[:600]
    yield "Initial, cut to 100", fresh()[:100]
    yield "Initial, longer", fresh() + bytes(100)
    yield "Initial, twice", fresh()[:1200] + fresh()[:200]
    for size in (1200, 1199, 100, 30):
        yield f"another version, {size}", long_header(0xC0, 0x1A2A3A4A, size=size)
        yield f"QUIC 2, {size}", long_header(0xD0, 0x6B3343CF, size=size)
    yield "another version, ids of 20", long_header(0xC0, 0x1A2A3A4A, bytes(20), bytes(20))
    yield "another version, ids of 255", long_header(0xC0, 0x1A2A3A4A, bytes(255), bytes(255))
    yield "a list of versions", long_header(0xC0, 0, size=40)
    for first, name in ((0xC0, "Initial"), (0xD0, "0-RTT"), (0xE0, "Handshake"), (0xF0, "Retry")):
        for size in (1200, 60):
            yield f"{name}, garbage, {size}", long_header(first, 1, size=size)
    for size in (1, 5, 10, 20, 21, 22, 30, 40, 41, 42, 43, 44, 50, 100, 600, 1200, 1400):
        yield f"a short header, {size}", bytes([0x40 | os.urandom(1)[0] & 0x3F]) + os.urandom(size - 1)
        yield f"no fixed bit, {size}", bytes([os.urandom(1)[0] & 0x3F]) + os.urandom(size - 1)


async def early_data(path, ca, room):
    """The first flight of a device that comes back and asks for much at once: whoever takes it on the way can send it first."""
    device = Quic(credentials(path), ca)
    flights = []
    for target, name in (([digits(room)], "the log of a room"), (["@"], "names")):
        await device.hello()
        check(device.tickets, "no session ticket")
        client = QuicConnection(configuration=device.configuration(device.tickets[-1]))
        client.connect((device.host, device.port), now=time.time())
        request = message(FETCH, target, body=uint(1) + uint(65_536) if target[0] != "@" else b"")
        client.send_stream_data(client.get_next_available_stream_id(), request, end_stream=True)
        datagrams = [datagram for datagram, _ in client.datagrams_to_send(now=time.time())]
        flights.append((f"early data for {name}, {len(datagrams)} datagrams", datagrams))
    return flights


# measuring

def measure(server, source, probes, seconds):
    """Bytes and datagrams that came back for each probe."""
    socks = {}
    poll = select.epoll()
    for name, datagram in probes:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((source, 0))
        sock.connect(server)
        poll.register(sock.fileno(), select.EPOLLIN)
        flight = datagram if isinstance(datagram, list) else [datagram]
        socks[sock.fileno()] = [sock, name, sum(map(len, flight)), 0, 0]
        for one in flight:
            sock.send(one)
        time.sleep(SEND_PAUSE_S)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for number, _ in poll.poll(left):
            row = socks[number]
            try:
                row[3] += len(row[0].recv(65_536))
                row[4] += 1
            except OSError:
                continue
    for row in socks.values():
        row[0].close()
    return [tuple(row[1:]) for row in socks.values()]


def captured(path):
    """Requests of a device with small and large answers. All were answered to itself."""
    device = Device(path)
    try:
        room = device.alias(device.matrix(Code.POST, "G", body={"name": "measured", "topic": "bytes " * 100})["room_id"])
        for _ in range(8):
            device.append(room, "much " * 180)
        asked = {
            "hello": (Code.GET, [], b""), "names": (Code.FETCH, ["@"], b""), "the ledger": (Code.GET, ["$"], b""),
            "the log of a room": (Code.FETCH, [digits(room)], uint(1) + uint(1024)), "the heads": (Code.FETCH, ["*"], b""),
        }
        given = []
        for name, (code, segments, body) in asked.items():
            datagram, token, _ = device.request(code, *segments, body=body)
            device.send(datagram)
            message = device.next(token)
            check(message is not None, f"{name} is answered")
            device.acknowledge(message)
            given.append((f"a captured request for {name}", datagram))
        return given, room
    finally:
        device.close()


def shown(door, rows):
    """The table; gives those that are too much."""
    too_much = []
    most = sorted(rows, key=lambda row: (-row[2] / max(row[1], 1), row[0]))
    print(f"{door:<6} {'datagram':<58} {'sent':>6} {'back':>6} {'in':>3} {'factor':>7}")
    for at, (name, sent, back, count) in enumerate(most):
        factor = back / sent if sent else float(back)
        if back and at < SHOWN_MAX:
            print(f"{door:<6} {name:<58} {sent:>6} {back:>6} {count:>3} {factor:>7.2f}")
        if back > FACTOR * sent:
            too_much.append(f"{door} {name}: {back} bytes for {sent}")
    silent = sum(1 for row in rows if not row[2])
    print(f"{door:<6} no answer to {silent} of {len(rows)}\n")
    return too_much


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for door in ("coap", "coaps", "quic"):
        parser.add_argument(f"--{door}", metavar="HOST:PORT")
    parser.add_argument("--credentials", metavar="FILE", help="aiocoap's credentials of a device")
    parser.add_argument("--quic-device", metavar="FILE", help="the same device's credential file, for early data")
    parser.add_argument("--ca", metavar="PEM", help="the certificate to trust")
    parser.add_argument("--captured", metavar="FILE", help="what was captured")
    parser.add_argument("--source", default=None, help="the address to send from; left out, the doors' own")
    parser.add_argument("--seconds", type=float, default=12)
    args = parser.parse_args()
    too_much, count = [], 0
    try:
        probes = {"coap": [], "coaps": [], "quic": []}
        if args.captured and not args.credentials:
            probes["coap"] = [(name, bytes.fromhex(datagram)) for name, datagram in json.loads(Path(args.captured).read_text())]
        else:
            own, room = captured(args.credentials) if args.credentials else ([], None)
            early = asyncio.run(early_data(args.quic_device, args.ca, room)) if args.quic_device else []
            kid = json.loads((Path(args.credentials).parent / "settings.json").read_text())["sender-id_hex"] if own else "7f"
            probes = {"coap": [*coap_probes(bytes.fromhex(kid)), *own], "coaps": list(coaps_probes()), "quic": [*quic_probes(), *early]}
            if args.captured:
                Path(args.captured).write_text(json.dumps([(name, datagram.hex()) for name, datagram in own]))
        doors = {door: address(getattr(args, door)) for door in probes if probes[door] and getattr(args, door)}
        with ThreadPoolExecutor() as pool:
            rows = {door: pool.submit(measure, server, args.source or server[0], probes[door], args.seconds)
                    for door, server in doors.items()}
        for door in doors:
            too_much += shown(door, rows[door].result())
            count += len(rows[door].result())
        if args.captured and not args.credentials:  # else nobody was there, and nothing was measured
            check(any(row[2] for row in rows["coap"].result()), "who may be a replay is asked for an Echo")
    except (Wrong, aiocoap.error.Error, OSError) as wrong:
        sys.exit(f"amplification: {type(wrong).__name__}: {wrong}")
    print(json.dumps({"ok": not too_much, "datagrams": count, "too_much": too_much}))
    sys.exit(1 if too_much else 0)


if __name__ == "__main__":
    main()
