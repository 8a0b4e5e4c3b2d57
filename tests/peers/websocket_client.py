#!/usr/bin/env python3
"""aiocoap over WebSocket (RFC 8323), as a device does in a network that lets nothing but HTTPS through.

  websocket_client.py --credentials ana.json --other-credentials bob.json --ca https.cert.pem

The JSON files are credential files of two users' devices. What is asked: settings, a hello, names, drafts and a large one
whole, an observation; then connections that break the rules (no token, another subprotocol, no settings, text, garbage), after each of
which the honest devices go on. «ok: …» for each step, JSON in the last line; on failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import contextlib
import functools
import json
import logging
import ssl
import sys
from importlib.metadata import version
from pathlib import Path

import aiocoap
import aiocoap.transports.ws
import websockets
from aiocoap import Context
from aiocoap.credentials import CredentialsMap
from aiocoap.numbers.constants import TransportTuning

from device import credentials
from thin_client import Journal, Link, Log, Refusal, meet
from thin_profile import TEXT, Wrong, check, digits, ok, read_records, uint

CSM, ABORT = 0xE1, 0xE5
LARGE = "whole ".encode() * 500


@contextlib.contextmanager
def showing(token):
    """aiocoap has no place for a token: what it opens meanwhile shows this one."""
    connect = aiocoap.transports.ws.websockets.connect
    headers = {"Authorization": f"Bearer {token}"}
    aiocoap.transports.ws.websockets.connect = functools.partial(connect, additional_headers=headers)
    try:
        yield
    finally:
        aiocoap.transports.ws.websockets.connect = connect


class InOrder(TransportTuning):
    """A connection keeps the order and Observe is empty (RFC 8323 §7.1); aiocoap would look for a number in it."""

    OBSERVATION_RESET_TIME = -1


class WsLink(Link):
    @classmethod
    async def open(cls, path, ca):
        file = credentials(path)
        origin = "localhost:" + file["server"]["https"].rpartition(":")[2]
        context = await Context.create_client_context(transports=["ws"])
        context.client_credentials.load_from_dict({f"coaps+ws://{origin}/*": {"tlscert": {"certfile": ca}}})
        link = cls(context, f"coaps+ws://{origin}", Path(path).parent, None)
        link.journal = Journal(Path(f"{path}.journal"))
        with showing(file["access_token"]):
            check((await link.hello()).version == 1, "a hello")
        return link

    def message(self, *about, **more):
        message = super().message(*about, **more)
        message.transport_tuning = InOrder()
        return message

    async def ask(self, code, *path, body=b"", wanted=None, **options):
        """In one message of any size: the hub's settings offer no blocks, which aiocoap would make all the same."""
        message = self.message(code, *path, body=body, **options)
        return self.accepted(await self.context.request(message, handle_blockwise=False).response, wanted)

    async def close(self):
        await self.context.shutdown()
        self.context.client_credentials = CredentialsMap()


async def talk(ana, bob):
    ok("settings and a hello")
    room, bobs_room = await meet(ana, bob, None)
    seq = await ana.append(room, TEXT, LARGE)
    check(await ana.append_again() == seq, "the same draft again gets the first answer")
    entry, _, data = await bob.entry(bobs_room, seq)
    check(entry.body == LARGE, "a large entry")
    ok(f"seq {seq} of {len(data)} bytes, whole both ways")
    log = Log()
    await log.repair(ana, room, 65_536)
    watch, answer = await ana.observe(digits(room), body=uint(log.covered + 1))
    log.take(read_records(answer.payload), log.covered + 1)
    said = {}
    for n in range(5):
        said[await bob.append(bobs_room, TEXT, f"pushed {n}".encode())] = f"pushed {n}".encode()
    while not set(said) <= set(log.entries):
        log.take(await watch.next())
    check({seq: log.entries[seq].body for seq in said} == said, "as they were said")
    ok(f"{len(said)} entries were pushed")
    many = await asyncio.gather(*(ana.hello() for _ in range(20)))
    check(all(hello.version == 1 for hello in many), "20 at once")
    ok("20 questions at once")
    return room


async def refused_at_the_door(what, url, wanted, **about):
    try:
        await websockets.connect(url, **about)
    except websockets.exceptions.InvalidStatus as error:
        status = error.response.status_code
        check(status == wanted, f"{what}: HTTP {status}, not {wanted}")
        return ok(f"{what}: HTTP {status}")
    raise Wrong(f"{what}: was let in")


async def aborted(what, url, *messages, **about):
    """The hub says what is wrong and closes."""
    async with await websockets.connect(url, **about) as connection:
        said = await asyncio.wait_for(connection.recv(), 10)
        check(said[1] == CSM, f"{what}: the first message is settings, not {said.hex()}")
        for message in messages:
            await connection.send(message)
        said = await asyncio.wait_for(connection.recv(), 10)
        check(said[1] == ABORT, f"{what}: answered {said.hex()}")
        try:
            more = await asyncio.wait_for(connection.recv(), 10)
        except websockets.exceptions.ConnectionClosed:
            return ok(f"{what}: Abort «{said.rpartition(bytes([0xff]))[2].decode()}»")
        raise Wrong(f"{what}: after the Abort came {more.hex()}")


async def strangers(ana, room, url, token, ca):
    trust = ssl.create_default_context(cafile=ca)
    honest = {"ssl": trust, "subprotocols": ["coap"], "additional_headers": {"Authorization": f"Bearer {token}"}}
    csm, hello = bytes([0, CSM]), bytes([1, 1, 7])
    attacks = [
        refused_at_the_door("no token", url, 401, ssl=trust, subprotocols=["coap"]),
        refused_at_the_door("a token that nobody has", url, 401, ssl=trust, subprotocols=["coap"],
                            additional_headers={"Authorization": "Bearer nobody"}),
        refused_at_the_door("another subprotocol", url, 400, **{**honest, "subprotocols": ["mqtt"]}),
        aborted("a request before settings", url, hello, **honest),
        aborted("text", url, csm, "hello", **honest),
        aborted("a token of nine bytes", url, csm, bytes([9, 1]) + bytes(9), **honest),
        aborted("a length in front", url, csm, bytes([0x11, 1, 7, 0xFF]), **honest),
        aborted("options that run over the end", url, csm, bytes([0, 1, 0xBD]), **honest),
        aborted("nothing at all", url, csm, b"", **honest),
    ]
    for attack in attacks:
        await attack
        await ana.append(room, TEXT, b"after it")
    ok(f"after each of {len(attacks)} an honest device sent")


async def run(args):
    ana = await WsLink.open(args.credentials, args.ca)
    bob = await WsLink.open(args.other_credentials, args.ca)
    room = await talk(ana, bob)
    url = ana.server.replace("coaps+ws", "wss") + "/.well-known/coap"
    await strangers(ana, room, url, credentials(args.other_credentials)["access_token"], args.ca)
    await bob.hello()
    await ana.close()
    await bob.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--credentials", metavar="FILE", required=True, help="a device's credential file")
    parser.add_argument("--other-credentials", metavar="FILE", required=True, help="that of another user's device")
    parser.add_argument("--ca", metavar="PEM", required=True, help="the certificate to trust")
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(run(args), args.timeout))
        peer = f"aiocoap {version('aiocoap')} with websockets {version('websockets')}"
        print(json.dumps({"ok": True, "peer": peer}))
    except asyncio.TimeoutError:
        sys.exit(f"websocket_client: not done after {args.timeout} s")
    except (Wrong, Refusal, aiocoap.error.Error) as wrong:
        sys.exit(f"websocket_client: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
