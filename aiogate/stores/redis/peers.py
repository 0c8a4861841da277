"""The other gateways on this Redis: who they are, and what they tell each other.

* Each gateway writes a line about itself every second, which lives for a minute. Who has not written for a few seconds
  is shown as lost, and does not count for `share: auto`.
* Messages go over one channel: names of sessions that were written or revoked, and the call to reload. They are signed
  with a key that stands in Redis beside the sessions, so whoever may only publish cannot make one; each has a number,
  so that none is heard twice. A message that is lost costs at most that a cached session is believed until its time
  ends.
* Whoever (re)connects may have missed messages, and believes no cached session any more. So it is in a flood of
  messages: the channel is left alone for a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import orjson
from redis.asyncio import Connection

from aiogate.stores.base import Listener, Node, StoreUnavailable
from aiogate.stores.redis.lane import Lane
from aiogate.stores.redis.place import BREAKS, Place
from aiogate.stores.redis.scripts import BEAT

__all__ = ["RedisPeers"]

_log = logging.getLogger("aiogate.stores.redis")

BEAT_SECONDS: Final = 1.0
LOST_SECONDS: Final = 5.0
"""Without a line for so long a gateway is lost."""
SHOWN_SECONDS: Final = 60
FLOOD: Final = 1_000
"""More messages in a second than this are not listened to."""
_NAMES_AT_A_TIME: Final = 500
_GATHERED: Final = 0.005
_SILENT_SECONDS: Final = 2.0
_SENDERS: Final = 1_000


class RedisPeers:
    """One gateway among the others with its prefix. Nothing happens before `begin`."""

    def __init__(self, place: Place, side: Lane, prefix: str, connect_timeout: float) -> None:
        self.id = secrets.token_hex(6)
        self.live = 1
        """How many gateways there are, this one included, as far as is known."""
        self._place = place
        self._side = side
        self._channel = f"{prefix}messages"
        self._keys = (f"{prefix}nodes", f"{prefix}node:{self.id}", f"{prefix}secret")
        self._nodes = f"{prefix}node:"
        self._connect_timeout = connect_timeout
        self._secret = b""
        self._number = 0
        self._ask_secret_at = 0.0
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._names: dict[str, None] = {}
        self._sending: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: Listener | None = None
        self.ignored = 0
        """Messages that were forged, repeated or no message at all."""

    def begin(self, listener: Listener) -> None:
        """Listen, and be seen, from now on."""
        self._listener = listener
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._beat(listener), name="redis-beat"),
            loop.create_task(self._listen(listener), name="redis-messages"),
        ]

    async def close(self) -> None:
        """Say what is left to say, and be seen no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._sending is not None:
            self._sending.cancel()
            self._send_names()
        if self._tasks:
            self._tasks = []
            with contextlib.suppress(StoreUnavailable):
                await self._side.ask_all([("ZREM", self._keys[0], self.id), ("UNLINK", self._keys[1])])

    def written(self, name_hash: str) -> None:
        """Tell the others that a session was written or revoked. What is told at once is told together."""
        self._names[name_hash] = None
        if self._sending is None and self._tasks:
            self._sending = asyncio.get_running_loop().call_later(_GATHERED, self._send_names)

    async def reload(self) -> None:
        """Tell the others to reload. Raises `StoreUnavailable`."""
        await self._side.ask("PUBLISH", self._channel, self._signed({"reload": True}))

    async def nodes(self) -> Sequence[Node]:
        """All gateways of the last minute, the oldest first. Raises `StoreUnavailable`."""
        seen, (seconds, micros) = await self._side.ask_all([("ZRANGE", self._keys[0], 0, -1, "WITHSCORES"), ("TIME",)])
        now = int(seconds) + int(micros) / 1_000_000
        ids = [name.decode() for name in seen[::2]]
        texts = await self._side.ask("MGET", *(self._nodes + name for name in ids)) if ids else []
        found = []
        for at, text in zip(seen[1::2], texts, strict=True):
            if text is not None:
                ago = max(0.0, now - float(at))
                line = orjson.loads(text)
                health = "lost" if ago > LOST_SECONDS else line["health"]
                line |= {"health": health, "seen_seconds_ago": round(ago, 1), "own": line["id"] == self.id}
                found.append(Node(**line))
        return sorted(found, key=lambda node: (node.started, node.id))

    async def _beat(self, listener: Listener) -> None:
        while True:
            try:
                line = orjson.dumps(asdict(listener.describe(self.id)))
                secret, live = await BEAT.run(
                    self._side, self._keys, [self.id, line, SHOWN_SECONDS, LOST_SECONDS, secrets.token_hex(32)]
                )
                self._secret, self.live = secret, max(1, int(live))
            except StoreUnavailable:
                pass  # the lane tells of it
            except Exception:
                _log.exception("this gateway could not tell the others of itself")
            await asyncio.sleep(BEAT_SECONDS)

    async def _listen(self, listener: Listener) -> None:
        while True:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    connection = self._place.connection(await self._place.find())
                    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's gap
            except (*BREAKS, TimeoutError, StoreUnavailable):
                await asyncio.sleep(BEAT_SECONDS)
                continue
            try:
                await self._hear(connection, listener)
            except (*BREAKS, TimeoutError) as error:
                _log.debug("messages of other gateways are not heard: %s", error)
            finally:
                await connection.disconnect(nowait=True)
            await asyncio.sleep(BEAT_SECONDS)

    async def _hear(self, connection: Connection, listener: Listener) -> None:
        """Hear messages until the connection ends. Raises what ends it."""
        await connection.send_command("SUBSCRIBE", self._channel)
        loop = asyncio.get_running_loop()
        count, since, silent = 0, loop.time(), False
        while True:
            said = await connection.read_response(timeout=_SILENT_SECONDS)
            if said is None:
                # Nothing for a while: is anybody there?
                if silent:
                    raise TimeoutError("no answer")
                silent = True
                await connection.send_command("PING")
                continue
            silent = False
            now = loop.time()
            if now - since >= 1:
                count, since = 0, now
            count += 1
            if count > FLOOD:
                _log.warning("more than %d messages in a second: none is listened to for a second", FLOOD)
                return
            if said[0] == b"subscribe":
                listener.distrust()
            elif said[0] == b"message":
                await self._take(said[2], listener)

    async def _take(self, text: bytes, listener: Listener) -> None:
        message = await self._read(text)
        if message is None:
            return
        for name in message.get("sessions", ()):
            listener.forget(name)
        if message.get("reload"):
            listener.reload()

    async def _read(self, text: bytes) -> dict[str, Any] | None:
        """A message of another gateway; None: our own, or nobody's."""
        signature, _, body = text.partition(b" ")
        if not self._is_signed(signature, body):
            # A Redis that has lost its data has another key now; it is asked for no more than once a second.
            now = asyncio.get_running_loop().time()
            if now >= self._ask_secret_at:
                self._ask_secret_at = now + 1
                with contextlib.suppress(StoreUnavailable):
                    self._secret = await self._side.ask("GET", self._keys[2]) or b""
            if not self._is_signed(signature, body):
                self.ignored += 1
                return None
        message: dict[str, Any] = orjson.loads(body)
        sender, number = message["from"], message["number"]
        if sender == self.id:
            return None
        if number <= self._heard.get(sender, 0):
            self.ignored += 1
            return None
        self._heard[sender] = number
        self._heard.move_to_end(sender)
        if len(self._heard) > _SENDERS:
            self._heard.popitem(last=False)
        return message

    def _send_names(self) -> None:
        self._sending = None
        names, self._names = list(self._names), {}
        for begin in range(0, len(names), _NAMES_AT_A_TIME):
            # What cannot be sent now is not sent later: the caches of the others end by themselves.
            with contextlib.suppress(StoreUnavailable):
                signed = self._signed({"sessions": names[begin : begin + _NAMES_AT_A_TIME]})
                self._side.call("PUBLISH", self._channel, signed)

    def _signed(self, message: dict[str, Any]) -> bytes:
        if not self._secret:
            raise StoreUnavailable("the other gateways cannot be told anything yet")
        self._number += 1
        body = orjson.dumps({"from": self.id, "number": self._number, **message})
        return self._signature(body) + b" " + body

    def _is_signed(self, signature: bytes, body: bytes) -> bool:
        return bool(self._secret) and hmac.compare_digest(signature, self._signature(body))

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256").hex().encode()
