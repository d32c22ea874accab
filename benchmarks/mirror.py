"""A run's folder kept at a URL of fsspec: what it lacks is fetched, what is new in it is sent, file by file."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Records come last: where a job's are, its pictures and its log are, too.
RESULTS = ("pictures", "logs", "records")
STATES = ("training",)
SEND_SECONDS = 300.0  # between two looks at states of trainings, which change without a job's end
# Elsewhere a file is sent under a hidden name and renamed: these show an object when it is whole.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"})


class NotSent(UserWarning):
    """Something could not be written to the URL; it is tried again, at the latest when the run ends."""


def is_url(text: str) -> bool:
    """Whether an output is named by a URL, as `s3://bucket/run` or `file:///shared/run`, and not by a path."""
    return "://" in text


def working_folder(url: str) -> Path:
    """The folder, under `out/`, that works for a URL: its last part with a digest of the whole."""
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", url.rstrip("/").rpartition("/")[2]).strip(".-") or "run"
    return Path("out") / f"{last}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:8]}"


class Mirror:
    """The parts of a run at a URL. Each file is there whole or not at all."""

    def __init__(self, url: str) -> None:
        """Raises ValueError for a URL that no installed package opens, naming the one that would."""
        try:
            import fsspec
        except ImportError:
            raise ValueError(f'{url} needs the package fsspec: pip install "gengauge[cluster]"') from None
        try:
            self.files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            package = re.search(r"[Ii]nstall (\S+)", str(error))
            remedy = f"pip install {package[1]}" if package else str(error)
            raise ValueError(f"{url} needs a package that is not installed: {remedy}") from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{url} cannot be opened: {str(error).splitlines()[0]}") from None
        self.url, self.root = url.rstrip("/"), str(root).rstrip("/")
        protocol = self.files.protocol
        protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self.whole_at_once = bool(protocols & OBJECT_STORES)
        self.known: dict[str, tuple[int, int]] = {}  # size and time of the local files that the URL has, by name there
        self.turn = threading.Lock()

    def check(self) -> None:
        """Raises OSError naming the URL where nothing can be written there."""
        name = f"{self.root}/.writable-{os.getpid()}"
        with self._named("cannot be written to"):
            self.files.makedirs(self.root, exist_ok=True)
            self.files.pipe_file(name, b"")
            self.files.rm_file(name)

    def fetch(self, folder: Path, parts: Sequence[str]) -> None:
        """Brings files that `folder` lacks, or has shorter. Raises OSError naming the URL.

        Files that another removes meanwhile, as states that newer ones replace, are left out.
        """
        with self.turn, self._named("cannot be read"):
            self.files.invalidate_cache()
            for part in parts:
                for name, size in self._listed(part).items():
                    local = folder / name
                    with suppress(FileNotFoundError):
                        if not local.exists() or local.stat().st_size < size:
                            self._get(name, local)
                        state = _state(local)
                        if state[0] == size:
                            self.known[name] = state

    def send(self, folder: Path, parts: Sequence[str]) -> None:
        """Writes what is new or changed in `folder`, removes states that are gone. Raises OSError naming the URL."""
        with self.turn, self._named("cannot be written"):
            for part in parts:
                here = _files(folder, part)
                for name in here:
                    try:
                        state = _state(folder / name)
                        if self.known.get(name) != state:
                            self._put(folder / name, name)
                            self.known[name] = state
                    except FileNotFoundError:
                        if (folder / name).exists():
                            raise  # it is the URL's side that is lacking
                if part in STATES:  # older states take the room of the network many times
                    for name in [n for n in self.known if n.startswith(f"{part}/") and not (folder / n).exists()]:
                        with suppress(FileNotFoundError):  # another may remove it, too
                            if self.files.exists(f"{self.root}/{name}"):
                                self.files.rm_file(f"{self.root}/{name}")
                        del self.known[name]

    def leave(self, folder: Path, parts: Sequence[str]) -> None:
        """Leaves states in `folder` that are older than what was fetched of their training: they are not sent again.

        What else the URL lacks is to be sent: a process that was killed may have written it.
        """
        newest: dict[str, int] = {}
        for training, step in filter(None, map(_step, self.known)):
            newest[training] = max(step, newest.get(training, 0))
        for name in (name for part in parts for name in _files(folder, part)):
            at = _step(name)
            if at is not None and at[1] < newest.get(at[0], 0):
                with suppress(FileNotFoundError):  # another process of this machine may remove it
                    self.known[name] = _state(folder / name)

    @contextmanager
    def kept(self, folder: Path, parts: Sequence[str]) -> Iterator[threading.Event]:
        """Sends in the background whenever the event that it yields is set, every few minutes, and at the end.

        What cannot be sent meanwhile is told by a NotSent warning, also at the end of a body that raised. Else OSError
        is raised at the end.
        """
        due, over, well = threading.Event(), threading.Event(), False

        def work() -> None:
            while not over.is_set():
                due.wait(SEND_SECONDS)
                due.clear()
                if not over.is_set():
                    try:
                        self.send(folder, parts)
                    except OSError as error:
                        warnings.warn(str(error), NotSent, stacklevel=2)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield due
            well = True
        finally:
            over.set()
            due.set()
            thread.join()
            try:
                self.send(folder, parts)
            except OSError as error:
                if well:
                    raise
                warnings.warn(str(error), NotSent, stacklevel=2)  # the body's own exception is the one to raise

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Whatever a driver raises (each store has errors of its own) becomes an OSError that names the URL."""
        try:
            yield
        except Exception as error:
            told = (str(error).splitlines() or [""])[0]
            raise OSError(f"{self.url} {what}: {type(error).__name__}: {told}") from error

    def _listed(self, part: str) -> dict[str, int]:
        """The files of a part at the URL, by name, with their sizes."""
        if not self.files.exists(f"{self.root}/{part}"):
            return {}
        found: dict[str, dict[str, Any]] = self.files.find(f"{self.root}/{part}", detail=True)
        names = {path[len(self.root) + 1 :]: int(info["size"]) for path, info in found.items()}
        return {name: size for name, size in names.items() if not _hidden(name)}

    def _get(self, name: str, local: Path) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        hidden = local.with_name(f".{local.name}.{os.getpid()}.tmp")
        try:
            self.files.get_file(f"{self.root}/{name}", str(hidden))
            hidden.replace(local)
        finally:
            hidden.unlink(missing_ok=True)

    def _put(self, local: Path, name: str) -> None:
        target = f"{self.root}/{name}"
        if self.whole_at_once:
            self.files.put_file(str(local), target)
            return
        folder, _, last = target.rpartition("/")
        hidden = f"{folder}/.{last}.{os.getpid()}.tmp"
        self.files.makedirs(folder, exist_ok=True)
        try:
            self.files.put_file(str(local), hidden)
            self.files.mv(hidden, target)
        finally:
            if self.files.exists(hidden):
                self.files.rm_file(hidden)


def _files(folder: Path, part: str) -> list[str]:
    """The files of a part, without what is half written or was set aside, by their names from the folder on."""
    found = (path.relative_to(folder).as_posix() for path in (folder / part).rglob("*") if path.is_file())
    return sorted(name for name in found if not _hidden(name))


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "damaged")) for part in name.split("/"))


def _step(name: str) -> tuple[str, int] | None:
    """The training and the iteration of a state's file, None for another file."""
    found = re.search(r"(.*)/step-(\d+)/", name)
    return (found[1], int(found[2])) if found else None


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
