# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""pydantic, or stand-ins that let the plugins be imported and documented where it is missing.

Nothing works with the stand-ins: plugins look at :data:`PYDANTIC_ERROR` first and say what to install.
"""

from __future__ import annotations

from typing import Any

PYDANTIC_ERROR: ImportError | None = None
try:
    from pydantic import (
        AfterValidator,
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        StringConstraints,
        ValidationError,
        model_validator,
    )
except ImportError as exc:
    PYDANTIC_ERROR = exc

    def _nothing(*_arguments: Any, **_keywords: Any) -> Any:
        return lambda function: function

    BaseModel = object  # type: ignore[assignment,misc]
    ValidationError = ValueError  # type: ignore[assignment,misc]
    AfterValidator = BeforeValidator = ConfigDict = Field = StringConstraints = model_validator = _nothing  # type: ignore

__all__ = [
    "PYDANTIC_ERROR",
    "AfterValidator",
    "BaseModel",
    "BeforeValidator",
    "ConfigDict",
    "Field",
    "StringConstraints",
    "ValidationError",
    "messages",
    "model_validator",
]


def messages(error: ValidationError, *, depth: int) -> dict[str, str]:
    """What is wrong, by dotted place.

    :param depth: keys and indexes that a place has at the most. A union reports each of its branches below that; one
        message for each place is what a person can use.
    """
    return {".".join(map(str, each["loc"][:depth])): each["msg"] for each in error.errors()}
