#!/usr/bin/env python3
"""A push service on loopback, and a device that sleeps behind it.

  wake.py --make cert.pem key.pem
  wake.py --certificate cert.pem --key key.pem --credentials ana.json --other-credentials bob.json

The first makes what the service shows; the hub must trust it (SSL_CERT_FILE) and be allowed to knock at this machine
(wake.allow_private_addresses). The second takes aiocoap's credentials of two users' devices: the one leaves a URL and falls silent, the other speaks.
What is knocked with says neither room nor sender, comes once until the device is heard of, and not to one that is told
otherwise. «ok: …» for each step, JSON in the last line; on failure a reason on stderr and exit code 1.
"""
import argparse
import datetime
import http.server
import ipaddress
import json
import logging
import os
import queue
import ssl
import sys
import threading
import time
from pathlib import Path

import aiocoap
from aiocoap import Code
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hostile_oscore import Device, Watch, meet
from thin_profile import Wrong, check, ok

KNOCK_S = 40  # 10 s of silence, then a busy machine
QUIET_S = 13  # longer than a knock would wait
PATH = "/UP?token=c2VjcmV0"


def make(certificate, key_file):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "push.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(),
                                      now - datetime.timedelta(days=1), now + datetime.timedelta(days=2))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    made = builder.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    Path(certificate).write_bytes(made.public_bytes(pem))
    os.close(os.open(key_file, os.O_CREAT | os.O_WRONLY, 0o600))
    Path(key_file).write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


class Service:
    """Takes every request and remembers it as it came."""

    def __init__(self, certificate, key):
        self.knocks, self.answers = queue.Queue(), queue.Queue()
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def knocked(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                service.knocks.put((self.command, self.path, dict(self.headers.items()), body))
                status, location = (201, None) if service.answers.empty() else service.answers.get()
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD = do_POST = do_PUT = knocked

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}{PATH}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def knock(self):
        try:
            return self.knocks.get(timeout=KNOCK_S)
        except queue.Empty:
            raise Wrong(f"no knock for {KNOCK_S} s") from None

    def quiet(self, why):
        time.sleep(QUIET_S)
        check(self.knocks.empty(), f"{why}, and knocked at all the same: {list(self.knocks.queue)}")


def says_nothing(knock, secrets):
    method, path, headers, body = knock
    check((method, path, body) == ("POST", PATH, b""), f"{method} {path} with {body!r}")
    headers = {name.lower(): value for name, value in headers.items()}
    check(headers.get("ttl") == "86400", f"TTL: {headers}")
    known = {"host", "ttl", "content-length"}
    check(set(headers) <= known, f"more than needed: {set(headers) - known}")
    told = json.dumps([path, headers]).lower()
    for secret in secrets:
        check(secret.lower() not in told, f"{secret} is in {told}")


def run(args):
    service = Service(args.certificate, args.key)
    ana, bob = Device(args.credentials), Device(args.other_credentials)
    try:
        rooms = meet(ana, bob)
        secrets = ["ana", "bob", "hub.example", ana.matrix(Code.GET, "I")["joined_rooms"][0]]
        refused, _, _ = ana.ask(Code.PUT, "^", body=service.url.replace("https", "http").encode())
        check(refused.code == Code.BAD_REQUEST, f"a URL without TLS: {refused.code}")
        ana.must(Code.PUT, "^", body=service.url.encode())
        begun = time.monotonic()
        bob.append(rooms[1], "are you there?")
        says_nothing(service.knock(), secrets)
        waited = time.monotonic() - begun
        check(waited > 8, f"one that has just spoken is awake: knocked after {waited:.1f} s")
        ok("knocked: an empty POST that says neither room nor sender")
        bob.append(rooms[1], "and now?")
        service.quiet("it was not heard of since")
        ok("not again until it is heard of")

        ana.must(Code.GET)
        service.answers.put((302, service.url.replace("UP", "ELSEWHERE")))
        bob.append(rooms[1], "and then?")
        says_nothing(service.knock(), secrets)
        ok("knocked again when it had been heard of")
        seqs = ana.texts(rooms[0], 1)
        check("and now?" in seqs.values(), f"what it was woken for: {seqs}")
        watch = Watch(ana, rooms[0], max(seqs) + 1)
        watch.until(bob.append(rooms[1], "told by a push"))
        service.quiet("redirected, and then told by a push")
        ok("redirects are not followed; who is pushed to is not knocked at")

        ana.must(Code.PUT, "^", body=b"")
        ana.close()
        bob.append(rooms[1], "good night")
        service.quiet("it took its URL back")
        ok("not without a URL")
    finally:
        bob.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--certificate", metavar="PEM")
    parser.add_argument("--key", metavar="PEM")
    parser.add_argument("--credentials", metavar="FILE", help="aiocoap's credentials of a device")
    parser.add_argument("--other-credentials", metavar="FILE", help="the same of another user's device")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        if args.make:
            make(*args.make)
        else:
            run(args)
        print(json.dumps({"ok": True}))
    except (Wrong, aiocoap.error.Error) as wrong:
        sys.exit(f"wake: {type(wrong).__name__}: {wrong}")


if __name__ == "__main__":
    main()
