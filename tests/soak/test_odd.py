"""Do odd and broken files fall under the error policies as they should, in bounded time and memory?

    python -m tests.soak.test_odd [--json]

Each of the 101 files has a class in its MANIFEST.csv, made with jpegtran and Pillow:

    clean                 kept losslessly under every policy
    damaged-but-decodes   refused, since jpegtran warned; Pillow opens it, so `encode` encodes it
    pillow-only           refused; `encode` encodes it
    jpegtran-only         refused; Pillow fails, so `encode` skips it
    rejected-by-both      as jpegtran-only

`raise` must list every bad file by name and commit nothing; `skip`, `opaque` and `encode` must have
these outcomes, with the file's own bytes back as `original`. The peak RSS of all processes is
bounded, and a conversion that takes a minute counts as hung.
"""

import csv
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pcrstore
from benchmarks.common import LAYOUTS, ODD, Report, data_folder, fresh, parser, peak_rss
from benchmarks.common import work_folder as folder_of
from tests.soak.test_lossless import odd_tree

CLEAN: Final = "clean"
ENCODABLE: Final = frozenset({"damaged-but-decodes", "pillow-only"})
MOST_RSS: Final = 512 * 2**20
MOST_SECONDS: Final = 60.0

CONVERT: Final = """
import json, sys, pcrstore
if __name__ == "__main__":
    source, target, layout, policy = sys.argv[1:]
    options = pcrstore.Options(layout=layout, policy=policy)
    try:
        r = pcrstore.convert(source, target, options, workers=2)
        print(json.dumps({p.key: p.outcome for p in r.problems}))
    except pcrstore.SourceError as e:
        print(json.dumps({"error": str(e)}))
"""


def expected(policy: str, kind: str) -> str:
    """Return what should become of a bad file of a class."""
    if policy == "raise":
        return "refused"
    if policy == "skip":
        return "skipped"
    if policy == "opaque":
        return "opaque"
    return "encoded" if kind in ENCODABLE else "skipped"


def main() -> int:
    """Run everything."""
    args = parser(__doc__).parse_args()
    data, work = data_folder(args.data), folder_of(args.work) / "odd"
    work.mkdir(exist_ok=True)
    report = Report(benchmark="odd", as_json=args.as_json)
    source = odd_tree(data, work)
    with (data / ODD / "MANIFEST.csv").open() as f:
        kinds = {f"odd/{row['file']}": row["class_"] for row in csv.DictReader(f)}
    bad = {k for k, kind in kinds.items() if kind != CLEAN}
    report.note("files by class", dict(Counter(kinds.values())))
    script = work / "convert_odd.py"
    script.write_text(CONVERT)
    for layout in LAYOUTS:
        for policy in ("raise", "skip", "opaque", "encode"):
            title = f"{layout} {policy}"
            target = fresh(work / "out")
            start = time.perf_counter()
            command = [sys.executable, str(script), str(source), str(target), layout, policy]
            out, peak, most = peak_rss(command, seconds=MOST_SECONDS)
            seconds = time.perf_counter() - start
            check_outcome(report, title, policy, json.loads(out), kinds, bad)
            if policy == "raise":
                manifests = list(target.glob("manifests/*"))
                report.check(f"{title}: manifests", str(len(manifests)), "0", ok=not manifests)
            else:
                check_original(report, title, target, source)
            report.check(
                f"{title}: peak RSS of {most} processes",
                f"{peak / 2**20:.0f} MiB",
                f"< {MOST_RSS >> 20} MiB",
                ok=peak < MOST_RSS,
            )
            report.check(
                f"{title}: seconds",
                f"{seconds:.1f}",
                f"< {MOST_SECONDS:.0f}",
                ok=seconds < MOST_SECONDS,
            )
    return report.finish()


def check_outcome(
    report: Report,
    title: str,
    policy: str,
    found: dict[str, str],
    kinds: dict[str, str],
    bad: set[str],
) -> None:
    """Check what became of every file against its class."""
    if policy == "raise":
        lines = found.get("error", "").splitlines()[1:]
        listed = {line.strip().partition(": ")[0] for line in lines}
        report.check(
            f"{title}: SourceError lists", f"{len(listed & bad)} of {len(bad)} bad, "
            f"{len(listed - bad)} good", "every bad one alone", ok=listed == bad,
        )  # fmt: skip
        return
    wrong = {k: found.get(k, "kept") for k in bad if found.get(k) != expected(policy, kinds[k])}
    wrong |= {k: v for k, v in found.items() if k not in bad}
    outcomes = dict(Counter((kinds[k], v) for k, v in found.items()))
    text = ", ".join(f"{kind} {v} {n}" for (kind, v), n in sorted(outcomes.items()))
    report.check(f"{title}: outcomes by class", text, "see the docstring", ok=not wrong)
    if wrong:
        report.note(f"{title}: wrong", {k: (kinds[k], v) for k, v in wrong.items()})


def check_original(report: Report, title: str, target: Path, source: Path) -> None:
    """Check that what was kept comes back as it was."""
    ds = pcrstore.open(str(target))
    files = ds.fetch(range(len(ds)), "original")
    same = sum(f == (source / k).read_bytes() for f, k in zip(files, ds.keys, strict=True))
    report.check(
        f"{title}: originals", f"{same} of {len(ds)}", "all", ok=same == len(ds) and same > 0
    )


if __name__ == "__main__":
    sys.exit(main())
