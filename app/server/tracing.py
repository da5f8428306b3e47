"""OpenTelemetry: one span a request, sent by OTLP over HTTP. Needs the extra ``otel``."""

from importlib.metadata import version

from fastapi import FastAPI

from app.errors import SettingsError


def instrument(app: FastAPI, *, endpoint: str) -> None:
    """Trace an application's requests. Raises SettingsError."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # an extra
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SettingsError(
            "GOODPART_OTEL_ENDPOINT needs the tracing libraries: pip install 'goodpart[otel]'"
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": "goodpart", "service.version": version("goodpart")})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, excluded_urls="livez,readyz,metrics,v2/health", exclude_spans=["receive", "send"]
    )
