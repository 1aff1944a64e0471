#!/usr/bin/python
# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: enrolment_calls
short_description: Ask the administrators' side of the enrolment service
author: Vauban maintainers (@vauban)
version_added: 0.4.0
description:
  - Runs on the provisioning server and hands requests to the service over its Unix socket, all on one connection.
    A thousand hosts are one call of this module. M(vauban.fleet.provision_hosts) and
    M(vauban.fleet.provision_follow) use it; on its own it is for what they do not do.
options:
  socket:
    description: The administrators' socket.
    type: path
    default: /run/vauban-enrolment/admin.sock
  actor:
    description: Who asks, for the service's audit log.
    type: str
    default: ""
  calls:
    description: What is asked, in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      method:
        description: Method of HTTP.
        type: str
        default: GET
      path:
        description: With the query, from the root on. C(GET /openapi.json) describes them all.
        type: str
        required: true
      body:
        description: JSON; a text if O(calls[].kind) is another.
        type: raw
      kind:
        description: Media type of the body.
        type: str
        default: application/json
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying the target.
    support: partial
    details: In check mode only O(calls[].method=GET) is asked; others are an error.
  diff_mode:
    description: Will return details on what has changed when in diff mode.
    support: none
notes:
  - The task never counts as changed; what a request changes is in its answer.
"""

EXAMPLES = r"""
- name: Look at the fleet
  vauban.fleet.enrolment_calls:
    calls:
      - path: /admin/v1/machines
  register: fleet

- name: Say no to a machine
  vauban.fleet.enrolment_calls:
    actor: rack team
    calls:
      - method: POST
        path: /admin/v1/enrolments/00112233445566778899aabbccddeeff/refuse
        body: {reason: nobody has ordered it}
"""

RETURN = r"""
answers:
  description: Status and body of each; the body is parsed if it is JSON.
  returned: success
  type: list
  elements: dict
  sample: [{status: 200, body: {hosts: [], others: []}}]
failure:
  description: What is wrong, where, and what to do; the message as data.
  returned: failure
  type: dict
  sample:
    message: "the service does not answer: Connection refused"
    where: /run/vauban-enrolment/admin.sock
    remedy: systemctl status vauban-enrolment-admin.socket vauban-enrolment-admin.service
"""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

_TIMEOUT = 120.0  # seconds, for one answer: that of a large fleet takes some


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("enrolment", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """As the class above does to a port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(connection: _Connection, call: Mapping[str, Any], actor: str) -> dict[str, Any]:
    headers, body = {"X-Client-Name": actor} if actor else {}, None
    if call["body"] is not None:
        headers["Content-Type"] = call["kind"]
        text = call["body"] if call["kind"] != "application/json" else json.dumps(call["body"])
        body = str(text).encode()
    connection.request(call["method"], call["path"], body, headers)
    response = connection.getresponse()
    content = response.read().decode("utf-8", "replace")
    if response.headers.get_content_subtype().endswith("json"):
        return {"status": response.status, "body": json.loads(content) if content else None}
    return {"status": response.status, "body": content}


def main() -> None:
    """Ask, in order."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "default": "/run/vauban-enrolment/admin.sock"},
            "actor": {"type": "str", "default": ""},
            "calls": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "method": {"type": "str", "default": "GET"},
                    "path": {"type": "str", "required": True},
                    "body": {"type": "raw"},
                    "kind": {"type": "str", "default": "application/json"},
                },
            },
        },
        supports_check_mode=True,
    )
    calls = module.params["calls"]
    if module.check_mode and any(call["method"] != "GET" for call in calls):
        module.fail_json(msg="check mode asks for nothing that changes something")
    connection = _Connection(module.params["socket"])
    try:
        module.exit_json(changed=False, answers=[_ask(connection, call, module.params["actor"]) for call in calls])
    except (OSError, http.client.HTTPException, ValueError) as exc:
        error = FleetError(
            f"the service does not answer: {getattr(exc, 'strerror', None) or exc or type(exc).__name__}",
            where=module.params["socket"],
            remedy="systemctl status vauban-enrolment-admin.socket vauban-enrolment-admin.service",
        )
        module.fail_json(msg=str(error), failure=error.as_failure())
    finally:
        connection.close()


if __name__ == "__main__":
    main()
