# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""Which registers (PCRs) a server can demand of a machine that it has never seen.

The installer quotes while it runs in the initrd: in phase `enter-initrd`, behind systemd-pcrphase-initrd.service.

==  ===============================================  ==================================================================
 4  what firmware started: the installer's UKI       Demanded. Firmware writes it before any of our code runs, so no
                                                     other system can bring it to this value.
 7  Secure Boot: its state, its keys, and which of   Quoted, not demanded: each firmware has its own event for each of
    them was used                                    its variables, so the value differs between models and versions.
                                                     A system that 4 and 11 prove says truly whether Secure Boot is
                                                     on. The same keys sign installer and product, so a server that
                                                     keeps the value can compare it with that of the first start.
11  how far boot has come, and once more the parts   Demanded, together with 4. Alone it proves nothing: another system
    of the UKI                                       could extend it with the same digests.
12  command line, credentials and add-ons that do    Demanded to be untouched: they change what the UKI does, and come
    not come out of the UKI (systemd-stub(7))        from whoever writes to the boot medium or the boot option.
13  system extensions beside the UKI                 Demanded to be untouched, as 12.
==  ===============================================  ==================================================================

The others are of no use here: 0 to 3 and 5 hold firmware, its settings and the disks' partition tables; 8 is GRUB's; 9
holds initrd and command line again, as the kernel sees them; 10 is IMA's; 14 shim's; 15 holds what is of one machine.

PCR 4 is predicted for firmware that starts the UKI as its first attempt: a failed attempt before it, or an agent of the
firmware (some models start one), is measured too. Then the machine is refused, and rightly: nobody has said what ran.
Network boot has to be the next boot (BootNext) or the first in the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_UNTOUCHED = "0" * 64


def of_installer(manifest: Mapping[str, Any]) -> dict[int, str | None]:
    """What a machine shows that runs the installer of a release, started by firmware itself, from network or medium.

    :param manifest: of the release, validated (``_image/manifest.py``).
    :returns: value by register, SHA-256 bank, hexadecimal; none: to be quoted, whatever it is.
    """
    return _expected(manifest["installer"]["pcr"], way="direct", phase="enter-initrd")


def of_product(manifest: Mapping[str, Any]) -> dict[int, str | None]:
    """The same for a machine that runs the product, started by the boot loader, and is up."""
    return _expected(manifest["uki"]["pcr"], way="boot_loader", phase="ready")


def _expected(pcr: Mapping[str, Mapping[str, str]], *, way: str, phase: str) -> dict[int, str | None]:
    return {4: pcr["4"][way], 7: None, 11: pcr["11"][phase], 12: _UNTOUCHED, 13: _UNTOUCHED}
