"""The driver of all benchmarks: finds one, checks its needs, runs it, writes its results."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from benchmarks.data import VARIABLE, default_work
from benchmarks.needs import Need, missing
from benchmarks.results import Report

PROGRAMS: Final = {
    "cache": "benchmarks.speed.cache",
    "convert": "benchmarks.speed.convert",
    "decode": "benchmarks.speed.decode",
    "engine": "benchmarks.speed.engine",
    "peers": "benchmarks.peers.contest",
    "scale": "benchmarks.speed.scale",
    "serve": "benchmarks.server.serve",
    "shuffle": "benchmarks.speed.shuffle",
    "wire": "benchmarks.speed.wire",
}


class Program(Protocol):
    """A module that is a benchmark. Its docstring begins with one line for the list."""

    NEEDS: tuple[Need, ...]

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that it has besides those of every benchmark."""

    def run(self, args: argparse.Namespace, report: Report) -> None:
        """Measure, and add figures to the report."""


def program_of(name: str) -> Program:
    """Import a benchmark."""
    return importlib.import_module(PROGRAMS[name])


def parser_of(name: str, program: Program) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's options."""
    out = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=program.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument(
        "--data", type=Path, default=os.environ.get(VARIABLE), help=f"default: ${VARIABLE}"
    )
    out.add_argument("--work", type=Path, default=default_work(), help="where to write")
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    program.add_options(out)
    return out


def main(argv: Sequence[str]) -> int:
    """Run one benchmark, or list all; return the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print("python -m benchmarks NAME [options], where NAME is one of\n")
        for name in PROGRAMS:
            print(f"    {name:10}{(program_of(name).__doc__ or '').splitlines()[0]}")
        return 0
    name, *rest = argv
    if name not in PROGRAMS:
        print(f"there is no benchmark {name!r}, only {', '.join(PROGRAMS)}", file=sys.stderr)
        return 2
    program = program_of(name)
    args = parser_of(name, program).parse_args(rest)
    if lines := missing(program.NEEDS, args):
        print(f"{name} needs what is not here:", *lines, sep="\n    ", file=sys.stderr)
        return 2
    args.work.mkdir(parents=True, exist_ok=True)
    report = Report(name=name, options=vars(args))
    program.run(args, report)
    return report.finish(args.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
