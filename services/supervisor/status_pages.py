"""`GET /`: a page for eyes, of three files and no build step, and what it asks for about one request.

The page gets everything else from `GET /fleet` and `GET /slo`, every second. Its content policy allows no script but
its own, and it writes what it is told as text.
"""

from dataclasses import asdict
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response

from services.supervisor.request_traces import RequestTraces, TracesUnavailable

_FOLDER = Path(__file__).parent / "status_page"
_FILES = {"page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def add_status_page(application: FastAPI, traces: RequestTraces) -> None:
    @application.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_FOLDER / "index.html", media_type="text/html", headers=_HEADERS)

    @application.get("/status/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in _FILES:
            return JSONResponse({"error": "the page has no such part"}, status_code=404)
        return FileResponse(_FOLDER / name, media_type=_FILES[name], headers=_HEADERS)

    @application.get("/requests/{request_id}/trace")
    async def trace(request_id: str) -> JSONResponse:
        try:
            rows = await traces.rows(request_id)
        except TracesUnavailable as error:
            return JSONResponse({"error": str(error)}, status_code=503)
        if not rows:
            return JSONResponse({"error": "no span of this request is known (yet)"}, status_code=404)
        return JSONResponse({"request_id": request_id, "spans": [asdict(row) for row in rows]})
