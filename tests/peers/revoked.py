#!/usr/bin/env python3
"""A device that is on every door at once, and is unlinked: it is gone from all of them, and the next one is not.

  revoked.py --credentials lost.json --same-user kept.json --other-credentials bob.json --ca https.cert.pem \\
     --client coap-client-openssl --unlink '["tramline", "unlink", "ana", "--device", "LOST"]'

Credential files of devices that were linked with `--for aiocoap`: the one to be lost, another of its user, one of another
user. The device observes a room over OSCORE, QUIC, WebSocket and DTLS; after the unlinking its connections end, nothing is
pushed to it, and no door takes it again, by early data and EDHOC neither. «ok: …» for each step, JSON in the last line; on
failure a reason on stderr and exit code 1.
"""
import argparse
import asyncio
import base64
import contextlib
import json
import logging
import os
import ssl
import subprocess
import sys

import aiocoap
import websockets
from aiocoap import Code
from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration

from aioquic_client import ALPN, CONTENT, FETCH, GET, answer, certificate, message, private_key
from device import EdhocLink, credentials
from hostile_oscore import Device, Watch, meet
from thin_client import Refusal
from thin_profile import Wrong, check, digits, ok, read_records, uint

CSM, CLOSE_REVOKED = bytes([0, 0xE1]), 1
GONE_S = 5  # «at once», on a busy machine
PUSHED_S = 20
SAID = f"for all doors {os.urandom(4).hex()}"


def entries(data):
    return {record.seq for record in read_records(data) if record.is_entry()}


class Quic:
    """A connection that observes a room."""

    def __init__(self, file, ca):
        self.file, self.ca, self.tickets = file, ca, []
        self.host, _, port = file["server"]["quic"].rpartition(":")
        self.port = int(port)

    def configuration(self, ticket=None):
        pem = b"-----BEGIN\n" + base64.b64encode(bytes.fromhex(self.file["quic"]["client_key"])) + b"\n-----END"
        config = QuicConfiguration(is_client=True, alpn_protocols=[ALPN], server_name="localhost")
        config.private_key = private_key(pem)
        config.certificate = certificate(config.private_key)
        config.load_verify_locations(self.ca)
        config.session_ticket = ticket
        return config

    def connect(self, ticket=None):
        return connect(self.host, self.port, configuration=self.configuration(ticket), wait_connected=ticket is None,
                       session_ticket_handler=self.tickets.append)

    async def open(self, stack, room, first):
        self.client = await stack.enter_async_context(self.connect())
        self.reader, writer = await self.client.create_stream()
        request = message(FETCH, [digits(room)], observe=True, body=uint(first))
        writer.write(request)
        writer.write_eof()
        code, _ = await self.next()
        check(code == CONTENT, f"QUIC: an observation: {code:#x}")

    async def next(self):
        """A message with its length in front."""
        first = await asyncio.wait_for(self.reader.readexactly(1), PUSHED_S)
        length = first[0] >> 4
        extra = {13: 1, 14: 2, 15: 4}.get(length, 0)
        if extra:
            length = {1: 13, 2: 269, 4: 65805}[extra] + int.from_bytes(await self.reader.readexactly(extra), "big")
        return answer(b"\0" + await self.reader.readexactly(1 + length))

    async def pushed(self, seq):
        while seq not in entries((await self.next())[1]):
            pass

    async def ended(self):
        await asyncio.wait_for(self.client.wait_closed(), GONE_S)
        code = self.client._quic._close_event.error_code
        check(code == CLOSE_REVOKED, f"QUIC: closed with {code}")
        return f"closed with code {code}"

    async def refused(self):
        said = []
        for ticket in (None, self.tickets[-1]):
            try:
                async with self.connect(ticket) as client:
                    reader, writer = await client.create_stream()
                    writer.write(message(GET))
                    writer.write_eof()
                    data = await asyncio.wait_for(reader.read(), GONE_S)
                    check(not data or answer(data)[0] != CONTENT, f"QUIC: let in, ticket {ticket is not None}: {data.hex()}")
                    said.append("early data not answered" if ticket else "not answered")
            except (ConnectionError, asyncio.TimeoutError) as error:
                said.append(type(error).__name__)
        return ", ".join(said)

    async def hello(self):
        async with self.connect() as client:
            reader, writer = await client.create_stream()
            writer.write(message(GET))
            writer.write_eof()
            check(answer(await asyncio.wait_for(reader.read(), 10))[0] == CONTENT, "QUIC: a hello")


class WebSocket:
    def __init__(self, file, ca):
        port = file["server"]["https"].rpartition(":")[2]
        self.url = f"wss://localhost:{port}/.well-known/coap"
        self.about = {"ssl": ssl.create_default_context(cafile=ca), "subprotocols": ["coap"],
                      "additional_headers": {"Authorization": f"Bearer {file['access_token']}"}}

    async def connect(self, stack):
        connection = await stack.enter_async_context(await websockets.connect(self.url, **self.about))
        await connection.send(CSM)
        check((await connection.recv())[1] == CSM[1], "WebSocket: settings")
        return connection

    async def open(self, stack, room, first):
        self.connection = await self.connect(stack)
        await self.connection.send(message(FETCH, [digits(room)], observe=True, body=uint(first)))
        code, _ = answer(await asyncio.wait_for(self.connection.recv(), 10))
        check(code == CONTENT, f"WebSocket: an observation: {code:#x}")

    async def pushed(self, seq):
        while seq not in entries(answer(await asyncio.wait_for(self.connection.recv(), PUSHED_S))[1]):
            pass

    async def ended(self):
        """Its observation may end by itself before."""
        last = ""
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            while True:
                code, body = answer(await asyncio.wait_for(self.connection.recv(), GONE_S))
                check(code >> 5 == 4, f"WebSocket: still told {code:#x} {body.hex()}")
                last = f", after «{body.decode()}»"
        return f"closed{last}"

    async def refused(self):
        try:
            await websockets.connect(self.url, **self.about)
        except websockets.exceptions.InvalidStatus as error:
            status = error.response.status_code
            check(status == 401, f"WebSocket: HTTP {status}")
            return f"HTTP {status}"
        raise Wrong("WebSocket: let in")

    async def hello(self):
        async with contextlib.AsyncExitStack() as stack:
            connection = await self.connect(stack)
            await connection.send(message(GET))
            check(answer(await asyncio.wait_for(connection.recv(), 10))[0] == CONTENT, "WebSocket: a hello")


class Oscore:
    def __init__(self, path):
        self.path = path
        self.device = Device(f"{path}.aiocoap/credentials.json")

    async def open(self, stack, room, first):
        stack.callback(self.device.close)
        self.watch = Watch(self.device, room, first)

    async def pushed(self, seq):
        await asyncio.to_thread(self.watch.until, seq)

    async def ended(self):
        """A request is refused without protection: nobody has this context."""
        self.device.inbox.clear()
        datagram, token, _ = self.device.request(Code.GET)
        for _ in range(3):  # the first may come right when the context goes
            self.device.send(datagram)
            said = await asyncio.to_thread(self.device.next, token, 2)
            if said is not None:
                break
        check(said is not None and said.opt.oscore is None, f"OSCORE: answered {said}")
        check(said.code == Code.UNAUTHORIZED, f"OSCORE: answered {said.code}")
        return str(said.code)

    async def silent(self):
        """That the observation ends may have been said in its last moment, and nothing else."""
        while (message := await asyncio.to_thread(self.device.next, self.watch.token, 3)) is not None:
            check(message.opt.observe is None, f"OSCORE: pushed after all: {message}")
            inner = self.device.open(message, self.watch.request_id)
            check(inner.code.class_ == 4, f"OSCORE: told {inner.code} {inner.payload}")

    async def refused(self):
        link = await EdhocLink.open(self.path)
        try:
            hello = await asyncio.wait_for(link.hello(), 20)
        except (aiocoap.error.Error, Refusal) as error:
            return f"EDHOC ended with {type(error).__name__}"
        finally:
            await link.close()
        raise Wrong(f"EDHOC: let in: {hello}")

    async def hello(self):
        self.device.must(Code.GET)


class Dtls:
    """libcoap's client, which observes what MSC3079 has."""

    def __init__(self, file, client):
        psk = file["psk"]
        self.command = [client, "-u", psk["identity"], "-k", bytes.fromhex(psk["key"]).decode(), "-m", "get"]
        self.url = f"coaps://{file['server']['coaps']}/_matrix/client/v3"

    async def open(self, stack, room, first):
        # its output would wait for a full buffer
        command = ["stdbuf", "-o0", *self.command, "-B", "130", "-s", "120", f"{self.url}/sync"]
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        stack.callback(self.stop)
        await self.says("next_batch")

    def stop(self):
        if self.process.returncode is None:
            self.process.kill()

    async def says(self, what):
        said = b""
        while what.encode() not in said:
            more = await asyncio.wait_for(self.process.stdout.read(65_536), PUSHED_S)
            check(more, f"DTLS: ended without {what}")
            said += more

    async def pushed(self, seq):
        await self.says(SAID)

    async def ended(self):
        """That its user's devices have changed may be on its way before."""
        said = await asyncio.wait_for(self.process.stdout.read(), GONE_S)
        check(await self.process.wait() is not None and b"timeline" not in said, f"DTLS: still told {said}")
        return "the client ended"

    def ask(self):
        command = [*self.command, "-B", "10", f"{self.url}/account/whoami"]
        done = subprocess.run(command, capture_output=True, timeout=60)
        return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    async def hello(self):
        said, why = await asyncio.to_thread(self.ask)
        check("device_id" in said, f"DTLS: {said!r} {why!r}")

    async def refused(self):
        said, _ = await asyncio.to_thread(self.ask)
        check("{" not in said, f"DTLS: let in: {said}")
        return "no handshake"


async def run(args):
    lost = credentials(args.credentials)
    bob = Device(f"{args.other_credentials}.aiocoap/credentials.json")
    doors = {"OSCORE": Oscore(args.credentials), "QUIC": Quic(lost, args.ca), "WebSocket": WebSocket(lost, args.ca),
             "DTLS": Dtls(lost, args.client)}
    kept = credentials(args.same_user)
    others = [Oscore(args.same_user), Quic(kept, args.ca), WebSocket(kept, args.ca), Dtls(kept, args.client)]
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(bob.close)
        stack.callback(others[0].device.close)
        rooms = meet(doors["OSCORE"].device, bob)
        first = bob.append(rooms[1], "from here on") + 1
        for door in doors.values():
            await door.open(stack, rooms[0], first)
        for other in others:
            await other.hello()
        seq = bob.append(rooms[1], SAID)
        await asyncio.gather(*(door.pushed(seq) for door in doors.values()))
        ok(f"seq {seq} was pushed over {', '.join(doors)}")

        done = subprocess.run(json.loads(args.unlink), capture_output=True, timeout=60)
        check(done.returncode == 0, f"unlink: {done.stderr.decode()}")
        for name, door in doors.items():
            ok(f"{name}: {await door.ended()}")
        bob.append(rooms[1], "not for the lost one")
        await doors["OSCORE"].silent()
        ok("nothing is pushed to it")
        for name, door in doors.items():
            ok(f"{name} again: {await door.refused()}")
        for other in others:
            await other.hello()
        ok("its user's other device is on every door")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--credentials", metavar="FILE", required=True, help="the credential file of who is unlinked")
    parser.add_argument("--same-user", metavar="FILE", required=True, help="that of another device of the same user")
    parser.add_argument("--other-credentials", metavar="FILE", required=True, help="that of another user's device")
    parser.add_argument("--ca", metavar="PEM", required=True, help="the certificate to trust")
    parser.add_argument("--client", required=True, help="libcoap's client, with a TLS library")
    parser.add_argument("--unlink", metavar="JSON", required=True, help="the command that unlinks it, as an array")
    parser.add_argument("--timeout", type=float, default=180)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(asyncio.wait_for(run(args), args.timeout))
        print(json.dumps({"ok": True}))
    except asyncio.TimeoutError:
        sys.exit(f"revoked: not done after {args.timeout} s, or something did not come in time")
    except (Wrong, aiocoap.error.Error, OSError) as wrong:
        sys.exit(f"revoked: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
