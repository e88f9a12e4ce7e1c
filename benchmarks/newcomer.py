"""Time a newcomer's steps, from an empty environment to a model loaded in another one.

    python benchmarks/newcomer.py [--json FILE]

The script clones the last commit twice. In the first clone, it runs the commands of
`docs/getting_started/quickstart.rst` and the README's example. In the second, which has its own
environment, it loads the saved model. Packages come from pip's index or cache; a filled cache
shortens the installation.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
import time
from datetime import date
from pathlib import Path

from machine import device_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path("docs") / "getting_started" / "quickstart.rst"
# One name per Python block of the page.
STEPS = ("sets of local features", "own store", "grid search", "attention picture", "saved model")

# Runs pieces of code in one namespace, and records the seconds of each.
RUNNER = """
import json, sys, time
names, seconds = {}, {}
for title, code in json.loads(sys.stdin.read()).items():
    started = time.perf_counter()
    exec(compile(code, title, "exec"), names)
    seconds[title] = round(time.perf_counter() - started, 2)
open(sys.argv[1], "w").write(json.dumps(seconds))
"""


def blocks(page, language):
    """Yield the line number and the code of each block of a page."""
    text = page.read_text()
    pattern = rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)"
    for found in re.finditer(pattern, text, flags=re.MULTILINE):
        yield text[: found.start(1)].count("\n") + 1, textwrap.dedent(found.group(1))


def readme_example(root=ROOT):
    """Return the code of the README's Python example."""
    return (root / "README.md").read_text().split("```python\n")[1].split("```")[0]


def first_steps(python, folder, root=ROOT):
    """Run the Python steps of the page in a folder; return their seconds and their output."""
    codes = (code for _, code in blocks(root / PAGE, "python"))
    pieces = dict(zip(STEPS, codes, strict=True))
    seconds = folder / "seconds.json"
    shown = run([python, "-c", RUNNER, seconds], folder, input=json.dumps(pieces))
    return json.loads(seconds.read_text()), shown


def run(command, folder, **options):
    """Return the standard output of a command; its errors go to our standard error."""
    return subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True, **options
    ).stdout


def timed(command, folder):
    """Return the seconds of a command."""
    started = time.perf_counter()
    run(command, folder)
    return round(time.perf_counter() - started, 2)


def walk(folder):
    """Return the seconds of every step, in order."""
    here, elsewhere = folder / "here", folder / "elsewhere"
    for clone in (here, elsewhere):
        run(["git", "clone", "--quiet", ROOT, clone], folder)
    install, load = (code for _, code in blocks(here / PAGE, "bash"))
    python = here / ".venv" / "bin" / "python"
    seconds = {
        "installation": timed(["bash", "-euc", install], here),
        "the README's example": timed([python, "-c", readme_example(here)], here),
        **first_steps(python, here, here)[0],
        "installation elsewhere": timed(["bash", "-euc", install], elsewhere),
    }
    shutil.copy(here / "digits.model", elsewhere)
    shutil.copytree(here / "digits.zarr", elsewhere / "digits.zarr")
    in_environment = f". .venv/bin/activate; {load}"
    seconds["loaded elsewhere"] = timed(["bash", "-euc", in_environment], elsewhere)
    return seconds


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    if options.json:
        options.json.touch()  # fail now rather than after the work
    with tempfile.TemporaryDirectory() as folder:
        seconds = walk(Path(folder))
    seconds["in all"] = round(sum(seconds.values()), 2)
    for step, taken in seconds.items():
        print(f"{step:24}{taken:8.1f} s")
    report = {
        "date": date.today().isoformat(),
        "machine": {"device": device_name("cpu"), "cores": os.cpu_count()},
        "seconds": seconds,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
