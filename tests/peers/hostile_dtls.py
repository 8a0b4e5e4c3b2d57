#!/usr/bin/env python3
"""Somebody between a libcoap client and the DTLS door, who has no key.

  hostile_dtls.py --client coap-client-openssl --server 127.0.0.1:5684 --identity ID --key KEY

Each attack is one run of the client through a relay that does its worst right before the request's record goes on to the
hub: the client must have its answer all the same, and nobody else any. Then the client asks without a relay. «ok: …» for each step,
JSON in the last line; on failure a reason on stderr and exit code 1.
"""
import argparse
import json
import select
import socket
import subprocess
import sys
import threading
import time

from raw import address, open_socket, receive
from thin_profile import Wrong, check, ok

WHOAMI = "_matrix/client/v3/account/whoami"
ALERT, HANDSHAKE, DATA = 21, 22, 23
DTLS12 = b"\xfe\xfd"


def record(kind, epoch, number, body, version=DTLS12):
    return bytes([kind]) + version + epoch.to_bytes(2, "big") + number.to_bytes(6, "big") + len(body).to_bytes(2, "big") + body


def records(datagram):
    while len(datagram) >= 13:
        end = 13 + int.from_bytes(datagram[11:13], "big")
        yield datagram[:end]
        datagram = datagram[end:]


def is_data(datagram):
    return any(one[0] == DATA for one in records(datagram))


class Relay:
    """One client at a time; `attack` is called with the first record of data before the hub has it."""

    def __init__(self, server, attack, is_data=is_data):
        self.server, self.attack, self.is_data = server, attack, is_data
        self.near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.near.bind(("127.0.0.1", 0))
        self.port = self.near.getsockname()[1]
        self.far = open_socket(server)
        self.elsewhere = open_socket(server)
        self.seen, self.data, self.over = [], [], False

    def run(self):
        client = None
        while not self.over:
            for sock in select.select([self.near, self.far], [], [], 0.05)[0]:
                if sock is self.far:
                    if client and (datagram := receive(self.far, 0.01)):
                        self.near.sendto(datagram, client)
                    continue
                datagram, client = self.near.recvfrom(65_536)
                if self.is_data(datagram):
                    if not self.data:
                        self.attack(self, datagram)
                    self.data.append(datagram)
                self.seen.append(datagram)
                self.far.send(datagram)
        self.late = receive(self.elsewhere, 0.01)

    def close(self):
        for sock in (self.near, self.far, self.elsewhere):
            sock.close()


# attacks: what goes to the hub before the record itself does

def truncated(relay, datagram):
    for length in range(len(datagram)):
        relay.far.send(datagram[:length])


def mutated(relay, datagram):
    for bit in range(8 * len(datagram)):
        other = bytearray(datagram)
        other[bit // 8] ^= 1 << bit % 8
        relay.far.send(bytes(other))
        if bit % 64 == 0:
            time.sleep(0.002)  # a socket's buffer is finite


def from_elsewhere(relay, datagram):
    """The record itself first comes from another port: the association stays where it is."""
    relay.elsewhere.send(datagram)
    time.sleep(0.3)


def replayed(relay, datagram):
    """All of the handshake once more, from both."""
    for one in relay.seen * 2:
        relay.far.send(one)
        relay.elsewhere.send(one)


def alerts(relay, datagram):
    """Farewells and faults without a key: in clear, and as if they were protected."""
    for body in (b"\x01\x00", b"\x02\x28", b"\x02\x14"):
        for epoch in (0, 1, 2):
            relay.far.send(record(ALERT, epoch, 77, body))
            relay.far.send(record(ALERT, epoch, 78, body + bytes(24)))


def hello_again(relay, datagram):
    """As if the client had begun anew at the same port."""
    relay.far.send(relay.seen[0])
    relay.far.send(relay.seen[0])
    time.sleep(0.1)


def garbage(relay, datagram):
    for kind in range(18, 28):
        for epoch in (0, 1, 0xFFFF):
            relay.far.send(record(kind, epoch, 1 << 47, bytes(40)))
    relay.far.send(datagram[:13])
    relay.far.send(bytes(1400))


ATTACKS = (truncated, mutated, from_elsewhere, replayed, alerts, hello_again, garbage)


def ask(args, port, path=WHOAMI, identity=None, key=None):
    command = [args.client, "-B", "15", "-u", identity or args.identity, "-k", key or args.key, "-m", "get"]
    command.append(f"coaps://127.0.0.1:{port}/{path}")
    done = subprocess.run(command, capture_output=True, timeout=60)
    return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def attacked(args, attack):
    relay = Relay(address(args.server), attack)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        said, why = ask(args, relay.port)
    finally:
        relay.over = True
        thread.join()
    name = attack.__name__.replace("_", " ")
    check(relay.data, f"{name}: no data ever came: {why}")
    check(args.wanted in said, f"{name}: the client was told {said!r} {why!r}")
    late = relay.late
    check(late is None or not is_data(late), f"{name}: somebody else was told {late and late.hex()}")
    # what was captured is of no use when its association is over
    for one in relay.seen:
        relay.elsewhere.send(one)
    while (late := receive(relay.elsewhere, 0.5)) is not None:
        check(not is_data(late), f"{name}: a replay was told {late.hex()}")
    relay.close()
    said, why = ask(args, address(args.server)[1])
    check(args.wanted in said, f"after {name}: the next client was told {said!r} {why!r}")
    ok(f"{name}: answered all the same, and so was the next client")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", required=True, help="libcoap's client, with a TLS library")
    parser.add_argument("--server", metavar="HOST:PORT", required=True, help="the DTLS door")
    parser.add_argument("--identity", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--wanted", default="device_id", help="what the answer to whoami holds")
    args = parser.parse_args()
    try:
        said, why = ask(args, address(args.server)[1])
        check(args.wanted in said, f"an honest client was told {said!r} {why!r}")
        for attack in ATTACKS:
            attacked(args, attack)
        print(json.dumps({"ok": True, "attacks": len(ATTACKS)}))
    except (Wrong, subprocess.TimeoutExpired) as wrong:
        sys.exit(f"hostile_dtls: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
