"""The page over HTTP, for this machine only: a thin layer over `Session` that trusts no request.

It listens on the loopback device. A page of another origin that a browser has open may neither ask for changes (Origin)
nor, by a name of its own that leads here, read anything (Host). Errors are JSON with one sentence under `error`.
"""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gengauge.benchmarks.warp_ui.background import Busy
from gengauge.benchmarks.warp_ui.session import MOST_PICTURES, Pixels, Session, Unknown
from gengauge.benchmarks.warp_ui.settings import Settings

HOST = "127.0.0.1"
PORT = 7860
MAX_BODY = 4 * 2**20  # bytes; the largest edit that is accepted takes less
PAGE = Path(__file__).parent / "page"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_HEADERS = {
    "Cache-Control": "no-store",  # another generator may be behind the same address next time
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Lets only requests through that were addressed to this machine and sent by this page, with bodies of a size."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = _refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY:
                raise HTTPException(413, _TOO_LARGE)
            return message

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        await self.app(scope, limited, safe)


_TOO_LARGE = f"the request is larger than {MAX_BODY // 2**20} MiB"


def _refusal(scope: Scope) -> JSONResponse | None:
    """What is answered to a request that is not this page's, None where it is."""
    headers = Request(scope).headers
    host = headers.get("host", "")
    if _host_name(host) not in _LOOPBACK:
        return _error(403, f"this page answers to 127.0.0.1 and localhost only, not to {host[:100]!r}")
    origin = headers.get("origin")
    if scope["method"] not in ("GET", "HEAD"):
        if origin is not None and origin != f"http://{host}":
            return _error(403, f"requests of another page, {origin[:100]!r}, are refused")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _error(403, "requests of another page are refused")
    length = headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,15}", length) or int(length) > MAX_BODY:
        return _error(413, _TOO_LARGE)
    return None


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


def application(session: Session) -> Starlette:
    """The page and what it asks for, of one session."""
    pages = {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in (".html", ".js", ".css")}

    def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in pages:
            raise HTTPException(404, f"there is no {name[:100]!r} here")
        return FileResponse(pages[name])

    def state(request: Request) -> Response:
        return JSONResponse(
            {
                "generator": session.name,
                "resolution": session.resolution,
                "truncation": session.truncation,
                "layers": _layer_labels(session),
                "settings": asdict(session.defaults),
                "edit": _edit(session),
                "trained": _trained(session),
                "training": asdict(session.progress()),
            }
        )

    async def pictures(request: Request) -> Response:
        body = await _body(request, ("seeds", "mix"))
        seeds = _list(body, "seeds")
        return await run_in_threadpool(lambda: _strip(session.pictures(seeds, _mix(body))))

    async def preview(request: Request) -> Response:
        body = await _body(request, ("seed", "points"))
        return await run_in_threadpool(lambda: _strip(session.warped(body["seed"], body["points"])[None]))

    async def set_points(request: Request) -> Response:
        chosen = _list(await _body(request, ("pictures",)), "pictures")
        if not all(isinstance(one, dict) and one.keys() == {"seed", "points"} for one in chosen):
            raise ValueError("pictures must be a list of objects with a seed and points")
        session.set_edit([(one["seed"], one["points"]) for one in chosen])
        return JSONResponse({"edit": _edit(session)})

    def save(request: Request) -> Response:
        name = _name(request.query_params.get("name", ""))
        return _file(session.document_text(name).encode(), name or "edit", "json", "application/json")

    async def load(request: Request) -> Response:
        try:
            text = (await request.body()).decode()
        except UnicodeDecodeError:
            raise ValueError("the file is not text and so no edit") from None
        await run_in_threadpool(session.open_text, text)
        return JSONResponse({"edit": _edit(session)})

    def training(request: Request) -> Response:
        return JSONResponse(asdict(session.progress()))

    async def start(request: Request) -> Response:
        body = await _body(request, ("name", *Settings.__dataclass_fields__))
        name = _name(body.pop("name"))
        if not name:
            raise ValueError("the edit needs a name")
        session.start_training(name, Settings(**body))
        return JSONResponse(asdict(session.progress()), 202)

    def cancel(request: Request) -> Response:
        session.training.cancel()
        return JSONResponse(asdict(session.progress()))

    def forget(request: Request) -> Response:
        session.forget(request.path_params["number"])
        return JSONResponse({"trained": _trained(session)})

    def export(request: Request) -> Response:
        number, kind = request.path_params["number"], request.path_params["kind"]
        if kind not in ("pth", "safetensors"):
            raise HTTPException(404, "weights are exported as pth or safetensors")
        content = session.export(number, kind)
        return _file(content, session.one(number).name, kind, "application/octet-stream")

    async def export_mix(request: Request) -> Response:
        mix = _mix(await _body(request, ("mix",)))
        content = await run_in_threadpool(session.export_mix, mix)
        return _file(content, "mix", "pth", "application/octet-stream")

    routes = [
        Route("/", page),
        Route("/{name}", page),
        Route("/api/state", state),
        Route("/api/pictures", pictures, methods=["POST"]),
        Route("/api/preview", preview, methods=["POST"]),
        Route("/api/points", set_points, methods=["PUT"]),
        Route("/api/edit", save),
        Route("/api/edit", load, methods=["PUT"]),
        Route("/api/training", training),
        Route("/api/training", start, methods=["POST"]),
        Route("/api/training", cancel, methods=["DELETE"]),
        Route("/api/trained/{number:int}", forget, methods=["DELETE"]),
        Route("/api/trained/{number:int}.{kind}", export),
        Route("/api/mix", export_mix, methods=["POST"]),
    ]
    handlers: dict[Any, Callable[[Request, Any], Response]] = {
        HTTPException: lambda request, error: _error(error.status_code, error.detail),
        ValueError: lambda request, error: _error(400, str(error)),
        Unknown: lambda request, error: _error(404, str(error)),
        Busy: lambda request, error: _error(409, str(error)),
        Exception: _unexpected,
    }
    return Starlette(routes=routes, middleware=[Middleware(Guard)], exception_handlers=handlers)


def _unexpected(request: Request, error: Exception) -> Response:
    return _error(500, f"this went wrong inside the program ({type(error).__name__}); its terminal says more")


def listen(port: int = PORT) -> socket.socket:
    """A socket on the loopback device; port 0 is any free one. Raises OSError with the way out where it is taken."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen()
    except (OSError, OverflowError) as error:
        found.close()
        raise OSError(f"port {port} cannot be had ({error}); choose another by --port, or 0 for any free one") from None
    return found


def address(listening: socket.socket) -> str:
    """The page's URL."""
    return f"http://{HOST}:{listening.getsockname()[1]}/"


def server(session: Session) -> uvicorn.Server:
    """The server of a session, to be run on a socket: `server(session).run(sockets=[listen()])`."""
    config = uvicorn.Config(
        application(session), lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    return uvicorn.Server(config)


def serve(session: Session, port: int = PORT, ready: Callable[[str], object] = lambda url: None) -> None:
    """Serves the page until an interrupt, then ends a training that runs; `ready` is told the URL.

    Raises OSError where the port is taken.
    """
    with listen(port) as listening:
        ready(address(listening))
        try:
            server(session).run(sockets=[listening])
        except KeyboardInterrupt:  # the way in which the page is ended
            pass
        finally:
            session.close()


async def _body(request: Request, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object with exactly these keys. Raises ValueError."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "requests are JSON (application/json)")
    try:
        found = json.loads(await request.body(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is no JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict) or found.keys() != set(keys):
        raise ValueError(f"the request must be an object with {', '.join(keys)}")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"it holds {text}, which is no number of JSON")


def _list(body: Mapping[str, Any], key: str) -> list[Any]:
    found = body[key]
    if not isinstance(found, list) or len(found) > MOST_PICTURES:
        raise ValueError(f"{key} must be a list of at most {MOST_PICTURES}")
    return found


def _mix(body: Mapping[str, Any]) -> dict[int, float]:
    found = body["mix"]
    if not isinstance(found, dict) or not all(re.fullmatch("[0-9]{1,9}", key) for key in found):
        raise ValueError("mix must be an object of trained edits' numbers and strengths")
    return {int(key): scale for key, scale in found.items()}


def _name(text: Any) -> str:
    if not isinstance(text, str) or len(text) > 60 or not text.isprintable():
        raise ValueError("a name is one line of at most 60 characters")
    return text.strip()


def _strip(pictures: Pixels) -> Response:
    """Pictures (N, R, R, 3) side by side as one PNG."""
    n, height, width, _ = pictures.shape
    out = io.BytesIO()
    pixels = pictures.transpose(1, 0, 2, 3).reshape(height, n * width, 3)
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return Response(out.getvalue(), media_type="image/png")


def _file(content: bytes, name: str, kind: str, media_type: str) -> Response:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "edit"
    return Response(
        content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{safe}.{kind}"'}
    )


def _layer_labels(session: Session) -> list[str]:
    return [f"{i}: {name.removeprefix('synthesis.')}" for i, name in enumerate(session.layers)]


def _edit(session: Session) -> list[dict[str, Any]]:
    return [{"seed": one.seed, "points": [list(row) for row in one.points]} for one in session.edit]


def _trained(session: Session) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "name": one.name,
            "about": one.about,
            "files": ["pth"] if one.factors is None else ["pth", "safetensors"],
        }
        for number, one in session.trained.items()
    ]
