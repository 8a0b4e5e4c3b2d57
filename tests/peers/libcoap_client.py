#!/usr/bin/env python3
"""libcoap's command-line client (C) against a homeserver's CoAP doors (MSC3079 profile).

  libcoap_client.py --port 5683 --user ana:password --other bob:password
  libcoap_client.py --port 5684 --user … --other … --scheme coaps --client coap-client-openssl --ca cert.pem

Logs in, creates a room, invites, joins, sends, syncs, observes /sync, pages back, moves a 40 kB event
both ways by block-wise transfer and takes a large first sync. Each command is a process with a UDP port of its own, so each
brings its token. One user speaks CBOR with integer keys, the other JSON. coap-client exits with 0
whatever happens: what it printed counts. One JSON line on stdout; on failure a reason on stderr and
exit code 1.
"""
import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import cbor2

import msc3079
from msc3079 import CBOR, JSON, coded, full

PAYLOAD = "é" * 20_000  # 40 kB of UTF-8 that is not ASCII
BLOCK = 1024


class Wrong(Exception):
    pass


class NoAnswer(Wrong):
    pass


def check(holds, what):
    if not holds:
        raise Wrong(what)


class Answer:
    """What one coap-client printed: the messages it saw, and the body it put together."""

    def __init__(self, command, trace, errors, body):
        self.messages = re.findall(r"^v:1 t:(\w+) c:(\d\.\d\d) i:\w+ \{\w*\} \[([^\n]*?)\]", trace, re.M)
        if not self.messages:
            raise NoAnswer(f"no answer to {' '.join(command)}: {errors.decode(errors='replace')[-400:]}")
        self.code = self.messages[-1][1]
        self.payload = body
        if self.code[0] in "45":
            # the body of a refusal goes to stderr behind the code, with dots for bytes that are not
            # text; those are in the trace, in hex
            dump = re.findall(r"^<<([0-9a-f]+)>>$", trace, re.M)
            text = re.search(rb"^[45]\.\d\d (.*)", errors, re.S | re.M)
            self.payload = bytes.fromhex(dump[-1]) if dump else text.group(1) if text else b""

    def options(self):
        return [options for _, _, options in self.messages]

    def in_blocks(self, option):
        """Whether the last block of the large event is in the trace, whatever size was agreed on."""
        found = re.findall(option + r":(\d+)/_/(\d+)", " ".join(self.options()))
        return any((int(number) + 1) * int(size) >= len(PAYLOAD.encode()) for number, size in found)


class Client:
    slow = 0  # answers that libcoap could not take because an acknowledgement came first

    def __init__(self, args, folder, content_format):
        self.args, self.folder, self.format = args, folder, content_format
        self.token = self.user = None
        self.count = 0

    def command(self, method, path, body, query, extra):
        self.count += 1
        stem = self.folder / f"{self.format}-{self.count}"
        uri = f"{self.args.scheme}://{self.args.host}:{self.args.port}/" + "/".join(quote(p, safe="") for p in path)
        if query:
            uri += "?" + "&".join(quote(q, safe="=") for q in query)
        command = [self.args.client, "-v", "6", "-m", method, "-A", str(self.format),
                   "-b", str(BLOCK), "-o", f"{stem}.out"]
        if self.args.ca:
            command += ["-R", self.args.ca]
        elif self.args.scheme == "coaps":
            command += ["-n"]  # without an authority to check against
        if self.token:
            command += ["-O", f"{msc3079.TOKEN_OPTION},{self.token}"]
        if self.format == CBOR:
            command += ["-O", f"{msc3079.VERSION_OPTION},0x01"]
        if body is not None:
            data = msc3079.encode(body) if self.format == CBOR else json.dumps(body).encode()
            Path(f"{stem}.in").write_bytes(data)
            command += ["-t", str(self.format), "-f", f"{stem}.in"]
        return [*command, *extra, uri], Path(f"{stem}.out")

    def ask(self, method, path, body=None, query=()):
        try:
            answer = self.run(method, path, body, query, ["-B", "5" if method == "get" else "20"])
        except NoAnswer:
            # libcoap 4.3.1 drops a block-wise answer that comes after an empty acknowledgement
            # ("large body receive internal issue"); one to a non-confirmable request it takes
            if method != "get":
                raise
            Client.slow += 1
            answer = self.run(method, path, body, query, ["-N", "-B", "20"])
        return answer, self.read(answer.payload)

    def run(self, method, path, body, query, extra):
        command, out = self.command(method, path, body, query, extra)
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        return Answer(command, run.stdout.decode(errors="replace"), run.stderr,
                      out.read_bytes() if out.exists() else b"")

    def read(self, payload):
        try:
            if self.format == JSON:
                return json.loads(payload)
            raw = cbor2.loads(payload)
            check(msc3079.int_keys_in(raw) or not raw, f"no integer keys, though asked for: {raw}")
            return msc3079.with_text_keys(raw)
        except ValueError as error:
            raise Wrong(f"an answer that cannot be read ({error}): {payload[:80]!r}") from error

    def good(self, *request, **how):
        answer, body = self.ask(*request, **how)
        check(answer.code.startswith("2."), f"{request[:2]}: {answer.code} {body}")
        return body

    def refused(self, what, code, errcode, *request, **how):
        answer, body = self.ask(*request, **how)
        check(answer.code == code and body.get("errcode") == errcode and body.get("error"),
              f"{what}: wanted {code} {errcode}, got {answer.code} {body}")

    def log_in(self, credentials, path):
        user, _, password = credentials.partition(":")
        answer = self.good("post", path, {
            "type": "m.login.password", "password": password,
            "identifier": {"type": "m.id.user", "user": user}})
        self.token, self.user = answer["access_token"], answer["user_id"]

    def send(self, room, body, txn, path=coded):
        return self.good("put", path("9", room, "m.room.message", txn),
                         {"msgtype": "m.text", "body": body})["event_id"]

    def sync(self, since=None):
        return self.good("get", coded("7"), query=["timeout=0", *([f"since={since}"] if since else [])])


def bodies(events):
    return [e["content"]["body"] for e in events
            if e["type"] == "m.room.message" and "body" in e["content"]]


def timeline(sync, room):
    return sync.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {}).get("events", [])


def json_values(text):
    """The JSON values of a text that holds one after the other; a last, half one is left out."""
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            break
        values.append(value)
        while at < len(text) and text[at].isspace():
            at += 1
    return values


def observe(ana, bob, room, since, done):
    """Registers for /sync; what others send then comes by itself, once and in order."""
    seconds = 30
    command, out = bob.command("get", coded("7"), None, [f"since={since}"], ["-s", str(seconds)])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    want, seen, sent, syncs = ["pushed 0", "pushed 1", "pushed 2"], [], 0, []
    end = time.monotonic() + seconds
    try:
        while seen != want:
            check(time.monotonic() < end and process.poll() is None, f"nothing more is pushed after {seen}")
            syncs = json_values(out.read_text(errors="replace")) if out.exists() else []
            seen = [b for sync in syncs for b in bodies(timeline(sync, room))]
            check(seen == want[:len(seen)], f"pushed in order, once: {seen}")
            # the first answer says that the registration stands
            if syncs and sent == len(seen) and sent < len(want):
                ana.send(room, want[sent], f"p{sent}")
                sent += 1
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGINT)  # it deregisters and writes out its trace
        trace, errors = process.communicate(timeout=20)
    answer = Answer(command, trace.decode(errors="replace"), errors, b"")
    # the trace holds the client's own messages too: those have a method for a code
    check(sum("Observe:" in options for options in answer.options()) >= 1 + len(want),
          f"the answer to a registration and each notification carry Observe: {answer.messages}")
    check(all(kind == "CON" for kind, code, options in answer.messages[1:]
              if code == "2.05" and "Observe:" in options), f"what is pushed is confirmable: {answer.messages}")
    later = bob.sync(syncs[-1]["next_batch"])
    check(not bodies(timeline(later, room)), "sync from a pushed token shows nothing twice")
    done["pushed"] = len(seen)
    return later["next_batch"]


def large_event(ana, bob, room, since, done):
    content = {"msgtype": "m.text", "body": PAYLOAD}
    answer, sent = ana.ask("put", coded("9", room, "m.room.message", "large"), content)
    check(answer.code.startswith("2."), f"a 40 kB event: {answer.code} {sent}")
    check(answer.in_blocks("Block1"), f"it goes up in blocks: {answer.options()}")
    for client in (ana, bob):
        answer, got = client.ask("get", coded("A", room, sent["event_id"]))
        check(got["content"]["body"] == PAYLOAD, "a 40 kB event comes back as it was")
        check(answer.in_blocks("Block2"), f"it comes down in blocks: {answer.options()}")
    sync = bob.sync(since)
    check(PAYLOAD in bodies(timeline(sync, room)), "a 40 kB event is in the sync")
    ana.refused("an event of 70 kB", "4.13", "M_TOO_LARGE", "put",
                coded("9", room, "m.room.message", "too-large"), {"msgtype": "m.text", "body": "x" * 70_000})
    done["large_event_bytes"] = len(PAYLOAD.encode())


def large_sync(ana, args, done):
    """Many state events in a room; the first sync of a user has all of them."""
    room = ana.good("post", coded("G"), {"name": "large", "room_version": args.room_version})["room_id"]
    for n in range(args.large):
        ana.good("put", coded("8", room, "test.note", str(n)), {"text": "x" * 1000, "n": n})
    joined = ana.sync()["rooms"]["join"][room]
    notes = {e["state_key"] for e in [*joined["state"]["events"], *joined["timeline"]["events"]]
             if e["type"] == "test.note"}
    check(notes == {str(n) for n in range(args.large)}, f"{len(notes)} of {args.large} state events")
    done["large_sync_events"] = len(notes)


def run(args, folder):
    version = subprocess.run([args.client, "-h"], capture_output=True, text=True)
    named = re.search(r" v(\d\S*)", version.stdout + version.stderr)
    done = {"ok": True, "peer": f"libcoap {named.group(1) if named else ''}".strip()}
    ana, bob = Client(args, folder, CBOR), Client(args, folder, JSON)
    check(ana.good("get", coded("0")) == bob.good("get", full("0")), "versions are the same in both forms")
    ana.refused("no token", "4.01", "M_MISSING_TOKEN", "get", coded("7"))
    ana.log_in(args.user, coded("1"))
    bob.log_in(args.other, full("1", version="v3"))

    room = ana.good("post", coded("G"), {"name": "libcoap", "preset": "private_chat",
                                         "room_version": args.room_version})["room_id"]
    ana.good("post", coded("J", room), {"user_id": bob.user})
    invited = bob.sync()
    check(room in invited["rooms"]["invite"], "the invite is in the sync of the invited")
    bob.good("post", full("K", room, version="v3"), {})
    ids = [ana.send(room, f"message {n}", f"t{n}", path) for n, path in enumerate((coded, full, coded))]
    check(ana.send(room, "message 0", "t0") == ids[0], "the same transaction gives the same event id")
    sync = bob.sync(invited["next_batch"])
    want = [f"message {n}" for n in range(3)]
    check(bodies(timeline(sync, room))[-3:] == want, f"in order: {bodies(timeline(sync, room))}")
    page = bob.good("get", coded("E", room), query=["dir=b", "limit=50", f"from={sync['next_batch']}"])
    check(bodies(page["chunk"]) == want[::-1], "paging back, newest first")
    check(page["chunk"][-1]["type"] == "m.room.create", "paging back ends at the create event")
    done |= {"room_id": room, "messages": len(ids), "paged_back": len(page["chunk"])}
    bob.refused("a name without the power", "4.03", "M_FORBIDDEN", "put",
                full("8", room, "m.room.name", "x"), {"name": "mine"})
    ana.refused("no such event", "4.04", "M_NOT_FOUND", "get", coded("A", room, "$nothing"))

    since = observe(ana, bob, room, sync["next_batch"], done)
    large_event(ana, bob, room, since, done)
    large_sync(ana, args, done)
    done["slow_answers"] = Client.slow
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--user", required=True, metavar="NAME:PASSWORD")
    parser.add_argument("--other", required=True, metavar="NAME:PASSWORD")
    parser.add_argument("--scheme", choices=["coap", "coaps"], default="coap")
    parser.add_argument("--ca", help="coaps: what the server's certificate is checked against; else nothing is")
    parser.add_argument("--client", default="coap-client-notls", help="the program, or its path")
    parser.add_argument("--room-version", default="12")
    parser.add_argument("--large", type=int, default=60, help="state events of 1 kB in the large room")
    parser.add_argument("--timeout", type=int, default=120)
    args = parser.parse_args()

    def too_late(*_):
        raise Wrong(f"not done after {args.timeout} s")

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(args.timeout)
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run(args, Path(folder))))
    except (Wrong, OSError, subprocess.TimeoutExpired) as wrong:
        sys.exit(f"libcoap_client: {wrong}")


if __name__ == "__main__":
    main()
