"""A counter that threads share."""

import threading


class Tally:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self) -> int:
        with self._lock:
            self._count += 1
            return self._count
