"""A linked device as its credential file has it, for the scripts here that are one over several doors."""
import json
from pathlib import Path

from aiocoap import Context
from aiocoap.credentials import CredentialsMap
from aiocoap.edhoc import CoseKeyForEdhoc, EdhocCredentials

from thin_client import Journal, Link

P256 = {1: 2, -1: 1}


def credentials(path):
    return json.loads(Path(path).read_text())


class Exchanged(EdhocCredentials):
    """aiocoap 0.4.17 begins an exchange for every request; this one keeps what the first of them agreed."""

    agreed = None

    async def establish_context(self, **about):
        if self.agreed is None:
            self.agreed = await super().establish_context(**about)
        return self.agreed


def by_edhoc(file, combined=True, key=None, kid=None, hub_key=None):
    """aiocoap's credentials of a device; what is given besides is instead of what the file says."""
    keys = file["edhoc"]
    secret = {**P256, -4: key or bytes.fromhex(keys["device_key"])}
    own = CoseKeyForEdhoc.from_map(secret).as_ccs(kid or bytes.fromhex(keys["kid"]), None)
    hub = {14: {8: {1: {**P256, 2: b"\0", -2: hub_key or bytes.fromhex(keys["hub_key"])}}}}
    return Exchanged(suite=2, method=3, own_cred_style="by-key-id", own_cred=own, peer_cred=hub,
                     private_key=secret, use_combined_edhoc=combined)


class EdhocLink(Link):
    """A device that agrees on its OSCORE context with the hub; it counts its drafts beside its file."""

    @classmethod
    async def open(cls, path, **changed):
        file = credentials(path)
        server = f"coap://{file['server']['coap']}"
        context = await Context.create_client_context(transports=["oscore", "udp6"])
        context.client_credentials = CredentialsMap()
        security = context.client_credentials[f"{server}/*"] = by_edhoc(file, **changed)
        link = cls(context, server, Path(path).parent, security)
        link.journal = Journal(Path(f"{path}.journal"))
        return link

    async def close(self):
        await self.context.shutdown()
        self.context.client_credentials = CredentialsMap()
