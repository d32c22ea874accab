"""Methods of the user's own: found by `module:attribute` or as an entry point, checked, and named with their sources.

What a method must offer is its paper's contract (see `protocols`).
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import math
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from gengauge.benchmarks.core.experiments import Context, Measurement
from gengauge.benchmarks.core.openings import Contract, Own
from gengauge.benchmarks.core.tables import slug
from gengauge.benchmarks.protocols import Work

GROUP = "gengauge.methods"  # of entry points


@dataclass(frozen=True)
class MethodSource:
    """Where a method is found, for another process to find it too.

    `spec` is how the user calls it and `folder` where it is called, which is importable. `name` is the key of its rows,
    `digest` that of its sources.
    """

    spec: str
    folder: str
    name: str
    digest: str


def find(spec: str, paper: str, contract: Contract, folder: Path | None = None) -> tuple[MethodSource, Any]:
    """The method that `module:attribute` or the name of an entry point means; a class is called to make one.

    A plain function is a method with one member, that of the function's own name. Modules of `folder`, by default the
    current one, can be imported, as with `python -m`. Raises ValueError that says what is wrong: with the
    specification, in the user's module, or which part of the paper's contract is missing.
    """
    folder = (folder or Path.cwd()).resolve()
    module, attribute, name = _place(spec)
    with _importable(folder):
        with _told(f"--method {spec}: {module} cannot be imported from {folder}"):
            loaded = importlib.import_module(module)
        found: Any = loaded
        for part in attribute.split("."):
            if not hasattr(found, part):
                known = ", ".join(key for key in vars(loaded) if not key.startswith("_")) or "nothing"
                raise ValueError(f"--method {spec}: {module} has no {attribute!r}; it has {known}")
            found = getattr(found, part)
        given = getattr(found, "name", name)
        if inspect.isclass(found):
            with _told(f"--method {spec}: {attribute}() makes no method; it is called without arguments"):
                found = found()
            given = getattr(found, "name", given)
        elif inspect.isroutine(found) and found.__name__ in members(contract):
            found = type(found.__name__, (), {found.__name__: staticmethod(found)})()
    conform(found, paper, contract, spec)
    row = slug(_kebab(given)) if isinstance(given, str) else ""
    if not row:
        raise ValueError(f"--method {spec}: its `name` is {given!r}; a row is named by a text with letters or digits")
    return MethodSource(spec, str(folder), row, digest_of(loaded)), found


def load(source: MethodSource, paper: str, contract: Contract, table: str, rows: tuple[str, ...]) -> Own:
    """A method once more, in the process that measures it. Raises ValueError as `find` does, and where its sources are
    no longer those that the run began with."""
    found, method = find(source.spec, paper, contract, Path(source.folder))
    if found.digest != source.digest:
        raise ValueError(f"the sources of {source.spec} have changed since the run began; start it again")
    return Own(source.spec, table, rows, source.digest, method)


# -- the contract ------------------------------------------------------------------------------------------------------


def members(contract: Contract) -> dict[str, Callable[..., Any]]:
    """The methods of a contract's protocol by name, in its order."""
    return {key: value for key, value in vars(contract.protocol).items() if inspect.isfunction(value) and key[0] != "_"}


def conform(method: Any, paper: str, contract: Contract, spec: str) -> None:
    """Raises ValueError naming the first member of the contract that a method lacks or that takes other arguments."""
    wanted = members(contract)
    has = [key for key in wanted if getattr(method, key, None) is not None]
    lacking = [key for key in contract.required if key not in has]
    if contract.one_of and not set(contract.one_of) & set(has):
        lacking = [" or ".join(contract.one_of)]
    if lacking:
        shown = "; or ".join(signature_of(wanted[key]) for key in lacking[0].split(" or "))
        raise ValueError(_unfit(spec, paper, f"has no `{lacking[0]}`", shown))
    for key in has:
        member = getattr(method, key)
        if not callable(member):
            what = f"has a `{key}` that cannot be called, {type(member).__name__}"
            raise ValueError(_unfit(spec, paper, what, signature_of(wanted[key])))
        try:
            theirs = inspect.signature(member)
        except (TypeError, ValueError):  # of a function written in C nothing is known
            continue
        arguments = list(inspect.signature(wanted[key]).parameters)[1:]
        try:
            theirs.bind(*arguments)
        except TypeError as error:
            taken = ", ".join(theirs.parameters) or "nothing"
            what = f"has a `{key}` that takes ({taken}) where it is given ({', '.join(arguments)}): {error}"
            raise ValueError(_unfit(spec, paper, what, signature_of(wanted[key]))) from None


def signature_of(member: Callable[..., Any]) -> str:
    """A member as its protocol declares it, in one line: `def fit(self, pictures: Tensor, work: Work) -> None`."""
    return f"def {member.__name__}{inspect.signature(member)}".replace("'", "")


def template(paper: str, contract: Contract, table: str) -> str:
    """The contract's protocol as a module to fill in, which runs as it is."""
    source = inspect.getsource(contract.protocol)
    source = source.replace(f"class {contract.protocol.__name__}(Protocol):", "class MyMethod:").replace(
        ": str =", " ="
    )
    home = sys.modules[contract.protocol.__module__]
    own = [key for key, value in vars(home).items() if inspect.isclass(value) and value.__module__ == home.__name__]
    names = sorted(key for key in own if re.search(rf"\b{key}\b", source))
    used = {key for key in ("Any", "Callable", "Tensor", "nn", "torch") if re.search(rf"\b{key}\b", source)}
    standard = [
        *(["from collections.abc import Callable"] if "Callable" in used else []),
        *(["from typing import Any"] if "Any" in used else []),
    ]
    others = [
        *(["import torch"] if "torch" in used else []),
        *([f"from {home.__name__} import {', '.join(names)}"] if names else []),
        *([f"from torch import {', '.join(sorted(used & {'Tensor', 'nn'}))}"] if used & {"Tensor", "nn"} else []),
    ]
    head = f'"""A method of my own for the tables of {paper}. Saved as my_method.py:\n\n'
    head += f'gengauge run {paper}/{table} --method my_method:MyMethod\n"""'
    blocks = [head, "from __future__ import annotations", "\n".join(standard), "\n".join(others)]
    return "\n\n".join(block for block in blocks if block) + f"\n\n\n{source}"


def _unfit(spec: str, paper: str, what: str, shown: str) -> str:
    return f"{spec} is no method for {paper}: it {what}. Expected: {shown}. `gengauge method {paper}` prints a template"


# -- what a method is given and returns --------------------------------------------------------------------------------


def work_of(context: Context, own: Own) -> Work:
    """What a method is given beside its inputs; its folder is there, another for each job: data, settings, sources."""
    folder = context.work / "own" / f"{own.table}-{own.row}-{context.job or own.digest}-seed{context.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return Work(context.seed, context.device, folder, context.progress)


def missing(own: Own, columns: Iterable[str], why: str) -> Iterator[Measurement]:
    """The columns that cannot be had of a method, and why."""
    return (Measurement(own.row, column, math.nan, missing=why) for column in columns)


def returned(
    own: Own, member: str, value: object, shape: tuple[int | None, ...], kind: Literal["uint8", "float"]
) -> Tensor:
    """A tensor that a member gave, on the CPU. Raises ValueError naming the method and what was expected.

    A length of None may be any. Floats must be finite.
    """
    lengths = ", ".join("any" if each is None else str(each) for each in shape)
    expected = f"expected a tensor ({lengths}) {'uint8' if kind == 'uint8' else 'of floats'}"

    def wrong(what: str) -> ValueError:
        return ValueError(f"`{member}` of {own.spec} returned {what}; {expected}")

    if not isinstance(value, Tensor):
        raise wrong(f"{type(value).__name__}, no tensor")
    fits = len(value.shape) == len(shape) and all(b in (None, a) for a, b in zip(value.shape, shape, strict=True))
    if not fits:
        raise wrong(f"a tensor {tuple(value.shape)}")
    if (value.dtype != torch.uint8) if kind == "uint8" else not value.is_floating_point():
        raise wrong(f"a tensor of {str(value.dtype).removeprefix('torch.')}")
    if kind == "float" and not bool(value.isfinite().all()):
        raise wrong("values that are not finite")
    return value.detach().cpu()


def callable_of(own: Own, member: str, value: object) -> Callable[..., Any]:
    """A function that a member gave. Raises ValueError naming the method for what cannot be called."""
    if not callable(value):
        raise ValueError(f"`{member}` of {own.spec} returned {type(value).__name__}; expected a function")
    return value


# -- finding -----------------------------------------------------------------------------------------------------------


def _place(spec: str) -> tuple[str, str, str]:
    """Module, attribute and default name."""
    module, colon, attribute = spec.partition(":")
    if colon:
        if not module or not attribute:
            raise ValueError(f"--method {spec!r} is not of the form package.module:attribute")
        return module, attribute, attribute.rpartition(".")[2]
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if spec not in known:
        there = f"there are {', '.join(sorted(known))}" if known else "there are none"
        raise ValueError(
            f"--method {spec!r} is no package.module:attribute, and no entry point of {GROUP} has that name; {there}"
        )
    entry = known[spec]
    if not entry.attr:
        raise ValueError(f"the entry point {spec} of {GROUP} is {entry.value}, not package.module:attribute")
    return entry.module, entry.attr, spec


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """A folder's modules can be imported, and what was written since the process began is seen."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # for good: a method may import more when it is called
    importlib.invalidate_caches()
    yield


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Whatever the user's code raises becomes one ValueError with its last place."""
    try:
        yield
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if last.filename.startswith("<") else f" ({Path(last.filename).name}, line {last.lineno})"
        raise ValueError(f"{what}: {type(error).__name__}: {error}{where}") from error


def _kebab(name: str) -> str:
    """`MyMethod2` as `my-method2`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name)


def digest_of(module: ModuleType) -> str:
    """A digest of a method's sources: the whole package that its module is in; of a module alone its file, with those
    beside it that it imports, directly or not, but of an installed one the file alone."""
    file = getattr(module, "__file__", None)
    if file is None:
        return "no file"
    path = Path(file)
    top = module.__name__.partition(".")[0]
    root = getattr(sys.modules.get(top), "__path__", None)
    if root is not None:
        files = sorted(_sources(Path(next(iter(root)))))
    elif path.parent.resolve() in {Path(sysconfig.get_path(key)).resolve() for key in ("purelib", "platlib")}:
        files = [path]  # what lies beside it are other packages
    else:
        files = sorted(_beside(path))
    hasher = hashlib.sha256()
    for each in files:
        hasher.update(each.name.encode() + b"\0" + each.read_bytes())
    return hasher.hexdigest()[:12]


def _sources(folder: Path) -> list[Path]:
    return [each for each in folder.rglob("*.py") if each.is_file()]


def _beside(path: Path) -> set[Path]:
    """A file and what it imports from its own folder."""
    found, left = set[Path](), [path]
    while left:
        file = left.pop()
        if file in found:
            continue
        found.add(file)
        for name in _imports(file):
            module, package = path.parent / f"{name}.py", path.parent / name
            left += [module] if module.is_file() else []
            left += _sources(package) if (package / "__init__.py").is_file() else []
    return found


def _imports(file: Path) -> set[str]:
    """The first names of all modules that a file imports, also inside of functions."""
    names: set[str] = set()
    try:
        parsed = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return names  # whoever imports it is told
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
