#!/usr/bin/env python3
"""aiocoap over DTLS with a pre-shared key (tinydtls): does the DTLS door serve the thin profile as it expects it?

  aiocoap_dtls.py --credentials ana.json --other-credentials bob.json

Takes what thin_client.py takes, whose files have a device's DTLS key beside its OSCORE context. What is asked: a hello,
drafts, 3,000 bytes both ways in blocks, notifications in order; a wrong key and a name that nobody has, which are
not answered while the honest devices go on; and that over OSCORE the same device finds what it left over DTLS.
«ok: …» for each step, JSON in the last line; on failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import aiocoap
from aiocoap import Context
from aiocoap.credentials import CredentialsMap

from aiocoap_oscore import blocks, observe
from thin_client import Link, Refusal, find_context, meet
from thin_profile import ROOM_NAME, TEXT, Wrong, check, ok

SILENCE_S = 5


def find_key(path):
    """Server, identity and key that aiocoap's credentials file names for DTLS."""
    entries = json.loads(Path(path).read_text())
    pattern, entry = next((item for item in entries.items() if "dtls" in item[1]), (None, None))
    check(entry and pattern.startswith("coaps://"), f"{path} has no entry «dtls»")
    return pattern.removesuffix("/*"), entry["dtls"]["client-identity"]["ascii"], entry["dtls"]["psk"]["hex"]


class DtlsLink(Link):
    """One linked device over DTLS; its drafts are counted where those over OSCORE are."""

    @classmethod
    async def open(cls, path, identity=None, key=None):
        server, own_identity, own_key = find_key(path)
        credentials = CredentialsMap()
        credentials.load_from_dict({f"{server}/*": {"dtls": {
            "psk": {"hex": key or own_key}, "client-identity": {"ascii": identity or own_identity}}}})
        context = await Context.create_client_context(transports=["tinydtls"])
        context.client_credentials = credentials
        _, folder = find_context(path)
        return cls(context, server, folder, None)

    async def close(self):
        await self.context.shutdown()
        self.context.client_credentials = CredentialsMap()


async def unanswered(what, path, **changed):
    """A stranger's handshake ends in silence or an alert; nothing that it asked is answered."""
    stranger = await DtlsLink.open(path, **changed)
    try:
        answer = await asyncio.wait_for(stranger.hello(), SILENCE_S)
    except asyncio.TimeoutError:
        ok(f"{what}: no answer in {SILENCE_S} s")
    except aiocoap.error.NetworkError as error:
        ok(f"{what}: {error.__cause__ or error!r}")
    else:
        raise Wrong(f"{what}: answered {answer!r}")
    finally:
        await stranger.close()


async def strangers(args, ana, bob, room, bobs_room):
    _, identity, _ = find_key(args.credentials)
    _, _, others_key = find_key(args.other_credentials)
    for what, changed in (("a wrong key", {"key": others_key}),
                          ("a name that nobody has", {"identity": "0" * len(identity)})):
        await unanswered(what, args.credentials, **changed)
        await ana.append(room, TEXT, b"after it")
        await bob.append(bobs_room, TEXT, b"after it")
        fresh = await DtlsLink.open(args.credentials)
        check((await fresh.hello()).version == 1, "the next client shakes hands")
        await fresh.close()
    ok("after each of them the honest devices sent, and the next one was let in")


async def over_oscore(args, room_id, room):
    link = await Link.open(args.credentials)
    check(await link.alias(ROOM_NAME, room_id) == room, "the same alias over OSCORE")
    seq = await link.append(room, TEXT, b"over OSCORE")
    await link.close()
    ok(f"the same device over OSCORE: room {room}, seq {seq}")


async def run(args):
    ana = await DtlsLink.open(args.credentials)
    bob = await DtlsLink.open(args.other_credentials)
    hello = await ana.hello()
    check(hello.version == 1, "a hello")
    ok(f"handshake and hello: generation {hello.generation.hex()}")
    room, bobs_room = await meet(ana, bob, args.room)
    seq = await ana.append(room, TEXT, b"Meet me at the station")
    check(await ana.append_again() == seq, "the same draft again gets the first answer")
    ok(f"append: seq {seq}, twice")
    last = await blocks(ana, bob, room, bobs_room)
    await observe(ana, bob, room, bobs_room, last)
    await strangers(args, ana, bob, room, bobs_room)
    room_id = (await ana.names((ROOM_NAME, room)))[ROOM_NAME, room]
    await ana.close()
    await bob.close()
    await over_oscore(args, room_id, room)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--credentials", metavar="FILE", required=True, help="aiocoap's credentials of a device")
    parser.add_argument("--other-credentials", metavar="FILE", required=True, help="the same of another user's device")
    parser.add_argument("--room", metavar="ID", help="a room both are in; left out, one is made")
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(run(args), args.timeout))
        peer = f"aiocoap {version('aiocoap')} with DTLSSocket {version('DTLSSocket')}"
        print(json.dumps({"ok": True, "peer": peer}))
    except asyncio.TimeoutError:
        sys.exit(f"aiocoap_dtls: not done after {args.timeout} s")
    except (Wrong, Refusal, aiocoap.error.Error) as wrong:
        sys.exit(f"aiocoap_dtls: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
