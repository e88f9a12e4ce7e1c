import json
import re
import time
from pathlib import Path

import gpu_session
import numpy as np
import pytest


def test_check_compares_models_with_the_predictions_where_they_were_trained(tmp_path, capsys):
    gpu_session.run_models(tmp_path, smoke=True)
    gpu_session.main([str(tmp_path), "--check"])
    shown = capsys.readouterr().out
    assert shown.count("largest difference") == 3 * len(list(tmp_path.glob("*.npy"))) > 0
    predictions = np.load(tmp_path / "fc2.npy")
    predictions[3, 0] += 1e-3
    np.save(tmp_path / "fc2.npy", predictions)
    with pytest.raises(SystemExit, match=r"differ by 1.0e-03, more than 1e-05"):
        gpu_session.main([str(tmp_path), "--check"])


def test_parts_report_how_they_ended(tmp_path, monkeypatch):
    worker = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid)"
    code = {
        "tests": "import carried, gpu_session; print('seen')",
        "pooling": "raise SystemExit(3)",
        "epoch": f"{worker}\ntry: time.sleep(600)\nexcept KeyboardInterrupt: print('so far')",
    }
    (tmp_path / "carried.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(
        gpu_session, "commands", lambda *_: {part: ["-c", text] for part, text in code.items()}
    )
    monkeypatch.delenv("ACLUSTER_DATA", raising=False)
    gpu_session.run_parts(tmp_path, ["tests", "pooling", "table1"], minutes=5, smoke=False)
    session = json.loads((tmp_path / "session.json").read_text())
    assert {part: entry["ended"] for part, entry in session["parts"].items()} == {
        "tests": "passed",
        "pooling": "failed with 3",
        "table1": "skipped: MNIST is not in $ACLUSTER_DATA",
    }
    assert (tmp_path / "tests.log").read_text() == "seen\n"
    stopped = gpu_session.run_part(tmp_path, "epoch", 5, smoke=False)
    assert stopped["ended"] == "stopped after 5 s"
    worker, *shown = (tmp_path / "epoch.log").read_text().splitlines()
    assert shown == ["so far"]
    assert ends(int(worker))
    skipped = gpu_session.run_part(tmp_path, "epoch", 4, smoke=False)
    assert skipped["ended"] == "skipped: no time was left"


def ends(pid):
    """Wait for a process to end, which a busy machine may do late after a signal."""
    for _ in range(300):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("part", ["members", "small"])
def test_parts_of_tiny_sizes(tmp_path, part):
    gpu_session.main([str(tmp_path), "--smoke", "--run", part])
    report = json.loads((tmp_path / f"{part}.json").read_text())
    if part == "members":
        assert report["ratio"] == report["seconds_of_all"] / report["seconds_of_one"]
    else:
        assert report["vowels"]["cpu"] > 0


def test_expected_seconds_fit_into_the_time():
    # The docstring has the seconds of every part in parentheses.
    expected = {
        part: int(seconds)
        for part, seconds in re.findall(r"^(\w+) \((\d+)\):", gpu_session.__doc__, re.MULTILINE)
    }
    assert expected.keys() == gpu_session.LIMITS.keys()
    assert all(seconds < gpu_session.LIMITS[part] for part, seconds in expected.items())
    assert sum(expected.values()) < 60 * gpu_session.parse(["folder"]).minutes
