# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
from __future__ import annotations


class FleetError(Exception):
    """A failure the user can act on.

    :param message: what went wrong, in one sentence.
    :param where: the file, key or device concerned (``file: key``).
    :param remedy: what to type or change next.
    """

    def __init__(self, message: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.message = message
        self.where = where
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\nRemedy: {self.remedy}" if self.remedy else text

    def as_failure(self) -> dict[str, str | None]:
        """The same facts as data, for ``fail_json(failure=...)``."""
        return {"message": self.message, "where": self.where, "remedy": self.remedy}
