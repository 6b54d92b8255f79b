"""Health, and the metrics that Prometheus scrapes. Nothing here waits for a thread or a model."""

from fastapi import APIRouter, Request, Response

from ..errors import DrainingError
from ..openapi import problems
from ..schemas import HealthReply
from ..services import services_of

router = APIRouter(tags=["operations"])


@router.get("/health/live", summary="Whether the process answers", responses=problems(500))
async def live() -> HealthReply:
    """Always 200 while the process is alive, also before it is ready."""
    return HealthReply(status="live")


@router.get("/health/ready", summary="Whether requests are served", responses=problems(500, 503))
async def ready(request: Request) -> HealthReply:
    """503 until models are loaded and kernels compiled, and while the server shuts down."""
    services = services_of(request)
    _ = services.lifecycle.certifier  # raises NotReadyError
    if services.engine.draining:
        raise DrainingError("the server is shutting down", retry_after_seconds=5)
    return HealthReply(status="ready")


@router.get(
    "/metrics",
    summary="Metrics in the text format of Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(500)},
)
async def metrics(request: Request) -> Response:
    """Every name begins with ``surety_``."""
    body, content_type = services_of(request).metrics.exposition()
    return Response(body, headers={"Content-Type": content_type})
