"""The code of the documentation runs, page by page, on small synthetic data."""

import ast
import contextlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import newcomer
import numpy as np
import pytest
from newcomer import blocks

from acluster.command_line import main
from tests.extraction.media import make_media
from tests.extraction.slides import section, write_slide
from tests.object_server import ObjectServer
from tests.test_architecture import ARROWS
from tests.test_bad_input import CASES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

# What the pages assume that a reader has, and which names each page assumes.
READER_DATA = """
import types
import numpy as np
from acluster import FeatureSets

rng = np.random.default_rng(0)
y = np.arange(30) % 2
def sets(width, longest):
    return FeatureSets.from_arrays(
        [rng.normal(size=(rng.integers(1, longest), width)) + label for label in y]
    )
rgb, flow, audio = sets(4, 9), sets(3, 9), sets(2, 5)
videos = [types.SimpleNamespace(label=int(label), name=f"video{i}") for i, label in enumerate(y)]
X = rgb
extract, listen = lambda video: np.ones((2, 3)), lambda video: np.ones((4, 2))
"""
ASSUMED_NAMES = {
    "index": (),
    "user_guide/sets": (),
    "user_guide/stores": ("rgb", "y", "videos", "extract", "listen"),
    "user_guide/extraction": (),
    "user_guide/multimodal": ("rgb", "flow", "audio", "y"),
    "user_guide/scikit_learn": ("rgb", "y"),
    "user_guide/training": ("rgb", "y"),
    "user_guide/inspection": ("rgb", "y"),
    "user_guide/saving": ("rgb", "y"),
    "user_guide/integrations": ("rgb", "y"),
    "user_guide/performance": ("X", "y"),
    "user_guide/hyperparameters": (),
    "user_guide/coming_from": (),
    "developer/extending": ("X", "y"),
}


def run_commands(code, folder):
    """Return what a shell prints whose `python` and `acluster` are those of this environment."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, command in (("acluster", "-W ignore -m acluster"), ("python", "")):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
        program.chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", code],
        cwd=folder,
        env={**os.environ, "PATH": path},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_every_page_with_python_code_is_run():
    written = [page.relative_to(DOCS) for page in DOCS.glob("*/*.rst")]
    pages = {
        str(page.with_suffix(""))
        for page in written
        if page.parts[0] not in ("_build", "examples")
        and "code-block:: python" in (DOCS / page).read_text()
    }
    assert pages == set(ASSUMED_NAMES) - {"index"} | {"getting_started/quickstart"}


def test_quickstart_leads_to_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    _, shown = newcomer.first_steps(sys.executable, tmp_path)
    assert float(shown.split()[-1]) > 0.97  # the score on held-out items
    assert (tmp_path / "attention.png").stat().st_size > 1000
    install, elsewhere = (code for _, code in blocks(newcomer.ROOT / newcomer.PAGE, "bash"))
    assert "pip install" in install
    shown = run_commands(elsewhere, tmp_path)
    assert shown.startswith("[0 1 2 3 4")
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1798


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("page", ASSUMED_NAMES)
def test_python_code_of_page_runs(tmp_path, monkeypatch, page):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("obstore", reason="a page needs the extra cloud")
    monkeypatch.chdir(tmp_path)
    reader_data = {}
    exec(READER_DATA, reader_data)
    names = {"__name__": page, **{name: reader_data[name] for name in ASSUMED_NAMES[page]}}
    if page == "user_guide/extraction":
        pytest.importorskip("openslide")
        for label in ("clapping", "waving"):
            (tmp_path / "videos" / label).mkdir(parents=True)
            make_media(tmp_path / "videos" / label / "1.mp4", seconds_of_sound=2)
        (tmp_path / "slides").mkdir()
        write_slide(tmp_path / "slides" / "a.tif", section(0)[0], mpp=0.25)
        for name in ("new.mp4", "newer.mp4"):
            make_media(tmp_path / name, seconds_of_sound=2)
    found = list(blocks(DOCS / f"{page}.rst", "python"))
    assert len(found) == (DOCS / f"{page}.rst").read_text().count("code-block:: python")
    (tmp_path / "objects" / "bucket").mkdir(parents=True)
    with ObjectServer(tmp_path / "objects") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for line, code in found:
            exec(compile(code, f"{page}.rst, line {line}", "exec"), names)
    if page == "index":
        assert names["clf"].score(names["X"][100:], names["y"][100:]) > 0.95


def run_in_this_process(code):
    """Run commands of acluster as a shell does, but without starting Python for each of them."""
    for line in code.replace("\\\n", " ").strip().splitlines():
        words = shlex.split(line)
        output = words[words.index(">") + 1] if ">" in words else os.devnull
        with open(output, "w") as file, contextlib.redirect_stdout(file):
            assert main(words[1 : words.index(">") if ">" in words else None]) == 0, line


@pytest.mark.filterwarnings("default")
def test_command_line_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features").mkdir()
    rng = np.random.default_rng(0)
    lines = ["id,label"]
    for number in range(30):
        rows = rng.normal(size=(rng.integers(1, 9), 4)) + number % 2
        np.save(tmp_path / "features" / f"item{number}.npy", rows)
        lines.append(f"item{number},{'wren' if number % 2 else 'robin'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    for _, code in blocks(DOCS / "user_guide" / "command_line.rst", "bash"):
        run_in_this_process(code)
    assert (tmp_path / "predictions.csv").read_text().startswith("id,prediction,probability of")
    assert (tmp_path / "item7.png").stat().st_size > 1000
    assert (tmp_path / "item7.csv").read_text().startswith("local feature,unit 0,")
    assert (tmp_path / "global.zarr" / "zarr.json").exists()


def test_troubleshooting_explains_messages_of_the_package():
    text = (DOCS / "user_guide" / "troubleshooting.rst").read_text().split("By symptom")[0]
    explained = re.findall(r"^``(.+)``$", text, flags=re.MULTILINE)
    assert len(explained) > 10
    explained = [message for message in explained if not message.startswith("Maximum iter")]
    for message in explained:
        assert any(message in case.message for case in CASES), message


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_between_files_resolve(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_modules_of_the_design_page_exist():
    """A path in the three walks through the code leads to a file."""
    walks = (DOCS / "developer" / "design.rst").read_text().split("Three walks")[1]
    paths = re.findall(r"``([a-z_/]+\.py)``", walks.split("Choices\n---")[0])
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / "acluster" / path).exists() and "/" in path] == []


def test_tests_of_the_promises_exist():
    page = (ROOT / "docs" / "user_guide" / "promises.rst").read_text()
    paths = re.findall(r"``((?:tests|benchmarks)/[^`]+)``", page)
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def docstrings():
    """Yield every docstring of the package."""
    documented = ast.Module, ast.ClassDef, ast.FunctionDef
    for path in (ROOT / "acluster").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, documented):
                yield ast.get_docstring(node) or ""


def test_names_in_docstrings_and_pages_exist():
    texts = [*docstrings(), *(page.read_text() for page in DOCS.glob("*/*.rst"))]
    # In code marks, or alone on a line, as in a section "Raises".
    found = re.findall(r"(?:`~?|^)(acluster(?:\.\w+)+)", "\n".join(texts), re.MULTILINE)
    assert len(set(found)) > 50
    for name in sorted(set(found)):
        pkgutil.resolve_name(name)


def test_import_rules_of_the_design_page_are_enforced():
    text = (DOCS / "developer" / "design.rst").read_text()
    table = text.split("Import rules")[1].split("There are no import cycles")[0]
    rules = {}
    for line in table.splitlines():
        names = [name.removesuffix(".py").strip("/") for name in re.findall(r"``(.+?)``", line)]
        if line.startswith("``"):
            rules[row := names.pop(0)] = set()
        if names:
            rules[row].update(names)
    faces = ("acluster", "__main__")
    assert rules == {name: may for name, may in ARROWS.items() if may and name not in faces}


@pytest.mark.parametrize("page", ["getting_started/installation", "developer/design"])
def test_page_lists_every_extra(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = re.findall(r"^``(\w+)``  ", (DOCS / f"{page}.rst").read_text(), re.MULTILINE)
    assert set(project["optional-dependencies"]) <= set(rows)
