"""Headers on every answer that tell browsers to do nothing with it but show it."""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
SWAGGER = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"
"""Where the page of FastAPI gets its scripts and styles."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": NOTHING,
}


def docs_policy(app: FastAPI) -> str:
    """The Content-Security-Policy of ``/docs``: its own inline script by its hash, and Swagger UI."""
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url),
        title=f"{app.title} - Swagger UI",
        oauth2_redirect_url=app.swagger_ui_oauth2_redirect_url,
    )
    scripts = re.findall(r"<script>(.*?)</script>", bytes(page.body).decode(), re.S)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    # Swagger UI writes style attributes and draws its icons from data: URLs.
    return (
        f"{NOTHING}; script-src {SWAGGER} {allowed}; style-src {SWAGGER} 'unsafe-inline'; "
        "img-src data:; connect-src 'self'"
    )


class SecurityHeaders:
    """Adds :data:`SECURITY_HEADERS` to every answer."""

    def __init__(self, app: ASGIApp, docs: str | None, policy: str) -> None:
        self._app, self._docs, self._policy = app, docs, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if scope["path"] == self._docs and message["status"] == 200:
                    headers["Content-Security-Policy"] = self._policy
            await send(message)

        await self._app(scope, receive, send_safely)
