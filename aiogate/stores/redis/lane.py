"""One connection to Redis, shared by everybody: what is asked in one turn of the event loop leaves in one write.

Commands wait in the order in which they were sent, and each reply belongs to the one in front. That is all the
matching there is, so nothing may ever go past the queue. What can go wrong has one answer each:

* no reply in time: the caller is told so and the place in the queue is kept, because the reply may still come; it was
  perhaps carried out, and nothing is ever undone on a guess;
* three such in a row, each asked after the one before was late; an answer that says that the server is of no use now
  (`LOADING`, `READONLY`, `OOM`, …); bytes that are no RESP; a reply nobody waits for; an end of the connection: all
  who wait are told, and the connection goes;
* without a connection callers are refused at once, and nobody but `_run` tries to get a new one: first at once, then
  ever later, up to a second. It counts as open when a small write was answered in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from hiredis import pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio import Connection
from redis.exceptions import AuthenticationError, BusyLoadingError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from aiogate.stores.base import StoreUnavailable
from aiogate.stores.redis.place import BREAKS, Address, Place

__all__ = ["Argument", "Lane", "Refused"]

_log = logging.getLogger("aiogate.stores.redis")

Argument = str | bytes | int | float
Command = Sequence[Argument]

MOST_ERRORS: Final = 3
OPEN_SECONDS: Final = 1.0
"""How long a lane that was given up is left alone."""
_FIRST_PAUSE: Final = 0.05
_PING_EVERY: Final = 1.0
_FIND_EVERY: Final = 5
_READING: Final = 0.002
"""What a loop that was busy gets to read the replies that have come meanwhile."""

Refused = ResponseError
"""What Redis answers to a command that it does not carry out."""

_USELESS: Final = {
    "READONLY": "Redis is a read-only replica",
    "OOM": "Redis is out of memory",
    "LOADING": "Redis is loading its data",
    "MASTERDOWN": "Redis has lost its master",
    "MISCONF": "Redis cannot save its data and refuses writes",
    "NOAUTH": "Redis wants a password",
    "WRONGPASS": "Redis refuses our user or password",
    "NOPERM": "Redis does not permit our user what it needs",
    "BUSY": "Redis is busy with a script",
    "NOREPLICAS": "Redis has too few replicas to take writes",
    "CLUSTERDOWN": "the Redis cluster is down",
    "MOVED": "the Redis cluster has moved our slot",
    "ASK": "the Redis cluster is moving our slot",
    "TRYAGAIN": "the Redis cluster is moving our slot",
}
"""Answers after which it makes no sense to go on asking."""


class _Asked(NamedTuple):
    future: asyncio.Future[Any]
    at: float


# What the generated constructor of a named tuple does, without a call through Python.
_tuple: Final = tuple.__new__


class _Broken(Exception):
    """The connection is not to be used any more; `pause` is how long to leave the server alone."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class Lane:
    """A connection that is kept up. `greeting` are commands that a new connection must carry out first.

    `timeout` seconds are what a reply may take, `connect_timeout` a new connection with its greeting. `tells`: changes
    of state are logged, once each. `changed` hears of them too, with the trouble or with an empty text.
    """

    def __init__(
        self,
        place: Place,
        *,
        timeout: float,
        connect_timeout: float,
        greeting: Sequence[Command] = (),
        tells: bool = False,
        changed: Callable[[str], None] | None = None,
    ) -> None:
        self._place = place
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._greeting = greeting
        self._tells = tells
        self._changed = changed
        self._connection: Connection | None = None
        self._asked: deque[_Asked] = deque()
        self._unsent: list[bytes] = []
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._broken: asyncio.Future[None] | None = None
        self._errors = 0
        self._late_at = 0.0
        self._heard = False
        self._running: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        self.trouble = "not connected yet"
        """Why nothing can be asked now; empty when it can."""
        self.reached = False
        """Whether there has ever been a connection."""

    async def open(self) -> None:
        """Begin; waits for the outcome of the first attempt, whatever it is."""
        self._loop = asyncio.get_running_loop()
        first = self._loop.create_future()
        self._running = self._loop.create_task(self._run(first), name="redis-lane")
        await first

    async def close(self) -> None:
        """Let go. Whoever still waits is told that the store is closed."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            self._running = None
        self._tells = False
        self._give_up("the store is closed")

    def call(self, *command: Argument) -> asyncio.Future[Any]:
        """Ask one command. The future has the reply, or `Refused`, or `StoreUnavailable`.

        Raises `StoreUnavailable` at once when there is no connection.
        """
        if self._connection is None:
            raise StoreUnavailable(self.trouble)
        # Packed here, so that what cannot be packed harms its caller only.
        packed = pack_command(command)  # type: ignore[arg-type]  # its stub says a tuple of one
        future = self._loop.create_future()
        at = self._loop.time()
        self._unsent.append(packed)
        self._asked.append(_tuple(_Asked, (future, at)))
        self._wake.set()
        if self._alarm is None:
            self._alarm = self._loop.call_at(at + self._timeout, self._look)
        return future

    def distrust(self, reason: str) -> StoreUnavailable:
        """Drop the connection, because a reply did not belong to its question. Gives what to raise."""
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(_Broken(reason, OPEN_SECONDS))
            self._give_up(reason)
        return StoreUnavailable(reason)

    async def ask(self, *command: Argument) -> Any:
        """The reply to one command. Raises `StoreUnavailable`, for an error that Redis answers as well."""
        try:
            return await self.call(*command)
        except ResponseError as error:
            raise StoreUnavailable(f"Redis refuses {command[0]!s}: {error}") from error

    async def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to several commands that leave together. An error among them is raised."""
        pending = [self.call(*command) for command in commands]
        replies = await asyncio.gather(*pending, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise StoreUnavailable(f"Redis refuses a command: {reply}") from reply
            if isinstance(reply, BaseException):
                raise reply
        return replies

    async def _run(self, first: asyncio.Future[None]) -> None:
        """Connect, serve until it breaks, and begin again."""
        pause = 0.0
        attempts = 0
        while True:
            if pause:
                await asyncio.sleep(pause)
            try:
                connection, address = await self._connect()
            except asyncio.CancelledError:
                raise
            except (*BREAKS, TimeoutError, StoreUnavailable, _Broken) as error:
                attempts += 1
                pause = min(OPEN_SECONDS, _FIRST_PAUSE * 4**attempts)
                self._give_up(_why(error))
            else:
                attempts = 0
                broken = await self._serve(connection, address, first)
                pause = broken.pause
            if not first.done():
                first.set_result(None)

    async def _connect(self) -> tuple[Connection, Address]:
        try:
            async with asyncio.timeout(self._connect_timeout):
                address = await self._place.find()
                connection = self._place.connection(address)
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's gap
                    await self._greet(connection)
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
        except TimeoutError:
            raise _Broken(f"no connection within {self._connect_timeout:g} s") from None
        return connection, address

    async def _greet(self, connection: Connection) -> None:
        for command in self._greeting:
            await connection.send_command(*command)
            try:
                async with asyncio.timeout(self._timeout):
                    await connection.read_response(timeout=math.inf)
            except TimeoutError:
                raise _Broken(f"no answer within {_shown(self._timeout)}") from None

    async def _serve(self, connection: Connection, address: Address, first: asyncio.Future[None]) -> _Broken:
        """Send and receive until something breaks; what it was."""
        self._broken = self._loop.create_future()
        self._errors = 0
        self._connection = connection
        self._change("")
        if not first.done():
            first.set_result(None)
        works = (self._send(connection), self._receive(connection), self._watch(address))
        tasks = [self._loop.create_task(_noting(self._broken, work)) for work in works]
        try:
            await self._broken
        except _Broken as broken:
            self._give_up(str(broken))
            return broken
        finally:
            self._connection = None
            for task in tasks:
                task.cancel()
            await connection.disconnect(nowait=True)
            await asyncio.gather(*tasks, return_exceptions=True)
        raise AssertionError("a lane ends only by breaking")

    async def _send(self, connection: Connection) -> None:
        while True:
            # Set by the first command of a turn, and looked at in the next turn: all of one turn leave together.
            await self._wake.wait()
            self._wake.clear()
            unsent, self._unsent = self._unsent, []
            await connection.send_packed_command(unsent, check_health=False)

    async def _receive(self, connection: Connection) -> None:
        next_of_read = _further(connection)
        while True:
            try:
                reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except ResponseError as error:
                reply = error
            while reply is not NOT_ENOUGH_DATA:
                self._answer(reply)
                reply = next_of_read()

    def _answer(self, reply: Any) -> None:
        """Give a reply to whoever is in front."""
        if not self._asked:
            raise _Broken("Redis answered what nobody had asked", OPEN_SECONDS)
        future = self._asked.popleft().future
        self._heard = True
        if future.done():
            return
        self._errors = 0
        if isinstance(reply, ResponseError):
            if useless := _useless(reply):
                _fail(future, StoreUnavailable(useless))
                raise _Broken(useless, OPEN_SECONDS)
            _fail(future, reply)
        else:
            future.set_result(reply)

    async def _watch(self, address: Address) -> None:
        """Notice a server that is gone while nobody asks anything, and a master that has moved."""
        for turn in range(1, 1_000_000_000):
            await asyncio.sleep(_PING_EVERY)
            if not self._heard:
                with contextlib.suppress(ResponseError, StoreUnavailable):
                    await self.call("PING")
            self._heard = False
            if self._place.moves and turn % _FIND_EVERY == 0:
                with contextlib.suppress(*BREAKS, StoreUnavailable, TimeoutError):
                    async with asyncio.timeout(self._connect_timeout):
                        found = await self._place.find()
                    if found != address:
                        raise _Broken(f"the master is {found[0]}:{found[1]} now")

    def _look(self) -> None:
        """Time is over for somebody, unless this loop was busy: then the reply is here and has only to be read."""
        self._alarm = self._loop.call_later(_READING, self._tell_late, self._loop.time() - self._timeout)

    def _tell_late(self, over: float) -> None:
        """Tell those who asked before `over`. Their places are kept: the replies may still come."""
        self._alarm = None
        for future, at in self._asked:
            if at > over:
                self._alarm = self._loop.call_at(at + self._timeout, self._look)
                break
            if not future.done():
                _fail(future, StoreUnavailable(f"Redis did not answer within {_shown(self._timeout)}"))
                # All who asked before the last time that it was late share that time: one pause is one error.
                if at > self._late_at:
                    self._late_at = self._loop.time()
                    self._errors += 1
        if self._errors >= MOST_ERRORS:
            self.distrust(f"Redis did not answer within {_shown(self._timeout)}, {MOST_ERRORS} times in a row")

    def _give_up(self, reason: str) -> None:
        """Refuse everybody who waits, and whoever comes, until there is a connection again."""
        self._connection = None
        self._unsent = []
        self._wake.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        asked, self._asked = self._asked, deque()
        for future, _ in asked:
            _fail(future, StoreUnavailable(reason))
        self._change(reason)

    def _change(self, trouble: str) -> None:
        before, self.trouble = self.trouble, trouble
        if bool(before) == bool(trouble):
            # Another reason for the same state is no news.
            return
        if self._tells:
            if trouble:
                _log.error("Redis cannot be used: %s", trouble)
            elif self.reached:
                _log.warning("Redis is used again")
        self.reached = self.reached or not trouble
        if self._changed is not None:
            self._changed(trouble)


def _further(connection: Connection) -> Callable[[], Any]:
    """A function that gives the next reply that came in the same read as the last one, or `NOT_ENOUGH_DATA`.

    redis-py looks at one reply at a time, in three coroutines; this asks the parser that it fed. Raises what redis-py
    raises for an answer that is the end of a connection.
    """
    parser: Any = connection._parser  # redis-py has no public name for what it parses with
    parsed: Callable[[], Any] = parser._reader.gets

    def further() -> Any:
        reply = parsed()
        failed = reply[0] if isinstance(reply, list) and reply else reply
        if isinstance(failed, RedisConnectionError):
            raise failed
        return reply

    return further


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # its caller may have gone away


async def _noting(broken: asyncio.Future[None], work: Awaitable[None]) -> None:
    """Run a part of a lane; however it ends, the lane has broken."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except _Broken as reason:
        if not broken.done():
            broken.set_exception(reason)
    except (*BREAKS, InvalidResponse) as error:
        if not broken.done():
            pause = OPEN_SECONDS if isinstance(error, (InvalidResponse, BusyLoadingError, AuthenticationError)) else 0.0
            broken.set_exception(_Broken(_why(error), pause))
    except Exception as error:
        _log.exception("a connection to Redis failed")
        if not broken.done():
            broken.set_exception(_Broken(f"{type(error).__name__}: {error}", OPEN_SECONDS))


def _why(error: BaseException) -> str:
    if isinstance(error, (ResponseError, AuthenticationError, BusyLoadingError)):
        return _useless(error) or f"Redis refuses us: {error}"
    if isinstance(error, InvalidResponse):
        return f"Redis answers with what is no RESP: {error}"
    return str(error) or type(error).__name__


def _useless(error: RedisError) -> str:
    """What makes the server of no use, from its answer; empty: it is of use, the command was not."""
    word = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    # A server before 7.0 puts what a command inside a script was told behind words of its own.
    if word == "ERR" or word not in _USELESS:
        word = next((one for one in _USELESS if f"-{one} " in str(error)), word)
    reason = _USELESS.get(word, "")
    return f"{reason} ({error})" if reason else ""


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:g} ms"
