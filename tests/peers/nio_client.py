#!/usr/bin/env python3
"""matrix-nio, a Matrix client library, against a homeserver's HTTPS door.

  nio_client.py --url https://… --ca ca.pem --user ana:password --other bob:password

Two users log in by password, one creates a room and invites, the other joins; they talk, sync from
nothing and onwards, page back, redact, send a 40 kB event, type, send receipts, keep media, and one
takes a large initial sync. nio refuses answers that do not fit its schemas. One JSON line on stdout;
on failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import io
import json
import logging
import os
import ssl
import sys
import time
from importlib.metadata import version

import nio
from nio import AsyncClient, AsyncClientConfig, ErrorResponse, MessageDirection, RoomPreset

# nio reads the whole of a room with it, and the default of ten would hide the gap
FILTER = {"room": {"timeline": {"limit": 500}}}
PAYLOAD = "é" * 20_000  # 40 kB of UTF-8 that is not ASCII


class Wrong(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Wrong(what)


async def good(call, what):
    """The answer of a nio call; nio gives failures as values."""
    answer = await call
    if isinstance(answer, ErrorResponse):
        raise Wrong(f"{what}: {answer}")
    return answer


async def log_in(args, credentials):
    user, _, password = credentials.partition(":")
    tls = ssl.create_default_context(cafile=args.ca)
    # without an end to retries a 429 would only show as the deadline
    config = AsyncClientConfig(max_limit_exceeded=20, max_timeouts=2, request_timeout=30,
                               encryption_enabled=False)
    client = AsyncClient(args.url, user, ssl=tls, config=config)
    await good(client.login(password, device_name="nio"), f"login of {user}")
    check(client.access_token, "login gives a token")
    return client


async def sync_until(client, holds, what, **how):
    """Syncs on from where the client is until `holds` is true of the timeline events seen."""
    seen = []
    for _ in range(20):
        answer = await good(client.sync(timeout=3000, sync_filter=FILTER, **how), what)
        how = {}
        for room in answer.rooms.join.values():
            seen += room.timeline.events
        if holds(seen, answer):
            return seen, answer
    raise Wrong(f"{what}: not seen in 20 syncs")


def bodies(events):
    return [e.body for e in events if isinstance(e, nio.RoomMessageText)]


async def send(client, room, body):
    content = {"msgtype": "m.text", "body": body}
    return (await good(client.room_send(room, "m.room.message", content), "send")).event_id


async def rooms_and_talk(ana, bob, args, done):
    room = (await good(ana.room_create(
        name="nio", topic="peers", room_version=args.room_version, preset=RoomPreset.private_chat,
        invite=[]), "createRoom")).room_id
    await good(ana.room_invite(room, bob.user_id), "invite")
    answer = await good(bob.sync(timeout=3000), "sync of the invited")
    check(room in answer.rooms.invite, "the invite is in the sync of the invited")
    await good(bob.join(room), "join")
    done["room_id"] = room

    ids = [await send(ana, room, f"message {n}") for n in range(5)]
    check(len(set(ids)) == 5, "five sends give five event ids")
    events, first = await sync_until(bob, lambda seen, _: len(bodies(seen)) >= 5, "first sync of bob")
    check(bodies(events) == [f"message {n}" for n in range(5)], f"in order: {bodies(events)}")
    check(bob.rooms[room].name == "nio", "the room has its name")
    check(set(bob.rooms[room].users) == {ana.user_id, bob.user_id}, "the room has two members")

    waiting = asyncio.create_task(sync_until(bob, lambda seen, _: bodies(seen), "long poll",
                                             since=first.next_batch))
    await asyncio.sleep(0)  # the poll goes out first
    await send(ana, room, "pushed")
    check(bodies((await waiting)[0]) == ["pushed"], "sync since shows only what is new")
    done["messages"] = 6

    back, start = [], first.next_batch
    for _ in range(50):
        page = await good(bob.room_messages(room, start, direction=MessageDirection.back, limit=4),
                          "messages")
        check(len(page.chunk) <= 4, "a page keeps to its limit")
        back += page.chunk
        if not page.end or not page.chunk:
            break
        start = page.end
    check(bodies(back)[:5] == [f"message {n}" for n in (4, 3, 2, 1, 0)], "paging back, newest first")
    check(any(isinstance(e, nio.RoomCreateEvent) for e in back), "paging back reaches the create event")
    check(len({e.event_id for e in back}) == len(back), "no event on two pages")
    done["paged_back"] = len(back)

    await good(ana.room_redact(room, ids[2], reason="why not"), "redact")
    gone = await good(bob.room_get_event(room, ids[2]), "event")
    check(isinstance(gone.event, nio.RedactedEvent), f"a redacted event is {type(gone.event).__name__}")
    return room, ids


async def large_event(ana, bob, room, done):
    event_id = await send(ana, room, PAYLOAD)
    await sync_until(bob, lambda seen, _: PAYLOAD in bodies(seen), "sync of a 40 kB event")
    got = await good(bob.room_get_event(room, event_id), "event")
    check(got.event.body == PAYLOAD, "a 40 kB event comes back as it was")
    done["large_event_bytes"] = len(PAYLOAD.encode())


async def refusals(ana, bob, room):
    too_large = await ana.room_send(room, "m.room.message", {"msgtype": "m.text", "body": "x" * 70_000})
    check(isinstance(too_large, ErrorResponse) and too_large.status_code == "M_TOO_LARGE",
          f"an event of 70 kB is refused with M_TOO_LARGE, not {too_large}")
    refused = await bob.room_put_state(room, "m.room.name", {"name": "mine"})
    check(isinstance(refused, ErrorResponse) and refused.status_code == "M_FORBIDDEN",
          f"a name without the power is refused with M_FORBIDDEN, not {refused}")


async def ephemeral(ana, bob, room, event_id):
    await good(ana.room_typing(room, True, timeout=20_000), "typing")
    await sync_until(bob, lambda _, answer: any(
        isinstance(e, nio.TypingNoticeEvent) and ana.user_id in e.users
        for r in answer.rooms.join.values() for e in r.ephemeral), "typing in sync")
    await good(ana.room_typing(room, False), "typing ends")
    await good(bob.update_receipt_marker(room, event_id), "receipt")
    await sync_until(ana, lambda _, answer: any(
        isinstance(e, nio.ReceiptEvent) and any(r.user_id == bob.user_id for r in e.receipts)
        for r in answer.rooms.join.values() for e in r.ephemeral), "receipt in sync")


async def media(ana, bob, done):
    data = os.urandom(100_000)
    # a file object would be closed by the first try; nio asks again after a timeout
    answer, _ = await ana.upload(lambda *_: io.BytesIO(data), "application/octet-stream", "noise.bin",
                                 filesize=len(data))
    if isinstance(answer, ErrorResponse):
        raise Wrong(f"upload: {answer}")
    got = await good(bob.download(answer.content_uri), "download")
    check(got.body == data, "media come back as they were")
    done["media_bytes"] = len(data)


async def large_sync(ana, args, done):
    """Many state events in a room; a new device gets all of them in its first sync."""
    room = (await good(ana.room_create(name="large", room_version=args.room_version), "createRoom")).room_id
    some = asyncio.Semaphore(8)

    async def put(n):
        async with some:
            await good(ana.room_put_state(room, "test.note", {"text": "x" * 1000, "n": n}, str(n)), "state")

    await asyncio.gather(*(put(n) for n in range(args.large)))
    fresh = await log_in(args, args.user)
    try:
        began = time.monotonic()
        answer = await good(fresh.sync(timeout=0, full_state=True), "large initial sync")
        done["large_sync_ms"] = round((time.monotonic() - began) * 1000)
        joined = answer.rooms.join[room]
        notes = {e.source["state_key"] for e in [*joined.state, *joined.timeline.events]
                 if e.source["type"] == "test.note"}
        check(notes == {str(n) for n in range(args.large)}, f"{len(notes)} of {args.large} state events")
        done["large_sync_events"] = len(notes)
        token = fresh.access_token
        await good(fresh.logout(), "logout")
        fresh.access_token = token  # nio has dropped it
        check(isinstance(await fresh.whoami(), ErrorResponse), "a token ends with its logout")
    finally:
        await fresh.close()


async def run(args):
    done = {"ok": True, "peer": f"matrix-nio {version('matrix-nio')}"}
    wrong = AsyncClient(args.url, args.user.partition(":")[0], ssl=ssl.create_default_context(cafile=args.ca))
    check(isinstance(await wrong.login("not the password"), ErrorResponse), "a wrong password is refused")
    await wrong.close()
    ana = await log_in(args, args.user)
    bob = await log_in(args, args.other)
    try:
        room, ids = await rooms_and_talk(ana, bob, args, done)
        await large_event(ana, bob, room, done)
        await refusals(ana, bob, room)
        await ephemeral(ana, bob, room, ids[-1])
        await media(ana, bob, done)
        await large_sync(ana, args, done)
    finally:
        await ana.close()
        await bob.close()
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", help="a PEM file with the certificates to trust")
    parser.add_argument("--user", required=True, metavar="NAME:PASSWORD")
    parser.add_argument("--other", required=True, metavar="NAME:PASSWORD")
    parser.add_argument("--room-version", default="12")
    parser.add_argument("--large", type=int, default=200, help="state events of 1 kB in the large room")
    parser.add_argument("--timeout", type=float, default=120)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what nio logs it also answers
    try:
        print(json.dumps(asyncio.run(asyncio.wait_for(run(args), args.timeout))))
    except asyncio.TimeoutError:
        sys.exit(f"nio_client: not done after {args.timeout} s")
    except Wrong as wrong:
        sys.exit(f"nio_client: {wrong}")


if __name__ == "__main__":
    main()
