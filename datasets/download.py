"""Downloads that resume, are checked, and are moved into place at the end."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from rich.progress import Progress

TIMEOUT_SECONDS = 20
BLOCK = 2**20


class DownloadError(OSError):
    """A download failed; the message says which and why. What had arrived is kept, and the next try goes on there."""


def file_sha256(path: Path) -> str:
    """The sha256 of a file as hexadecimal digits."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def download(url: str, path: Path, sha256: str) -> Path:
    """Fetches `url` to `path` and returns it; a file that is there already is taken if its sha256 fits.

    `sha256` may be the first digits only. While it runs the file is `path` with `.part` at its end, and a later call
    resumes it. A finished file of another content is deleted. Raises DownloadError.
    """
    if path.is_file() and file_sha256(path).startswith(sha256):
        return path
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, part)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, OSError) as error:
        raise DownloadError(f"{url} could not be fetched ({getattr(error, 'reason', error)})") from error
    if not file_sha256(part).startswith(sha256):
        part.unlink()
        raise DownloadError(f"{url} gave a file whose sha256 does not begin with {sha256}; it was deleted")
    part.replace(path)
    return path


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            return
        raise
    with response, Progress(transient=True) as progress:
        resumed = response.status == 206
        length = int(response.headers.get("Content-Length") or 0)
        task = progress.add_task(
            part.stem, total=(have if resumed else 0) + length or None, completed=have if resumed else 0
        )
        with part.open("ab" if resumed else "wb") as stream:
            while block := response.read(BLOCK):
                stream.write(block)
                progress.advance(task, len(block))
    if length and part.stat().st_size < (have if resumed else 0) + length:
        raise OSError("the connection ended early; run it again to go on from there")
