#!/usr/bin/env python3
"""A relay before the CoAP door that notes which nonces of OSCORE it sees.

  relay.py --to 127.0.0.1:5683

Prints {"port": …}, passes datagrams on until its input ends, and prints what it saw: a nonce under which two different
messages were sent is what must never be, whoever is killed or restored meanwhile. Contexts are told apart by kid and by the EDHOC
message that made them.
"""
import argparse
import hashlib
import io
import json
import select
import socket
import sys

import cbor2
from aiocoap import Message
from aiocoap.error import UnparsableMessage

from raw import address

EDHOC = 21


def parts(option):
    """Partial IV, and the kid where it is there."""
    if not option:
        return b"", None
    length = option[0] & 7
    at = 1 + length
    if option[0] & 0x10:
        at += 1 + option[at]
    return option[1:1 + length], option[at:] if option[0] & 8 else None


class Nonces:
    def __init__(self):
        self.made_by, self.asked, self.seen, self.reused = {}, {}, {}, []
        self.requests = self.own = self.exchanges = 0

    def note(self, nonce, message, payload):
        digest = hashlib.sha256(bytes([message.code]) + payload).hexdigest()
        before = self.seen.setdefault(nonce, digest)
        if before != digest:
            self.reused.append(repr(nonce))

    def up(self, client, message):
        piv, kid = parts(message.opt.oscore)
        if kid is None:
            return
        payload = message.payload
        if any(option.number == EDHOC for option in message.opt.option_list()):
            reader = io.BytesIO(payload)
            message_3 = cbor2.load(reader)
            payload = payload[reader.tell():]
            digest = hashlib.sha256(message_3).hexdigest()
            if self.made_by.get(kid) != digest:
                self.exchanges += 1
            self.made_by[kid] = digest
        context = (kid, self.made_by.get(kid))
        self.requests += 1
        self.asked[client, message.token] = (context, piv)
        self.note(("device", context, piv), message, payload)

    def down(self, client, message):
        context, asked = self.asked.get((client, message.token), (None, None))
        piv, _ = parts(message.opt.oscore)
        self.own += bool(piv)
        nonce = ("hub", context, piv) if piv else ("answer", context, asked)
        self.note(nonce, message, message.payload)

    def look(self, client, datagram, way):
        try:
            message = Message.decode(datagram)
        except UnparsableMessage:
            return
        if message.opt.oscore is not None:
            way(client, message)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", metavar="HOST:PORT", required=True)
    server = address(parser.parse_args().to)
    near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    near.bind(("127.0.0.1", 0))
    print(json.dumps({"port": near.getsockname()[1]}), flush=True)
    nonces, far, clients = Nonces(), {}, {}
    while True:
        ready = select.select([sys.stdin, near, *clients], [], [])[0]
        if sys.stdin in ready:
            break
        for sock in ready:
            try:
                datagram, client = sock.recvfrom(65_536)
                if sock is near:
                    if client not in far:
                        far[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                        far[client].connect(server)
                        clients[far[client]] = client
                    nonces.look(client, datagram, nonces.up)
                    far[client].send(datagram)
                else:
                    nonces.look(clients[sock], datagram, nonces.down)
                    near.sendto(datagram, clients[sock])
            except OSError:
                pass  # nobody is there for now
    print(json.dumps({"ok": not nonces.reused, "reused": nonces.reused, "requests": nonces.requests,
                      "own_numbers": nonces.own, "exchanges": nonces.exchanges}))


if __name__ == "__main__":
    main()
