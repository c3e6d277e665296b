"""The position in an epoch as a checkpoint holds it, in JSON types.

    epoch, slices, topology, n yielded ──dump_state──▶ {"epoch": 1, "left": null, "batches": 5, ..}
                                                               │
    slices that are left ◀──left── LoaderState ◀──parse_state──┘

A state names the data that it is of. Ranks take batches in step, so one number tells how far each
of them is; the slices that are left are computed when the state is resumed, not when it is taken.
A state of single samples is of one worker, and counts the samples of its share.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pcrstore.errors import OptionError
from pcrstore.loader.pipeline import Pipeline
from pcrstore.sampling import EpochOrder, ShardSlice, Topology, Uneven

__all__ = [
    "BATCHES",
    "SAMPLES",
    "STATE_FORMAT",
    "LoaderState",
    "brief",
    "dump_state",
    "parse_state",
]

STATE_FORMAT: Final = 1
BATCHES: Final = "batches"
SAMPLES: Final = "samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderState:
    """The content of a state, checked."""

    epoch: int
    slices: list[ShardSlice] | None
    """Samples that were left of the epoch when the iteration began; None: all."""
    topology: Topology
    """Ranks, workers and batches of the iteration."""
    n_yielded: int
    """Batches of each rank, or samples of the worker's share, that were yielded since."""
    worker: int = 0
    """Worker that the state is of, where it counts samples."""

    def left(self, pipeline: Pipeline) -> list[ShardSlice] | None:
        """Return the slices that are left of the epoch on all ranks; None: all.

        Raises:
            OptionError: The iteration has fewer than `n_yielded` batches.
        """
        if not self.n_yielded:
            return self.slices
        partition = pipeline.partition(self.epoch, self.slices, self.topology)
        return partition.left_after(self.n_yielded)


def dump_state(
    pipeline: Pipeline,
    *,
    kind: str,
    epoch: int,
    slices: Sequence[ShardSlice] | None,
    topology: Topology,
    n: int,
    worker: int | None = None,
) -> dict[str, object]:
    """Return a state in JSON types.

    Args:
        pipeline: Pipeline of the loader.
        kind: Unit of `n`: BATCHES of a rank, or SAMPLES of a worker.
        epoch: Epoch of the iteration.
        slices: Samples that were left of the epoch when the iteration began; None: all.
        topology: Ranks, workers and batches of the iteration.
        n: Batches or samples yielded since.
        worker: Worker whose samples are counted.
    """
    state: dict[str, object] = {
        "format": STATE_FORMAT,
        "kind": kind,
        "data": copy.deepcopy(pipeline.fingerprint),
        "epoch": epoch,
        "left": _rows(slices),
        "world_size": topology.world_size,
        "num_workers": topology.n_workers,
        "batch_size": topology.batch_size,
        "uneven": topology.uneven,
        "drop_last": topology.drop_last,
        "batches": n,
    }
    return state if worker is None else {**state, "worker": worker}


def parse_state(pipeline: Pipeline, state: object, *, kind: str) -> LoaderState:
    """Return the content of a state.

    Args:
        pipeline: Pipeline of the loader that goes on.
        state: State of the loader that stopped.
        kind: Unit that its `batches` must have: BATCHES or SAMPLES.

    Raises:
        OptionError: Not a state, or not one of this loader's data.
    """
    if not isinstance(state, Mapping) or state.get("format") != STATE_FORMAT:
        raise OptionError(f"a state of format {STATE_FORMAT} expected, got {brief(state)}")
    if state.get("kind") != kind:
        raise OptionError(f"a state that counts {kind} expected, got {brief(state.get('kind'))}")
    mine, theirs = pipeline.fingerprint, state.get("data")
    if theirs != mine:
        raise OptionError(f"the state is of another loader: {_difference(mine, theirs)}")
    epoch = _integer(state, "epoch")
    topology = Topology(
        world_size=_integer(state, "world_size"),
        n_workers=_integer(state, "num_workers"),
        batch_size=_integer(state, "batch_size"),
        uneven=_uneven(state),
        drop_last=_drop_last(state),
    )
    return LoaderState(
        epoch=epoch,
        slices=_slices(pipeline.order(epoch), state.get("left")),
        topology=topology,
        n_yielded=_integer(state, "batches"),
        worker=_integer(state, "worker") if kind == SAMPLES else 0,
    )


def _difference(mine: Mapping[str, object], theirs: object) -> str:
    """Return the first field in which a fingerprint differs, with both values."""
    if not isinstance(theirs, Mapping):
        return f"data must be a dict, got {brief(theirs)}"
    for name, value in mine.items():
        if name not in theirs:
            return f"{name} must be {value!r}, and is missing"
        if theirs[name] != value:
            hint = "; give version=" if name == "versions" else ""
            return f"{name} must be {value!r}, got {theirs[name]!r}{hint}"
    more = next(name for name in theirs if name not in mine)
    return f"{brief(more)} is not known to this release, got {brief(theirs[more])}"


def _rows(slices: Sequence[ShardSlice] | None) -> list[list[int]] | None:
    if slices is None:
        return None
    return [[s.shard, s.start, s.stop, s.after] for s in slices]


def brief(value: object) -> str:
    """Return a value as an error shows it: at most 80 characters."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _integer(state: Mapping[object, object], name: str) -> int:
    value = state.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise OptionError(f"{name} of a state must be an integer from 0, got {brief(value)}")
    return value


def _uneven(state: Mapping[object, object]) -> Uneven:
    value = state.get("uneven")
    if value == "pad":
        return "pad"
    if value == "drop":
        return "drop"
    raise OptionError(f'uneven of a state must be "pad" or "drop", got {brief(value)}')


def _drop_last(state: Mapping[object, object]) -> bool:
    value = state.get("drop_last")
    if not isinstance(value, bool):
        raise OptionError(f"drop_last of a state must be true or false, got {brief(value)}")
    return value


def _slices(order: EpochOrder, left: object) -> list[ShardSlice] | None:
    if left is None:
        return None
    rows: list[object] = list(left) if isinstance(left, list | tuple) else [left]
    out: list[ShardSlice] = []
    for row in rows:
        numbers = [x for x in row if type(x) is int and x >= 0] if isinstance(row, list) else []
        if len(numbers) != 4:
            raise OptionError(f"left of a state must be rows of four integers, got {brief(row)}")
        shard, start, stop, after = numbers
        if shard >= order.n_shards or not start <= stop <= order.size(shard) or after >= 2**62:
            raise OptionError(f"left of a state must lie in the epoch, got {brief(row)}")
        out.append(ShardSlice(shard=shard, start=start, stop=stop, after=after))
    in_order = sorted(out, key=lambda s: (s.shard, s.start, s.stop))
    for a, b in pairwise(in_order):
        if a.shard == b.shard and b.start < a.stop:
            raise OptionError(f"left of a state must not overlap, got {_rows([a, b])}")
    return out
