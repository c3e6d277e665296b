"""Record the public API as JSON, and say what of a record is gone.

    python tests/support/public_api.py            print the API of today's checkout
    python tests/support/public_api.py --write    make it the record of test_public_api.py

Arguments, options and keys may be added, so what is only in today's API is no finding.
"""

import importlib
import inspect
import json
import re
import sys
import tempfile
from pathlib import Path

import click
from click.testing import CliRunner
from small_sources import encoded, write_sources

import pcrstore
from pcrstore.cli import main

RECORD = Path(__file__).parents[1] / "fixtures" / "public_api.json"
MODULES = (
    "pcrstore",
    "pcrstore.torch",
    "pcrstore.ray",
    "pcrstore.zarr_view",
    "pcrstore.testing",
    "pcrstore.testing.contract",
)


def parameters(of):
    """Return name, kind and default of each parameter, in order; None where there are none."""
    try:
        signature = inspect.signature(of)
    except (TypeError, ValueError):
        return None
    return [
        [p.name, p.kind.name, None if p.default is p.empty else shown(p.default)]
        for p in signature.parameters.values()
    ]


def shown(value):
    """Return a default as text that has no address and no module in it."""
    return re.sub(r"\b[a-z_]+(\.[a-z_]+)*\.(?=[A-Z])| at 0x[0-9a-f]+", "", repr(value))


def described(value):
    """Return what a user can rely on of one public object."""
    if inspect.isclass(value):
        members = {}
        for name in dir(value):
            found = inspect.getattr_static(value, name)
            if name.startswith("_") or getattr(object, name, None) is found:
                continue
            if isinstance(found, (staticmethod, classmethod)):
                found = found.__func__
            members[name] = parameters(found) if inspect.isroutine(found) else "attribute"
        bases = [c.__name__ for c in value.__mro__ if c.__module__ == "builtins"]
        return {"call": parameters(value), "bases": bases, "members": members}
    if inspect.isroutine(value):
        return {"call": parameters(value)}
    return {"value": type(value).__name__}


def commands():
    """Return each command's arguments and options: names on the command line, and defaults."""
    found = {}
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        found[name] = {
            p.name: {
                "words": sorted([*p.opts, *p.secondary_opts]),
                "argument": isinstance(p, click.Argument),
                "choices": sorted(map(str, getattr(p.type, "choices", []))),
            }
            for p in command.params
        }
    return found


def keys(value):
    """Return the keys of a JSON document, nested; of a list, those of its first element."""
    if isinstance(value, dict):
        return {key: keys(v) for key, v in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [keys(value[0])]
    return None


def printed():
    """Return the keys of what each command prints with `--json`, and of an error."""
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        write_sources(
            tmp / "in", {f"{c}/{c}.jpg": encoded(i, (40, 30)) for i, c in enumerate("abc")}
        )
        write_sources(tmp / "in", {"a/bad.jpg": b"no image"})
        source, ds, cache = (str(tmp / name) for name in ("in", "ds", "cache"))
        calls = {
            "convert": ["convert", source, ds, "--on-error", "skip", "--workers", "1"],
            "info": ["info", ds],
            "ls": ["ls", ds],
            "cat": ["cat", ds, "0"],
            "verify": ["verify", ds],
            "export": ["export", ds, str(tmp / "out")],
            "cache": ["cache", cache],
            "error": ["info", str(tmp / "none")],
        }
        found = {}
        for name, args in calls.items():
            if name == "cache":
                next(iter(pcrstore.NumpyLoader(ds, batch_size=1, size=8, cache=cache)))
            found[name] = keys(json_of(args))
        return found


def json_of(args):
    return json.loads(CliRunner().invoke(main, [*args, "--json"]).stdout)


def today():
    """Return the public API of this checkout."""
    modules = {}
    for name in MODULES:
        module = importlib.import_module(name)
        modules[name] = {public: described(getattr(module, public)) for public in module.__all__}
    return {"modules": modules, "commands": commands(), "json": printed()}


def gone(recorded, now, at="api"):
    """Yield what is in the record and not, or otherwise, in today's API."""
    if isinstance(recorded, dict):
        for key, value in recorded.items():
            if not isinstance(now, dict) or key not in now:
                yield f"{at}: {key} is gone"
            else:
                yield from gone(value, now[key], f"{at}.{key}")
    elif isinstance(recorded, list) and recorded and isinstance(recorded[0], list):
        yield from gone_parameters(recorded, now or [], at)
    elif isinstance(recorded, list) and recorded and isinstance(recorded[0], dict):
        yield from gone(recorded[0], now[0] if now else {}, f"{at}[]")
    elif isinstance(recorded, list):
        yield from (f"{at}: {value} is gone" for value in recorded if value not in (now or []))
    elif recorded != now and not (recorded is None or recorded == "attribute"):
        yield f"{at}: expected {recorded}, got {now}"


def gone_parameters(recorded, now, at):
    """Yield parameters that are gone, have another default or kind, or moved as positional."""
    by_name = {p[0]: p for p in now}
    for name, kind, default in recorded:
        if name not in by_name:
            yield f"{at}: parameter {name} is gone"
        elif by_name[name][1:] != [kind, default]:
            yield f"{at}: parameter {name} was {kind} = {default}, is {by_name[name][1:]}"
    positional = [p[0] for p in recorded if p[1].startswith("POSITIONAL")]
    if [p[0] for p in now][: len(positional)] != positional:
        yield f"{at}: expected the positional parameters {positional} first"


if __name__ == "__main__":
    # One line for each public name, so that a diff shows which one changed.
    text = json.dumps(today(), indent=1, sort_keys=True)
    text = re.sub(r"\n {4,}", " ", re.sub(r"\n {3}([\]}])", r" \1", text)) + "\n"
    if "--write" in sys.argv:
        RECORD.write_text(text)
    else:
        sys.stdout.write(text)
