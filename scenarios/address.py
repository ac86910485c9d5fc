"""Where an endpoint is, taken as it is written: a URL, HOST:PORT, or `unix:/PATH`.

What could mean two things is refused, and nothing is added but what the standards add (port 80 or 443, the
path `/`).
"""

from __future__ import annotations

import ipaddress
import os
import re
import string
from typing import NamedTuple
from urllib.parse import quote, urljoin

from scenarios.errors import CouldNotRun

_URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?P<fragment>#.*)?")
_VISIBLE = re.compile(r"[\x21-\x7e]*")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"|[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_UNIX = "unix:"
_UNIX_PATH_BYTES = 107
"""What fits into a `sockaddr_un` before its end (unix(7))."""

_FRAMING = ("content-length", "transfer-encoding")


class BadAddress(CouldNotRun):
    """An address, or what is sent to it, that cannot be asked as it is written; the message has a remedy."""


class Place(NamedTuple):
    """What is connected to: a host (IPv6 without brackets) and a port, or the path of a unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return _UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HttpUrl(NamedTuple):
    """A URL. `authority` is what the Host header says, `target` path and query as they are sent."""

    tls: bool
    place: Place
    authority: str
    target: str

    @property
    def host(self) -> str:
        """The host, in lower case, without the zone of an IPv6 address."""
        return self.place.host.partition("%")[0].lower()

    @property
    def url(self) -> str:
        """The whole of it again."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.target}"


def http_url(text: str) -> HttpUrl:
    """Raises `BadAddress`."""
    found = _URL.fullmatch(text)
    if found is None or found["scheme"].lower() not in ("http", "https"):
        if found is None and not text.startswith((_UNIX, "/")):
            raise BadAddress(f"{text!r} is no URL: write http://HOST:PORT/PATH")
        raise BadAddress(
            f"{text!r} is no http:// or https:// URL; for a unix socket write the URL as "
            'http://localhost/PATH, and beside it address = "unix:/PATH/OF/SOCKET"'
        )
    if not _VISIBLE.fullmatch(found["target"]):
        encoded = quote(found["target"], safe=string.punctuation)
        raise BadAddress(f"{text!r} holds what no URL can: write its path as {encoded!r}")
    if found["fragment"]:
        raise BadAddress(f"{text!r}: what follows # is never sent; leave it out, or write %23")
    if "@" in found["authority"]:
        raise BadAddress(f'{text!r} names a user: give it as headers = {{ Authorization = "Basic …" }}')
    tls = found["scheme"].lower() == "https"
    place = _host_and_port(text, found["authority"], 443 if tls else 80)
    authority = re.sub(r"%[^\]]*\]", "]", found["authority"])  # RFC 6874: the zone is of this machine alone
    target = found["target"]
    return HttpUrl(tls, place, authority, target if target.startswith("/") else f"/{target}")


def place(text: str) -> Place:
    """`HOST:PORT` or `unix:/PATH`. Raises `BadAddress`."""
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if not path.startswith("/"):
            raise BadAddress(f"{text!r} is not absolute: write unix:{{here}}/… or unix:/…")
        if len(os.fsencode(path)) > _UNIX_PATH_BYTES or "\0" in path:
            raise BadAddress(f"{text!r}: the path of a unix socket has at most {_UNIX_PATH_BYTES} bytes")
        return Place("", 0, path)
    if "/" in text:
        raise BadAddress(f"{text!r} is neither HOST:PORT nor unix:/PATH")
    return _host_and_port(text, text, None)


def redirected(asked: HttpUrl, location: str) -> HttpUrl | None:
    """Where an answer sends whoever asked, None for another host: a kubelet does not follow there
    (`RedirectChecker` in pkg/probe/http of Kubernetes)."""
    onward = urljoin(asked.url, location).partition("#")[0]
    try:
        found = http_url(quote(onward, safe=string.punctuation))
    except BadAddress:
        return None
    if found.host != asked.host:
        return None
    return found._replace(place=found.place._replace(path=asked.place.path))


def check_header(name: str, value: str) -> None:
    """Raises `BadAddress` for a header that could not be sent as it is written."""
    if not _TOKEN.fullmatch(name):
        raise BadAddress(f"{name!r} is no name of a header")
    if name.lower() in _FRAMING:
        raise BadAddress(f"{name} follows from the body: leave it out")
    if not _VALUE.fullmatch(value):
        raise BadAddress(
            f"{name}: {value!r} is no value of a header: visible ASCII, with blanks only between it"
        )


def _host_and_port(text: str, authority: str, default: int | None) -> Place:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?:(:)(.*))?", authority, re.S)
    host, colon, port = bracketed.groups("") if bracketed else authority.partition(":")
    if bracketed is not None:
        bare, percent, zone = host.partition("%")
        zone = zone.removeprefix("25") or zone
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise BadAddress(f"{text!r}: {bare!r} is no IPv6 address") from None
        if percent and not re.fullmatch(r"[\w.~-]+", zone, re.A):
            raise BadAddress(f"{text!r}: the zone of the address is no name of an interface")
        host = bare + (f"%{zone}" if percent else "")
    elif ":" in port:
        raise BadAddress(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8000")
    elif not host:
        raise BadAddress(f"{text!r} names no host: write 127.0.0.1 or localhost if that is meant")
    elif not host.isascii():
        raise BadAddress(f"{text!r}: write the name of the host in ASCII (xn--…)")
    elif not _HOST.fullmatch(host):
        raise BadAddress(f"{text!r}: {host!r} is no name of a host")
    if not colon and default is not None:
        return Place(host, default)
    if not re.fullmatch(r"\d{1,5}", port, re.A) or not 0 < int(port) < 65536:
        raise BadAddress(f"{text!r} names no port from 1 to 65535: write HOST:PORT")
    return Place(host, int(port))
