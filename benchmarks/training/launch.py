"""Starts processes that train or generate together on this machine, as accelerate's does, and ends them together."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar, cast

import torch
import torch.distributed

from gengauge.benchmarks.machine import exact_float32

T = TypeVar("T")
Tell = Callable[[int, int, str], None]
PRELOAD = ["torch", "torch._dynamo", "accelerate"]  # once for all
# Of other launchers (MPI, Slurm): accelerate would believe them before ours.
FOREIGN = ("PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")


class ProcessDied(RuntimeError):
    """One of several processes ended without a word; the others were ended with it."""


@dataclass(frozen=True)
class _Returned:
    value: Any


@dataclass(frozen=True)
class _Raised:
    error: Exception
    where: str


class _There(Exception):
    """Where an error was raised in another process: a cause to be printed with it."""


def launch(function: Callable[..., T], arguments: tuple[Any, ...], count: int, tell: Tell) -> T:
    """Calls `function(*arguments, tell)` in `count` new processes, which find each other by `processes.join`.

    Returns what the first one returns, and `tell` hears what it tells. The first exception in one of them is raised
    here, ProcessDied where one ended without; all others are killed then, as they are when this process ends, by Ctrl-C
    or otherwise. Each has as many threads as this one. Function, arguments and value must be picklable, their tensors
    on the CPU.
    """
    # Pickled here and as a whole: multiprocessing would put tensors in shared memory, which containers have little of.
    call = pickle.dumps((function, arguments))
    threads = torch.get_num_threads()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # the first of them works on the same GPU
    start: Any = multiprocessing.get_context("forkserver")  # this process may hold a GPU and threads
    start.set_forkserver_preload(PRELOAD)  # if none runs yet
    port = _free_port()
    members: list[tuple[BaseProcess, Connection]] = []
    try:
        for index in range(count):
            ours, theirs = multiprocessing.Pipe(duplex=False)
            process = start.Process(target=_member, args=(call, threads, index, count, port, theirs))
            process.start()
            theirs.close()
            members.append((process, ours))
        return cast("T", _watch(members, tell))
    finally:
        for process, pipe in members:
            process.kill()
            process.join()
            pipe.close()


def together(function: Callable[..., T], arguments: tuple[Any, ...], count: int, tell: Tell) -> T:
    """`function(*arguments, tell)` in so many processes, in this one where one is enough."""
    return function(*arguments, tell) if count < 2 else launch(function, arguments, count, tell)


def check_room(count: int, device: str) -> None:
    """Raises ValueError where so many processes cannot work together on this machine's device."""
    if count < 2:
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--num-processes starts processes, and a launcher has started this one: use one of the two")
    if device == "mps":
        raise ValueError(f"--num-processes {count}: only a CPU and CUDA's GPUs work together; add --device cpu")
    if device == "cuda" and torch.cuda.device_count() < count:
        raise ValueError(
            f"--num-processes {count}: torch finds {torch.cuda.device_count()} GPUs here, one each is needed"
        )


def _watch(members: list[tuple[BaseProcess, Connection]], tell: Tell) -> object:
    """What the first returned, when all have ended well; raises the first exception that one sends, or ProcessDied."""
    left, value = dict(enumerate(members)), None
    while left:
        wait([each for process, pipe in left.values() for each in (process.sentinel, pipe)])
        for index, (process, _) in left.items():  # first, for the others' words are about lost connections then
            if process.exitcode:
                raise ProcessDied(
                    f"process {index} of {len(members)} {_how(process.exitcode)}, and the others were ended with it; "
                    "the same command goes on from what was saved"
                )
        for index, (process, pipe) in list(left.items()):
            ended = not process.is_alive()  # before its last words are read
            try:
                while pipe.poll():
                    message = pipe.recv()
                    if isinstance(message, _Returned):
                        value = message.value
                    elif isinstance(message, _Raised):
                        raise message.error from _There(f"\n{message.where}")
                    else:
                        tell(*message)
            except EOFError:
                process.join()
                ended = not process.exitcode
            if ended:
                del left[index]
    return value


def _how(exitcode: int) -> str:
    if exitcode > 0:
        return f"ended with status {exitcode}"
    hint = " (the system may have been out of memory)" if exitcode == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-exitcode).name}{hint}"


def _member(call: bytes, threads: int, index: int, count: int, port: int, pipe: Connection) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that launched this one
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    exact_float32()
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # where it is not set, accelerate chooses another number
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "LOCAL_WORLD_SIZE": str(count)}

    def tell(done: int, total: int, doing: str) -> None:
        if index == 0:
            pipe.send((done, total, doing))

    try:
        function, arguments = pickle.loads(call)  # noqa: S301 - of the process that launched this one
        value = function(*arguments, tell)
        if index == 0:
            pipe.send_bytes(pickle.dumps(_Returned(value)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the launching process raises it
        pipe.send(_Raised(_sendable(error), traceback.format_exc()))
    else:
        _leave()
    pipe.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the rest of an orderly end, in which a process waits for those that are being killed.
    os._exit(0)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own, of a moment ago
    except Exception:  # noqa: BLE001 - classes whose arguments are not those of their constructor
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _leave() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()  # the first serves the others' requests until its end
        torch.distributed.destroy_process_group()


def end_with_parent() -> None:
    """Ends this process when the one that started it dies, even by SIGKILL: nobody would read its result."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch(sentinel: int = parent.sentinel) -> None:
            wait([sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
