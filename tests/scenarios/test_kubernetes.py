"""Probe settings come out of a manifest as the kubelet would read them, or with the line of what is wrong."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from scenarios.errors import CouldNotRun, Malformed, UnknownName
from scenarios.record import KubeletRules
from scenarios.spec import GrpcProbe, HttpProbe, Target, kubernetes
from scenarios.spec.target import Launch, Ready

DEPLOYMENT = """\
apiVersion: v1
kind: Service
metadata: {name: engine}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: engine
spec:
  template:
    spec:
      containers:
        - name: server
          image: example/engine
          ports:
            - {name: http, containerPort: 9091}
          livenessProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 5
            failureThreshold: 2
          readinessProbe:
            httpGet:
              path: ready
              port: 9091
            timeoutSeconds: 3
"""


def manifest(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "deployment.yaml"
    path.write_text(dedent(text), encoding="utf-8")
    return path


def target(*probes: HttpProbe | GrpcProbe) -> Target:
    return Target(Launch("mine", ("server",), Ready(url="http://127.0.0.1:1/")), probes)


HEALTH = HttpProbe("http /health", "http://{http}/health")
READY = HttpProbe("http /ready", "http://127.0.0.1:{port:http}/ready")


def test_settings_are_read_and_what_is_left_out_is_kubernetes_default(tmp_path: Path) -> None:
    container = kubernetes.read_manifest(manifest(tmp_path, DEPLOYMENT))

    assert container.full_name == "deployment/engine/server"
    assert container.probes["liveness"].rules == KubeletRules(timeout_s=1, period_s=5, failure_threshold=2)
    assert container.probes["readiness"].rules == KubeletRules(timeout_s=3, period_s=10, failure_threshold=3)


def test_a_named_port_is_the_number_that_the_container_gives_it(tmp_path: Path) -> None:
    probe = kubernetes.read_manifest(manifest(tmp_path, DEPLOYMENT)).probes["liveness"]

    assert (probe.port, probe.path, probe.line) == ("9091", "/health", 18)


def test_the_targets_probe_that_asks_the_same_is_found_by_its_path(tmp_path: Path) -> None:
    container = kubernetes.read_manifest(manifest(tmp_path, DEPLOYMENT))

    found = kubernetes.replay_for(container, target(READY, HEALTH))

    assert found.probes == {"liveness": "http /health", "readiness": "http /ready"}
    assert found.rules["liveness"].period_s == 5
    assert found.notes == ()


def test_a_manifest_that_asks_what_the_target_does_not_probe_is_refused(tmp_path: Path) -> None:
    container = kubernetes.read_manifest(manifest(tmp_path, DEPLOYMENT))

    with pytest.raises(CouldNotRun, match=r"deployment\.yaml:22: readinessProbe asks GET /ready.* add one"):
        kubernetes.replay_for(container, target(HEALTH))


def test_a_grpc_probe_is_matched_by_its_service(tmp_path: Path) -> None:
    text = """\
    kind: Pod
    metadata: {name: p}
    spec:
      containers:
        - name: c
          livenessProbe: {grpc: {port: 50055, service: liveness}}
    """
    container = kubernetes.read_manifest(manifest(tmp_path, text))
    found = kubernetes.replay_for(
        container, target(GrpcProbe("any", "{grpc}"), GrpcProbe("alive", "{grpc}", service="liveness"))
    )

    assert found.probes == {"liveness": "alive"}
    assert found.notes == ("pod/p/c has no readinessProbe: a kubelet would never take it out of rotation",)


def test_a_probe_that_runs_a_command_is_noted_and_not_replayed(tmp_path: Path) -> None:
    text = """\
    kind: Pod
    metadata: {name: p}
    spec:
      containers:
        - name: c
          livenessProbe: {exec: {command: [cat, /tmp/alive]}}
          readinessProbe: {httpGet: {path: /health, port: 80}}
    """
    found = kubernetes.replay_for(kubernetes.read_manifest(manifest(tmp_path, text)), target(HEALTH))

    assert found.probes == {"readiness": "http /health"}
    assert "deployment.yaml:6: livenessProbe runs a command" in found.notes[0]


def test_a_custom_resource_is_read_like_any_other(tmp_path: Path) -> None:
    text = """\
    kind: InferenceService
    metadata: {name: llm}
    spec:
      predictor:
        workers:
          - pod:
              containers:
                - name: c
                  livenessProbe: {httpGet: {path: /health, port: 80}}
    """
    assert kubernetes.read_manifest(manifest(tmp_path, text)).full_name == "inferenceservice/llm/c"


TWO = """\
kind: List
items:
  - kind: Pod
    metadata: {name: a}
    spec: {containers: [{name: c, livenessProbe: {httpGet: {path: /a, port: 1}}}]}
  - kind: Pod
    metadata: {name: b}
    spec: {containers: [{name: c, livenessProbe: {httpGet: {path: /b, port: 1}}}]}
"""


def test_of_several_containers_one_must_be_named(tmp_path: Path) -> None:
    path = manifest(tmp_path, TWO)

    with pytest.raises(Malformed, match="say which of pod/a/c, pod/b/c"):
        kubernetes.read_manifest(path)
    assert kubernetes.read_argument(f"{path}:b/c").probes["liveness"].path == "/b"


def test_a_container_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no container named 'd'.*pod/a/c, pod/b/c"):
        kubernetes.read_manifest(manifest(tmp_path, TWO), "d")


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ("{httpGet: {path: /, port: 1}, periodSecond: 5}", "unknown key; did you mean periodSeconds"),
        ("{httpGet: {path: /, port: 1}, periodSeconds: 0}", "must be a whole number of at least 1"),
        ("{httpGet: {path: /, port: 1}, periodSeconds: 5s}", "must be a whole number of at least 1"),
        ("{httpGet: {path: /}}", "the key 'port' is missing"),
        ("{periodSeconds: 5}", "give exactly one of httpGet, grpc, tcpSocket, exec"),
        ("[]", "must be a table"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(tmp_path: Path, probe: str, said: str) -> None:
    path = manifest(
        tmp_path, f"kind: Pod\nspec:\n  containers:\n    - name: c\n      livenessProbe: {probe}\n"
    )

    with pytest.raises(Malformed) as caught:
        kubernetes.read_manifest(path)

    message = str(caught.value)
    assert message.startswith(f"{path}:5: spec.containers[0].livenessProbe")
    assert said in message
    assert "\n" not in message


def test_a_template_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = manifest(tmp_path, "kind: Pod\nspec: {{ toYaml .Values.pod }}\nmetadata: {{ x }}: y\n")

    with pytest.raises(Malformed, match=r"not YAML.*render it first"):
        kubernetes.read_manifest(path)


def test_a_manifest_without_probes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="no container in it has a livenessProbe"):
        kubernetes.read_manifest(manifest(tmp_path, "kind: ConfigMap\ndata: {a: b}\n"))


PORTS = """\
kind: Pod
metadata: {name: p}
spec:
  containers:
    - name: c
      ports: [{name: web, containerPort: 8080}, {name: admin, containerPort: 8081}]
      livenessProbe: {httpGet: %s}
      readinessProbe: {httpGet: %s}
"""


def asked(tmp_path: Path, live: str, ready: str, *probes: HttpProbe) -> dict[str, str]:
    container = kubernetes.read_manifest(manifest(tmp_path, PORTS % (live, ready)))
    found = kubernetes.replay_for(container, target(*probes)).probes
    return {str(role): name for role, name in found.items()}


def http(name: str, url: str, **more: object) -> HttpProbe:
    return HttpProbe(name, url, **more)  # type: ignore[arg-type]


def test_ports_are_told_apart_by_their_number_or_name(tmp_path: Path) -> None:
    live, ready = "{path: /health, port: web}", "{path: /health, port: 8081}"
    web = http("web", "http://127.0.0.1:{port:web}/health")
    for own in ("{port:admin}", "8081", "{port:8081}"):
        admin = http("admin", f"http://127.0.0.1:{own}/health")
        assert asked(tmp_path, live, ready, admin, web) == {"liveness": "web", "readiness": "admin"}


@pytest.mark.parametrize(
    ("live", "probe", "says"),
    [
        ("{path: /x, port: 8080}", http("p", "http://h:{port:a}/health"), "'p' asks /health"),
        ("{path: /health, port: 8080}", http("p", "http://h:9000/health"), "at port 9000 alone"),
        ("{path: /health, port: 8080, scheme: HTTPS}", http("p", "http://{a}/health"), "'p' asks over http"),
        ("{path: /health, port: 8080}", http("p", "https://{a}/health"), "'p' asks over https"),
        ("{path: /health, port: 8080}", http("p", "{a}/health"), "over what a placeholder says"),
        (
            "{path: /health, port: 8080, httpHeaders: [{name: Host, value: m}]}",
            http("p", "http://{a}/health", headers={"host": "n"}),
            "'p' sends other headers",
        ),
        (
            "{path: /health, port: 8080, host: db}",
            http("p", "http://{a}/health"),
            "asks another host than db",
        ),
        ("{path: /health, port: 8080}", http("p", "http://{a}/health", method="POST"), "asks by POST"),
        (
            "{path: /health, port: 8080}",
            http("p", "http://l/health", address="unix:/s"),
            "over a unix socket",
        ),
        (
            "{path: /health, port: 8080}",
            http("p", "http://{a}/health", connections=("kept",)),
            "kept connection",
        ),
    ],
)
def test_what_the_target_asks_otherwise_is_said_in_place_of_a_figure(
    tmp_path: Path, live: str, probe: HttpProbe, says: str
) -> None:
    with pytest.raises(CouldNotRun, match="livenessProbe asks GET") as caught:
        asked(tmp_path, live, live, probe)
    assert says in str(caught.value)
    assert "add" in str(caught.value)


def test_two_ports_of_a_manifest_are_not_one_port_of_the_target_nor_one_two(tmp_path: Path) -> None:
    health, ready = "{path: /health, port: 1}", "{path: /ready, port: %s}"
    one = [http("a", "http://{a}/health"), http("b", "http://{a}/ready")]
    two = [http("a", "http://{a}/health"), http("b", "http://{b}/ready")]
    assert asked(tmp_path, health, ready % 1, *one) == {"liveness": "a", "readiness": "b"}
    assert asked(tmp_path, health, ready % 2, *two) == {"liveness": "a", "readiness": "b"}
    for port, probes in ((2, one), (1, two)):
        with pytest.raises(CouldNotRun, match="add a"):
            asked(tmp_path, health, ready % port, *probes)
    with pytest.raises(CouldNotRun, match=r"either may be meant.*\{port:1\}"):
        asked(tmp_path, health, health, one[0], http("c", "http://{c}/health"))


def test_headers_are_the_same_whatever_their_case_and_order(tmp_path: Path) -> None:
    live = "{path: a b, port: 1, scheme: HTTPS, httpHeaders: [{name: X, value: 1}, {name: Host, value: m}]}"
    own = http("p", "HTTPS://{a}/a%20b", headers={"host": "m", "x": "1", "User-Agent": "kube-probe/1.31"})
    assert asked(tmp_path, live, live, own) == {"liveness": "p", "readiness": "p"}


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        ("{pth: /, port: 1}", "unknown key; did you mean path"),
        ("{path: /, port: 0}", "must be from 1 to 65535"),
        ("{path: /, port: 1, scheme: http}", "must be HTTP or HTTPS"),
        ("{path: /, port: 1, httpHeaders: [{value: a}]}", "the key 'name' is missing"),
    ],
)
def test_what_is_wrong_in_an_http_probe_has_its_line(tmp_path: Path, probe: str, says: str) -> None:
    path = manifest(tmp_path, PORTS % (probe, probe))
    with pytest.raises(Malformed, match=says) as caught:
        kubernetes.read_manifest(path)
    assert caught.value.line == 7
