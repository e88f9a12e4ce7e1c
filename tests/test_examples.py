"""The examples run from the command line, as the README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import newcomer
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
TOGETHER = ("rgb", "flow", "audio", "rgb + flow + audio")
FILES = sorted(EXAMPLES.rglob("*.py"))


def run_example(name, *arguments, data_home):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACLUSTER_DATA": str(data_home)},
    ).stdout


def test_flash_mnist_prints_accuracies_and_draws_attention_maps(tmp_path):
    image = tmp_path / "out" / "flash.png"
    printed = run_example("flash_mnist.py", "--quick", "--output", image, data_home=tmp_path)
    assert "videos from scikit-learn digits" in printed
    assert "FrameExtractor - fit" in printed
    assert "AttentionClusterClassifier - fit" in printed
    accuracies = [line.split()[:-2] for line in printed.splitlines() if line.endswith(" %")]
    assert accuracies == [["Average"], ["attention", "cluster"]]
    assert image.read_bytes().startswith(b"\x89PNG")


def test_utd_mhad_combines_synthetic_sensors(tmp_path):
    store = tmp_path / "actions.zarr"
    printed = run_example("utd_mhad.py", "--epochs", 8, "--store", store, data_home=tmp_path)
    assert "synthetic sensors" in printed
    lines = printed.splitlines()[1:]
    accuracy = {line[:30].strip(): float(line[30:].split()[0]) for line in lines}
    alone = [accuracy[name] for name in ("skeleton", "inertial", "depth")]
    together = accuracy["skeleton + inertial + depth"]
    assert together > max(alone) + 20
    assert accuracy["half of inertial missing"] < together


def test_clips_need_all_modalities(tmp_path):
    pytest.importorskip("av", reason="needs the extra media")
    pytest.importorskip("cv2", reason="needs the extra flow")
    image = tmp_path / "clips.png"
    printed = run_example("clips.py", "--clips", 64, "--output", image, data_home=tmp_path)
    assert "64 items, 64 of them new; 0 failed" in printed
    lines = [line.rsplit(" %", 1)[0].rsplit(maxsplit=1) for line in printed.splitlines()]
    accuracy = {line[0].strip(): float(line[1]) for line in lines if line[0].strip() in TOGETHER}
    alone = [accuracy[name] for name in ("rgb", "flow", "audio")]
    assert accuracy["rgb + flow + audio"] > max(alone) + 20
    assert image.read_bytes().startswith(b"\x89PNG")


def test_distributed_example_runs_as_slurm_starts_it(tmp_path):
    programs = {
        "scontrol": "echo localhost",
        "srun": '"$@"',
        "torchrun": f'{sys.executable} -m torch.distributed.run "$@"',
    }
    for name, code in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{code}\n")
        program.chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_JOB_ID": "7"}
    environment = job | {
        "SLURM_CPUS_PER_TASK": "2",
        "PROCESSES": "2",
        "FOLDER": str(tmp_path),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(EXAMPLES.parent),
    }
    shown = subprocess.run(
        ["bash", "examples/distributed.sh"],
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    ).stdout
    found = re.fullmatch(r"2 processes, 30 epochs: accuracy ([01]\.\d+)\n", shown)
    assert float(found[1]) > 0.95
    assert (tmp_path / "sets.model").stat().st_size > 1000


def test_readme_snippet_scores_well():
    names = {}
    exec(compile(newcomer.readme_example(), "README.md", "exec"), names)
    assert names["search"].best_score_ > 0.95


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_example_has_at_most_80_lines(path):
    assert len(path.read_text().splitlines()) <= 80
