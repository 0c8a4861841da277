"""The event bus: what happened, for whoever subscribed. Publishing is synchronous and never fails the publisher."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiogate.errors import FAILURES

__all__ = ["Event", "EventBus"]

_log = logging.getLogger("aiogate.events")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `name` is Tyk's word for it (spec/session.md section 9), such as `AuthFailure`."""

    name: str
    at: float
    api: str = ""
    org: str = ""
    session: str = ""
    request_id: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class EventBus:
    """Subscribers by event name; `*` is every event."""

    __slots__ = ("_subscribers",)

    def __init__(self) -> None:
        self._subscribers: dict[str, tuple[Callable[[Event], None], ...]] = {}

    def subscribe(self, name: str, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` for each event of this name. Returns the function that ends it."""
        self._subscribers[name] = (*self._subscribers.get(name, ()), subscriber)

        def unsubscribe() -> None:
            left = tuple(other for other in self._subscribers.get(name, ()) if other is not subscriber)
            self._subscribers[name] = left

        return unsubscribe

    def wanted(self, name: str) -> bool:
        """Whether anybody listens: lets a publisher skip making the event."""
        return bool(self._subscribers.get(name) or self._subscribers.get("*"))

    def publish(self, event: Event) -> None:
        for subscriber in (*self._subscribers.get(event.name, ()), *self._subscribers.get("*", ())):
            try:
                subscriber(event)
            except FAILURES:
                _log.exception("a subscriber of event %s failed", event.name)
