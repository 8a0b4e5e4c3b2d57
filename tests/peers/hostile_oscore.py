#!/usr/bin/env python3
"""What somebody on the way, or at another port, can do to OSCORE devices: nothing that lasts.

  hostile_oscore.py --credentials ana.json --other-credentials bob.json

Takes aiocoap's credentials of devices of two users (`tramline link … --for aiocoap`). A request is sent in every length
and with every bit changed that OSCORE protects; acknowledgements and resets are forged for a push, from another port and from the
device's own address; its observation is ended by somebody without a key. After each an honest device sends, and is heard. «ok: …»
for each step, JSON in the last line; on failure a reason on stderr and exit code 1.
"""
import argparse
import json
import logging
import random
import sys
import time

import aiocoap
from aiocoap import Code, Message
from aiocoap.numbers.types import Type

import msc3079
from raw import EMPTY_ACK, EMPTY_RST, RawDevice, empty, open_socket, receive
from thin_profile import ROOM_NAME, TEXT, USER_NAME, Wrong, check, digits, draft, ok, only_uint, read_names, read_records, uint

PUSHED_S = 20  # a first push and its repetitions, on a busy machine


class Device(RawDevice):
    counter = 0

    def matrix(self, code, *path, body=None):
        about = {} if body is None else {"body": msc3079.encode(body), "content_format": msc3079.CBOR}
        return msc3079.decode(self.must(code, "~", *path, accept=msc3079.CBOR, **about))

    def user(self):
        return read_names(self.must(Code.FETCH, "@", body=bytes([USER_NAME, 0])))[USER_NAME, 0]

    def alias(self, room):
        return only_uint(self.must(Code.POST, "@", body=bytes([ROOM_NAME]) + room.encode()))

    def draft(self, text):
        self.counter += 1
        return draft(TEXT, self.counter, text.encode())

    def append(self, room, text):
        return only_uint(self.must(Code.POST, digits(room), body=self.draft(text)))

    def texts(self, room, first):
        records = read_records(self.must(Code.FETCH, digits(room), body=uint(first) + uint(1024)))
        return {record.seq: record.body.decode(errors="replace") for record in records if record.is_entry()}


class Watch:
    """An observation of which nothing is acknowledged by itself."""

    def __init__(self, device, room, first):
        self.device = device
        self.first = first
        inner, self.token, self.request_id = device.ask(Code.FETCH, digits(room), body=uint(first), observe=0)
        check(inner.code == Code.CONTENT and inner.opt.observe is not None, f"no observation: {inner.code}")

    def arrives(self, wait_s=PUSHED_S):
        """The next push as it came."""
        message = self.device.next(self.token, wait_s)
        check(message is not None, f"nothing was pushed for {wait_s} s")
        return message

    def silent(self, wait_s=3):
        message = self.device.next(self.token, wait_s)
        check(message is None, f"pushed after all: {message}")

    def read(self, message):
        inner = self.device.open(message, self.request_id)
        return {record.seq: record.body.decode() for record in read_records(inner.payload) if record.is_entry()}

    def until(self, seq):
        """All pushes, acknowledged, until one brings `seq`; gives what came."""
        came = {}
        while seq not in came:
            message = self.arrives()
            self.device.acknowledge(message)
            try:
                came.update(self.read(message))
            except aiocoap.oscore.ReplayError:
                pass  # the same push again
        return came


def meet(ana, bob):
    made = {"name": "hostile", "preset": "private_chat", "invite": [bob.user()]}
    room = ana.matrix(Code.POST, "G", body=made)["room_id"]
    bob.matrix(Code.POST, "K", room, body={})
    return ana.alias(room), bob.alias(room)


def answers(sock, sent, wait_s):
    """What comes back, all of it."""
    until = time.monotonic() + wait_s
    came = []
    while (datagram := receive(sock, until - time.monotonic())) is not None:
        came.append(datagram)
        if len(came) == sent:
            until = min(until, time.monotonic() + 0.3)
    return came


def only_refused(what, came):
    codes = set()
    for datagram in came:
        message = Message.decode(datagram)
        check(message.opt.oscore is None, f"{what}: answered with protection: {datagram.hex()}")
        check(message.code == Code.EMPTY or message.code.class_ == 4, f"{what}: answered {message.code}")
        codes.add(str(message.code))
    return ", ".join(sorted(codes)) or "nothing"


def broken(bob, room):
    """A draft in every length and with every protected bit changed; then the draft itself."""
    sock = open_socket(bob.server)
    datagram, token, request_id = bob.request(Code.POST, digits(room), body=bob.draft("whole"))
    option = 4 + len(token)  # header and token are nobody's secret; what follows is the OSCORE option
    cut = [datagram[:length] for length in range(len(datagram))]
    for one in cut:
        sock.send(one)
    ok(f"cut to each of {len(cut)} lengths: {only_refused('cut', answers(sock, len(cut), 3))}")
    changed = []
    for bit in range(8 * option, 8 * len(datagram)):
        other = bytearray(datagram)
        other[bit // 8] ^= 1 << bit % 8
        changed.append(bytes(other))
    came = []
    for at in range(0, len(changed), 32):  # so that no rate limit hides an answer
        for one in changed[at:at + 32]:
            sock.send(one)
        came += answers(sock, 32, 0.5)
    ok(f"{len(changed)} bits changed, one at a time: {only_refused('changed', came)}")
    longer = [datagram + b"\0", datagram + datagram]
    for one in longer:
        sock.send(one)
    only_refused("longer", answers(sock, len(longer), 1))
    sock.close()
    bob.send(datagram)
    message = bob.next(token)
    check(message is not None, "the draft itself is answered")
    bob.acknowledge(message)
    seq = only_uint(bob.open(message, request_id).payload)
    said = [text for text in bob.texts(room, seq - 1).values() if text == "whole"]
    check(len(said) == 1, f"said once, not {len(said)} times")
    ok(f"the draft itself is seq {seq}, and is in the room once")


def forged_from_another_port(watch, ana, bob, rooms):
    seq = bob.append(rooms[1], "not for others to acknowledge")
    push = watch.arrives()
    check(push.mtype == Type.CON, f"a push is confirmable: {push.mtype}")
    sock = open_socket(ana.server)
    for head in (EMPTY_ACK, EMPTY_RST):
        sock.send(empty(head, push.mid))
    again = watch.arrives()
    check(again.datagram == push.datagram, f"the same push again: {push.datagram.hex()}, {again.datagram.hex()}")
    ana.acknowledge(again)
    check(seq in watch.read(again), f"it has {seq}")
    for head in (EMPTY_ACK, EMPTY_RST):
        sock.send(empty(head, push.mid))
    sock.close()
    seq = bob.append(rooms[1], "and on")
    watch.until(seq)
    ok("an acknowledgement and a reset with the right id from another port: pushed again until the device had it")


def forged_ids(watch, ana, bob, rooms):
    """From the device's own address, with ids that are not the push's."""
    seq = bob.append(rooms[1], "ids are guessed")
    push = watch.arrives()
    for mid in random.sample(range(1 << 16), 500):
        if mid != push.mid:
            ana.send(empty(random.choice((EMPTY_ACK, EMPTY_RST)), mid))
    again = watch.arrives()
    check(again.mid == push.mid, "the same push again")
    ana.acknowledge(again)
    check(seq in watch.read(again), f"it has {seq}")
    ok("500 guessed ids from the device's own address: pushed again until the device had it")


def forged_acknowledgement(watch, ana, bob, rooms):
    """From the device's own address, before the push gets there: it is not told again, and asks for what it misses."""
    lost = bob.append(rooms[1], "taken away")
    push = watch.arrives()  # the device does not see it
    ana.send(empty(EMPTY_ACK, push.mid))
    time.sleep(0.2)
    ana.inbox.clear()
    seq = bob.append(rooms[1], "what comes after")
    came = watch.until(seq)
    check(lost not in came, f"{lost} was told again: {came}")
    check(ana.texts(rooms[0], lost)[lost] == "taken away", "FETCH repairs it")
    ok(f"a forged acknowledgement from its own address: {lost} is missed when {seq} comes, and fetched")


def forged_reset(watch, ana, bob, rooms):
    """One may be forged: the observation sleeps until the device is heard of."""
    seq = bob.append(rooms[1], "reset by somebody")
    push = watch.arrives()
    ana.send(empty(EMPTY_RST, push.mid))
    watch.silent()
    ana.must(Code.GET)
    came = watch.until(seq)
    check(came[seq] == "reset by somebody", f"{came}")
    ok(f"a forged reset from its own address: {seq} is pushed again when the device is heard of")


def forged_end(watch, ana, bob, rooms):
    """Somebody without a key at the device's address ends the observation, as far as that goes."""
    for code, options in ((Code.GET, {"observe": 1}), (Code.FETCH, {"observe": 1})):
        for path in ([digits(rooms[0])], []):
            message = Message(code=code)
            message.opt.uri_path = path
            message.opt.observe = options["observe"]
            message.mtype, message.mid, message.token = Type.NON, ana.numbers()[0], watch.token
            ana.send(message.encode())
    time.sleep(0.3)
    ana.inbox.clear()
    seq = bob.append(rooms[1], "still observed")
    message = watch.arrives()
    while message.opt.oscore is None:  # what was said to the forger
        message = watch.arrives()
    ana.acknowledge(message)
    check(seq in watch.read(message), f"it has {seq}")
    ok("an unprotected cancellation with the right token from its own address: pushed all the same")


def meant_resets(watch, ana, bob, rooms):
    """Two in a row are meant."""
    for _ in range(2):
        seq = bob.append(rooms[1], "not wanted any more")
        push = watch.arrives()
        ana.send(empty(EMPTY_RST, push.mid))
        time.sleep(0.2)
        ana.must(Code.GET)
    ana.inbox.clear()
    bob.append(rooms[1], "not told")
    watch.silent()
    ok(f"two resets in a row end the observation at {seq}")


def run(args):
    ana, bob = Device(args.credentials), Device(args.other_credentials)
    try:
        rooms = meet(ana, bob)
        broken(bob, rooms[1])
        watch = Watch(ana, rooms[0], bob.append(rooms[1], "from here on") + 1)
        for attack in (forged_from_another_port, forged_ids, forged_acknowledgement, forged_reset, forged_end, meant_resets):
            attack(watch, ana, bob, rooms)
        seq = bob.append(rooms[1], "the last")
        watch = Watch(ana, rooms[0], seq + 1)
        watch.until(bob.append(rooms[1], "the very last"))
        ok("and observes anew")
    finally:
        ana.close()
        bob.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--credentials", metavar="FILE", required=True, help="aiocoap's credentials of a device")
    parser.add_argument("--other-credentials", metavar="FILE", required=True, help="the same of another user's device")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        run(args)
        print(json.dumps({"ok": True}))
    except (Wrong, aiocoap.error.Error, aiocoap.oscore.ProtectionInvalid) as wrong:
        sys.exit(f"hostile_oscore: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
