"""The application: every call of :data:`CALLS` as a route, its errors, and the OpenAPI page.

Calls are plain routes with readers of their own: FastAPI's parameter injection and response models
would cost as much as a payment's cryptography.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from back.api.auth import WRONG_PASSWORD_PAUSE_S, Guard
from back.api.calls import CALLS, Call, NotFound
from back.api.forms import BadRequest, Form, parse_form, read_form
from back.api.routes import (
    audit,
    channels,
    fees,
    invoices,
    messages,
    network,
    node as node_calls,
    offers,
    onchain,
    paths,
    payments,
)
from back.api.slices import Book, Slices
from back.api.version import squall_version
from back.api.ws import websocket_of
from shared.errors import BackendError, CommandError, LeaseLost, MalformedMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from back.api.interface import ApiNode

__all__ = ["create_app"]

log = structlog.get_logger()

MAX_BODY_BYTES = 64 * 1024
TIMEOUT_S = 30
FORM = "application/x-www-form-urlencoded"

_ROUTES = (
    audit,
    channels,
    fees,
    invoices,
    messages,
    network,
    node_calls,
    offers,
    onchain,
    paths,
    payments,
)
"""Imported for the calls that they enter in CALLS."""


def create_app(node: "ApiNode", *, pause_s: float = WRONG_PASSWORD_PAUSE_S) -> FastAPI:
    """Make the API of a node.

    Args:
        node: what the calls act on.
        pause_s: how long a wrong password waits for its refusal.
    """
    app = FastAPI(title="Squall", version=squall_version(), redoc_url=None)
    app.router.add_route("/health", _health, methods=["GET"])
    app.router.add_websocket_route("/ws", websocket_of(node))
    # One route for all: looking through them would cost more than the average call.
    app.router.add_route("/{call}", _endpoint(node), methods=["POST"])
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(
        Guard, password=node.settings.api_password.get_secret_value(), pause_s=pause_s
    )
    described = _openapi(app.title, app.version)
    app.openapi = lambda: described  # type: ignore[method-assign]
    return app


async def _health(_: "Request") -> Response:
    return _json({"status": "ok"})


async def _http_error(request: "Request", error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    why = {
        404: f"there is no call {request.url.path}",
        405: "calls are made with POST",
    }.get(status, str(error))
    return _json({"error": why}, status)


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _json(value: object, status: int = 200) -> Response:
    return Response(_encode(value).encode(), status, media_type="application/json")


def _stream(value: Slices | Book) -> Response:
    return StreamingResponse(value.encoded(_encode), media_type="application/json")


# --- calls ------------------------------------------------------------------------------------


STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BadRequest, 400),
    (CommandError, 400),
    (MalformedMessage, 400),
    (NotFound, 404),
    (TimeoutError, 408),
    (BackendError, 503),
    (LeaseLost, 503),
)
"""Errors that are told to the caller in their own words."""


def _endpoint(node: "ApiNode") -> "Callable[[Request], Awaitable[Response]]":
    async def endpoint(request: "Request") -> Response:
        name = request.path_params["call"]
        call = CALLS.get(name)
        if call is None:
            return _json({"error": f"there is no call {name[:64]}"}, 404)
        try:
            form = await _form(request, call)
            value = await _answer(node, call, form)
            return _stream(value) if isinstance(value, Slices | Book) else _json(value)
        except Exception as error:  # noqa: BLE001 - the caller hears of every error
            return _refusal(call, error)

    return endpoint


def _refusal(call: Call, error: Exception) -> Response:
    for kind, status in STATUS:
        if isinstance(error, kind):
            log.info("call_refused", call=call.name, status=status, why=str(error))
            return _json({"error": str(error)}, status)
    log.error("call_broke", call=call.name, exc_info=error)
    return _json({"error": "the call failed: the log says more"}, 500)


async def _answer(node: "ApiNode", call: Call, form: Form) -> object:
    """Do a call; it goes on by itself when the caller's patience ends."""
    task = asyncio.ensure_future(call.handler(node, form))
    patience_s = form.get("timeoutSeconds", TIMEOUT_S)
    done, _ = await asyncio.wait({task}, timeout=patience_s)
    if not done:
        task.add_done_callback(_report)
        raise TimeoutError("request timed out")
    return task.result()


def _report(task: "asyncio.Future[Any]") -> None:
    """Nobody waits for this answer any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("late_call_failed", why=str(error))


async def _form(request: "Request", call: Call) -> Form:
    if request.headers.get("content-type", FORM).startswith("multipart/form-data"):
        async with request.form(max_files=0, max_fields=64) as multipart:
            given = [(name, str(value)) for name, value in multipart.multi_items()]
    else:
        given = parse_form(await _body(request))
    return read_form(given, call.parameters)


async def _body(request: "Request") -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"The form has more than {MAX_BODY_BYTES} bytes")
    return body


# --- OpenAPI ----------------------------------------------------------------------------------


def _openapi(title: str, version: str) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version,
            "description": "Calls, parameters and answers are those of Eclair's API.",
        },
        "components": {"securitySchemes": {"password": {"type": "http", "scheme": "basic"}}},
        "security": [{"password": []}],
        "paths": {f"/{call.name}": {"post": _operation(call)} for call in CALLS.values()},
    }


def _operation(call: Call) -> dict[str, Any]:
    fields = {
        p.name: {**p.kind.schema, **({"description": p.description} if p.description else {})}
        for p in call.parameters.values()
    }
    schema: dict[str, Any] = {"type": "object", "properties": fields, "additionalProperties": False}
    needed = [p.name for p in call.parameters.values() if p.is_required]
    if needed:
        schema["required"] = needed
    return {
        "operationId": call.name,
        "summary": call.summary,
        "tags": [call.tag],
        "requestBody": {"content": {FORM: {"schema": schema}}},
        "responses": {
            "200": {"description": "done", "content": {"application/json": {}}},
            "400": {"description": "a parameter is wrong, or it cannot be done now"},
            "401": {"description": "the password is missing or wrong"},
            "404": {"description": "there is no such thing"},
            "408": {"description": "not done yet, and going on"},
            "503": {"description": "the broker, the database or bitcoind is away"},
        },
    }
