"""Health, and the metrics that Prometheus scrapes. Nothing here waits for a thread or a model."""

from fastapi import APIRouter, Request, Response

from ..errors import DrainingError, NotReadyError
from ..openapi import problems
from ..schemas import HealthReply
from ..services import services_of

router = APIRouter(tags=["operations"])
RETRY_SECONDS = 5


@router.get("/health/live", summary="Whether the process answers", responses=problems(500))
async def live() -> HealthReply:
    """Always 200 while the process is alive, also before it is ready."""
    return HealthReply(status="live")


@router.get("/health/ready", summary="Whether requests are served", responses=problems(500, 503))
async def ready(request: Request) -> HealthReply:
    """503 until models are loaded and kernels compiled, and while the server shuts down.

    Where keys are demanded, why is not said to somebody without one.
    """
    services = services_of(request)
    try:
        _ = services.lifecycle.certifier  # raises NotReadyError
        if services.engine.draining:
            raise DrainingError("the server is shutting down", retry_after_seconds=RETRY_SECONDS)
    except (NotReadyError, DrainingError):
        if services.settings.keys_file is None or request.scope["surety"].key is not None:
            raise
        raise NotReadyError("requests are not served now", retry_after_seconds=RETRY_SECONDS) from None
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
