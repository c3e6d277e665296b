"""Bars of images per second, one panel per case, as an SVG or PNG; skipped without matplotlib."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path


def bars(panels: Mapping[str, Mapping[str, float]], target: Path, label: str) -> bool:
    """Write a horizontal bar for each row of each panel; return whether it was done."""
    if find_spec("matplotlib") is None:
        sys.stderr.write("no plot: pip install matplotlib\n")
        return False
    import matplotlib as mpl  # noqa: PLC0415 - optional

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - optional, after the backend

    rows = max(map(len, panels.values()))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5 * len(panels), 1 + 0.35 * rows), squeeze=False
    )
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        names = list(values)
        colours = ["tab:blue" if name.startswith("pcrstore") else "tab:gray" for name in names]
        found = axis.barh(names, [values[name] for name in names], color=colours)
        axis.bar_label(found, fmt="%.0f", padding=2)
        axis.invert_yaxis()
        axis.set_title(title)
        axis.set_xlabel(label)
        axis.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)
    return True
