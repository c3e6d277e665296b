"""Manifests and directories of index parts that are right by their checksums, and nothing else.

    objects, n_bytes = hostile("manifest", seed=7)    a dataset whose manifest is of `n_bytes`
    with Openers() as openers:
        outcome = openers.open(folder)                in a process of its own: error, memory, time

A seed draws what is hostile: a list, an object or a string of any length, numbers out of all
bounds, values nested deep; short of the bounds of the format, at them, or far beyond.
"""

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bent_datasets import Bent
from index_parts import enveloped

import pcrstore
from pcrstore.core import crc32c

LONGEST = {"manifest": 2**24, "directory": 2**23 - 12}
UID = "0" * 32
NUMBERS = ["-1", "0", "4294967295", str(2**53), str(2**63), "9" * 400, "1.5", "1e308", "1e-400"]
OTHERS = ["true", "null", '""', "[]", "{}", '"x"', "[[]]"]
LETTERS = ["", "a", "\u732b", "\U0001f431", "\\u732b"]

_PART = f'{{"name":"%x","uid":"{UID}","n_images":1,"n_records":1,"bytes":99,"directory":[13,0]}}'
_CONVERSION = (
    f'{{"id":"{UID}","created":"","software":"%x","n_images":0,"options":{{"":""}},"report":null}}'
)
_BLOCK = '{"name":"%x","kind":"","codec":"","rows":0,"rows_per_page":1,"pages":[]}'

ITEMS = {
    # path: (kinds of items, which %x makes distinct; an object's items are its members)
    "manifest": {
        ("classes",): ['"L%x"', '"L"'],
        ("splits",): ['"L%x"', '"%x"'],
        ("features",): ['"%x"'],
        ("groups",): ['"a"', '"g%x"'],
        ("bytes", "groups"): ["1", "99999", "1.5"],
        ("parts",): [_PART, "{}", _PART.replace('"%x"', '"a"')],
        ("checked",): ['{"name":"%x","bytes":0,"crc32c":0}', "0"],
        ("conversions",): [_CONVERSION],
        ("conversions", 0, "options"): ['"L%x":""', '"%x":"L"', '"a":""'],
        ("columns",): [
            '{"name":"L%x","dtype":"","shape":[]}',
            '{"name":"%x","dtype":"","shape":[1]}',
        ],
        ("columns", 0, "shape"): ["1", "60000", "null"],
        ("quality",): [
            '{"metric":"%x","n_images":1,"mean":[],"low":[],"high":[],"percentiles":{"":[]}}'
        ],
        ("quality", 0, "mean"): ["0", "0.1234567", "1e300"],
        ("quality", 0, "percentiles"): ['"%x":[]', '"L%x":[0]', '"":[]'],
        ("later",): ["0", '"%x"', "{}", '{"a":[{"a":[]}]}'],
    },
    "directory": {
        ("objects",): [f'{{"name":"%x","uid":"{UID}","bytes":0}}', "{}", "0"],
        ("blocks",): [_BLOCK, _BLOCK.replace('"pages"', '"fields":[],"pages"')],
        ("blocks", 1, "pages"): ["[0,0,0]", "[99999,99999,4294967295]", "[]"],
        ("blocks", 0, "pages"): ["[0,0,0]", "[1,1,1]"],
        ("blocks", 0, "fields"): ['["%x","<u4",1]', '["L%x","|u1",65536]', '["a","<u4",1]'],
        ("blocks", 1, "shape"): ["1", "null", "65536"],
        ("later",): ["0", '"%x"', '{"a":[{"a":[]}]}'],
    },
}
STRINGS = {
    "manifest": [("script", "text"), ("writer",), ("classes", 0), ("parts", 0, "name"), ("later",)],
    "directory": [
        ("blocks", 1, "name"),
        ("blocks", 0, "codec"),
        ("objects", 0, "name"),
        ("later",),
    ],
}
SCALARS = {
    "manifest": [
        *(
            ("version",),
            ("n_images",),
            ("n_records",),
            ("bytes", "sources"),
            ("bytes", "groups", 0),
        ),
        *(("parts", 0, name) for name in ("n_images", "n_records", "bytes", "directory", "uid")),
        *(("checked", 0, name) for name in ("bytes", "crc32c", "name")),
        *(("columns", 0, "shape"), ("quality", 0, "n_images"), ("layout",), ("classes",)),
    ],
    "directory": [
        *(("n_groups",), ("n_images",), ("n_records",), ("objects", 0, "bytes"), ("uid",)),
        *(("objects", 0, "chunk"), ("objects", 0, "unused"), ("blocks",), ("blocks", 0, "fields")),
        *(("blocks", 1, name) for name in ("rows", "rows_per_page", "nulls", "dtype", "shape")),
        *(("blocks", 0, "pages", 0, i) for i in range(3)),
        *(("blocks", 1, "pages", 0, i) for i in range(3)),
    ],
}


def hostile(what, seed):
    """Name -> bytes of a dataset whose manifest, or part's directory, is hostile; its length."""
    pick = random.Random(f"{what} {seed}")  # noqa: S311 - drawn alike each time
    bent = Bent.of(pick.choice(["record", "zarr"]))
    manifest = json.loads(bent.objects[bent.head].partition(b"\n")[2])
    values = [0.5] * 5
    manifest["quality"] = [
        {"metric": "m", "n_images": 1, "mean": values, "low": values, "high": values}
        | {"percentiles": {"5": values}}
    ]
    if what == "manifest":
        text = _text(what, manifest, pick)
        bent.objects[bent.head] = enveloped(text)
        return bent.objects, len(text)
    n = manifest["parts"][0]["directory"][0]
    data = bent.objects[bent.part]
    text = _text(what, json.loads(data[12:n]), pick)
    head = b"PCRI" + len(text).to_bytes(4, "little") + crc32c(text).to_bytes(4, "little") + text
    bent.objects[bent.part] = head + data[n:]
    manifest["parts"][0] |= {
        "bytes": len(head) + len(data) - n,
        "directory": [len(head), crc32c(head)],
    }
    bent.objects[bent.head] = enveloped(json.dumps(manifest).encode())
    return bent.objects, len(text)


def _text(what, table, pick):
    """JSON of which one value is another, or two."""
    texts = []
    for _ in range(pick.choice([1, 1, 1, 2])):
        how = pick.choices(["items", "string", "scalar", "nested"], [12, 2, 4, 1])[0]
        room = LONGEST[what] // 2 if texts else LONGEST[what] - 20_000
        n_bytes = int(room ** pick.choice([0.5, 0.8, 1, 1, 1]))
        if how == "items":
            path = pick.choice([*ITEMS[what]])
            item = pick.choice(ITEMS[what][path])
            new = _items(item.replace("L", pick.choice(LETTERS)), n_bytes, pick)
        elif how == "string":
            path = pick.choice(STRINGS[what])
            letter = pick.choice(LETTERS) or "b"
            new = '"' + letter * (n_bytes // 8) + "c" * (n_bytes // 2) + '"'
        elif how == "scalar":
            path, new = pick.choice(SCALARS[what]), pick.choice(NUMBERS + OTHERS)
        else:
            path, depth = ("later",), pick.choice([60, 70, 900, 1100, n_bytes // 2])
            new = "[" * depth + "]" * depth
        mark = f"@{len(texts)}@"
        if _put(table, path, mark):
            texts.append((json.dumps(mark), new))
    text = json.dumps(table)
    for mark, new in texts:
        text = text.replace(mark, new)
    return text.encode()[: LONGEST[what]]


def _put(table, path, value):
    """Set the value at a path; say whether there is such a place still."""
    *steps, last = path
    try:
        for step in steps:
            table = table[step]
        table[last] = value
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _items(item, n_bytes, pick):
    """A list of items, or an object of members, about so long."""
    one = len(item.encode()) + 5
    n = max(1, n_bytes // one)
    if pick.random() < 0.2:
        n = min(n, pick.choice([8, 32, 64, 100, 255, 1000, 65_536, 100_000, 1_000_000]))
    parts = [item.replace("%x", f"{i:x}") for i in range(n)] if "%x" in item else [item] * n
    body = ",".join(parts)
    return f"{{{body}}}" if item.startswith('"') and '":' in item else f"[{body}]"


_CHILD = """
import json, os, sys
import msgspec, numpy
import pcrstore
import pcrstore.dataset
from pcrstore.storage.open import open_store

def memory(kind):
    for line in open("/proc/self/status"):
        if line.startswith(kind):
            return int(line.split()[1]) * 1024

def attempt(path):
    ds = pcrstore.open(path)
    for use in (lambda: ds.column("label", [0]), lambda: ds.fetch([0], 1), lambda: repr(ds)):
        try:
            use()
        except pcrstore.PcrstoreError as e:
            yield type(e).__name__

def report(path):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before = memory("VmRSS")
    errors = []
    try:
        errors.extend(attempt(path))
    except pcrstore.PcrstoreError as e:
        errors.append(type(e).__name__)
    except BaseException as e:
        errors.append(f"not ours: {e!r:.300}")
    return json.dumps([errors, memory("VmHWM") - before])

open_store("/")
for line in sys.stdin:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, report(line.strip()).encode())
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    text = os.read(read, 1000).decode()
    os.close(read)
    print(text or json.dumps([[f"not ours: ended with {status}"], 0]), flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    errors: list[str]
    n_bytes: int
    """Most memory that the process had, beyond what it had before."""

    @property
    def is_typed(self):
        return not any(e.startswith("not ours") for e in self.errors)


class Openers:
    """Opens datasets, each in a process of its own, which has done nothing before."""

    def __enter__(self):
        root = Path(pcrstore.__file__).parents[1]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def open(self, folder):
        """Open a dataset, read a value of a column and an image."""
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))


def broken_promises(what, seeds, folder):
    """What was not kept of: errors are ours, and memory is bounded by what is stored."""
    out = []
    with Openers() as openers:
        for seed in seeds:
            objects, n_bytes = hostile(what, seed)
            for name, data in objects.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            got = openers.open(folder)
            most = 4 * n_bytes + 2**26
            if not got.is_typed or got.n_bytes > most:
                out.append((seed, got.errors, f"{got.n_bytes / most:.2f} of {most}"))
            for name in objects:
                (folder / name).unlink()
    return out
