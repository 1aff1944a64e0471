# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.vauban.fleet.plugins.module_utils._command import CommandError
from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.vauban.fleet.plugins.module_utils._sandbox import Bind, Layers, Sandbox

_PACKAGE = "ansible_collections.vauban.fleet.plugins.module_utils"
_LIBRARY = "/run/lib"
_HERE = Path(__file__).parent.parent


def call(
    sandbox: Sandbox,
    function: str,
    arguments: Mapping[str, Any],
    *,
    binds: Sequence[Bind] = (),
    layers: Mapping[str, Layers] | None = None,
    epoch: int,
    log: Path,
) -> Any:
    """Call a function of this library inside the SDK, with the SDK's Python, and return what it returns.

    :param function: ``<module>.<function>`` below module_utils, for example ``_image.finalize.finalize``.
    :param arguments: keyword arguments; they and the result travel as JSON.
    :param epoch: SOURCE_DATE_EPOCH, seconds.
    :raises FleetError: raised inside, or a program inside failed.
    """
    module, _dot, name = function.rpartition(".")
    completed = sandbox.run(
        ["/usr/bin/python3", "-B", "-m", f"{_PACKAGE}._image.inside", module, name],
        binds=[Bind(_HERE, f"{_LIBRARY}/{_PACKAGE.replace('.', '/')}"), *binds],
        layers=layers,
        privileged=True,
        env={"PYTHONPATH": _LIBRARY, "SOURCE_DATE_EPOCH": str(epoch)},
        stdin=json.dumps(arguments).encode(),
        log=log,
        check=False,
    )
    if completed.returncode != 0:
        raise CommandError(completed, log=log)
    answer = json.loads(completed.stdout.splitlines()[-1])
    if "error" in answer:
        raise FleetError(**answer["error"])
    return answer["result"]


def _main() -> None:
    module, name = sys.argv[1:]
    function = getattr(__import__(f"{_PACKAGE}.{module}", fromlist=[name]), name)
    try:
        answer = {"result": function(**json.load(sys.stdin))}
    except FleetError as exc:
        answer = {"error": exc.as_failure()}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main()
