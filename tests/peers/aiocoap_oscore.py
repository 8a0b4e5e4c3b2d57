#!/usr/bin/env python3
"""aiocoap as a plain peer over OSCORE: are block-wise transfer, Observe and refusals as it expects them?

  aiocoap_oscore.py --credentials ana.json --other-credentials bob.json [--server coap://127.0.0.1:5683]

Takes what thin_client.py takes, and leans on its client; what is asked here is CoAP's and OSCORE's part: 3,000 bytes
both ways in blocks, also as FETCH; notifications in order; a wrong key, an unknown one, a changed and a replayed
datagram. «ok: …» for each step, JSON in the last line; on failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import contextlib
import json
import logging
import socket
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import aiocoap
from aiocoap import Code, Message
from aiocoap.oscore import NotAProtectedMessage

import msc3079
from thin_client import Link, Log, Refusal, find_context, meet
from thin_profile import EMOTE, TEXT, Wrong, check, digits, ok, read_records, uint

LARGE = "blocks of é ".encode() * 230  # 2,990 bytes
SILENCE_S = 3


async def blocks(ana, bob, room, bobs_room):
    seq = await ana.append(room, TEXT, LARGE)
    check(await ana.append_again() == seq, "the same draft in blocks again gets the first answer")
    ok(f"Block1: a draft of {len(LARGE)} bytes is seq {seq}")
    entry, etag, data = await bob.entry(bobs_room, seq)
    check(entry.body == LARGE, "an entry in blocks")
    ok(f"Block2: GET of {len(data)} bytes, ETag {etag.hex()}")
    said = [f"{n} ".encode() * 300 for n in range(4)]
    more = [await ana.append(room, EMOTE, text) for text in said]
    answer = await bob.fetch(bobs_room, seq, 65_536)
    records = {record.seq: record for record in answer if record.is_entry()}
    check(records[seq].body == LARGE, "a whole record of 3,000 bytes")
    check([records[at].body for at in more] == said, "and those behind it")
    ok(f"Block2: FETCH of {len(records)} records in one answer")
    return more[-1]


async def observe(ana, bob, room, bobs_room, last):
    log = Log()
    log.covered = last
    watch, answer = await ana.observe(digits(room), body=uint(last + 1))
    log.take(read_records(answer.payload), last + 1)
    said = {}
    for n in range(10):
        seq = await bob.append(bobs_room, TEXT, f"notification {n}".encode())
        said[seq] = f"notification {n}".encode()
    while not set(said) <= set(log.entries):
        log.take(await watch.next())
    check({seq: log.entries[seq].body for seq in said} == said, "as they were said")
    numbers = [seq for seq in log.entries if seq > last]
    check(numbers == sorted(numbers), f"in order: {numbers}")
    ok(f"Observe: {len(said)} entries were pushed, in order")
    size = await bob.append(bobs_room, TEXT, LARGE)
    pushed = await watch.until(size)
    entry, _, _ = await ana.entry(room, size)
    check(entry.body == LARGE, "a large entry is there in full")
    kind = next(record.kind for record in pushed if record.is_entry() and record.seq == size)
    ok(f"Observe: an entry of {len(LARGE)} bytes was pushed as kind {kind}")


@contextlib.contextmanager
def changed_credentials(path, server, change):
    """A copy of the security context with something else in it; the copy's numbers are never used with the true key."""
    server, folder = find_context(path, server)
    settings = {}
    for name in ("settings.json", "secret.json"):
        if (folder / name).exists():
            settings.update(json.loads((folder / name).read_text()))
    change(settings)
    with tempfile.TemporaryDirectory() as copy:
        (Path(copy) / "context").mkdir()
        (Path(copy) / "context/settings.json").write_text(json.dumps(settings))
        file = Path(copy) / "credentials.json"
        file.write_text(json.dumps({f"{server}/*": {"oscore": {"basedir": "context"}}}))
        yield file


def other_secret(settings):
    settings.pop("secret_ascii", None)
    settings["secret_hex"] = "5a" * 16


def other_id(settings):
    settings.pop("sender-id_ascii", None)
    settings["sender-id_hex"] = "7e7e7e7e7e7e7e"


async def strangers(args, ana):
    for what, change, wanted in (("a wrong key", other_secret, Code.BAD_REQUEST),
                                 ("an unknown key id", other_id, Code.UNAUTHORIZED)):
        with changed_credentials(args.credentials, ana.server, change) as file:
            stranger = await Link.open(file, ana.server)
            try:
                answer = await asyncio.wait_for(stranger.hello(), 60)
            except NotAProtectedMessage as error:
                answer = error.plain_message
            finally:
                await stranger.close()
            check(isinstance(answer, Message) and answer.code == wanted, f"{what}: wanted {wanted}, got {answer!r}")
            ok(f"{what}: {answer.code} {answer.payload.decode(errors='replace')}")
    await ana.hello()


def exchange(sock, datagram, wait_s):
    """Sends raw bytes; gives the answer, or None when there is none in time."""
    sent = Message.decode(datagram)
    until = time.monotonic() + wait_s
    sock.send(datagram)
    while (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            answer = Message.decode(sock.recv(2048))
        except (TimeoutError, ConnectionError):
            return None
        if answer.mtype == aiocoap.CON:
            sock.send(bytes([0x60, 0]) + answer.mid.to_bytes(2, "big"))  # an acknowledgement
        # an empty acknowledgement says that the answer comes by itself
        if answer.token == sent.token and answer.code != Code.EMPTY:
            return answer
    return None


async def replay(ana):
    """A request that makes a room each time it is carried out, captured and sent again."""
    async def rooms():
        return len((await ana.matrix(Code.GET, "I"))["joined_rooms"])

    before = await rooms()
    request = ana.message(Code.POST, "~", "G", body=msc3079.encode({"name": "once"}),
                          content_format=msc3079.CBOR, accept=msc3079.CBOR)
    request.remote = None
    request.opt.uri_host = request.opt.uri_port = None
    outer, request_id = ana.security.protect(request)

    def datagram(mid, change=0):
        payload = outer.payload[:-1] + bytes([outer.payload[-1] ^ change])
        message = outer.copy(payload=payload)
        message.mtype, message.mid, message.token = aiocoap.CON, mid, b"\x52\x45"
        return message.encode()

    host, _, port = ana.server.removeprefix("coap://").rpartition(":")

    async def send(sock, data, wait_s=SILENCE_S):
        return await asyncio.to_thread(exchange, sock, data, wait_s)

    def open_socket():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect((host, int(port)))
        return sock

    def turned_down(what, answer, code):
        check(answer is None or answer.opt.oscore is None and answer.code == code, f"{what}: {answer!r}")
        ok(f"{what}: {answer.code if answer else 'no answer'}")

    with open_socket() as first, open_socket() as second:
        turned_down("a changed datagram", await send(second, datagram(1, change=1)), Code.BAD_REQUEST)
        answer = await send(first, datagram(2), 30)
        check(answer is not None and answer.opt.oscore is not None, f"the captured datagram itself: {answer!r}")
        inner, _ = ana.security.unprotect(answer, request_id)
        check(inner.code.is_successful(), f"the captured request itself: {inner.code} {inner.payload}")
        again = await send(first, datagram(2))
        check(again is None or again.payload == answer.payload or again.opt.oscore is None,
              "a retransmission gets the first answer, or none")
        # what a device sends again after its NAT gave it another address is the same
        again = await send(second, datagram(2))
        check(again is None or again.payload == answer.payload or again.code == Code.UNAUTHORIZED,
              f"the very same datagram from another address gets the first answer, or none: {again!r}")
        ok(f"a replay from another address: {'no new' if again else 'no'} answer")
        turned_down("a replay in another message", await send(second, datagram(3)), Code.UNAUTHORIZED)
        turned_down("a replay from its own address", await send(first, datagram(4)), Code.UNAUTHORIZED)
    after = await rooms()
    check(after == before + 1, f"{before} rooms, then {after}: one was made")
    ok(f"replay: sent five times, carried out once ({before} rooms, now {after})")


async def run(args):
    ana = await Link.open(args.credentials, args.server)
    bob = await Link.open(args.other_credentials, args.server)
    check((await ana.hello()).version == 1, "a hello")
    room, bobs_room = await meet(ana, bob, args.room)
    last = await blocks(ana, bob, room, bobs_room)
    await observe(ana, bob, room, bobs_room, last)
    await strangers(args, ana)
    await replay(ana)
    await ana.close()
    await bob.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--credentials", metavar="FILE", required=True, help="aiocoap's credentials of a device")
    parser.add_argument("--other-credentials", metavar="FILE", required=True, help="the same of another user's device")
    parser.add_argument("--server", metavar="coap://HOST:PORT", help="where the credentials do not name it")
    parser.add_argument("--room", metavar="ID", help="a room both are in; left out, one is made")
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(run(args), args.timeout))
        print(json.dumps({"ok": True, "peer": f"aiocoap {version('aiocoap')} with OSCORE"}))
    except asyncio.TimeoutError:
        sys.exit(f"aiocoap_oscore: not done after {args.timeout} s")
    except (Wrong, Refusal, aiocoap.error.Error) as wrong:
        sys.exit(f"aiocoap_oscore: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
