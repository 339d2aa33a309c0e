"""Who asks: from this machine or another, from a page of this site or of somebody else's."""

from __future__ import annotations

import ipaddress
import logging
import re

import cherrypy

from sessions.events import log_event

THROUGH_A_PROXY = "site.through_a_proxy"  # in the environ of WSGI; server.TrustedProxy sets it
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110 section 9.2.1
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)


def is_loopback() -> bool:
    """Tell whether the visitor calls the site by a name that means their own machine.

    Any other name may be led here too, by whoever owns it, and then that owner's pages can read the answer (DNS
    rebinding): a site that only this machine reaches must not tell them what is for this machine's users.
    """
    return _LOOPBACK.fullmatch(cherrypy.request.base.partition("://")[2]) is not None


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that text is; None where it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address  # a socket for both families shows IPv4 as ::ffff:192.0.2.1


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
        log_event("cross-site request refused", level=logging.WARNING)
        raise cherrypy.HTTPError(403, message)


def from_another_site() -> bool:
    """Tell whether a page of another site has sent the request, as far as the browser says."""
    headers = cherrypy.request.headers
    if "Sec-Fetch-Site" in headers:
        return headers["Sec-Fetch-Site"] not in ("same-origin", "none")
    # Browsers without it, and every browser on plain http, send Origin. A program such as curl sends neither.
    origin = headers.get("Origin")
    own = cherrypy.request.base.lower()
    # A proxy that ends TLS and does not say so leaves the site thinking that it is visited over http. The other way
    # round, a page that somebody has put into a plain http connection, is another origin.
    return origin is not None and origin.lower() not in (own, own.replace("http:", "https:", 1))


# Before the body is read (at 50 the session begins), and after tools.proxy (at 30) has found out the public host.
cherrypy.tools.same_origin = cherrypy.Tool("before_request_body", same_origin, priority=40)
