# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Refusals, as RFC 9457 writes them. They tell a machine no reason; the audit log has it."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"
_LOG = logging.getLogger("enrolment")


class Problem(Exception):
    """What is answered instead of what was asked for."""

    def __init__(self, status: int, title: str, detail: str | None = None, *, retry_after: int | None = None) -> None:
        self.status = status
        self.title = title
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(title)

    def response(self) -> JSONResponse:
        """For the wire."""
        content = {"type": "about:blank", "title": self.title, "status": self.status}
        if self.detail is not None:
            content["detail"] = self.detail
        headers = {"Cache-Control": "no-store"}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return JSONResponse(content, self.status, headers, MEDIA_TYPE)


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str | None = None


def refused() -> Problem:
    """The answer to everything that is judged and found wanting."""
    return Problem(403, "refused")


def unauthorised() -> Problem:
    """The same for an enrolment that is not there and for one whose token is another."""
    return Problem(401, "unauthorised")


def wrong_order() -> Problem:
    """The state does not allow it."""
    return Problem(409, "not in this state")


def missing() -> Problem:
    """There is no such thing."""
    return Problem(404, "not found")


def documented(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI description."""
    content = {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}}
    return {code: {"description": "Problem", "content": content} for code in (*codes, 400, 413, 422, 429, 503)}


def handle(app: FastAPI) -> None:
    """Answer with problems, and never with what was sent or with a trace."""

    async def of_problem(_request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, Problem)
        return exc.response()

    async def of_http(_request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        titles = {400: "not readable", 404: "not found", 405: "method not allowed"}
        response = Problem(exc.status_code, titles.get(exc.status_code, "refused")).response()
        response.headers.update(exc.headers or {})
        return response

    async def of_validation(_request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        problems = exc.errors()
        if any(problem["loc"][:1] == ("path",) for problem in problems):
            return missing().response()
        # Keys that are not ours are the sender's text, which stays out of the answer.
        known = [_location(problem["loc"]) for problem in problems if problem["type"] != "extra_forbidden"]
        return Problem(422, "not valid", "; ".join(known[:5]) or "unknown key").response()

    async def of_bug(request: Request, exc: Exception) -> JSONResponse:
        _LOG.error("%s %s: %s", request.method, request.scope.get("route", "?"), type(exc).__name__)
        return Problem(500, "internal error").response()

    app.add_exception_handler(Problem, of_problem)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Exception, of_bug)


def _location(parts: tuple[int | str, ...]) -> str:
    """Where, as far as it is printable: a key of a mapping may be anything."""
    words = [str(part) for part in parts]
    return ".".join(word if word.isascii() and word.isidentifier() else "*" for word in words)[:200]
