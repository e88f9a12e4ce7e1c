"""Run a fuzzer by hand: ``python -m tests.fuzz --target models --n 1000 --seed 0``."""

import argparse
import faulthandler
import json
import time

from tests.fuzz import archives, models, stores, writer

# Each is called with the number of inputs and a seed, and returns the counts of the outcomes.
TARGETS = {
    "archives": archives.run,
    "models": models.run,
    "stores": stores.run,
    "writer": writer.run,
}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=sorted(TARGETS), help="by default, all in turn")
    parser.add_argument("--n", type=int, default=1000, help="the number of inputs per target")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faulthandler.enable()  # a crash shows where
    for target in [options.target] if options.target else sorted(TARGETS):
        n = options.n
        if not options.target and target == "writer":
            n = max(1, n // 100)  # a history takes as long as a hundred inputs of the others
        started = time.perf_counter()
        counts = TARGETS[target](n, options.seed)
        seconds = time.perf_counter() - started
        row = {"target": target, "n": n, "seed": options.seed, "seconds": round(seconds)}
        print(json.dumps({**row, "counts": dict(sorted(counts.items()))}))


if __name__ == "__main__":
    main()
