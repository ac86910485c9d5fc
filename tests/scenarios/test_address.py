"""Addresses mean what is written, or are refused with a remedy."""

from __future__ import annotations

import pytest

from scenarios.address import BadAddress, check_header, http_url, place, redirected


@pytest.mark.parametrize(
    ("text", "tls", "connects_to", "authority", "target"),
    [
        ("http://127.0.0.1:8000/health", False, ("127.0.0.1", 8000, ""), "127.0.0.1:8000", "/health"),
        ("HTTPS://LocalHost", True, ("LocalHost", 443, ""), "LocalHost", "/"),
        ("http://h/a/?b=c&d#"[:-1], False, ("h", 80, ""), "h", "/a/?b=c&d"),
        ("http://h?x=1", False, ("h", 80, ""), "h", "/?x=1"),
        ("http://h/a/../b//%zz;v?", False, ("h", 80, ""), "h", "/a/../b//%zz;v?"),
        ("http://[::1]:81/", False, ("::1", 81, ""), "[::1]:81", "/"),
        ("http://[fe80::1%25lo]:81/", False, ("fe80::1%lo", 81, ""), "[fe80::1]:81", "/"),
        ("http://[fe80::1%lo]/", False, ("fe80::1%lo", 80, ""), "[fe80::1]", "/"),
    ],
)
def test_a_url_is_taken_as_it_is_written(
    text: str, tls: bool, connects_to: tuple[str, int, str], authority: str, target: str
) -> None:
    assert http_url(text) == (tls, connects_to, authority, target)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("127.0.0.1:8000/health", "write http://"),
        ("ftp://h/", "no http:// or https:// URL"),
        ("unix:/run/s.sock", 'address = "unix:'),
        ("http+unix://%2Frun%2Fs/", 'address = "unix:'),
        ("/run/s.sock", 'address = "unix:'),
        ("http:///health", "names no host"),
        ("http://:8000/", "names no host"),
        ("http://h:/", "1 to 65535"),
        ("http://h:0/", "1 to 65535"),
        ("http://h:65536/", "1 to 65535"),
        ("http://h:+80/", "1 to 65535"),
        ("http://h:8\u0660/", "1 to 65535"),
        ("http://::1:8000/", "in brackets"),
        ("http://[::g]/", "no IPv6 address"),
        ("http://[fe80::1%]/", "interface"),
        ("http://user:secret@h/", "Authorization"),
        ("http://h/a b", "'/a%20b'"),
        ("http://h/ä", "'/%C3%A4'"),
        ("http://h/a\r\nX: y", "%0D%0A"),
        ("http://h /", "no name of a host"),
        ("http://h\n/", "no name of a host"),
        ("http://a..b/", "no name of a host"),
        ("http://bücher.example/", "xn--"),
        ("http://h/a#b", "%23"),
    ],
)
def test_a_url_that_could_mean_something_else_is_refused_with_a_remedy(text: str, remedy: str) -> None:
    with pytest.raises(BadAddress) as caught:
        http_url(text)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_is_host_and_port_or_a_unix_socket() -> None:
    assert place("localhost:1") == ("localhost", 1, "")
    assert str(place("[::1]:5")) == "[::1]:5"
    assert str(place("unix:/run/a b.sock")) == "unix:/run/a b.sock"
    for text in (
        "8080",
        ":8080",
        "h",
        "::1:5",
        "h:0",
        "h:1/x",
        "http://h:1",
        "dns:///h:1",
        "unix:s.sock",
        "",
    ):
        with pytest.raises(BadAddress):
            place(text)
    with pytest.raises(BadAddress, match="107 bytes"):
        place("unix:/" + "x" * 107)


@pytest.mark.parametrize(
    ("location", "onward"),
    [
        ("/health/", "http://h:81/health/"),
        ("ok?x#y", "http://h:81/a/ok?x"),
        ("https://H/b c", "https://H/b%20c"),
        ("//h:82/", "http://h:82/"),
        ("http://other/", None),
        ("app://h/", None),
        ("http://h:port/", None),
    ],
)
def test_a_redirect_leads_elsewhere_on_the_same_host_or_is_not_followed(
    location: str, onward: str | None
) -> None:
    found = redirected(http_url("http://h:81/a/b"), location)
    assert (found and found.url) == onward


@pytest.mark.parametrize(
    ("name", "value"),
    [("X Y", "a"), ("", "a"), ("X", "a\r\nY: b"), ("X", " a"), ("X", "ä"), ("Content-Length", "1")],
)
def test_a_header_that_could_not_be_sent_so_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadAddress):
        check_header(name, value)
