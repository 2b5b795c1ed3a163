import pytest
from prometheus_client import CollectorRegistry, Counter

import shared.telemetry.metrics  # noqa: F401  (declares them)
from shared.telemetry import catalogue
from shared.telemetry.catalogue import (
    CATALOGUE,
    LABELS,
    REGISTRY,
    Children,
    MetricKind,
    counter,
    gauge,
    histogram,
)
from shared.telemetry.metrics_document import PATH, render_metrics_document
from shared.telemetry.metrics_http import MetricsEndpoint, render_metrics

GOOD = {"unit": "things", "meaning": "m", "what_to_do": "w"}


@pytest.fixture(autouse=True)
def nothing_stays_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "CATALOGUE", dict(CATALOGUE))
    monkeypatch.setattr(catalogue, "REGISTRY", CollectorRegistry())


def test_the_document_in_the_repository_is_the_catalogue() -> None:
    written = PATH.read_text(encoding="utf-8")
    assert written == render_metrics_document(CATALOGUE.values()), "run python -m shared.telemetry.metrics_document"


def test_every_declared_metric_is_on_the_page() -> None:
    _, page = render_metrics()
    text = page.decode()
    for description in CATALOGUE.values():
        name = description.name
        assert f"# TYPE {name} {description.kind}" in text, name


def test_process_metrics_are_on_the_page_too() -> None:
    assert "process_resident_memory_bytes" in render_metrics()[1].decode()


def test_openmetrics_is_served_to_who_asks_for_it() -> None:
    content_type, body = render_metrics("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(("method", "has_body"), [("GET", True), ("HEAD", False)])
async def test_the_endpoint_is_an_asgi_application(method: str, has_body: bool) -> None:
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await MetricsEndpoint()({"type": "http", "method": method, "headers": []}, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 200
    assert bool(sent[1]["body"]) is has_body


@pytest.mark.parametrize(
    ("declare", "name", "labels", "complaint"),
    [
        (counter, "results_total", (), "must start with penstock_"),
        (counter, "penstock_results", (), "end in _total"),
        (gauge, "penstock_results_total", (), "declared twice"),
        (gauge, "penstock_new_total", (), "end in _total"),
        (counter, "penstock_new_total", ("request_id",), "request_id"),
        (histogram, "penstock_seconds", ("tenant",), "tenant"),
    ],
)
def test_a_declaration_that_breaks_the_rules_is_refused(
    declare: object, name: str, labels: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        declare(name, labels=labels, **GOOD)  # type: ignore[operator]


@pytest.mark.parametrize("missing", ["meaning", "what_to_do"])
def test_a_metric_without_a_meaning_or_advice_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match="needs a meaning"):
        gauge("penstock_new", **(GOOD | {missing: " "}))


def test_every_label_of_the_list_is_used_or_free_and_no_metric_has_more_than_two() -> None:
    for description in CATALOGUE.values():
        assert set(description.labels) <= LABELS.keys()
        assert len(description.labels) <= 2, "children multiply"


def test_declaring_registers_with_the_kind() -> None:
    gauge("penstock_new", **GOOD)
    assert catalogue.CATALOGUE["penstock_new"].kind is MetricKind.GAUGE
    assert "penstock_new" not in {name for metric in REGISTRY.collect() for name in [metric.name]}


class TestChildren:
    def metric(self) -> Counter:
        return counter("penstock_new_total", labels=("pool", "kind"), **GOOD)

    def test_a_child_is_bound_once_and_counts(self) -> None:
        metric = self.metric()
        by_kind = Children(metric, pool="p")
        by_kind["prompt"].inc(2)
        by_kind["prompt"].inc()
        assert by_kind["prompt"] is by_kind["prompt"]
        assert metric.labels("p", "prompt")._value.get() == 3

    @pytest.mark.parametrize("fixed", [{}, {"pool": "p", "kind": "k"}, {"model": "m"}])
    def test_exactly_one_label_stays_open(self, fixed: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="but one"):
            Children(self.metric(), **fixed)
