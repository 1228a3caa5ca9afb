"""Background threads that upload a journal during training: one sends entries, one flushes the journal to disk.

Neither blocks training. They are separate because the journal must reach the disk every second even if the store hangs.
"""

import json
import threading
import time
from collections.abc import Callable

from pipeline.tracking.outbox.journal import Entry, Journal, send_pending, uploaded_bytes

FSYNC_INTERVAL_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
GIVE_UP_SECONDS = 8.0  # do not wait at the end of a stage for a store that has failed for this long

Send = Callable[[list[Entry]], None]


class Uploader:
    """Uploads the entries of one journal, in order, in the background.

    Entries are collected for `pause_seconds` and sent together. See `journal.send_pending` for the callbacks.
    """

    def __init__(self, journal: Journal, send: Send, on_damaged: Callable[[str], None], *, pause_seconds: float = 1.0):
        self.journal = journal
        self.last_error: Exception | None = None  # of the last attempt
        self._send, self._on_damaged, self._pause = send, on_damaged, pause_seconds
        self._changed = threading.Condition()
        self._flushing = self._given_up = False
        self._failing_since: float | None = None
        self._on_uploaded: Callable[[], None] | None = None
        self._closing, self._closed = threading.Event(), threading.Event()
        self._fsync_thread = threading.Thread(target=self._fsync_loop, name="journal fsync", daemon=True)
        self._fsync_thread.start()
        threading.Thread(target=self._upload_loop, name="journal upload", daemon=True).start()

    def put(self, entry: Entry) -> None:
        """Write an entry to the journal and upload it soon; returns immediately."""
        self.journal.append(entry)

    def flush(self, limit_seconds: float) -> bool:
        """Wait until everything is uploaded, time is up, or the store keeps failing; return whether it is uploaded."""
        with self._changed:
            self._flushing, self._given_up = True, False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._given_up or self._all_uploaded(), limit_seconds)
            self._flushing = False
            return self._all_uploaded()

    def close(self, limit_seconds: float, on_uploaded: Callable[[], None]) -> bool:
        """Flush and return whether everything is uploaded; pending entries continue to be uploaded in the background.

        `on_uploaded` is called once everything is uploaded, within the time limit or later.
        """
        self.journal.sync()
        with self._changed:
            self._on_uploaded = on_uploaded
        return self.flush(limit_seconds) and self._closed.wait(limit_seconds)

    def _all_uploaded(self) -> bool:
        if uploaded_bytes(self.journal.folder) >= self.journal.size and not self.journal.in_memory():
            return True
        return self._closing.is_set()  # checked last: on_uploaded may just have removed the folder

    def _should_wake(self) -> bool:
        """Return whether the upload thread should stop waiting."""
        return self._on_uploaded is not None if self._all_uploaded() else self._flushing

    def _fsync_loop(self) -> None:
        while not self._closing.wait(FSYNC_INTERVAL_SECONDS):
            self.journal.sync()

    def _upload_loop(self) -> None:
        pause = self._pause
        while True:
            with self._changed:
                self._changed.wait_for(self._should_wake, pause)
                on_uploaded, flushing = self._on_uploaded, self._flushing
                if on_uploaded is not None and self._all_uploaded():
                    break
            if self._try_upload():
                pause = self._pause
            else:
                pause = min(self._pause if flushing else 2 * pause, MAX_PAUSE_SECONDS)
                time.sleep(min(self._pause, 0.5))
        self._closing.set()
        self._fsync_thread.join()
        self.journal.close()
        on_uploaded()
        self._closed.set()

    def _try_upload(self) -> bool:
        """Send all pending entries and return whether that succeeded."""
        try:
            send_pending(self.journal.folder, self._send, self._on_damaged)
            if lines := self.journal.in_memory():
                self._send([json.loads(line) for line in lines])
                self.journal.drop(lines)
        except Exception as error:  # training continues, and the entries stay in the journal
            now = time.monotonic()
            self.last_error = error
            self._failing_since = self._failing_since or now
            self._given_up = now - self._failing_since > GIVE_UP_SECONDS
        else:
            self.last_error = self._failing_since = None
        with self._changed:
            self._changed.notify_all()
        return self.last_error is None
