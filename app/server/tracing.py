"""OpenTelemetry: one span a request, sent by OTLP over HTTP. Needs the extra ``otel``."""

from importlib.metadata import version

from fastapi import FastAPI

from model.bundle import GoodpartError


class TracingMissing(GoodpartError):
    """Tracing is configured and its libraries are not installed."""

    def __init__(self) -> None:
        super().__init__("GOODPART_OTEL_ENDPOINT needs the tracing libraries: pip install 'goodpart[otel]'")


def instrument(app: FastAPI, *, endpoint: str) -> None:
    """Trace an application's requests. Raises TracingMissing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # an extra
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TracingMissing from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": "goodpart", "service.version": version("goodpart")})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls="livez,readyz,metrics,v2/health", exclude_spans=["receive", "send"]
    )
