"""The threads that take a journal to the store while training goes on: one delivers, one has the disk keep it.

Neither ever makes training wait. They are apart because a store that hangs must not keep the disk from being
asked, once a second, to make sure of what was logged.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from pipeline.tracking.outbox.journal import Entry, Journal, send_pending, uploaded_bytes

SECONDS_BETWEEN_SYNCS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
GIVE_UP_SECONDS = 8.0  # a store that has failed for so long is not waited for at the end of a stage

Send = Callable[[list[Entry]], None]


class Uploader:
    """Takes the entries of one journal to the store, in order, in the background.

    Args:
        journal: Where each entry is kept first.
        send: Delivers some entries; whatever it raises means that they shall be sent again later.
        damaged: Told of each line of the journal that cannot be read.
        pause_seconds: How long entries may gather before they are sent together.

    Attributes:
        last_error: Why the last attempt failed; None after one that did not.
    """

    def __init__(self, journal: Journal, send: Send, damaged: Callable[[str], None], pause_seconds: float = 1.0):
        self.journal = journal
        self.last_error: Exception | None = None
        self._send, self._damaged, self._pause = send, damaged, pause_seconds
        self._changed = threading.Condition()
        self._hurry = self._given_up = False
        self._failing_since: float | None = None
        self._when_arrived: Callable[[], None] | None = None
        self._ending, self._ended = threading.Event(), threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keep a journal", daemon=True)
        self._keeper.start()
        threading.Thread(target=self._deliver, name="deliver to MLflow", daemon=True).start()

    def put(self, entry: Entry) -> None:
        """Keep an entry and have it delivered soon; returns at once."""
        self.journal.append(entry)

    def flush(self, limit_seconds: float) -> bool:
        """Wait until everything has arrived, the limit is over, or the store keeps failing; say whether it has."""
        deadline = time.monotonic() + limit_seconds
        with self._changed:
            self._hurry, self._given_up = True, False
            self._changed.notify_all()
            while not self._drained() and not self._given_up and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, 0.5))
            self._hurry = False
            return self._drained()

    def end(self, limit_seconds: float, when_arrived: Callable[[], None]) -> bool:
        """Flush, and say whether everything has arrived; what has not goes on being delivered behind.

        Args:
            limit_seconds: How long to wait.
            when_arrived: Called once everything has, by then or later.
        """
        self.journal.sync()
        with self._changed:
            self._when_arrived = when_arrived
        arrived = self.flush(limit_seconds)
        return arrived and self._ended.wait(limit_seconds)

    def _drained(self) -> bool:
        if uploaded_bytes(self.journal.folder) >= self.journal.size() and not self.journal.in_memory():
            return True
        return self._ending.is_set()  # asked last: what is called then may have removed the folder just now

    def _has_reason(self) -> bool:
        """Whether the delivering thread should not wait any longer."""
        return self._when_arrived is not None if self._drained() else self._hurry

    def _keep(self) -> None:
        while not self._ending.wait(SECONDS_BETWEEN_SYNCS):
            self.journal.sync()

    def _deliver(self) -> None:
        pause = self._pause
        while True:
            with self._changed:
                self._changed.wait_for(self._has_reason, pause)
                when_arrived, hurried = self._when_arrived, self._hurry
                if when_arrived is not None and self._drained():
                    break
            if self._attempt():
                pause = self._pause
            else:
                pause = min(self._pause if hurried else 2 * pause, LONGEST_PAUSE_SECONDS)
                time.sleep(min(self._pause, 0.5))
        self._ending.set()
        self._keeper.join()
        self.journal.close()
        when_arrived()
        self._ended.set()

    def _attempt(self) -> bool:
        """Send what there is, and say whether that went well."""
        try:
            send_pending(self.journal.folder, self._send, self._damaged)
            if lines := self.journal.in_memory():
                self._send([json.loads(line) for line in lines])
                self.journal.forget(lines)
        except Exception as error:  # training goes on, and the entries stay until they can be sent
            self.last_error = error
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            with self._changed:
                self._given_up = now - self._failing_since > GIVE_UP_SECONDS
                self._changed.notify_all()
            return False
        self.last_error = self._failing_since = None
        with self._changed:
            self._changed.notify_all()
        return True
