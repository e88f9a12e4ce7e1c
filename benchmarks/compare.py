"""Has speed been lost? Two results of speed.py, compared by their ratios to the peers.

    python benchmarks/compare.py OLD.json NEW.json [--tolerance 0.15] [--any-device]

Seconds of two days do not compare, ratios of one process do. Exits with 1 if a ratio of NEW
is below that of OLD by more than the tolerance, and with 2 if the two do not compare.
"""

import argparse
import json
import sys
from pathlib import Path

SAME, SLOWER, NOT_COMPARABLE = 0, 1, 2


def ratios_of(report):
    """(workload, ours, peer, phase): ratio."""
    return {
        (workload, our, peer, phase): ratio["of_medians"]
        for workload, figures in report["workloads"].items()
        for our, peers in figures["ratios"].items()
        for peer, phases in peers.items()
        for phase, ratio in phases.items()
    }


def place(report):
    """What ratios depend on beside the code."""
    return report["machine"]["device"], report["machine"]["threads"]


def compare(old, new, tolerance):
    """Rows (what, old, new, whether it has fallen) of all that either has; None is missing."""
    old, new = ratios_of(old), ratios_of(new)
    rows = []
    for what in dict.fromkeys([*old, *new]):
        before, after = old.get(what), new.get(what)
        both = before is not None and after is not None
        rows.append((what, before, after, both and after < before * (1 - tolerance)))
    return rows


def show(rows):
    print(f"{'':48}{'old':>8}{'new':>8}")
    for (workload, our, peer, phase), before, after, has_fallen in rows:
        shown = "".join(f"{'-' if r is None else format(r, '.2f'):>8}" for r in (before, after))
        what = f"{workload} {phase}: {peer} / {our}"
        print(f"{what:48}{shown}{'  slower' if has_fallen else ''}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.15, help="share that may be lost")
    parser.add_argument("--any-device", action="store_true", help="compare across devices too")
    options = parser.parse_args(arguments)
    old, new = (json.loads(path.read_text()) for path in (options.old, options.new))
    if place(old) != place(new) and not options.any_device:
        print(f"These do not compare: {place(old)} and {place(new)}. Pass --any-device to do so.")
        return NOT_COMPARABLE
    rows = compare(old, new, options.tolerance)
    if not any(None not in (before, after) for _, before, after, _ in rows):
        print("These do not compare: they have no ratio in common.")
        return NOT_COMPARABLE
    show(rows)
    return SLOWER if any(has_fallen for *_, has_fallen in rows) else SAME


if __name__ == "__main__":
    sys.exit(main())
