"""The wings keep their order: imports go one way, and what is called pure is pure."""

import ast
import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pcrstore

ROOT = Path(pcrstore.__file__).parent
PURE_MODULES = {
    *("collections", "dataclasses", "enum", "functools", "hashlib", "itertools", "json", "math"),
    *("operator", "re", "struct", "types", "typing", "zlib"),
    *("google_crc32c", "msgspec", "numpy"),
}
"""Libraries that pure modules may import: none knows a file, a clock or a thread."""
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
IMPURE_NUMPY = {"random", "fromfile", "load", "loadtxt", "save", "savez", "memmap", "genfromtxt"}
IMPURE_METHODS = {"tofile", "dump"}


@dataclass(frozen=True)
class Wing:
    """A row of the table in the package's docstring."""

    level: int
    pure: frozenset[str]
    is_pure: bool

    def holds_pure(self, module):
        """Say whether a module, named below its wing, is called pure."""
        return module in self.pure if self.pure else self.is_pure


def wings_of(text):
    """Parse the table of the package's docstring."""
    wings = {}
    _head, _, rows = text.partition("    wing         pure                 holds\n")
    assert rows, "the table has its head"
    for line in rows.splitlines():
        row = re.fullmatch(r"    (\w+) +(all|-|[a-z_]+(?: [a-z_]+)*)  +(\S.*)", line)
        if row is None:
            break
        name, pure, _ = row.groups()
        assert name not in wings, f"{name} stands twice in the table"
        named = frozenset() if pure in ("all", "-") else frozenset(pure.split())
        wings[name] = Wing(len(wings), named, pure == "all")
    return wings


WINGS = wings_of(pcrstore.__doc__)
TOP = {"__init__", "__main__"}
"""Modules above all wings."""


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


def level_of(module):
    top = module.split(".")[0]
    return len(WINGS) if top in TOP else WINGS[top].level


def is_pure(module):
    top, _, rest = module.partition(".")
    return top not in TOP and WINGS[top].holds_pure(rest)


def test_the_table_names_every_wing():
    top = {name.split(".")[0] for name in MODULES} | {
        path.parent.name for path in ROOT.glob("*/*.pyi")
    }
    assert set(WINGS) | TOP == top
    named = {f"{wing}.{module}" for wing, row in WINGS.items() for module in row.pure}
    assert named <= set(MODULES)


def test_few_files_lie_beside_the_wings():
    assert len([path for path in ROOT.iterdir() if path.is_file()]) <= 6


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    up = [other for other in ours(MODULES[module]) if level_of(other) > level_of(module)]
    assert not up, f"{module} imports {up}, of wings after its own"


FACES = {"conversion.sources"}
"""Packages within a wing that other wings may import, too."""


def inside(module, other):
    """Say whether an import reaches into another wing, past its `__init__`."""
    top = other.split(".")[0]
    return top != module.split(".")[0] and other not in WINGS.keys() | FACES | {"__init__"}


@pytest.mark.parametrize("module", MODULES)
def test_a_wing_is_entered_by_its_init(module):
    past = [other for other in ours(MODULES[module]) if inside(module, other)]
    assert not past, f"{module} imports {past}: name what it needs in the wing's __init__"


def test_a_wing_says_what_it_is_and_names_what_others_use():
    for name in {*WINGS, *FACES} - {"errors", "_native", "cli"}:
        tree = MODULES[name]
        assert ast.get_docstring(tree), name
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        imported = {alias.name for node in imports for alias in node.names}
        [listed] = [node.value for node in tree.body if isinstance(node, ast.Assign)] or [None]
        assert {n.value for n in (listed.elts if listed else ())} == imported, name


def assert_no_cycle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(f"imports go round: {' -> '.join(e.args[1])}")


def test_imports_have_no_cycle():
    assert_no_cycle({name: set(ours(tree)) for name, tree in MODULES.items()})


@pytest.mark.parametrize("module", [m for m in MODULES if is_pure(m)])
def test_pure_modules_are_pure(module):
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
    "module": ("import pcrstore.core.ranges", ["core.ranges"]),
    "name": ("from pcrstore.core.ranges import ByteRange", ["core.ranges"]),
    "module-from-package": ("from pcrstore.core import ranges", ["core.ranges"]),
    "submodule": ("from pcrstore.testing.contract import X", ["testing.contract"]),
    "package": ("import pcrstore", ["__init__"]),
    "name-of-package": ("from pcrstore import Dataset", ["__init__"]),
    "deferred": ("def f():\n    from pcrstore.dataset.planner import plan", ["dataset.planner"]),
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
    head = "    wing         pure                 holds\n"
    rows = "    low          all                  x y\n    mid          a b_c                z\n"
    wings = wings_of(f"x\n\n{head}{rows}    top          -                    w\n\n    no\n")
    assert [*wings] == ["low", "mid", "top"]
    assert [w.level for w in wings.values()] == [0, 1, 2]
    assert [w.holds_pure("b_c") for w in wings.values()] == [True, True, False]
    assert [w.holds_pure("d") for w in wings.values()] == [True, False, False]
