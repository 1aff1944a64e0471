# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of the enrolment service with a verifier for TPMs that do not exist: SIDE SETTINGS, the socket is 3."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from enrolment import FakeVerifier

from vauban_enrolment import server

if __name__ == "__main__":
    side, settings = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
    server.serve(side, server.make_service(Path(settings), FakeVerifier()), server.inherited())
