# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""The two applications: one for machines, one for admins. They share a database and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from vauban_enrolment import admin, ageing, backing_up, machines, metrics, problems
from vauban_enrolment.limits import LimitsMiddleware
from vauban_enrolment.service import Service

SWEEP_SECONDS = 15
_HOSTS_ON_PAGE = 5_000
_PAGE = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_LOG = logging.getLogger("enrolment")


def machines_app(service: Service) -> FastAPI:
    """For the network of the machines."""
    app = _app(service, "Enrolment of machines", sweeping=True, rates=True, sends=partial(backing_up.sends, service))
    app.include_router(machines.router)
    return app


def admin_app(service: Service) -> FastAPI:
    """For admins. Whoever reaches its socket is one."""
    app = _app(service, "Administration of enrolments", sweeping=False, rates=False, sends=None)
    app.include_router(admin.router)

    check = metrics.AuditCheck()

    @app.get("/metrics", include_in_schema=False)
    def read_metrics() -> Response:
        return Response(metrics.render(service.storage, check), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    def read_page() -> HTMLResponse:
        with service.storage.read() as session:
            fleet = admin.fleet(session, service.clock(), _HOSTS_ON_PAGE)
        return HTMLResponse(_PAGE.get_template("fleet.html").render(fleet, limit=_HOSTS_ON_PAGE))

    @app.get("/fleet.css", include_in_schema=False)
    def read_style() -> Response:
        return Response((Path(__file__).parent / "fleet.css").read_bytes(), media_type="text/css")

    @app.get("/openapi.json", include_in_schema=False)
    def read_description(request: Request) -> dict[str, Any]:
        return {"admin": request.app.openapi(), "machines": machines_app(service).openapi()}

    return app


def _app(
    service: Service, title: str, *, sweeping: bool, rates: bool, sends: Callable[[Scope], bool] | None
) -> FastAPI:
    @contextlib.asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = service.settings.threads
        sweeper = asyncio.create_task(_sweep(service)) if sweeping else None
        yield
        if sweeper is not None:
            sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeper

    # Pages that describe it would load scripts from elsewhere.
    app = FastAPI(
        title=title, version="1", lifespan=running, docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    problems.handle(app)
    app.add_middleware(
        partial(
            LimitsMiddleware,
            limits=service.settings.limits,
            turned_away=service.turn_away,
            rates=rates,
            sends=sends,
        )
    )
    return app


async def _sweep(service: Service) -> None:
    while True:
        try:
            await anyio.to_thread.run_sync(ageing.sweep, service)
        except Exception as exc:
            # It is tried again; ending the service would not help.
            _LOG.error("the sweep failed: %s", type(exc).__name__)
        await asyncio.sleep(SWEEP_SECONDS)
