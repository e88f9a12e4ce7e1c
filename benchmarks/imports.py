"""Compare the CPU time of imports and of light commands with that of ``import torch``.

    python benchmarks/imports.py [--repeats N] [--json FILE]

Every statement runs in a new interpreter, in turn with the others. The figure is the least CPU time
(user and system, of all threads) over the repeats, as a ratio to ``import torch``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import device_name

import acluster

STATEMENTS = {
    "import torch": "import torch",
    "import torch, sklearn.base": "import torch, sklearn.base",
    "import acluster": "import acluster",
    "estimators": "from acluster import AttentionClusterClassifier",
    "containers": "from acluster import FeatureSets",
    "acluster --help": "from acluster.command_line import main; main(['--help'])",
    "acluster info": "from acluster.command_line import main; main(['info', {store!r}])",
}


def cpu_seconds(code):
    """Return the CPU time of a new interpreter that runs `code`."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # Popen did not wait for it
    assert process.returncode == 0, code
    return usage.ru_utime + usage.ru_stime


def main():
    """Run all statements and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/one.zarr"
        acluster.save_feature_sets(store, [np.ones((2, 3), np.float32)])
        seconds = {name: [] for name in STATEMENTS}
        for _ in range(arguments.repeats):
            for name, code in STATEMENTS.items():
                seconds[name].append(cpu_seconds(code.format(store=store)))
    least = {name: min(times) for name, times in seconds.items()}
    for name, time in least.items():
        spread = max(seconds[name]) - time
        ratio = time / least["import torch"]
        print(f"{name:28s} {time:6.2f} s (+{spread:.2f})  {ratio:5.2f} x import torch")
    if arguments.json:
        report = {"device": device_name("cpu"), "cpu_seconds": seconds}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
