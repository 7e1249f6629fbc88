"""Where webhooks may be sent: teams name URLs that the gateway then calls, from within the operator's network.

What counts is the address that is connected to, not the name: a name may mean another address by then. Source:
https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from batchyard.common.errors import InvalidRequest

Network = IPv4Network | IPv6Network

MAX_URL_CHARACTERS = 2048

# An IPv4 address within one of IPv6, which may be any: NAT64 (RFC 6052, RFC 8215) and 6to4 (RFC 3056).
_TRANSLATED = tuple(ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16"))
_HINT = "whoever runs Batchyard may allow its network by BATCHYARD_WEBHOOK_ALLOWED_NETWORKS"


class Addresses:
    """Which addresses are called: all public ones, and those of the networks that are `allowed`."""

    def __init__(self, allowed: Iterable[Network] = ()) -> None:
        self._allowed = tuple(allowed)

    def allow(self, address: str) -> bool:
        """Whether an IP address may be connected to."""
        found = ip_address(address.partition("%")[0])
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._allowed) or _is_public(found)

    def check_url(self, value: str) -> None:
        """Raise InvalidRequest for a URL that nothing could be sent to.

        Its name is not looked up: what it means is looked at whenever something is sent there.
        """
        try:
            url = httpx.URL(value)
        except httpx.InvalidURL as error:
            raise _refused(f"{error}") from error
        if not value.isprintable() or " " in value:
            raise _refused("it has a space or a control character in it")
        if url.scheme not in ("https", "http") or not url.host:
            raise _refused("expected one that begins with https:// or http:// and names a host")
        if url.userinfo or url.fragment:
            raise _refused("a user, a password and a fragment have no place in it")
        if self._names_refused_address(url.host):
            raise _refused(f"the address is not a public one, and not called: {_HINT}")

    def _names_refused_address(self, host: str) -> bool:
        if host == "localhost":
            host = "127.0.0.1"
        try:
            return not self.allow(host)
        except ValueError:  # a name
            return False


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if any(address in network for network in _TRANSLATED):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'url': {why}.", param="url", code="invalid_url")
