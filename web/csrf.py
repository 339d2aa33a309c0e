"""Who asks: from this machine or another, from a page of this site or of somebody else's."""

from __future__ import annotations

import ipaddress
import logging
import re

import cherrypy

from sessions.events import log_event

THROUGH_A_PROXY = "site.through_a_proxy"  # in the environ of WSGI; web.server.TrustedProxy sets it
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110 section 9.2.1
_PORT = re.compile(r"\.?(?::(?:80|443)?)?\Z|\.(?=:[0-9]+\Z)")  # and a final dot
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)


def is_loopback() -> bool:
    """Tell whether the visitor calls the site by a name that means their own machine.

    Any other name may be led here too, by whoever owns it, and then that owner's pages can read the answer (DNS
    rebinding): a site that only this machine reaches must not tell them what is for this machine's users.
    """
    return _LOOPBACK.fullmatch(cherrypy.request.base.partition("://")[2]) is not None


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that text is, in any form in which proxies write it: with a port (a word in RFC 7239 section
    6), in brackets, in quotes, with a zone. None where it is none."""
    text = text.strip(' \t"')
    for host in (text, text.rpartition(":")[0]):
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]").partition("%")[0])
        except ValueError:
            continue
        return getattr(address, "ipv4_mapped", None) or address  # as a socket for both families shows IPv4
    return None


def from_this_machine() -> bool:
    """Tell whether the visitor is on this machine, calls the site by a name that means it, and comes by no proxy.

    Behind a proxy or a tunnel that runs here all visitors seem to be here, and many put a Host of this machine into
    each request (nginx does, unless it is told not to). Only the headers that they add give them away.
    """
    address = address_of(cherrypy.request.remote.ip)
    if cherrypy.request.wsgi_environ.get(THROUGH_A_PROXY):
        return False
    return address is not None and address.is_loopback and is_loopback()


def same_origin() -> None:
    """Refuse, with 403, a request that may change something and that a page of another site has sent.

    For every method but GET, HEAD and OPTIONS, which change nothing here. SameSite=Lax keeps the session cookie off
    foreign forms already. This also covers other hosts of the same domain, for which SameSite does nothing, and forms
    that need no session to do harm: signing a visitor in to somebody else's account (OWASP ASVS 5.0, 3.5.1 and 3.5.3).
    """
    if cherrypy.request.method not in _SAFE_METHODS:
        own_pages_only("This was sent from another site, so nothing was changed.")


def own_pages_only(message: str) -> None:
    """Refuse, with 403 and the message, what a page of another site has sent, by whatever method."""
    if from_another_site():
        told = cherrypy.request.headers
        compared = {"sec_fetch_site": told.get("Sec-Fetch-Site"), "origin": told.get("Origin")}
        log_event("cross-site request refused", level=logging.WARNING, site=cherrypy.request.base, **compared)
        raise cherrypy.HTTPError(403, message)


def from_another_site() -> bool:
    """Tell whether a page of another site has sent the request, as far as the browser says."""
    headers = cherrypy.request.headers
    if "Sec-Fetch-Site" in headers:
        return headers["Sec-Fetch-Site"] not in ("same-origin", "none")
    # Browsers without it, and every browser on plain http, send Origin. A program such as curl sends neither.
    if "Origin" not in headers:
        return False
    origin, own = _without_usual_port(headers["Origin"]), _without_usual_port(cherrypy.request.base)
    # A proxy that ends TLS and does not say so leaves the site thinking that it is visited over http. The other way
    # round, a page that somebody has put into a plain http connection, is another origin.
    return origin not in (own, own.replace("http:", "https:", 1))


def _without_usual_port(origin: str) -> str:
    """Return an origin for comparison: a proxy may add the port that browsers leave out, or take away a final dot."""
    return _PORT.sub("", origin.lower())


# Before the body is read (at 50 the session begins), and after tools.proxy (at 30) has found out the public host.
cherrypy.tools.same_origin = cherrypy.Tool("before_request_body", same_origin, priority=40)
