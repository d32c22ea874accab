"""The Ray engine: gives jobs to the nodes of a cluster, where the local engine runs each, and gathers what is left."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import queue
import shutil
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.exceptions as broken
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gengauge.benchmarks.core.records import Status
from gengauge.benchmarks.core.store import write_part
from gengauge.benchmarks.engine import Event, run_local
from gengauge.benchmarks.jobs import Job, code_version, data_identity
from gengauge.benchmarks.machine import device_name, utc_now, versions
from gengauge.benchmarks.mirror import STATES, Mirror, NotSent
from gengauge.benchmarks.worker import make_records
from gengauge.datasets.weights import cache_folder

RETRIES = 2  # of a job whose process, worker or node died
POLL_SECONDS = 0.5
CONNECT_SECONDS = 10.0
GIB = 2**30


class WorkerDied(UserWarning):
    """The process, worker or node of a job died; the message says why and that the job is tried again."""


class StatesStayOnNodes(UserWarning):
    """The nodes do not see the output folder, so a training goes on only on the node where it was begun."""


# ----------------------------------------------------------------------------------------------------------------------
# The cluster


@dataclass(frozen=True)
class Node:
    """A node that is alive, with what Ray may give away there."""

    id: str
    name: str
    cores: float
    gpus: int
    memory: int  # bytes


def nodes() -> list[Node]:
    """The nodes of the cluster that can run something."""
    found = []
    for each in ray.nodes():
        if each["Alive"]:
            has: Mapping[str, float] = each["Resources"]
            memory = int(has.get("memory", 0))
            found.append(
                Node(each["NodeID"], each["NodeManagerHostname"], has.get("CPU", 0.0), int(has.get("GPU", 0)), memory)
            )
    return [node for node in found if node.cores > 0]


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Within it Ray's functions speak to the cluster at `address`; without one to that of $RAY_ADDRESS, or to the one
    that was started on this machine, or else to a Ray of this machine alone, which ends with the context.

    A connection that is there already is left as it is. Raises ValueError for an address where no cluster answers.
    """
    if ray.is_initialized():
        yield
        return
    asked = address or os.environ.get("RAY_ADDRESS") or None
    _check_answers(asked)
    _mute()
    try:
        ray.init(address=asked, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"no Ray cluster can be used at {asked or 'this machine'}: {told}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Ray itself tries for a minute and more before it ends the process."""
    if address in (None, "auto", "local"):
        return
    if address.startswith("ray://"):
        raise ValueError(
            f"--address {address}: Ray's client passes no progress on; run gengauge on a node of the cluster, by "
            "`ray job submit` or `ray symmetric-run`, with --address auto"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"--address {address}: an address is HOST:PORT, for instance 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({error}); `ray start --head` starts one, `ray status` shows it"
        ) from None


def _mute() -> None:
    """No statistics for Ray's makers, no notices, no paragraph about each worker that dies: a line tells that."""
    import ray._private.worker as inside

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what the notice speaks of

    if hasattr(inside, "listen_error_messages"):
        inside.listen_error_messages = lambda *_: None


def cluster_device(name: str) -> str:
    """The device that `auto` means on this cluster, a GPU where one of its nodes has one, or the one named.

    Raises ValueError for one that no node has.
    """
    gpu = any(node.gpus for node in nodes())
    if name == "auto":
        return "cuda" if gpu else "cpu"
    if name == "cuda" and not gpu:
        raise ValueError("--device cuda: no node of the Ray cluster has a GPU; `ray status` shows what there is")
    if name not in ("cpu", "cuda"):
        raise ValueError(f"--device {name} is for --engine local")
    return name


def about_cluster() -> str:
    """The cluster in words: `a Ray cluster of 3 nodes with 24 cores and 2 GPUs`."""
    found = nodes()
    gpus = sum(node.gpus for node in found)
    more = f" and {gpus} GPUs" if gpus else ""
    return (
        f"a Ray cluster of {len(found)} node{'s' * (len(found) != 1)} with {sum(n.cores for n in found):g} cores{more}"
    )


# ----------------------------------------------------------------------------------------------------------------------
# On a node


@dataclass(frozen=True)
class Run:
    """What a node must know of a run beside the job: where its states are kept and what it was started with."""

    out: Path
    mark: str  # a file's name in `out`, by which a node knows that it sees the folder
    url: str
    versions: Mapping[str, str]
    environment: Mapping[str, str]
    path: tuple[str, ...]  # where modules are looked for, too: a paper may be the user's own


@dataclass(frozen=True)
class Begun:
    """A node has begun with a job; it names its device as records do."""

    node: str
    device: str
    shared: bool


@dataclass(frozen=True)
class Refused:
    """A node does not run a job, since its result would not be the run's."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """How a job ended on a node, and the files that it left, by their names in the output folder.

    `not_sent` says why its last states are not at the run's URL, empty where they are.
    """

    event: Event
    files: Mapping[str, bytes]
    not_sent: str = ""


Message = Begun | Refused | Ended | tuple[int, int, str]


def carry_out(job: Job, run: Run) -> Iterator[Message]:
    """What a Ray worker does: the job by the local engine, in a process of its own under its limits.

    Yields `Begun`, some (done, total, doing) and `Ended`, or only `Refused`.
    """
    _take(run)
    node = socket.gethostname()
    refusal = _other_code(job, run, node) or _other_data(job, node)
    if refusal:
        yield Refused(refusal)
        return
    shared = not run.url and (run.out / run.mark).exists()
    lasting = run.out if shared else _own_folder(run)
    yield Begun(node, device_name(job.device) if job.device == "cpu" else "", shared)
    own = Path(tempfile.mkdtemp(prefix=f"gengauge-{job.digest}-"))
    try:
        (lasting / "training").mkdir(parents=True, exist_ok=True)
        (own / "training").symlink_to(lasting / "training")
        end: Event | None = None
        finished, not_sent = False, ""
        try:
            with _states(run, lasting), _nameless_main():
                for event in _heard(job, own):
                    if event.kind == "progress":
                        yield event.done, event.total, event.doing
                    elif event.kind == "end":
                        end = event
                finished = True
        except OSError as error:
            if not finished:
                raise
            not_sent = str(error)  # the job's results are whole without its states
        assert end is not None
        yield Ended(end, {str(p.relative_to(own)): p.read_bytes() for p in _left(own)}, not_sent)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _take(run: Run) -> None:
    """The variables that change results, as they were where the run was started."""
    if "OMP_NUM_THREADS" not in run.environment:
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own; a job's threads are declared
    os.environ.update(run.environment)
    sys.path += [place for place in run.path if place not in sys.path]


_code_here = functools.cache(code_version)  # of the code that this worker has imported
_data_here = functools.cache(data_identity)


def _other_code(job: Job, run: Run, node: str) -> str:
    """Why results of this node would be another program's, empty where they would not."""
    remedy = "install the same gengauge and libraries on all nodes"
    if _code_here() != job.code:
        return f"node {node} has gengauge {_code_here()}, the run was started by {job.code}; {remedy}"
    here, there = versions(), run.versions
    other = [
        f"{k} {here.get(k, 'none')} for {there.get(k, 'none')}"
        for k in {**here, **there}
        if here.get(k) != there.get(k)
    ]
    return f"node {node} has {', '.join(other)} of the machine that started the run; {remedy}" if other else ""


def _other_data(job: Job, node: str) -> str:
    """Why results of this node would be of other data, empty where they would not."""
    if job.data is None:
        return ""
    remedy = "put the data into a folder that all nodes see, or copy it to the same place with its times (rsync -a)"
    if not job.data.exists():
        return f"node {node} has no {job.data}; {remedy}"
    experiment, at = job.declared()
    part = job.data if experiment.reads is None else experiment.reads(at.settings, job.data)
    here = f"nothing of it in {job.data.resolve().name}" if part is None else _data_here(part)
    return (
        "" if here == job.data_name else f"node {node} has {here} at {job.data}, the run has {job.data_name}; {remedy}"
    )


def _own_folder(run: Run) -> Path:
    """Where this node keeps the states of a run whose folder it does not see."""
    return cache_folder() / "runs" / hashlib.sha256(f"{run.url or run.out}".encode()).hexdigest()[:16]


@contextlib.contextmanager
def _states(run: Run, lasting: Path) -> Iterator[None]:
    """Within it the states of trainings are those at the run's URL, where it has one, and are sent there."""
    if not run.url:
        yield
        return
    mirror = Mirror(run.url)
    mirror.fetch(lasting, STATES)
    mirror.leave(lasting, STATES)
    with mirror.kept(lasting, STATES):
        yield


@contextlib.contextmanager
def _nameless_main() -> Iterator[None]:
    """Processes that start within do not import the main module again: it is Ray's worker."""
    names = vars(sys.modules["__main__"])
    kept = {name: names.pop(name) for name in ("__file__",) if name in names}
    try:
        yield
    finally:
        names |= kept


def _heard(job: Job, own: Path) -> Iterator[Event]:
    """The local engine's events, of progress the newest every half second. Raises what the engine raises."""
    events: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            run_local([job], own, 1, events.put)
        except Exception as error:  # noqa: BLE001 - raised by the reader
            events.put(error)
        events.put(None)

    threading.Thread(target=work, daemon=True).start()
    told = 0.0
    held: Event | None = None
    while True:
        try:
            event = events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            event = held
            if event is None:
                continue
        if event is None:
            return
        if isinstance(event, Exception):
            raise event
        early = event.kind == "progress" and event is not held and time.monotonic() < told + POLL_SECONDS
        held = event if early else None
        if not early:
            told = time.monotonic()
            yield event


def _left(own: Path) -> list[Path]:
    return [p for part in ("pictures", "logs", "records") for p in sorted((own / part).rglob("*")) if p.is_file()]


# ----------------------------------------------------------------------------------------------------------------------
# Where the run was started


@dataclass
class _Task:
    """A job on its way: waiting, or given to the cluster."""

    job: Job
    deaths: int = 0
    begun: Begun | None = None
    utc: str = ""
    started: float = 0.0

    @property
    def timed(self) -> bool:
        return self.job.declared()[0].timed


@dataclass(frozen=True)
class _Died:
    status: Status
    reason: str


def run_on_ray(
    jobs: Sequence[Job],
    out: Path,
    parallel: int,
    tell: Callable[[Event], None],
    *,
    url: str = "",
    retries: int = RETRIES,
) -> None:
    """Runs every job on the connected cluster, at most `parallel` at a time, and tells what happens like `run_local`.

    A job has its declared threads and memory, and a GPU where it runs on one; a timed job has all cores of a node, the
    same one at every seed, and starts when no other job waits. What it leaves is in `out` when its end is told. States
    of trainings are kept in `out` where the nodes see it, else at `url`, else where they were made. A job whose
    process, worker or node dies is tried `retries` times more and fails then.

    Interrupted, it ends the running jobs and raises KeyboardInterrupt. Raises ValueError before any work where no node
    has the GPUs that a job needs.
    """
    out = out.resolve()
    waiting = sorted((_Task(_absolute(job)) for job in jobs), key=lambda task: task.timed)  # the timed ones come last
    _check_room(waiting)
    run = Run(out, f".seen-{socket.gethostname()}-{os.getpid()}", url, versions(), _environment(), tuple(sys.path))
    given: dict[Any, _Task] = {}
    places: dict[str, str] = {}
    out.mkdir(parents=True, exist_ok=True)
    (out / run.mark).touch()
    try:
        while waiting or given:
            while waiting and len(given) < parallel and _may_go(waiting[0], given):
                task = waiting.pop(0)
                given[_give(task, run, places)] = task
            ready, _ = ray.wait(list(given), num_returns=1, timeout=POLL_SECONDS)
            for stream in ready:
                task, message = given[stream], _hear(stream)
                if not isinstance(message, Begun | tuple):
                    del given[stream]
                if _heed(task, message, out, tell, retries):
                    waiting = sorted([task, *waiting], key=lambda task: task.timed)
                elif isinstance(message, Begun) and not (message.shared or url):
                    _say_that_states_stay(task.job, out)
    finally:
        for stream in given:
            ray.cancel(stream, force=True)
        (out / run.mark).unlink(missing_ok=True)


def _absolute(job: Job) -> Job:
    return job if job.data is None else replace(job, data=job.data.resolve())


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.startswith("GENGAUGE_") or k == "OMP_NUM_THREADS"}


def _gpus(job: Job) -> int:
    return job.processes if job.device == "cuda" else 0


def _check_room(tasks: Sequence[_Task]) -> None:
    found = nodes()
    most, asked = max((node.gpus for node in found), default=0), max((_gpus(task.job) for task in tasks), default=0)
    if not found:
        raise ValueError("the Ray cluster has no node with cores; `ray status` shows what there is")
    if asked > most:
        raise ValueError(f"a job needs {asked} GPUs of one node, and the nodes of the Ray cluster have at most {most}")


def _may_go(task: _Task, given: Mapping[Any, _Task]) -> bool:
    """A timed job goes when all others have begun: it would keep a node empty for itself while they wait."""
    return not task.timed or all(other.timed or other.begun is not None for other in given.values())


def _give(task: _Task, run: Run, places: dict[str, str]) -> Any:
    """Gives a job to the cluster; the stream of what it tells. `places` are the nodes of timed experiments."""
    task.utc, task.started = utc_now(), time.perf_counter()
    gpus = _gpus(task.job)
    able = [node for node in nodes() if node.gpus >= gpus]
    alone = _place(f"{task.job.source} {task.job.experiment}", able, places) if task.timed and able else None
    options = needs(task.job, able, alone)
    if alone is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(alone.id, soft=False)
    return _remote(gpus > 0).options(num_returns="streaming", max_retries=0, **options).remote(task.job, run)


def needs(job: Job, able: Sequence[Node], alone: Node | None = None) -> dict[str, Any]:
    """What Ray must set aside for a job: cores, GPUs, bytes of memory, as its experiment declares them.

    Where no node of `able` has so much it is all of the largest one, for the local engine takes such a job, too. A job
    that is to be `alone` on a node has all of its cores.
    """
    _, at = job.declared()
    cores: float = at.threads * job.processes
    memory = int(at.limits.gibibytes * GIB) * job.processes
    if alone is not None:
        return {"num_cpus": alone.cores, "num_gpus": _gpus(job), "memory": min(memory, alone.memory) or None}
    if able:
        largest = max(able, key=lambda node: (min(node.memory, memory), min(node.cores, cores)))
        cores, memory = min(cores, largest.cores), min(memory, largest.memory)
    return {"num_cpus": cores, "num_gpus": _gpus(job), "memory": memory or None}


def _place(experiment: str, able: Sequence[Node], places: dict[str, str]) -> Node:
    """The node of an experiment, one that few others have: times of its seeds are of one machine."""
    there = next((node for node in able if node.id == places.get(experiment)), None)
    chosen = there or min(able, key=lambda node: list(places.values()).count(node.id))
    places[experiment] = chosen.id
    return chosen


@functools.cache
def _remote(gpu: bool) -> Any:
    # A process keeps the GPUs of its first task, and its fork server, too.
    return ray.remote(max_calls=1)(carry_out) if gpu else ray.remote(carry_out)


def _hear(stream: Any) -> Message | _Died:
    try:
        return ray.get(next(stream))
    except broken.RayTaskError as error:
        cause = getattr(error, "cause", None) or error
        told = (str(cause).strip().splitlines() or [""])[-1]
        if isinstance(cause, OSError):  # of its disk or of the URL: another time, or on another node, it may go well
            return _Died("failed", f"a node could not run it: {type(cause).__name__}: {told}")
        hint = "; install it on all nodes" if isinstance(cause, ImportError) or "No module named" in told else ""
        return Refused(f"a node could not run it: {type(cause).__name__}: {told}{hint}")
    except broken.OutOfMemoryError:
        return _Died("memory", "Ray ended its worker, for the node was about to run out of memory")
    except broken.NodeDiedError:
        return _Died("failed", "its node died")
    except (broken.RayError, StopIteration) as error:
        return _Died("failed", f"its worker died ({type(error).__name__})")


def _heed(task: _Task, message: Message | _Died, out: Path, tell: Callable[[Event], None], retries: int) -> bool:
    """Tells what a message means; whether the job is to be tried again."""
    job = task.job
    if isinstance(message, tuple):
        tell(Event("progress", job, *message))
    elif isinstance(message, Begun):
        if task.begun is None:
            tell(Event("start", job))
        task.begun = message
    elif isinstance(message, Ended) and not message.event.died:
        files = {_inside(out, name): content for name, content in message.files.items()}
        for path, content in files.items():
            _write(path, content)
        if message.not_sent:
            warnings.warn(f"{job}: {message.not_sent}", NotSent, stacklevel=2)
        end = message.event
        tell(Event("end", job, status=end.status, reason=end.reason, seconds=end.seconds))
    elif isinstance(message, Refused):
        _settle(task, "failed", message.reason, out, tell)
    else:
        task.deaths += 1
        died = message if isinstance(message, _Died) else _Died("failed", message.event.reason)
        if task.deaths > retries:
            first, _, rest = died.reason.partition("\n")
            reason = f"{first}; tried {task.deaths} times" + (f"\n{rest}" if rest else "")
            _settle(task, died.status, reason, out, tell)
            return False
        first = died.reason.splitlines()[0]
        warnings.warn(f"{job}: {first}; trying again, {task.deaths} of {retries}", WorkerDied, stacklevel=2)
        if task.begun is not None:
            tell(Event("progress", job, 0, 1, f"again: {first}"))
        return True
    return False


def _settle(task: _Task, status: Status, reason: str, out: Path, tell: Callable[[Event], None]) -> None:
    """The records of a job that left none, and its end."""
    seconds = time.perf_counter() - task.started
    records = make_records(task.job, status, reason, [], seconds, 0.0, task.utc)
    if task.begun is not None and task.begun.device:
        records = [replace(record, device=task.begun.device) for record in records]
    write_part(out / "records", f"{task.job.digest}-{task.utc.replace(':', '')}", records)
    if task.begun is None:
        tell(Event("start", task.job))
    tell(Event("end", task.job, status=status, reason=reason, seconds=seconds))


def _inside(out: Path, name: str) -> Path:
    """Where a node's file of a name belongs. Raises ValueError for a name that leads out of the folder."""
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise ValueError(f"a node sent a file {name!r}, whose place is not in {out}; it was not written")
    return out / name


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    hidden.write_bytes(content)
    hidden.replace(path)


def _say_that_states_stay(job: Job, out: Path) -> None:
    if job.declared()[0].train is not None:
        warnings.warn(
            f"the nodes do not see {out}: a training that is stopped goes on only on the node that began it; give "
            "--out a folder that all nodes share, or a URL",
            StatesStayOnNodes,
            stacklevel=2,
        )
