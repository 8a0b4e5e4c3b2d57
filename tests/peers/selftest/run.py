#!/usr/bin/env python3
"""Tries every peer script on a real Synapse, or on a thin hub that aiocoap serves, so that what fails against the hub
is the hub.

  python3 tests/peers/selftest/run.py --python target/peers/…/venv/bin/python [--js target/peers/…/client.mjs]

For whoever changes a script or the lock; about a minute. The CoAP scripts go through
`coap_gateway.py`, which brings Synapse's answers to CoAP.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="the interpreter of the locked environment")
    parser.add_argument("--js", help="client.mjs beside its node_modules; left out, it is not tried")
    args = parser.parse_args()
    failed = []

    def run(name, *command, **env):
        code = subprocess.run([str(part) for part in command], env={**os.environ, **env}).returncode
        if code:
            failed.append(name)

    for name in ("test_oracle.py", "test_powercut.py"):
        run(name, args.python, PEERS / name)

    run("thin_profile", args.python, PEERS / "thin_client.py", "--self-test")
    with tempfile.TemporaryDirectory() as folder, \
            subprocess.Popen([args.python, PEERS / "selftest/fake_thin_hub.py", folder], stdout=subprocess.PIPE) as hub:
        try:
            hub.stdout.readline()
            links = ["--credentials", f"{folder}/ana.json", "--other-credentials", f"{folder}/bob.json"]
            run("thin_client", args.python, PEERS / "thin_client.py", *links)
            run("aiocoap_oscore", args.python, PEERS / "aiocoap_oscore.py", *links, "--room", "!fake:hub.example")
        finally:
            hub.kill()

    # each script gets servers of its own: they leave large rooms behind
    def on_synapse(name, test):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "synapse"
            subprocess.run([args.python, PEERS / "start_synapse.py", "--python", args.python, "--dir", folder,
                            "-n", "1", "--users", "ana,bob"], check=True, stdout=subprocess.DEVNULL)
            try:
                about = json.loads((folder / "peers.json").read_text())
                server = about["servers"][0]
                ana, bob = (f"{u['user_id'][1:].partition(':')[0]}:{u['password']}" for u in server["users"])
                test(about, server, ana, bob)
            finally:
                subprocess.run([args.python, PEERS / "stop_synapse.py", folder], stdout=subprocess.DEVNULL)

    def https(about, server, ana, bob):
        run("nio", args.python, PEERS / "nio_client.py", "--url", server["https_url"], "--ca", about["ca_cert"],
            "--user", ana, "--other", bob)
        if args.js:
            user, _, password = ana.partition(":")
            run("js", "node", args.js, "--url", server["https_url"], "--user", user, "--password", password,
                NODE_EXTRA_CA_CERTS=about["ca_cert"])

    def coap(script):
        def test(_about, server, ana, bob):
            with subprocess.Popen([args.python, PEERS / "selftest/coap_gateway.py", "--http", server["http_url"]],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as gateway:
                try:
                    port = json.loads(gateway.stdout.readline())["port"]
                    run(script, args.python, PEERS / script, "--port", port, "--user", ana, "--other", bob)
                finally:
                    gateway.kill()
        return test

    on_synapse("https", https)
    on_synapse("aiocoap", coap("aiocoap_client.py"))
    on_synapse("libcoap", coap("libcoap_client.py"))
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
