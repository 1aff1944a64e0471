# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError


class ControllerAction(ActionBase):
    """Base of the actions that do their work in the controller's process. A subclass says what it takes and acts."""

    SPEC: ClassVar[dict[str, Any]] = {}

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the arguments, then act; a failure that the user can act on is data, too."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(argument_spec=self.SPEC)
        self.task_vars = task_vars or {}
        try:
            return {**result, **self.act(arguments)}
        except FleetError as exc:
            raise AnsibleActionFail(str(exc), result={"failure": exc.as_failure()}) from None

    @abstractmethod
    def act(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The result of the task. In check mode nothing is changed.

        :raises FleetError: the user has to do something first.
        """
