# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever the OpenAPI descriptions allow, and much that they do not: no error of the server, no trace in an answer."""

from __future__ import annotations

from typing import Any, cast

import pytest
import schemathesis
from enrolment import BYTES, CHAIN, PEM, RECIPIENTS, Machine
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

from vauban_enrolment import app
from vauban_enrolment.service import Service

_MANY = 10**6
_LIMITS = ("requests_per_minute", "requests_per_minute_in_all", "unproven", "unproven_per_address")
_LIMITS += ("applications_per_minute", "applications_per_minute_in_all", "reports")
_FAST = settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
_SIDES = {"machines": app.machines_app, "admin": app.admin_app}


def operations(side: str) -> list[str]:
    """By method and path; nothing is asked of the service for that."""
    description = _SIDES[side](cast(Service, _Unused())).openapi()
    return sorted(f"{verb.upper()} {path}" for path, verbs in description["paths"].items() for verb in verbs)


@schemathesis.serializer(CHAIN["Content-Type"], PEM["Content-Type"], BYTES["Content-Type"])
def _as_it_is(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


class _Unused:
    def __init__(self) -> None:
        self.settings = self

    def __getattr__(self, name: str) -> Any:
        return None


def bombard(server: Any, side: str, name: str, machine: Machine | None = None) -> None:
    """Send all kinds of requests to one operation, as this machine if there is one."""
    server.start(limits=dict.fromkeys(_LIMITS, _MANY))
    served = _SIDES[side](server.service)
    served.get("/openapi.json" if side == "machines" else "/description", include_in_schema=False)(served.openapi)
    schema = schemathesis.openapi.from_asgi("/openapi.json" if side == "machines" else "/description", served)
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    (operation,) = [each.ok() for each in schema.get_all_operations() if each.ok().label == name]
    headers = {"Authorization": f"Bearer {machine.token}"} if machine else {}

    @given(operation.as_strategy())
    @_FAST
    def send(case: Any) -> None:
        if machine:
            case.path_parameters = {**(case.path_parameters or {}), "id": machine.id}
        response = case.call(headers=headers)
        case.validate_response(response, checks=[not_a_server_error])
        assert "Traceback" not in response.text
        assert 'File "' not in response.text
        if response.status_code >= 400:
            assert response.headers["content-type"][0] == "application/problem+json"

    send()
    server.log()


@pytest.mark.parametrize("name", operations("machines"))
def test_nothing_that_strangers_send_breaks_it(server: Any, name: str) -> None:
    bombard(server, "machines", name)


@pytest.mark.parametrize("name", operations("admin"))
def test_nothing_that_admins_send_breaks_it(server: Any, machine: Machine, name: str) -> None:
    machine.advance("proven")
    bombard(server, "admin", name)


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("challenged", "POST /v1/enrolments/{id}/proof"),
        ("proven", "PUT /v1/enrolments/{id}/requests/{name}"),
        ("proven", "POST /v1/enrolments/{id}/reports"),
        ("installing", "PUT /v1/enrolments/{id}/escrow"),
        ("escrowed", "POST /v1/enrolments/{id}/reports"),
        ("written", "POST /v1/enrolments/{id}/attestation"),
        ("keeping", "PUT /v1/enrolments/{id}/unlock"),
        ("wiping", "POST /v1/enrolments/{id}/reports"),
        ("backing_up", "PUT /v1/backups/{id}/{offset}"),
        ("backing_up", "PUT /v1/enrolments/{id}/backup"),
        ("backing_up", "POST /v1/enrolments/{id}/reports"),
    ],
)
def test_nothing_that_a_machine_sends_breaks_it(server: Any, machine: Machine, state: str, name: str) -> None:
    if state == "keeping":
        assert server.put_host(keep=True).is_success
        machine.advance("challenged")
        assert machine.prove().json() == {"state": state}
    elif state == "wiping":
        assert server.admin.put("/admin/v1/hosts/one/wipe", json={"reason": "sold"}).is_success
        machine.advance("challenged")
        assert machine.prove().json() == {"state": state}
    elif state == "backing_up":
        machine.advance("installed")
        order = {"reason": "test", "seconds": 3600, "recipients": RECIPIENTS}
        assert server.admin.put("/admin/v1/hosts/one/backup", json=order).is_success
        machine.apply()
        assert machine.prove().json() == {"state": state}
    else:
        machine.advance(state)
    bombard(server, "machines", name, machine)
