#!/usr/bin/env python3
"""aiocoap agrees on an OSCORE context by EDHOC (with lakers-python) instead of bringing one.

  edhoc_client.py --credentials ana.json --other-credentials bob.json

The JSON files are credential files of `tramline link`, of devices of two users. Message 3 goes with the first request
(RFC 9668), then in a message of its own; a push is awaited in such a context. After each exchange that must fail
(another key, a kid that nobody has, another hub) the next honest device sends. «ok: …» for each step, JSON in the last line; on
failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import json
import logging
import sys
from importlib.metadata import version

import aiocoap
from aiocoap import Code

from device import EdhocLink
from thin_client import Log, Refusal, meet
from thin_profile import TEXT, Wrong, check, digits, ok, read_records, uint


async def talk(ana, bob):
    check((await ana.hello()).version == 1, "a hello with message 3 in front")
    ids = ana.security.agreed.sender_id, ana.security.agreed.recipient_id
    ok(f"message 3 with the first request: kid {ids[0].hex()}, the hub's {ids[1].hex()}")
    check((await bob.hello()).version == 1, "a hello after message 4")
    ok("message 3 by itself, answered with message 4")
    room, bobs_room = await meet(ana, bob, None)
    log = Log()
    await log.repair(ana, room)
    watch, answer = await ana.observe(digits(room), body=uint(log.covered + 1))
    log.take(read_records(answer.payload), log.covered + 1)
    seq = await bob.append(bobs_room, TEXT, b"pushed")
    await watch.until(seq)
    back = await ana.append(room, TEXT, b"and back", read=seq)
    check(back > seq, f"{back} comes after {seq}")
    ok(f"seq {seq} was pushed in an agreed context, seq {back} sent in it")
    return room


async def another_context(path, room):
    """The device forgets its context, as after a restart, and agrees on a new one."""
    ana = await EdhocLink.open(path)
    seq = await ana.append(room, TEXT, b"in another context")
    ok(f"a new context for the same device: seq {seq}")
    return ana


async def fails(what, path, wanted, **changed):
    link = await EdhocLink.open(path, **changed)
    try:
        answer = await asyncio.wait_for(link.hello(), 30)
    except (aiocoap.error.Error, ValueError) as error:  # lakers raises its own as ValueError
        message = getattr(error, "plain_message", None) or getattr(error, "coapmessage", None)
        said = str(message.code) if message else str(error)
        check(wanted in said, f"{what}: wanted {wanted}, got {said}")
        return ok(f"{what}: {said}")
    finally:
        await link.close()
    raise Wrong(f"{what}: {answer}")


async def run(args):
    ana = await EdhocLink.open(args.credentials)
    bob = await EdhocLink.open(args.other_credentials, combined=False)
    room = await talk(ana, bob)
    await ana.close()
    ana = await another_context(args.credentials, room)
    for combined in (True, False):
        how = "with a request" if combined else "by itself"
        for what, changed in (("another key", {"key": bytes(31) + b"\x07"}), ("an unknown kid", {"kid": b"nobody"})):
            await fails(f"{what}, {how}", args.credentials, "4.00", combined=combined, **changed)
            seq = await ana.append(room, TEXT, f"after {what}".encode())
            ok(f"the honest device goes on in its context: seq {seq}")
    await fails("another hub", args.credentials, "MacVerificationFailed", hub_key=bytes.fromhex(OTHER_X))
    await ana.append(room, TEXT, b"after another hub")
    await ana.close()
    await (await another_context(args.credentials, room)).close()
    await bob.close()


OTHER_X = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"  # the curve's base point


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--credentials", metavar="FILE", required=True, help="a device's credential file")
    parser.add_argument("--other-credentials", metavar="FILE", required=True, help="that of another user's device")
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(run(args), args.timeout))
        peer = f"aiocoap {version('aiocoap')} with lakers-python {version('lakers-python')}"
        print(json.dumps({"ok": True, "peer": peer}))
    except asyncio.TimeoutError:
        sys.exit(f"edhoc_client: not done after {args.timeout} s")
    except (Wrong, Refusal, aiocoap.error.Error) as wrong:
        sys.exit(f"edhoc_client: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
