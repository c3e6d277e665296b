"""What a benchmark cannot do without, and the command that brings it.

Needs are checked before anything is prepared: a benchmark may convert for minutes before it first
runs nginx.
"""

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.data import VARIABLE

_SBIN: Final = "/usr/sbin:/usr/local/sbin:/sbin"
"""Where servers lie, which is not in everybody's PATH."""
_LUA_FOLDERS: Final = (
    Path("/usr/lib/nginx/modules"),
    Path("/usr/lib64/nginx/modules"),
    Path("/usr/share/nginx/modules"),
)
_LUA_MODULES: Final = ("ndk_http_module.so", "ngx_http_lua_module.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing that must be there."""

    what: str
    bring: str
    """The command that brings it, or what else to do."""
    is_there: Callable[[Namespace], bool]


def missing(needs: Iterable[Need], args: Namespace) -> list[str]:
    """Return a line for each need that is not met with these options."""
    return [f"{need.what}: {need.bring}" for need in needs if not need.is_there(args)]


def package(name: str, bring: str) -> Need:
    """Need a Python package."""
    return Need(
        what=f"the Python package {name}",
        bring=f"pip install {bring}",
        is_there=lambda _: find_spec(name) is not None,
    )


def program(name: str, debian: str) -> Need:
    """Need a program in PATH; `debian` is the package that has it."""
    return Need(
        what=f"the program {name}",
        bring=f"apt-get install {debian}",
        is_there=lambda _: found_program(name) is not None,
    )


def found_program(name: str) -> str | None:
    """Return the path of a program."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")


def lua_modules() -> list[Path]:
    """Return the modules with which nginx runs Lua, in the order of loading; [] without them."""
    for folder in _LUA_FOLDERS:
        found = [folder / name for name in _LUA_MODULES]
        if all(path.exists() for path in found):
            return found
    return []


def can_make_namespaces() -> bool:
    """Return whether this process may make network namespaces and TUN devices."""
    return (
        sys.platform == "linux"
        and os.geteuid() == 0
        and found_program("ip") is not None
        and Path("/dev/net/tun").exists()
    )


SIMPLEJPEG: Final = package("simplejpeg", "'pcrstore[fast]'")
OBSTORE: Final = package("obstore", "'pcrstore[fast]'")
S3FS: Final = package("s3fs", "'pcrstore[s3]'")
TORCH: Final = package("torch", "'pcrstore[torch]'")
JPEGTRAN: Final = program("jpegtran", "libjpeg-turbo-progs")
NGINX: Final = Need(
    what="nginx with its Lua module",
    bring="apt-get install nginx-light libnginx-mod-http-lua",
    is_there=lambda _: found_program("nginx") is not None and bool(lua_modules()),
)
LINK: Final = Need(
    what="network namespaces and TUN devices (root on Linux, `ip`, /dev/net/tun)",
    bring="apt-get install iproute2 and run it as root, or measure through a proxy by --proxy",
    is_there=lambda args: bool(args.proxy) or can_make_namespaces(),
)


def data(*sets: str) -> Need:
    """Need folders of real JPEGs."""
    return Need(
        what=f"real JPEGs in class folders: {' and '.join(sets)}",
        bring=f"export {VARIABLE}=FOLDER, or --data FOLDER, which holds them",
        is_there=lambda args: (
            args.data is not None and all((args.data / name).is_dir() for name in sets)
        ),
    )


def free_disk(gigabytes: int) -> Need:
    """Need room below --work, or what an earlier run has left there."""

    def is_there(args: Namespace) -> bool:
        work: Path = args.work.absolute()
        existing = next(p for p in (work, *work.parents) if p.exists())
        used = sum(p.stat().st_size for p in work.rglob("*") if p.is_file())
        return shutil.disk_usage(existing).free + used >= gigabytes * 1e9

    return Need(
        what=f"{gigabytes} GB on the disk of --work",
        bring="--work FOLDER on a larger disk",
        is_there=is_there,
    )
