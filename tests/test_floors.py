"""The house keeps its floors: imports go down only, and the lower floors are pure."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pcrstore

ROOT = Path(pcrstore.__file__).parent
PURE_FLOORS = range(4)
PURE_MODULES = {
    *("collections", "dataclasses", "enum", "functools", "hashlib", "itertools", "json", "math"),
    *("operator", "re", "struct", "typing", "zlib"),
    *("google_crc32c", "numpy"),
}
"""What floors 0 to 3 may import from outside: nothing that knows a file, a clock or a thread."""
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
IMPURE_NUMPY = {"random", "fromfile", "load", "loadtxt", "save", "savez", "memmap", "genfromtxt"}
IMPURE_METHODS = {"tofile", "dump"}


def floors_of(text):
    """Parse the table of the package's docstring: floor by top-level module."""
    floors, floor = {}, None
    for line in text.splitlines():
        row = re.fullmatch(r"    (?:(\d) [a-z]+ +| {11})([a-z_ ]+)", line)
        if row is None:
            floor = None
            continue
        floor = int(row[1]) if row[1] else floor
        for name in row[2].split() if floor is not None else ():
            assert name not in floors, f"{name} stands twice in the table"
            floors[name] = floor
    return floors


FLOORS = floors_of(pcrstore.__doc__)


def modules(root=ROOT):
    """Every module by its dotted name below the package; `__init__` is the package itself."""
    out = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        out[name] = ast.parse(path.read_text())
    return out


MODULES = modules()


def imported(tree):
    """Yield what a module imports, wherever the import stands: TYPE_CHECKING and functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(tree, known=None):
    """Yield the modules of this package that a module imports."""
    known = MODULES if known is None else known
    for name in imported(tree):
        if name.split(".")[0] != "pcrstore":
            continue
        parts = name.split(".")[1:]
        while parts and ".".join(parts) not in known:  # a name inside the module
            parts = parts[:-1]
        yield ".".join(parts) if parts else "__init__"


def floor_of(module):
    return FLOORS[module.split(".")[0]]


def test_the_table_names_every_module():
    top = {name.split(".")[0] for name in MODULES} | {
        path.parent.name for path in ROOT.glob("*/*.pyi")
    }
    assert set(FLOORS) == top
    assert set(FLOORS.values()) == set(range(7))


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    up = [other for other in ours(MODULES[module]) if floor_of(other) > floor_of(module)]
    assert not up, f"{module} (floor {floor_of(module)}) imports {up}"


def assert_no_cycle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(f"imports go round: {' -> '.join(e.args[1])}")


def test_imports_have_no_cycle():
    assert_no_cycle({name: set(ours(tree)) for name, tree in MODULES.items()})


@pytest.mark.parametrize("module", [m for m in MODULES if floor_of(m) in PURE_FLOORS])
def test_lower_floors_are_pure(module):
    assert not list(impure(MODULES[module]))


def impure(tree):
    """Yield what a module has that touches the world."""
    for name in imported(tree):
        if name.split(".")[0] not in PURE_MODULES | {"pcrstore"}:
            yield f"import of {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in IMPURE_BUILTINS:
                yield f"call of {node.func.id}, line {node.lineno}"
        elif isinstance(node, ast.Attribute):
            of_numpy = isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy")
            if (of_numpy and node.attr in IMPURE_NUMPY) or node.attr in IMPURE_METHODS:
                yield f"{ast.unparse(node)}, line {node.lineno}"


BAD = {
    "plain": "import os",
    "submodule": "import os.path",
    "from": "from pathlib import Path",
    "renamed": "import time as t",
    "deferred": "def f():\n    import socket",
    "type-checking": "if TYPE_CHECKING:\n    import threading",
    "open": "def f(p):\n    return open(p)",
    "numpy-file": "x = np.fromfile('a')",
    "numpy-random": "x = np.random.default_rng()",
    "array-to-file": "x.tofile('a')",
}


@pytest.mark.parametrize("source", BAD.values(), ids=BAD)
def test_the_checks_see_what_is_impure(source):
    assert list(impure(ast.parse(source)))


IMPORTS = {
    "module": ("import pcrstore.ranges", ["ranges"]),
    "name": ("from pcrstore.ranges import ByteRange", ["ranges"]),
    "module-from-package": ("from pcrstore import ranges", ["ranges"]),
    "submodule": ("from pcrstore.testing.contract import X", ["testing.contract"]),
    "package": ("import pcrstore", ["__init__"]),
    "name-of-package": ("from pcrstore import Dataset", ["__init__"]),
    "deferred": ("def f():\n    from pcrstore.plan import plan", ["plan"]),
    "type-checking": ("if TYPE_CHECKING:\n    import pcrstore.cost", ["cost"]),
    "other": ("import pcrstorex, numpy", []),
}


@pytest.mark.parametrize(("source", "found"), IMPORTS.values(), ids=IMPORTS)
def test_the_checks_see_every_import(source, found):
    assert list(ours(ast.parse(source))) == found


def test_the_checks_see_cycles():
    with pytest.raises(pytest.fail.Exception, match=r"a -> b -> a|b -> a -> b"):
        assert_no_cycle({"a": {"b"}, "b": {"a"}})


def test_the_table_is_read_row_by_row():
    table = "x\n    1 upper   a b\n               c\n    0 lower   d\n\n               e\n"
    assert floors_of(table) == {"a": 1, "b": 1, "c": 1, "d": 0}
