"""OpenTelemetry: a span for each request, with one for each stage below it.

Imported only where ``otel_endpoint`` is set; needs the extra ``otel``.
"""

from __future__ import annotations

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

from certification import __version__

from .clock import StageClock

EXPORT_SECONDS = 5.0
"""For one export; spans that cannot be sent are dropped, and the log says so."""


class Tracing:
    """Makes spans and sends them to an OTLP/HTTP ``endpoint``, in batches and on a thread of its own."""

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "surety", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("surety", __version__)

    def begin(self, headers: Headers) -> Span:
        """The span of a request, in the trace of its ``traceparent`` where that is valid."""
        context = TraceContextTextMapPropagator().extract(headers)
        return self._tracer.start_span("request", context, kind=SpanKind.SERVER)

    @staticmethod
    def traceparent(span: Span) -> str:
        """As ``logs.continue_trace`` makes it, for a span."""
        own = span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def end(self, span: Span, method: str, route: str, status: int, clock: StageClock | None) -> None:
        """End the span of a request, which got as far as ``clock`` says, and add its stages."""
        # The clock is monotonic, spans are in nanoseconds since 1970.
        offset = time.time_ns() - time.monotonic_ns()
        for name, (begun, ended) in with_queue(clock.spans if clock else {}).items():
            start, stop = (int(moment * 1e9) + offset for moment in (begun, ended))
            self._tracer.start_span(name, set_span_in_context(span), start_time=start).end(stop)
        span.update_name(f"{method} {route}")
        span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def with_queue(spans: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The stages and, between decoding and whatever was done next, the wait for a thread."""
    later = [begun for name, (begun, _) in spans.items() if name != "decode"]
    if "decode" not in spans or not later:
        return dict(spans)
    return {"queue": (spans["decode"][1], min(later)), **spans}
