#!/usr/bin/env python3
"""aioquic against a hub's QUIC door, written from spec-notes/thin-profile.md §14.

  aioquic_client.py --port 8449 --key device.pem --ca https.cert.pem [--name localhost]

aioquic has no raw public keys: it names the ALPN for X.509, and shows the linked device's Ed25519 key
(PKCS#8, PEM) in a certificate that it signs here. Greets the hub, asks for the names of the rooms, begins an observation and
cancels it, opens 20 streams at once, and comes back with early data. One JSON line on stdout; on failure a
reason on stderr and exit code 1.
"""
import argparse
import asyncio
import base64
import datetime
import json
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

ALPN = "tramline-x509/1"
GET, FETCH = 1, 5
CONTENT, VALID, TOO_EARLY = 0x45, 0x43, 0x99


class Wrong(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Wrong(what)


def private_key(pem):
    """Ed25519 by RFC 8410, also where the public half follows (version 2), which `cryptography` does not read."""
    der = base64.b64decode(b"".join(line for line in pem.splitlines() if not line.startswith(b"-----")))
    _, mark, rest = der.partition(b"\x04\x22\x04\x20")
    check(mark and len(rest) >= 32, "no Ed25519 key")
    return Ed25519PrivateKey.from_private_bytes(rest[:32])


def certificate(key):
    """The device's key in a certificate of its own; nothing else in it matters."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    begin = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, datetime.datetime(2049, 1, 1))
    return builder.sign(key, None)


def message(code, path=(), observe=False, body=b""):
    """Len and token length 0, code, options, marker, body."""
    out = bytearray([0, code])
    number = 0
    options = ([(6, b"")] if observe else []) + [(11, segment.encode()) for segment in path]
    for option, value in options:
        check(len(value) < 13, "this writer knows short options only")
        out += bytes([(option - number) << 4 | len(value)]) + value
        number = option
    return bytes(out) + (b"\xff" + body if body else b"")


def answer(raw):
    """Code and body; the options are walked over."""
    check(len(raw) >= 2 and raw[0] == 0, f"no message: {raw.hex()}")
    at = 2
    while at < len(raw) and raw[at] != 0xFF:
        nibbles, at = raw[at], at + 1
        sizes = []
        for nibble in (nibbles >> 4, nibbles & 15):
            extra = {13: 1, 14: 2}.get(nibble, 0)
            base = {13: 13, 14: 269}.get(nibble, nibble)
            sizes.append(base + int.from_bytes(raw[at : at + extra], "big") if extra else nibble)
            at += extra
        at += sizes[1]
    return raw[1], raw[at + 1 :]


async def ask(client, request):
    reader, writer = await client.create_stream()
    writer.write(request)
    writer.write_eof()
    return answer(await asyncio.wait_for(reader.read(), 10))


async def observe(client):
    """The first answer of an observation of all rooms, with its length in front; then no more."""
    reader, writer = await client.create_stream()
    writer.write(message(FETCH, ["*"], observe=True))
    writer.write_eof()
    first = await asyncio.wait_for(reader.readexactly(1), 10)
    extra = {13: 1, 14: 2, 15: 4}.get(first[0] >> 4, 0)
    length = first[0] >> 4
    if extra:
        length = {1: 13, 2: 269, 4: 65805}[extra] + int.from_bytes(await reader.readexactly(extra), "big")
    rest = await asyncio.wait_for(reader.readexactly(1 + length), 10)
    if not reader.at_eof():  # else the hub has refused to go on
        try:
            client._quic.stop_stream(writer.get_extra_info("stream_id"), 0)
            client.transmit()
        except ValueError:
            pass  # it has ended meanwhile
    return answer(b"\x00" + rest)


async def run(args):
    with open(args.key, "rb") as file:
        key = private_key(file.read())
    shown = certificate(key)
    tickets = []

    def configuration():
        config = QuicConfiguration(is_client=True, alpn_protocols=[ALPN], server_name=args.name)
        config.certificate, config.private_key = shown, key
        config.load_verify_locations(args.ca)
        config.verify_mode = ssl.CERT_REQUIRED
        return config

    async with connect(
        args.host, args.port, configuration=configuration(), session_ticket_handler=tickets.append
    ) as client:
        code, hello = await ask(client, message(GET))
        check(code == CONTENT, f"the hello has code {code:#x}: {hello!r}")
        code, names = await ask(client, message(FETCH, ["@"]))
        check(code == CONTENT, f"the names have code {code:#x}: {names!r}")
        code, first = await observe(client)
        check(code in (CONTENT, VALID), f"the observation has code {code:#x}: {first!r}")
        many = await asyncio.gather(*(ask(client, message(GET)) for _ in range(20)))
        check(all(code == CONTENT for code, _ in many), "one of 20 was not answered")
    check(tickets, "the hub gave no session ticket")

    config = configuration()
    config.session_ticket = tickets[-1]
    async with connect(args.host, args.port, configuration=config, wait_connected=False) as client:
        # aioquic waits for ever if the handshake is over before it is waited for
        (code, _), _ = await asyncio.gather(ask(client, message(GET)), client.wait_connected())
        check(code == CONTENT, f"the early hello has code {code:#x}")
        accepted = client._quic.tls.early_data_accepted
        check(accepted, "the hub did not take early data")
    return {"ok": True, "hello": hello.hex(), "names": names.hex(), "early": accepted}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--name", default="localhost")
    args = parser.parse_args()
    try:
        print(json.dumps(asyncio.run(run(args))))
    except (Wrong, OSError, asyncio.TimeoutError, ConnectionError) as error:
        print(f"aioquic_client: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
