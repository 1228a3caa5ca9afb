"""Check whether a server is reachable, within a time limit that also covers DNS lookups."""

import threading
import time
import urllib.error
import urllib.request


def any_reachable(urls: list[str], limit_seconds: float) -> bool:
    """Return whether any of the URLs answers in time; hanging DNS lookups are left to daemon threads."""
    deadline = time.monotonic() + limit_seconds
    answered = threading.Event()
    finished = threading.Semaphore(0)

    def probe(url: str) -> None:
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "pytorch/vision"})
            with urllib.request.urlopen(request, timeout=limit_seconds):
                answered.set()
        except (urllib.error.HTTPError, OSError, ValueError):
            pass
        finally:
            finished.release()

    for url in urls:
        threading.Thread(target=probe, args=(url,), daemon=True).start()
    for _ in urls:
        if answered.is_set() or not finished.acquire(timeout=max(0.0, deadline - time.monotonic())):
            break
    return answered.is_set()
