"""Compare two results of speed.py by their ratios to the peers, to detect a loss of speed.

    python benchmarks/compare.py OLD.json NEW.json [--tolerance 0.15] [--any-device]

Seconds measured on different days are not comparable, but ratios measured in one process are. The
exit status is 1 if a ratio of NEW is below that of OLD by more than the tolerance. It is 2 if the
results are not comparable.
"""

import argparse
import json
import sys
from pathlib import Path

SAME, SLOWER, NOT_COMPARABLE = 0, 1, 2


def ratios_of(report):
    """Return a dict from (workload, ours, peer, phase) to the ratio."""
    return {
        (workload, our, peer, phase): ratio["of_medians"]
        for workload, figures in report["workloads"].items()
        for our, peers in figures["ratios"].items()
        for peer, phases in peers.items()
        for phase, ratio in phases.items()
    }


def device_and_threads(report):
    """Return what ratios depend on besides the code."""
    return report["machine"]["device"], report["machine"]["threads"]


def compare(old, new, tolerance):
    """Return rows (key, old, new, is_slower) of the ratios in either report; None is missing."""
    old, new = ratios_of(old), ratios_of(new)
    rows = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        both = before is not None and after is not None
        rows.append((key, before, after, both and after < before * (1 - tolerance)))
    return rows


def show(rows):
    """Print a table of the ratios."""
    print(f"{'':48}{'old':>8}{'new':>8}")
    for (workload, our, peer, phase), before, after, is_slower in rows:
        ratios = "".join(f"{'-' if r is None else format(r, '.2f'):>8}" for r in (before, after))
        title = f"{workload} {phase}: {peer} / {our}"
        print(f"{title:48}{ratios}{'  slower' if is_slower else ''}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--tolerance", type=float, default=0.15, help="largest acceptable loss, as a share"
    )
    parser.add_argument(
        "--any-device", action="store_true", help="compare results of different devices"
    )
    options = parser.parse_args(arguments)
    old, new = (json.loads(path.read_text()) for path in (options.old, options.new))
    devices = [device_and_threads(report) for report in (old, new)]
    if devices[0] != devices[1] and not options.any_device:
        print(f"The devices differ: {devices[0]}, {devices[1]}. Pass --any-device to compare.")
        return NOT_COMPARABLE
    rows = compare(old, new, options.tolerance)
    if not any(None not in (before, after) for _, before, after, _ in rows):
        print("The results have no ratio in common.")
        return NOT_COMPARABLE
    show(rows)
    return SLOWER if any(is_slower for *_, is_slower in rows) else SAME


if __name__ == "__main__":
    sys.exit(main())
