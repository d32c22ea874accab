"""Reading parts of large files."""

from __future__ import annotations

import os


def read_at(descriptor: int, count: int, at: int) -> bytes:
    """`count` bytes from a place, fewer only at the end; it moves no position that processes or threads may share."""
    parts = []
    while count > 0 and (part := os.pread(descriptor, count, at)):
        parts.append(part)
        count, at = count - len(part), at + len(part)
    return b"".join(parts)
