"""An OSCORE device without a stack: its datagrams are made one by one, so that others can be made of them.

Protection is aiocoap's; sockets, message ids, tokens and acknowledgements are here, and happen only when they are asked for.
"""
import random
import socket
import time

import aiocoap
from aiocoap import Code, Message
from aiocoap.credentials import CredentialsMap
from aiocoap.numbers.types import Type

from thin_client import find_context
from thin_profile import Wrong, check

EMPTY_ACK, EMPTY_RST = 0x60, 0x70


def empty(head, mid):
    return bytes([head, 0]) + mid.to_bytes(2, "big")


def address(url):
    host, _, port = url.rpartition("/")[2].rpartition(":")
    return host, int(port)


def open_socket(server, source="127.0.0.1"):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source, 0))
    sock.connect(server)
    return sock


def receive(sock, wait_s):
    """The next datagram, or None."""
    sock.settimeout(max(wait_s, 0.001))
    try:
        return sock.recv(65_536)
    except (TimeoutError, ConnectionError):
        return None


class RawDevice:
    def __init__(self, path):
        self.server, folder = find_context(path)
        credentials = CredentialsMap()
        credentials.load_from_dict({f"{self.server}/*": {"oscore": {"basedir": str(folder)}}})
        self.security = credentials[f"{self.server}/*"]
        self.server = address(self.server)
        self.sock = open_socket(self.server)
        self.mid = random.randrange(1 << 16)
        self.inbox, self.acknowledged = [], set()

    def close(self):
        self.sock.close()
        self.security._destroy()  # writes the sequence number back and gives the folder free

    def numbers(self):
        self.mid = (self.mid + 1) % (1 << 16)
        return self.mid, random.randbytes(4)

    def request(self, code, *path, body=b"", **options):
        """A request as a datagram, with its token and what unprotects its answers."""
        message = Message(code=code, payload=body)
        message.opt.uri_path = path
        for name, value in options.items():
            setattr(message.opt, name, value)
        outer, request_id = self.security.protect(message)
        mid, token = self.numbers()
        outer.mtype, outer.mid, outer.token = Type.CON, mid, token
        return outer.encode(), token, request_id

    def send(self, datagram):
        self.sock.send(datagram)

    def next(self, token, wait_s=10):
        """The next message with this token, as it came; others are kept."""
        until = time.monotonic() + wait_s
        while True:
            for at, message in enumerate(self.inbox):
                if message.token == token and message.code != Code.EMPTY:
                    return self.inbox.pop(at)
            datagram = receive(self.sock, until - time.monotonic())
            if datagram is None:
                return None
            message = Message.decode(datagram)
            message.datagram = datagram
            if message.mtype == Type.CON and message.mid in self.acknowledged:
                self.acknowledge(message)  # its acknowledgement came late
            else:
                self.inbox.append(message)

    def acknowledge(self, message):
        if message.mtype == Type.CON:
            self.acknowledged.add(message.mid)
            self.send(empty(EMPTY_ACK, message.mid))

    def open(self, message, request_id):
        check(message.opt.oscore is not None, f"not protected: {message} {message.payload}")
        inner, _ = self.security.unprotect(message, request_id)
        return inner

    def ask(self, code, *path, body=b"", **options):
        """An exchange with all that belongs to it; gives the answer, its token and what opens what comes after it."""
        datagram, token, request_id = self.request(code, *path, body=body, **options)
        for _ in range(4):
            self.send(datagram)
            message = self.next(token, 3)
            if message is not None:
                break
        else:
            raise Wrong(f"no answer to {code} {'/'.join(path)}")
        self.acknowledge(message)
        inner = self.open(message, request_id)
        if inner.code == Code.UNAUTHORIZED and inner.opt.echo is not None:
            return self.ask(code, *path, body=body, **{**options, "echo": inner.opt.echo})
        return inner, token, request_id

    def must(self, code, *path, **about):
        inner, _, _ = self.ask(code, *path, **about)
        check(inner.code.is_successful(), f"{code} {'/'.join(path)}: {inner.code} {inner.payload}")
        return inner.payload
