"""Target files: what ships loads, and what is wrong is said before anything starts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from scenarios.errors import Malformed, UnknownName
from scenarios.spec import overlay, target_file

GOOD = """
[target]
name = "t"
command = ["{python}", "-m", "t", "{port:http}"]

[target.ready]
line = 'at (?P<http>\\S+)'

[[probe]]
kind = "http"
name = "http /health"
url = "http://{http}/health"

[[client]]
name = "owner"
command = ["{python}", "-c", "share"]

[[call]]
name = "make"
kind = "http"
url = "http://{http}/make?key={n}&by={owner.key}"
undo = "drop"

[[call]]
name = "drop"
kind = "http"
url = "http://{http}/drop?key={n}"
needs = "make"

[sites]
gpu = "a.b:c.d"

[processes]
registry = { imports = "a.b" }
"""


def load(tmp_path: Path, text: str) -> target_file.LoadedTarget:
    path = tmp_path / "t.toml"
    path.write_text(text)
    return target_file.load(path)


def test_a_good_target_loads(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).spec.call[1].needs == "make"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('url = "http://{http}/health"', 'url = "http://{htp}/health"', 12, "did you mean http"),
        ('undo = "drop"', 'undo = "dorp"', 22, "did you mean drop?"),
        ('needs = "make"', 'needs = "drop"', 28, "ends up needing itself"),
        ('name = "drop"', 'name = "make"', 25, "a second call"),
        ("line = 'at (?P<http>\\S+)'", "line = 'at (?P<http>'", 7, "not a regular expression"),
        ('kind = "http"\nname = "http /h', 'kind = "htp"\nname = "http /h', 10, "unknown kind 'htp'"),
        ('gpu = "a.b:c.d"', 'gpu = "a.b.c"', 31, "not module:qualname"),
        ('{ imports = "a.b" }', "{ }", 34, "selects nothing"),
        ('{ imports = "a.b" }', '{ parent = "main" }', 34, "no process is named 'main'"),
        ('kind = "http"\nname = "http', 'kind = "http"\nperiod_s = nan\nname = "http', 11, "`float` > 0.0"),
        ("[sites]", "[leaks]\nthreads = 2\n[sites]", 30, "without saying why"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert old in GOOD
    with pytest.raises(Malformed) as raised:
        load(tmp_path, GOOD.replace(old, new))
    assert words in str(raised.value)
    assert raised.value.line == line


def test_a_target_that_watches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="none is watched"):
        load(tmp_path, GOOD.replace('name = "http /health"', 'name = "http /health"\nwatched = false'))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('url = "http://{http}/a b"', "probe[1].url: .*'/a%20b'"),
        ('url = "http://{http}/a#{http}"', "%23"),
        ('url = "{http}/x"\naddress = "{http}:1"\nheaders = { X = "é" }', "probe[1].headers.X"),
        ('url = "http://[::1]:{port:http}/"\nheaders = { A = "1", a = "2" }', "stands there twice"),
        ('url = "http://::1:{port:http}/"', "in brackets"),
        ('url = "http://h/"\nheaders = { A = "{htp}" }', "unknown placeholder {htp}"),
        ('url = "http://h/"\nmethod = "post"', "in capitals"),
        ('url = "http://h/"\njson = 1', 'give `method = "POST"`'),
        ('url = "http://h/"\nmethod = "PUT"\njson = 1\nbody = ""', "give one of them"),
        ('url = "http://h/"\nmethod = "PUT"\nbody = "base64:?"', "not base64"),
        ('url = "http://h/"\nmethod = "HEAD"\nexpect = { body = "ok" }', "has no body"),
        ('url = "http://h/"\nexpect = { status = [] }', "give the statuses"),
        ('url = "http://h/"\naddress = "h:1"', "unix:/PATH"),
        ('url = "http://h/"\naddress = "unix:s.sock"', "not absolute"),
        ('kind = "grpc"\naddress = "127.0.0.1"', "write HOST:PORT"),
        ('kind = "grpc"\naddress = "dns:///h:1"', "neither HOST:PORT nor unix:"),
        ('kind = "tcp"\naddress = ":{port:http}"', "names no host"),
        ('kind = "command"\ncommand = []', "is empty"),
        ('kind = "command"\ncommand = ["true"]\nperiod_s = 0.01', "raise it"),
        ('kind = "command"\ncommand = ["true"]\nconnections = ["kept"]', "unknown key"),
    ],
)
def test_a_probe_that_could_not_be_asked_as_it_is_written_is_refused(
    tmp_path: Path, keys: str, problem: str
) -> None:
    kind = "" if "kind" in keys else 'kind = "http"\n'
    probe = f'[[probe]]\nname = "mine"\n{kind}{keys}\n'
    with pytest.raises(Malformed, match=problem.replace("{", r"\{").replace("[1]", r"\[1\]")) as raised:
        load(tmp_path, f"{GOOD}\n{probe}")
    assert raised.value.line is not None
    assert raised.value.line > GOOD.count("\n")
    assert "\n" not in str(raised.value)


def test_a_port_that_the_server_is_not_told_of_is_refused_before_it_starts(tmp_path: Path) -> None:
    target_file.check_ports(load(tmp_path, GOOD))
    probe = '[[probe]]\nname = "mine"\nkind = "tcp"\naddress = "127.0.0.1:{port:htpp}"\n'
    with pytest.raises(Malformed, match=r"probe\[1\]\.address: .*did you mean port:http"):
        target_file.check_ports(load(tmp_path, f"{GOOD}\n{probe}"))
    with pytest.raises(Malformed, match=r"no \{port:http\} is in the command"):
        target_file.check_ports(
            load(tmp_path, GOOD.replace(', "{port:http}"]', "]").replace("{http}/h", "h:{port:http}/h"))
        )


def test_what_a_placeholder_brings_is_refused_with_the_line_too(tmp_path: Path) -> None:
    loaded = load(tmp_path, GOOD)
    for url in ("http://127.0.0.1:{http}/{http}?x={http}", "{http}/x", "http://{http}"):
        load(tmp_path, GOOD.replace("http://{http}/health", url))  # what {http} is will be seen
    target_file.check_filled(loaded, {"http": "[::1]:1"})
    with pytest.raises(
        Malformed, match=r"t\.toml:12: probe\[0\]\.url: 'http://0\.0\.0\.0:0/health' names no port"
    ):
        target_file.check_filled(loaded, {"http": "0.0.0.0:0"})


@pytest.mark.parametrize("name", overlay.shipped())
def test_every_shipped_target_loads_under_its_own_name(name: str) -> None:
    assert target_file.load(target_file.find(name)).name == name


@pytest.mark.parametrize("placement", ["inline", "pool", "thread"])
def test_the_placements_of_pegaref_differ_in_placement_and_in_where_replies_are_sent_only(
    placement: str,
) -> None:
    base = target_file.load(target_file.find("pegaref-process")).spec
    other = target_file.load(target_file.find(f"pegaref-{placement}")).spec
    start = msgspec.structs.replace(
        base.start,
        name=f"pegaref-{placement}",
        summary=other.start.summary,
        command=(*base.start.command, "--placement", placement),
    )
    sites = base.sites | {"reply": "pegaref.placement.local:LocalLink.send_reply"}  # no pipe to a child
    assert other == msgspec.structs.replace(base, start=start, sites=sites, base="pegaref-process.toml")


def test_an_unknown_target_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UnknownName, match="did you mean pegaref-process"):
        target_file.find("pegaref-proces")
