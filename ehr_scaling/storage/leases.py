"""Who works on what in a bucket, which has no locks: leases that are taken, renewed, and taken over from the dead."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from ehr_scaling.errors import UserError
from ehr_scaling.storage.bucket import Bucket

TTL = 60.0  # seconds after which a lease that nobody renews is taken over


class Held(NamedTuple):
    """Who holds a lease."""

    host: str
    pid: int
    since: float  # Unix time


class Lease:
    """Of one thing to do, told by objects NAME/1, NAME/2, …: who made the last of them holds it.

    It is made only where it is not there, so that of two who want it one gets it. Its holder writes it anew every
    third of TTL; who has watched it for TTL without a change, and the store without trouble, makes the next. A holder
    that slept too long finds that next one (`lost`), and must not store what it did: it looks before it stores
    (`any_lost`). Clocks of machines need not agree.
    """

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self._name = bucket, name
        self._seen: tuple[str, str, float] | None = None  # object, what it held, since when by our clock
        self._number = 0
        self._stop = threading.Event()  # of the holding now; another one has another
        self._renewing = threading.Lock()
        self._renewed = _now()  # when the last renewal that came through was begun
        self._since = time.time()
        self.lost = False

    def take(self) -> bool:
        """Whether it is ours now."""
        last, content = self._last()
        if content is not None and _read(content)["held"]:
            seen = (last, content)
            if self._seen is None or self._seen[:2] != seen:
                self._seen = (*seen, time.monotonic())
            # While the store gives no answer its holder cannot renew it either
            if time.monotonic() - max(self._seen[2], self._bucket.troubled) < TTL:
                return False
        self._number = int(last.rsplit("/", 1)[-1]) + 1 if last else 1
        self._since, self._renewed, self.lost = time.time(), _now(), False
        if not self._bucket.create(self._mine(), self._content(held=True)) or self._last()[0] != self._mine():
            return False
        if last:
            self._bucket.remove(last)
        self._stop = threading.Event()
        _holding.add(self)
        threading.Thread(target=self._keep, args=(self._stop, self._mine()), daemon=True).start()
        return True

    def _mine(self) -> str:
        return f"{self._name}/{self._number}"

    def release(self) -> None:
        self._stop.set()
        _holding.discard(self)
        with self._renewing:  # a renewal on its way would be written after it
            if not self.lost:
                self._bucket.write(self._mine(), self._content(held=False))

    def holder(self) -> Held | None:
        """Who holds it, as far as its last object tells; which was the last may be as old as `Bucket.glance`."""
        _, content = self._last_of(self._bucket.glance(self._name))
        if content is None or not (told := _read(content))["held"]:
            return None
        return Held(told["host"], told["pid"], told["since"])

    def _last(self, patience: float = 0.0) -> tuple[str, str | None]:
        return self._last_of(self._bucket.list(self._name, patience), patience)

    def _last_of(self, listed: Iterable[str], patience: float = 0.0) -> tuple[str, str | None]:
        keys = [key for key in listed if key.rsplit("/", 1)[-1].isdecimal()]
        if not keys:
            return "", None
        last = max(keys, key=lambda key: int(key.rsplit("/", 1)[-1]))
        return last, self._bucket.read(last, patience)

    def _content(self, *, held: bool) -> bytes:
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since, "held": held}
        return json.dumps({**about, "renewed": uuid.uuid4().hex}).encode()

    def _keep(self, stop: threading.Event, mine: str) -> None:
        while not stop.wait(TTL / 3):
            with contextlib.suppress(UserError):  # the next try may reach the bucket
                self._renew(stop, mine, patience=TTL / 6)
            if self.lost:
                return

    def _renew(self, stop: threading.Event, mine: str, patience: float = 0.0, age: float = 0.0) -> None:
        """Write it anew, or find that it is `lost`; not where it was renewed within `age` seconds.

        Raises: UserError where the bucket does not answer.
        """
        with self._renewing:
            if stop.is_set() or self.lost or self._age() < age:
                return
            begun = _now()
            if self._last(patience)[0] != mine:
                self.lost = True
                return
            self._bucket.write(mine, self._content(held=True), patience)
            self._renewed = begun

    def _age(self) -> float:
        """Seconds since it was renewed, by whichever clock says more: a machine that sleeps, or is moved to another
        host, may stop one of them."""
        return max(now - then for now, then in zip(_now(), self._renewed, strict=True))


_holding: set[Lease] = set()  # by this process


def any_lost(patience: float = 0.0) -> bool:
    """Whether another machine has taken over what this process believes it holds.

    What was not renewed for half of TTL is renewed here and now: this machine may just have slept, and the thread that
    renews not have had its turn. Args: patience, as of the requests of `Bucket`.
    Raises: UserError where the bucket does not tell.
    """
    for lease in list(_holding):
        lease._renew(lease._stop, lease._mine(), patience, TTL / 2)
    return any(lease.lost for lease in _holding)


def _now() -> tuple[float, float]:
    """Seconds by the machine's own clock, which goes on while it sleeps, and of the day's."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)), time.time()


def _read(content: str) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except ValueError:  # it is being written
        return {"held": True, "host": "?", "pid": 0, "since": time.time()}
