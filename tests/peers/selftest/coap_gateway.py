#!/usr/bin/env python3
"""A CoAP door in front of any homeserver, to try the CoAP peer scripts without the hub.

  coap_gateway.py --http http://127.0.0.1:8008 [--port 0]      prints {"port": N}, runs until killed

Knows of MSC3079 what the scripts use. aiocoap does the CoAP, so it is no measure of the hub's.
"""
import argparse
import asyncio
import json
import socket
import sys
from pathlib import Path
from urllib.parse import quote

import aiohttp
from aiocoap import Code, Context, Message, resource

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import msc3079

METHODS = {Code.GET: "GET", Code.POST: "POST", Code.PUT: "PUT", Code.DELETE: "DELETE"}
CODES = {200: Code.CONTENT, 400: Code.BAD_REQUEST, 401: Code.UNAUTHORIZED, 403: Code.FORBIDDEN,
         404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.REQUEST_ENTITY_TOO_LARGE,
         429: Code.TOO_MANY_REQUESTS}


class Gateway(resource.ObservableResource, resource.PathCapable):
    def __init__(self, base):
        super().__init__()
        self.base, self.sticky, self.session = base, {}, None

    def connection(self, request):
        """What a connection remembers: token and key table."""
        known = self.sticky.setdefault(request.remote.uri_base, {"token": None, "ints": False})
        for option in request.opt.option_list():
            if option.number == msc3079.TOKEN_OPTION:
                known["token"] = option.encode().decode().removeprefix("Bearer ")
            if option.number == msc3079.VERSION_OPTION:
                known["ints"] = option.encode() == b"\x01"
        return known

    async def http(self, request, known, query=None):
        path = list(request.opt.uri_path)
        if path and path[0] in msc3079.TEMPLATE_OF:
            path = msc3079.full(path[0], *path[1:], version="v3")
        url = self.base + "/" + "/".join(quote(part, safe="") for part in path)
        query = "&".join(query if query is not None else request.opt.uri_query)
        body = None
        if request.payload:
            if request.opt.content_format == msc3079.CBOR:
                import cbor2
                raw = cbor2.loads(request.payload)
                known["ints"] = known["ints"] or msc3079.int_keys_in(raw)
                body = json.dumps(msc3079.with_text_keys(raw))
            else:
                body = request.payload
        headers = {"Authorization": f"Bearer {known['token']}"} if known["token"] else {}
        self.session = self.session or aiohttp.ClientSession()
        async with self.session.request(METHODS[request.code], url + ("?" + query if query else ""),
                                        data=body, headers=headers) as answer:
            return answer.status, await answer.json()

    def message(self, request, known, status, body):
        as_json = request.opt.accept == msc3079.JSON or (
            request.opt.accept is None and request.opt.content_format == msc3079.JSON)
        payload = json.dumps(body).encode() if as_json else msc3079.encode(body, known["ints"])
        return Message(code=CODES.get(status, Code.INTERNAL_SERVER_ERROR), payload=payload,
                       content_format=msc3079.JSON if as_json else msc3079.CBOR)

    async def render(self, request):
        known = self.connection(request)
        try:
            return self.message(request, known, *await self.http(request, known))
        except Exception as error:
            return self.message(request, known, 400, {"errcode": "M_NOT_JSON", "error": str(error)})

    async def add_observation(self, request, observation):
        known, query = self.connection(request), list(request.opt.uri_query)

        async def push():
            since = None
            while True:
                rest = [q for q in query if not q.startswith(("since=", "timeout="))]
                old = [q for q in query if q.startswith("since=")] if since is None else [f"since={since}"]
                # the first is the one that the answer to the registration holds
                wait = f"timeout={0 if since is None else 20000}"
                status, body = await self.http(request, known, rest + old + [wait])
                if status != 200:
                    return
                if since is not None and body.get("rooms"):
                    observation.trigger(self.message(request, known, status, body))
                since = body["next_batch"]

        task = asyncio.create_task(push())
        observation.accept(task.cancel)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", required=True)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    if not args.port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            args.port = free.getsockname()[1]
    await Context.create_server_context(Gateway(args.http), bind=("127.0.0.1", args.port))
    print(json.dumps({"port": args.port}), flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
