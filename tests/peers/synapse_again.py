#!/usr/bin/env python3
"""Ends and starts again one server of a start_synapse.py run, as a machine that fails would.

  synapse_again.py RUN_DIR kill NUMBER     SIGKILL, and waits until it is gone
  synapse_again.py RUN_DIR start NUMBER    starts it where it was and waits until it answers

Servers are counted from 0. One JSON line on stdout; on failure a reason on stderr and exit code 1.
"""
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

from stop_synapse import ours

READY_S, GONE_S = 180, 30


def kill(server):
    if not ours(server):
        sys.exit("it does not run")
    os.kill(server["pid"], signal.SIGKILL)
    end = time.time() + GONE_S
    while ours(server):
        if time.time() > end:
            sys.exit("it does not end")
        time.sleep(0.05)


def start(server, ca):
    if ours(server):
        sys.exit("it runs")
    with open(server["dir"] + "/stdout.log", "ab") as out:
        process = subprocess.Popen(server["command"], cwd=server["dir"], stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=out, env=dict(os.environ, PYTHONUNBUFFERED="1"), start_new_session=True)
    server["pid"] = process.pid
    context = ssl.create_default_context(cafile=ca)
    end = time.time() + READY_S
    while True:
        try:
            urllib.request.urlopen(server["https_url"] + "/_matrix/federation/v1/version", timeout=20, context=context)
            return
        except (OSError, urllib.error.URLError) as why:
            if time.time() > end or process.poll() is not None:
                sys.exit(f"it is not ready: {why}")
            time.sleep(0.25)


def main():
    folder, verb, number = sys.argv[1:]
    name = os.path.join(folder, "peers.json")
    with open(name, encoding="utf-8") as file:
        peers = json.load(file)
    server = peers["servers"][int(number)]
    if verb == "kill":
        kill(server)
    else:
        try:
            start(server, peers["ca_cert"])
        finally:  # whatever was started is what has to be stopped
            with open(name + ".tmp", "w", encoding="utf-8") as file:
                json.dump(peers, file, indent=1)
            os.replace(name + ".tmp", name)
    print(json.dumps({"pid": server["pid"]}))


if __name__ == "__main__":
    main()
