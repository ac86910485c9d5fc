"""`wedge target init` writes a file that can be tried as it is, and whose examples are right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from scenarios.cli.target import target_command
from scenarios.errors import CouldNotRun
from scenarios.onboarding.init import TEMPLATE, init
from scenarios.spec import HttpCall, HttpProbe, target_file
from scenarios.spec.target import ProcessSelector

FASTAPI = """
from fastapi import FastAPI

api = FastAPI(title="mine")


@api.post("/train")
def train(): ...


@api.get("/predict/{item}")
def predict(item: str): ...


@api.get("/healthz")
def alive(): ...
"""
EXAMPLE = re.compile(r'^# (\[|[\w."]+ = )')


def examples() -> Iterator[tuple[int, int]]:
    """The commented-out blocks of the template, as ranges of lines."""
    lines = TEMPLATE.read_text(encoding="utf-8").splitlines()
    start = None
    for i, line in enumerate([*lines, ""]):
        if EXAMPLE.match(line):
            start = i if start is None else start
        elif start is not None:
            yield start, i
            start = None


def test_the_server_beside_the_file_is_found_and_described(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(FASTAPI)

    why = init(tmp_path / "wedge.toml")

    made = target_file.load(tmp_path / "wedge.toml").spec
    assert why == "service.py makes a FastAPI app"
    assert made.start.command == ("{python}", "-m", "uvicorn", "service:api", "--port", "{port:http}")
    probe, call = made.probe[0], made.call[0]
    assert isinstance(probe, HttpProbe)
    assert isinstance(call, HttpCall)
    assert probe.url == made.start.ready.url == "http://127.0.0.1:{port:http}/healthz"
    assert (call.method, call.url) == ("GET", "http://127.0.0.1:{port:http}/predict/{n}")


def test_where_no_server_is_found_it_says_so_and_the_file_is_still_well_formed(tmp_path: Path) -> None:
    why = init(tmp_path / "mine.toml")

    assert why.startswith("no web app was found in")
    assert target_file.load(tmp_path / "mine.toml").name == "mine"


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("uvicorn app:app", "uvicorn app:app --port {port:http}"),
        ("python3 server.py --port 8000", "python3 server.py --port {port:http}"),
        ("/env/bin/python -m gunicorn a:b", "/env/bin/python -m gunicorn a:b --bind 127.0.0.1:{port:http}"),
        ("gunicorn -w 2 -b 127.0.0.1:8000 app:app", "gunicorn -w 2 -b 127.0.0.1:{port:http} app:app"),
        ("./serve --bind=0.0.0.0:80 {}", "./serve --bind=0.0.0.0:{port:http} {{}}"),
        ("python app.py 8000", "python app.py {port:http}"),
        ("python manage.py runserver 0.0.0.0:8000", "python manage.py runserver 0.0.0.0:{port:http}"),
        ("python -u 3.py --max-tokens 8192 9000", "python -u 3.py --max-tokens 8192 {port:http}"),
        ("python app.py --port {port:http} --at {here}", "python app.py --port {port:http} --at {here}"),
        ("a --grpc-port=81 --http-port 80 {n}", "a --grpc-port={port:grpc} --http-port {port:http} {{n}}"),
        ("streamlit run a.py --server.port 8501", "streamlit run a.py --server.port {port:http}"),
        ("PORT=8000 ./serve", "env PORT={port:http} ./serve"),
    ],
)  # fmt: skip
def test_a_command_as_it_is_typed_becomes_one_with_placeholders(
    tmp_path: Path, typed: str, written: str
) -> None:
    init(tmp_path / "mine.toml", command=typed.split())

    made = target_file.load(tmp_path / "mine.toml").spec
    assert " ".join(made.start.command) == written
    assert made.start.ready.url == "http://127.0.0.1:{port:http}/health"


@pytest.mark.parametrize(
    ("source", "starts", "listens"),
    [
        ("uvicorn.run(app, host='0.0.0.0', port=5000)", "python app.py", 5000),
        ("HTTPServer(('', 8123), Handler)", "python app.py", 8123),
        ("run(int(os.environ.get('PORT', 5000)))", "env PORT={port:http} python app.py", "{port:http}"),
        ("serve()", "python app.py", 8000),
    ],
)
def test_where_the_command_names_no_port_the_program_may(
    tmp_path: Path, source: str, starts: str, listens: object
) -> None:
    (tmp_path / "app.py").write_text(source)

    why = init(tmp_path / "mine.toml", command=["python", "app.py"])

    made = target_file.load(tmp_path / "mine.toml").spec
    assert " ".join(made.start.command) == starts
    assert made.start.ready.url == f"http://127.0.0.1:{listens}/health"
    assert ("it names no port, and " in why) == isinstance(listens, int)


def test_a_health_url_gets_the_port_of_the_command(tmp_path: Path) -> None:
    init(
        tmp_path / "mine.toml",
        command=["uvicorn", "app:app", "--port", "8000"],
        health="http://localhost:8000/up?deep=1",
    )

    probe = target_file.load(tmp_path / "mine.toml").spec.probe[0]
    assert isinstance(probe, HttpProbe)
    assert (probe.name, probe.url) == ("http /up?deep=1", "http://localhost:{port:http}/up?deep=1")


def test_a_call_that_waits_for_torch_becomes_the_site_gpu(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import torch\n" + FASTAPI + "\nx = torch.ones(1).item()\n")

    init(tmp_path / "mine.toml")

    assert target_file.load(tmp_path / "mine.toml").spec.sites == {"gpu": "torch:Tensor.item"}


@pytest.mark.parametrize(
    ("typed", "selects"),
    [("gunicorn -w 2 app:app", {"parent": "server"}), ("uvicorn app:app", {"main": True})],
)
def test_the_worker_is_below_the_server_where_the_command_starts_workers(
    tmp_path: Path, typed: str, selects: dict[str, object]
) -> None:
    init(tmp_path / "mine.toml", command=typed.split())

    assert target_file.load(tmp_path / "mine.toml").spec.processes["worker"] == ProcessSelector(**selects)  # type: ignore[arg-type]


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")

    with pytest.raises(CouldNotRun, match=r"mine\.toml is there already; name another file, or give --force"):
        init(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("block", list(examples()), ids=lambda block: f"line {block[0] + 1}")
def test_every_example_in_the_file_works_when_it_is_uncommented(
    tmp_path: Path, block: tuple[int, int]
) -> None:
    path = tmp_path / "mine.toml"
    init(path, command=["server", "--port", "1"])
    lines = path.read_text(encoding="utf-8").splitlines()
    template = TEMPLATE.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(template)  # so that a block stands where it stands in the template
    for i in range(*block):
        lines[i] = lines[i].removeprefix("# ")
        key = lines[i].partition(" = ")[0]
        if key in ("ready", "worker"):  # the example is another way to say what the file says already
            other = f"{key} = "
            lines = ["" if i != j and line.startswith(other) else line for j, line in enumerate(lines)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert target_file.load(path).name == "mine"


def test_the_template_has_examples_of_every_table_and_of_every_way_to_be_ready() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")

    for table in ("probe", "call"):
        assert f"[[{table}]]" in text
    for table in ("sites", "processes", "leaks", "expect"):
        assert f"[{table}]" in text
    assert "ready = { url" in text
    assert "ready = { line" in text


@pytest.mark.parametrize(
    ("arguments", "file", "cwd"),
    [
        ([], "wedge.toml", "."),
        (["deploy/mine.toml", "--name", "other"], "deploy/mine.toml", ".."),
        (["--name", "other", "deploy/mine.toml"], "deploy/mine.toml", ".."),
    ],
)
def test_the_command_is_what_stands_behind_the_two_dashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], file: str, cwd: str
) -> None:
    (tmp_path / "deploy").mkdir()
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(target_command, ["init", *arguments, "--", "uvicorn", "a:b", "--", "--name"])

    assert result.output.splitlines() == [
        f"{file} written; the command is as you gave it",
        f"next: wedge target check {file}",
    ]
    made = target_file.load(tmp_path / file)
    assert " ".join(made.start.command) == "uvicorn a:b -- --name --port {port:http}"
    assert made.start.cwd == cwd
