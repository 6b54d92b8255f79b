"""Logs, traces, and what the dashboard and the alerts ask for."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import service.computing
import service.tracing
from service.engine import Engine
from service.logs import configure, continue_trace, log_handler
from service.metrics import Metrics
from service.settings import Settings

from .conftest import Running, Start, until
from .pictures import encode, grey

ROOT = Path(__file__).parents[2]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ACCESS = {"time", "level", "logger", "message", "request_id", "traceparent", "method", "path", "route", "status",
          "seconds"}  # fmt: skip


@contextmanager
def captured(log_format: str) -> Iterator[io.StringIO]:
    """What a server of these settings writes."""
    stream, root, surety = io.StringIO(), logging.getLogger(), logging.getLogger("surety")
    handler, level = log_handler(Settings(log_format=log_format), stream), surety.level
    root.addHandler(handler)
    surety.setLevel(logging.INFO)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        surety.setLevel(level)


def lines_of(stream: io.StringIO, request_id: str) -> list[dict[str, Any]]:
    """The JSON lines of one request, once its last one is there."""

    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [line for line in lines if line.get("request_id") == request_id]

    until(lambda: any("status" in line for line in found()))
    return found()


def test_json_lines_name_the_request_and_its_trace(server: Running) -> None:
    with captured("json") as stream:
        sent = {"x-request-id": "mine", "traceparent": f"00-{TRACE}-{PARENT}-01"}
        server.client.get("/v1/models/none", headers=sent)
        (line,) = lines_of(stream, "mine")
    assert set(line) == ACCESS | {"problem"}
    assert (line["method"], line["path"], line["route"]) == ("GET", "/v1/models/none", "/v1/models/{model_id}")
    assert (line["status"], line["problem"], line["level"], line["logger"]) == (404, "unknown_model", "info", "surety")
    version, trace, parent, flags = line["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert parent != PARENT
    assert 0 <= line["seconds"] < 60


def test_a_malformed_form_leaves_the_line_of_its_request_alone(server: Running) -> None:
    """The parser's own warnings, one for every body of a careless client, would fill the log."""
    parser, headers = logging.getLogger("python_multipart"), {"Content-Type": "multipart/form-data; boundary=xx"}
    level = parser.level
    try:
        configure(Settings())
        with captured("json") as stream:
            answer = server.client.post("/v1/predict", content=b"--yy", headers={**headers, "x-request-id": "bad-form"})
            (line,) = lines_of(stream, "bad-form")
    finally:
        parser.setLevel(level)
    assert (answer.status_code, line["problem"], line["level"]) == (400, "malformed_body", "info")


def test_lines_about_failures_name_the_request_too(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(service.computing, "certify", broken)
    with captured("json") as stream:
        request_id = server.certify().headers["x-request-id"]
        failure, access = lines_of(stream, request_id)
    assert failure["level"] == "error"
    assert "RuntimeError: first\nsecond" in failure["exception"]
    assert failure["traceparent"] == access["traceparent"]
    assert (access["status"], access["problem"]) == (500, "internal")


def test_text_lines_end_with_the_request(server: Running) -> None:
    with captured("text") as stream:
        server.client.get("/health/live", headers={"x-request-id": "mine-too"})
        until(lambda: "mine-too" in stream.getvalue())
        (line,) = [line for line in stream.getvalue().splitlines() if "mine-too" in line]
    assert re.search(
        r" INFO surety GET /health/live 200 in [\d.]+ s request_id=mine-too traceparent=00-\w{32}-\w{16}-00$", line
    )


def test_lines_outside_of_requests_have_no_request() -> None:
    with captured("json") as stream:
        logging.getLogger("surety").warning("%s", "one\ntwo")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "one\ntwo"
    assert "request_id" not in line


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-01", "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-ff", "01"),
        (f"cc-{TRACE}-{PARENT}-01", "01"),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", "01"),
    ],
)
def test_a_valid_trace_is_continued(given: str, flags: str) -> None:
    """The cases of section 3.2 of W3C Trace Context."""
    version, trace, parent, ours = continue_trace([given]).split("-")
    assert (version, trace, ours) == ("00", TRACE, flags)
    assert parent != PARENT


@pytest.mark.parametrize(
    "given",
    [
        [], [""], ["garbage"], [f"00-{TRACE}-{PARENT}-01"] * 2, [f"ff-{TRACE}-{PARENT}-01"], [f"00-{TRACE}-{PARENT}"],
        [f"00-{TRACE}-{PARENT}-01-more"], [f"cc-{TRACE}-{PARENT}-01.more"], [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"], [f"00-{TRACE.upper()}-{PARENT}-01"], [f" 00-{TRACE}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}-01\n"],
    ],
)  # fmt: skip
def test_anything_else_begins_a_new_trace(given: list[str]) -> None:
    made = {continue_trace(given) for _ in range(2)}
    assert len(made) == 2
    for one in made:
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", one)
        assert TRACE not in one


# traces


def test_a_request_is_a_span_with_one_for_each_stage(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = InMemorySpanExporter()
    monkeypatch.setattr(service.tracing, "OTLPSpanExporter", lambda **_: memory)
    with captured("json") as stream, start(otel_endpoint="http://127.0.0.1:9/v1/traces") as server:
        fields = {"guarantee": "individual", "attack_range": "12"}
        sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "traced"}
        image = {"image": ("image", encode(grey(), "PNG"))}
        server.client.post("/v1/certify", data=fields, files=image, headers=sent)
        server.client.get("/v1/models/none", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
        server.client.get("/none")
        (line,) = lines_of(stream, "traced")
    spans = {span.name: span for span in memory.get_finished_spans()}
    root = spans["POST /v1/certify"]
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, PARENT)
    assert line["traceparent"] == f"00-{TRACE}-{root.context.span_id:016x}-01"
    assert root.attributes == {
        "http.request.method": "POST", "http.route": "/v1/certify", "http.response.status_code": 200,
    }  # fmt: skip
    below = {name: span for name, span in spans.items() if span.parent and span.parent.span_id == root.context.span_id}
    assert set(below) == {"decode", "queue", "inverse", "bound", "select", "estimate"}
    slack = 10**9  # two clocks are compared
    for span in below.values():
        assert root.start_time - slack <= span.start_time <= span.end_time <= root.end_time + slack, span.name
    assert below["decode"].end_time == below["queue"].start_time
    assert "GET /v1/models/{model_id}" not in spans  # its caller did not sample it
    assert spans["GET unmatched"].parent is None


def test_without_an_endpoint_opentelemetry_is_not_loaded() -> None:
    script = (
        "import sys\nfrom service.app import create_app\nfrom service.settings import Settings\n"
        "create_app(Settings())\nassert 'opentelemetry.sdk' not in sys.modules\n"
        "sys.modules['opentelemetry.sdk.trace'] = None\n"
        "create_app(Settings(otel_endpoint='http://127.0.0.1:9/v1/traces'))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "SettingsError: SURETY_OTEL_ENDPOINT needs the extra 'otel'" in run.stderr


# the dashboard and the alerts


def samples() -> dict[str, set[str]]:
    """Every name that a scrape can show, and the labels it can have."""
    found: dict[str, set[str]] = {}
    for collector in list(Metrics(Engine(1, 0.0)).registry._collector_to_names):
        family = next(iter(collector.collect()))
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        labels = set(getattr(collector, "_labelnames", ())) or {"device", "kind"}
        for ending in endings:
            found[family.name + ending] = labels | ({"le"} if ending == "_bucket" else set())
    return found


def prometheus() -> dict[str, Any]:
    """Its configuration."""
    return dict(yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yml").read_text()))


def expressions() -> dict[str, str]:
    """Every PromQL expression of the dashboard and the alerts, by where it stands."""
    board = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "surety.json").read_text())
    asked = {
        f"dashboard: {panel['title']}: {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel["targets"]
    }
    rules = yaml.safe_load((ROOT / "docker" / "prometheus" / "alerts.yml").read_text())
    for group in rules["groups"]:
        asked |= {f"alert: {rule['alert']}": rule["expr"] for rule in group["rules"]}
    return asked


@pytest.mark.parametrize("where", expressions())
def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist(where: str) -> None:
    expression, known = expressions()[where], samples()
    names = re.findall(r"\bsurety_\w+", expression)
    assert names or "up{" in expression
    assert [name for name in names if name not in known] == []
    for name, matchers in re.findall(r"\b(surety_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= known[name] | {"job"}, name
    labels = set.union({"job", "instance"}, *(known[name] for name in names))
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {one.strip() for one in grouped.split(",")} <= labels
    assert expression.count("(") == expression.count(")")


def test_what_an_alert_counts_is_shown_before_it_first_happens() -> None:
    """Or else Prometheus sees no increase in a first one."""
    shown = Metrics(Engine(1, 0.0)).exposition()[0].decode()
    asked = [one for where, one in expressions().items() if where.startswith("alert: ")]
    counters = r"(?:increase|rate)\((surety_(?!outcomes|requests)\w+_total(?:\{[^}]*\})?)\["
    counted = {found for one in asked for found in re.findall(counters, one)}
    assert len(counted) == 11
    for one in counted:
        name, _, labels = one.rstrip("}").partition("{")
        assert re.search(rf"^{name}\{{.*{re.escape(labels)}.* 0\.0$", shown, re.M), one


def test_alerts_fire_where_a_series_is_missing() -> None:
    """A container that is gone is no target, and an outcome that has not happened since the start is no series."""
    asked = expressions()
    (scraped,) = prometheus()["scrape_configs"]
    up = f'up{{job="{scraped["job_name"]}"}}'
    assert asked["alert: SuretyDown"] == f"{up} == 0 or absent({up})"
    certified = 'sum(rate(surety_outcomes_total{request="certify",outcome="certified"}[6h]))'
    assert asked["alert: SuretyCertifiesLess"].startswith(f"({certified} or vector(0)) / ")


def test_every_edge_is_scraped_once() -> None:
    """Ray's proxies lead to the same edge, whichever is asked."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (found,) = prometheus()["scrape_configs"][0]["dns_sd_configs"]
    assert set(found["names"]) <= set(services)
    assert [name for name in found["names"] if services[name].get("profiles") == ["ray"]] == ["ray-head"]
    serve = yaml.safe_load((ROOT / "docker" / "ray.yaml").read_text())
    assert serve["applications"][0]["args"]["edges"] == 1


def test_the_dashboard_shows_every_metric() -> None:
    asked = " ".join(expression for where, expression in expressions().items() if where.startswith("dashboard"))
    shown = set(re.findall(r"surety_\w+", asked))
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in samples()}
    assert [name for name in sorted(families) if not any(one.startswith(name) for one in shown)] == []


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    page = (ROOT / "docs" / "operations.md").read_text().split("\n## When an alert fires\n")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    rules = yaml.safe_load((ROOT / "docker" / "prometheus" / "alerts.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert sorted({rule["alert"] for rule in alerts} ^ told) == [], "in one of alerts.yml and docs/operations.md alone"
    for rule in alerts:
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"]["summary"]


def test_the_observability_profile_finds_its_files() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in ("prometheus", "grafana"):
        assert compose[name]["profiles"] == ["observability"]
        for volume in compose[name]["volumes"]:
            assert (ROOT / volume.split(":")[0]).exists(), volume
    assert prometheus()["rule_files"] == ["alerts.yml"]
    provisioning = ROOT / "docker" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "surety.yml").read_text())["providers"]
    targets = [volume.split(":")[1] for volume in compose["grafana"]["volumes"]]
    assert provider["options"]["path"] in targets
    board = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "surety.json").read_text())
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
