# Copyright: (c) 2026, the vauban.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Private to this collection: may change without notice.
"""How much a stranger may send: sizes, times and rates. Counted in memory: a restart gives everybody a full bucket."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from anyio.to_thread import run_sync
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vauban_enrolment.problems import Problem
from vauban_enrolment.settings import Limits
from vauban_enrolment.transfers import PIECE

# The one path that strangers may post to.
APPLICATIONS = "/v1/enrolments"
TRANSFERS = "/v1/backups/"
_LOCAL = "local"
_SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


def address_of(scope: Scope) -> str:
    """Who asks, as the web server in front says: it alone can reach the socket, and it sets this header itself.

    Networks of IPv6 count as one address: a machine has a whole network of them.
    """
    for name, value in scope["headers"]:
        if name == b"x-real-ip":
            try:
                address = ipaddress.ip_address(value.decode("ascii"))
            except ValueError:
                return _LOCAL
            if isinstance(address, ipaddress.IPv6Address):
                mapped = address.ipv4_mapped
                return str(mapped or ipaddress.ip_network((int(address), 64), strict=False))
            return str(address)
    return _LOCAL


@dataclass
class _Bucket:
    level: float
    time: float


class Rate:
    """Token buckets, which hold what comes in a minute."""

    def __init__(self, each: int, together: int, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.each, self.together, self.most, self.clock = each, together, most, clock
        self.all = _Bucket(together, clock())
        self.by_address: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: str) -> bool:
        """Whether one more is allowed."""
        bucket = self.by_address.setdefault(address, _Bucket(self.each, self.clock()))
        self.by_address.move_to_end(address)
        if len(self.by_address) > self.most:
            self.by_address.popitem(last=False)
        # An address that has used up its own takes nothing from the others.
        return self._draw(bucket, self.each) and self._draw(self.all, self.together)

    def _draw(self, bucket: _Bucket, size: int) -> bool:
        moment = self.clock()
        bucket.level = min(size, bucket.level + (moment - bucket.time) * size / 60)
        bucket.time = moment
        if bucket.level < 1:
            return False
        bucket.level -= 1
        return True


class LimitsMiddleware:
    """Turns away before anything is parsed.

    :param sends: whether a request is a piece of a backup that was ordered, of the machine that was told to send it.
        There are many, and they are larger.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        turned_away: Callable[[str], None],
        *,
        rates: bool,
        sends: Callable[[Scope], bool] | None = None,
    ) -> None:
        self.app, self.limits, self.turned_away, self.sends = app, limits, turned_away, sends
        most = limits.addresses
        self.requests = Rate(limits.requests_per_minute, limits.requests_per_minute_in_all, most) if rates else None
        self.applications = (
            Rate(limits.applications_per_minute, limits.applications_per_minute_in_all, most) if rates else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, __ in message.get("headers", ())}
                extra = [pair for pair in _SECURITY_HEADERS if pair[0] not in given]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            largest = self.limits.body_bytes
            if self.sends is not None and scope["path"].startswith(TRANSFERS) and await run_sync(self.sends, scope):
                largest = max(largest, PIECE)
            else:
                self._allow(scope)
            body = await self._body(scope, receive, largest)
        except Problem as problem:
            await problem.response()(scope, receive, send_guarded)
            return
        if body is None:  # the client is gone
            return
        await self.app(scope, _replay(body, receive), send_guarded)

    def _allow(self, scope: Scope) -> None:
        address = address_of(scope)
        applies = scope["method"] == "POST" and scope["path"].rstrip("/") == APPLICATIONS
        for name, rate in (("requests", self.requests), ("applications", self.applications if applies else None)):
            if rate is not None and not rate.take(address):
                self.turned_away(f"rate_of_{name}")
                raise Problem(429, "too many requests", retry_after=10)

    async def _body(self, scope: Scope, receive: Receive, largest: int) -> bytes | None:
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > largest):
                self.turned_away("body_size")
                raise Problem(413, "too large")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > largest:
                        self.turned_away("body_size")
                        raise Problem(413, "too large")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            self.turned_away("body_time")
            raise Problem(408, "too slow") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
