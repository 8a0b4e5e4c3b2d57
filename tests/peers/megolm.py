#!/usr/bin/env python3
"""Two matrix-nio users with Megolm, each on a server of their own, in one encrypted room.

  megolm.py --ca ca.pem --here https://… ana:password --there https://… alice:password \
            --marker TEXT --store DIR

The one «here» makes the room, the one «there» joins it. They exchange encrypted messages both ways,
then encrypted files, each uploaded to its sender's server and fetched from the receiver's. A further
device logs in there; what is sent then can be read on it, too. Every text and file holds the marker,
which must be on neither server's disk: that is for the caller to look at. One JSON line on stdout; on
failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import io
import json
import os
import secrets
import ssl
import sys
import time

import nio
from nio import AsyncClient, AsyncClientConfig, ErrorResponse, RoomPreset
from nio.crypto import decrypt_attachment


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


class User:
    """A device that reads everything it is sent."""

    def __init__(self, args, url, credentials, device):
        name, _, self.password = credentials.partition(":")
        device += secrets.token_hex(3).upper()  # keys of one that was there before would be in the way
        store = os.path.join(args.store, device)
        os.makedirs(store)
        config = AsyncClientConfig(max_limit_exceeded=20, max_timeouts=2, request_timeout=30,
                                   encryption_enabled=True, store_sync_tokens=False)
        self.client = AsyncClient(url, name, device_id=device, store_path=store, config=config,
                                  ssl=ssl.create_default_context(cafile=args.ca))
        self.device = device
        self.texts, self.files, self.unreadable = [], [], []
        self.client.add_event_callback(self.text, nio.RoomMessageText)
        self.client.add_event_callback(self.file, nio.RoomEncryptedFile)
        self.client.add_event_callback(self.dark, nio.MegolmEvent)

    async def text(self, _, event):
        check(event.decrypted, f"{event.body!r} came in clear")
        self.texts += [event.body] if event.sender != self.client.user_id else []

    async def file(self, _, event):
        check(event.decrypted, "the keys of a file came in clear")
        self.files += [event] if event.sender != self.client.user_id else []

    async def dark(self, room, event):
        self.unreadable.append((room.room_id, event))

    async def log_in(self):
        await good(self.client.login(self.password, device_name=self.device), f"login of {self.device}")
        check(self.client.olm, "nio has Megolm")
        await self.sync()

    async def sync(self, timeout=0):
        """One sync, and what a client does after it."""
        await good(self.client.sync(timeout=timeout, full_state=not self.client.next_batch),
                   f"sync of {self.device}")
        if self.client.should_upload_keys:
            await good(self.client.keys_upload(), f"keys of {self.device}")
        if self.client.should_query_keys:
            await good(self.client.keys_query(), f"{self.device} asks for keys")
        if self.client.should_claim_keys:
            users = self.client.get_users_for_key_claiming()
            await good(self.client.keys_claim(users), f"{self.device} claims keys")
        await self.client.send_to_device_messages()

    async def until(self, holds, what):
        for _ in range(30):
            if holds():
                return
            await self.sync(timeout=1000)
        dark = [f"{event.sender} {event.session_id}" for _, event in self.unreadable]
        raise Wrong(f"{self.device}: {what}; it has {self.texts}, and cannot read {dark}")

    async def say(self, room, text):
        content = {"msgtype": "m.text", "body": text}
        await good(self.client.room_send(room, "m.room.message", content, ignore_unverified_devices=True),
                   f"{self.device} says something")

    async def give(self, room, name, data):
        answer, keys = await self.client.upload(lambda *_: io.BytesIO(data), filesize=len(data),
                                                content_type="application/octet-stream", encrypt=True)
        check(not isinstance(answer, ErrorResponse), f"upload by {self.device}: {answer}")
        content = {"msgtype": "m.file", "body": name, "file": {"url": answer.content_uri, **keys}}
        await good(self.client.room_send(room, "m.room.message", content, ignore_unverified_devices=True),
                   f"{self.device} gives a file")
        return answer.content_uri

    async def read(self, event):
        """The bytes of a file, as this user's own server gives them, decrypted."""
        there = await good(self.client.download(event.url), f"{self.device} fetches {event.url}")
        return decrypt_attachment(there.body, event.key["k"], event.hashes["sha256"], event.iv)

    def knows(self, room):
        return room in self.client.rooms and self.client.rooms[room].encrypted

    def shares_with(self, room, *others):
        """Whether the devices of all others are known."""
        return self.knows(room) and self.client.rooms[room].members_synced and all(
            other.device in self.client.device_store[other.client.user_id] for other in others)


async def members(user, room):
    await good(user.client.joined_members(room), f"members for {user.device}")


async def run(args):
    ana = User(args, args.here[0], args.here[1], "ANA")
    alice = User(args, args.there[0], args.there[1], "ALICE")
    further = User(args, args.there[0], args.there[1], "FURTHER")
    everyone = [ana, alice, further]
    done = {}
    try:
        for user in (ana, alice):
            await user.log_in()
        encryption = {"type": "m.room.encryption", "state_key": "",
                      "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
        room = (await good(ana.client.room_create(preset=RoomPreset.public_chat, initial_state=[encryption],
                                                  alias=args.alias), "createRoom")).room_id
        alias = f"#{args.alias}:{ana.client.user_id.partition(':')[2]}"
        await good(alice.client.join(alias), "join")
        for user in (ana, alice):
            await user.until(lambda user=user: user.knows(room), "the room is known as encrypted")
            await members(user, room)
        await ana.until(lambda: ana.shares_with(room, alice), "alice's device is known")
        await alice.until(lambda: alice.shares_with(room, ana), "ana's device is known")

        began = time.monotonic()
        for number in range(3):
            await ana.say(room, f"{args.marker} here {number}")
            await alice.until(lambda: f"{args.marker} here {number}" in alice.texts, "a message from here")
            await alice.say(room, f"{args.marker} there {number}")
            await ana.until(lambda: f"{args.marker} there {number}" in ana.texts, "a message from there")
        done["messages"], done["seconds"] = 6, round(time.monotonic() - began, 2)

        data = (args.marker + "\n").encode() * 20_000
        for sender, receiver in ((ana, alice), (alice, ana)):
            have = len(receiver.files)
            uri = await sender.give(room, f"{args.marker}.bin", data)
            await receiver.until(lambda: len(receiver.files) > have, f"a file from {sender.device}")
            event = receiver.files[-1]
            check(event.url == uri, f"{event.url} is not {uri}")
            check(await receiver.read(event) == data, f"the file of {sender.device} comes back as it was")
        done["files"] = 2

        # A device that comes later: its server tells, and what is sent then is for it, too.
        await further.log_in()
        await ana.until(lambda: ana.shares_with(room, alice, further), "the further device is known")
        ana.client.invalidate_outbound_session(room)
        await ana.say(room, f"{args.marker} to both")
        for user in (alice, further):
            await user.until(lambda user=user: f"{args.marker} to both" in user.texts, "a message to both")
        done["devices"] = 3
        dark = [event for user in (ana, alice) for where, event in user.unreadable if where == room]
        check(not dark, f"everything can be read but {dark}")
        return done
    finally:
        for user in everyone:
            await user.client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--here", nargs=2, required=True, metavar=("URL", "USER:PASSWORD"))
    parser.add_argument("--there", nargs=2, required=True, metavar=("URL", "USER:PASSWORD"))
    parser.add_argument("--marker", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--alias", default="megolm")
    parser.add_argument("--timeout", type=float, default=240)
    args = parser.parse_args()
    try:
        done = asyncio.run(asyncio.wait_for(run(args), args.timeout))
    except Wrong as why:
        sys.exit(f"megolm: {why}")
    except asyncio.TimeoutError:
        sys.exit(f"megolm: not done in {args.timeout} s")
    print(json.dumps(done))


if __name__ == "__main__":
    main()
