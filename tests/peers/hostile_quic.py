#!/usr/bin/env python3
"""Somebody between aioquic and the QUIC door, who has no key; and somebody whose key was never linked.

  hostile_quic.py --credentials device.json --ca https.cert.pem

Takes the credential file of a linked device. Each attack is one connection through a relay that does its worst right before the first
request goes on to the hub: this connection goes on, and so does the next. «ok: …» for each step, JSON in the last line; on
failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import json
import logging
import os
import sys
import threading
import time

from aioquic.quic.configuration import QuicConfiguration
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aioquic_client import CONTENT, GET, answer, certificate, message
from device import credentials
from hostile_dtls import Relay, from_elsewhere, mutated, replayed, truncated
from raw import address
from revoked import Quic
from thin_profile import Wrong, check, ok

ASKED_S = 20
ACCESS_DENIED = 0x131  # TLS's alert, as QUIC has it


def is_short(datagram):
    """What is sent when the handshake is over."""
    return bool(datagram) and not datagram[0] & 0x80


def forged(relay, datagram):
    """Long headers with the connection's id: a version that nobody speaks, a Retry, handshake messages, resets."""
    ids = datagram[1:6]  # the hub's ids have five bytes
    for first in (0xC0, 0xD0, 0xE0, 0xF0):
        for version in (0, 1, 0x1A2A3A4A):
            head = bytes([first]) + version.to_bytes(4, "big") + bytes([len(ids)]) + ids + bytes([0])
            for sender in (relay.far, relay.elsewhere):
                sender.send(head + os.urandom(60))
                sender.send(head + os.urandom(1180))
    for size in (21, 40, 100, 1200):
        relay.far.send(bytes([0x40]) + ids + os.urandom(size))
        relay.elsewhere.send(bytes([0x40]) + ids + os.urandom(size))


ATTACKS = (truncated, mutated, from_elsewhere, replayed, forged)


async def hello(client):
    reader, writer = await client.create_stream()
    writer.write(message(GET))
    writer.write_eof()
    code, _ = answer(await asyncio.wait_for(reader.read(), ASKED_S))
    check(code == CONTENT, f"a hello has code {code:#x}")


async def attacked(device, server, attack):
    # acknowledgements of the handshake are short, too: the request comes later
    begun = []
    relay = Relay(server, attack, lambda datagram: bool(begun) and is_short(datagram))
    thread = threading.Thread(target=relay.run)
    thread.start()
    device.port = relay.port
    name = attack.__name__.replace("_", " ")
    try:
        async with device.connect() as client:
            await hello(client)
            begun.append(True)
            for _ in range(3):
                await hello(client)
            check(relay.data, f"{name}: nothing ever came")
    except (ConnectionError, asyncio.TimeoutError) as error:
        raise Wrong(f"{name}: {type(error).__name__} {error}") from None
    finally:
        relay.over = True
        thread.join()
        relay.close()
    device.port = server[1]
    await device.hello()
    ok(f"{name}: the connection goes on, and so does the next")


class Stranger(Quic):
    """A key of nobody, shown as a device's is."""

    def configuration(self, ticket=None):
        config: QuicConfiguration = super().configuration(ticket)
        config.private_key = Ed25519PrivateKey.generate()
        config.certificate = certificate(config.private_key)
        return config


async def run(args):
    file = credentials(args.credentials)
    device, server = Quic(file, args.ca), address(file["server"]["quic"])
    await device.hello()
    for attack in ATTACKS:
        await attacked(device, server, attack)
    stranger = Stranger(file, args.ca)
    for _ in range(3):
        try:
            begun = time.monotonic()
            async with stranger.connect() as client:
                await asyncio.wait_for(client.wait_closed(), ASKED_S)
                code = client._quic._close_event.error_code
                check(code == ACCESS_DENIED, f"a stranger is told {code:#x}")
        except ConnectionError:
            pass
        check(time.monotonic() - begun < ASKED_S, "a stranger is turned away at once")
        await device.hello()
    ok("a key that was never linked is turned away; the next device is not")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--credentials", metavar="FILE", required=True, help="a device's credential file")
    parser.add_argument("--ca", metavar="PEM", required=True, help="the certificate to trust")
    parser.add_argument("--timeout", type=float, default=180)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(run(args), args.timeout))
        print(json.dumps({"ok": True, "attacks": len(ATTACKS)}))
    except asyncio.TimeoutError:
        sys.exit(f"hostile_quic: not done after {args.timeout} s")
    except (Wrong, OSError) as wrong:
        sys.exit(f"hostile_quic: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
