# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Which hardware profile of a release a machine is, by what its firmware says (DMI). A hint, and no proof."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ansible_collections.vauban.fleet.plugins.module_utils._errors import FleetError

# What the enrolment service takes, too.
NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# In the installer's initrd: the profiles of its release, as JSON.
FILE = "etc/vauban/hardware_profiles.json"
_SHOWN = 60  # characters of a text of DMI, so that the rest of a line is seen

# Profiles by name, in the order in which the product names them. Each lists alternatives, of which one has to hold:
# patterns (fnmatch) by the name of the file in /sys/class/dmi/id. A profile without any only adds to others.
Profiles = Mapping[str, Sequence[Mapping[str, str]]]


def find(profiles: Profiles, dmi: Mapping[str, str]) -> str | None:
    """The profile that a machine is: of those that fit, the one that asks for most; of equals, the first.

    :param dmi: texts by the name of the file in /sys/class/dmi/id; those that are empty are missing.
    """
    asked = {name: _asked(alternatives, dmi) for name, alternatives in profiles.items()}
    best = max(asked, key=lambda name: asked[name], default=None)
    return best if best is not None and asked[best] else None


def choose(profiles: Profiles, dmi: Mapping[str, str], given: str | None, host: str) -> str | None:
    """The profile that a host is installed with.

    :param given: what the site says; it counts for more than DMI.
    :returns: None if no profile of the release says which machines it is for: then there is nothing to judge by.
    :raises FleetError: the release has no such profile, or none for this machine.
    """
    known = ", ".join(profiles) or "none"
    if given is not None:
        if given not in profiles:
            problem = f"the release has no hardware profile {given} (it has: {known})"
            raise FleetError(problem, remedy=f"correct machine.hardware_profile of {host} in the site file")
        return given
    found = find(profiles, dmi)
    if found is None and any(profiles.values()):
        raise FleetError(
            f"no hardware profile of the release ({known}) is for this machine: {described(dmi)}",
            remedy=f"build the product with one, or set machine.hardware_profile of {host} in the site file",
        )
    return found


def described(dmi: Mapping[str, str]) -> str:
    """What a machine says it is, for a line."""
    texts = [dmi[name][:_SHOWN] for name in ("sys_vendor", "product_name", "product_version") if name in dmi]
    kind = [f"chassis type {dmi['chassis_type'][:_SHOWN]}"] if "chassis_type" in dmi else []
    return ", ".join([" ".join(texts) or "no name", *kind])


def _asked(alternatives: Sequence[Mapping[str, str]], dmi: Mapping[str, str]) -> int:
    """How much of the machine a profile asks for, if it fits; 0 if it does not."""
    fitting = [len(each) for each in alternatives if all(_fits(dmi, *item) for item in each.items())]
    return max(fitting, default=0)


def _fits(dmi: Mapping[str, str], name: str, pattern: str) -> bool:
    return name in dmi and fnmatchcase(dmi[name], pattern)
