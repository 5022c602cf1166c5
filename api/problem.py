"""Errors on the wire: problem documents (RFC 9457) with the faults that a person can mend."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from api.faults import query_faults
from core.errors import Fault, Invalid, RefluxError

MEDIA_TYPE = "application/problem+json"


class FaultModel(BaseModel):
    """One thing that is wrong with the request."""

    path: str = Field(description="Where, as a JSON path.", examples=["$.steps[2].with.url"])
    code: str = Field(description="Stable name of the kind of fault.", examples=["missing_parameter"])
    message: str = Field(examples=["`url` is required by http.request"])
    suggestion: str | None = Field(None, description="The nearest right name, where one exists.")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Invalid input"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the workflow has 2 faults"])
    faults: list[FaultModel] | None = None


class BadRequest(RefluxError):
    """The request cannot be read."""

    status = 400
    title = "Bad request"


class Unauthorized(RefluxError):
    """There is no valid API key with the request."""

    status = 401
    title = "Unauthorized"


class TooLarge(RefluxError):
    """The body is larger than this path takes."""

    status = 413
    title = "Content too large"


class UnsupportedMediaType(RefluxError):
    """The body's media type is not one that this path reads."""

    status = 415
    title = "Unsupported media type"


def fault_json(fault: Fault) -> dict[str, Any]:
    """A fault as it goes over the wire."""
    shown = {"path": fault.path, "code": fault.code, "message": fault.message}
    if fault.suggestion is not None:
        shown["suggestion"] = fault.suggestion
    return shown


def problem_response(status: int, title: str, detail: str, faults: Sequence[Fault] | None = None) -> Response:
    """A problem document as a response."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if faults is not None:
        body["faults"] = [fault_json(fault) for fault in faults]
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="reflux"'
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    return Response(orjson.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def error_response(error: RefluxError) -> Response:
    """An error of ours as a response."""
    if not isinstance(error, Invalid):
        return problem_response(error.status, error.title, error.detail)
    return problem_response(error.status, error.title, _told(error), error.faults)


def _told(error: Invalid) -> str:
    """The detail, with the first fault in words: many clients show nothing else."""
    if not error.faults or any(fault.message in error.detail for fault in error.faults):
        return error.detail
    return f"{error.detail}: {error.faults[0].message}"


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for problem documents, besides those that every path has."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({400, 401, 403, 413, 422, 503, *statuses})
    }


def _allowed(request: Request) -> list[str]:
    """The methods of all routes of a path, by the OpenAPI document: each route knows only its own."""
    found: set[str] = set()
    for path, operations in request.app.openapi()["paths"].items():
        if compile_path(path)[0].match(request.url.path):
            found |= {method.upper() for method in operations}
    return sorted(found)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem document."""

    async def on_reflux(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefluxError)
        return error_response(error)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        phrase = HTTPStatus(error.status_code).phrase
        detail = str(error.detail)
        if error.status_code == HTTPStatus.NOT_FOUND and detail == phrase:
            detail = f"there is nothing at {request.url.path}"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.url.path} does not take {request.method}"
        response = problem_response(error.status_code, phrase, detail)
        response.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = ", ".join(_allowed(request))
        return response

    async def on_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        faults = query_faults(error.errors())
        return problem_response(422, "Invalid input", "; ".join(f"{f.path}: {f.message}" for f in faults[:3]), faults)

    app.add_exception_handler(RefluxError, on_reflux)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
