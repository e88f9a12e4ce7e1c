"""Text from files reaches the terminal escaped, and files and pipes whole."""

import ast
import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import acluster
from acluster._utils._progress import progress
from acluster._utils._text import escape
from acluster.command_line import _output, main

HOSTILE = "\x1b[2J\x07a\x9b31m\u202eb\u2028\n9 items, complete\r\x7f"
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
COMMAND = [sys.executable, "-m", "acluster"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a store and a model whose ids and labels are hostile."""
    monkeypatch.chdir(tmp_path)
    X, y = [np.full((2, 3), i % 2, np.float32) for i in range(6)], [HOSTILE, "=1+1"] * 3
    ids = [f"{HOSTILE}{i}" for i in range(5)] + ["-X9P8"]
    acluster.save_feature_sets("sets.zarr", X, label=y, id=ids)
    clf = acluster.AttentionClusterClassifier(max_iter=2, tol=None, random_state=0)
    clf.fit(X, y).save("model")
    return tmp_path


def shown(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main(list(arguments)) == status
    output = capsys.readouterr()
    assert not RAW.search(output.out + output.err)
    return output.out if status == 0 else output.err


@pytest.mark.parametrize(
    "arguments",
    [
        "fit sets.zip --out sets.zip",
        "fit sets.zarr --out sets.zarr/zarr.json",
        "search sets.zip --out sets.zip",
        "search sets.zip --out new --csv sets.zip",
        "predict model sets.zarr --out sets.zarr/zarr.json",
        "predict model sets.zarr --out sets.zarr/predictions.csv",
        "report model sets.zarr --out sets.zarr/zarr.json",
        "evidence model sets.zarr --out sets.zarr/zarr.json",
        "evidence model sets.zarr --item 0 --png model",
        "attention model sets.zarr 0 --png model",
        "attention model sets.zarr 0 --png picture.png --thumbnail picture.png",
        "predict model media --out media/sound.wav",
    ],
)
def test_outputs_must_not_replace_what_a_command_reads(folder, capsys, arguments):
    shutil.make_archive("sets", "zip", "sets.zarr")
    Path("media").mkdir()
    for name in ("picture.png", "media/sound.wav"):
        Path(name).write_bytes(b"a file of the user")
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    error = shown(capsys, *arguments.split(), status=1)
    assert "would be replaced" in error or "is inside the store sets.zarr" in error
    after = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert after == before


def test_escape_keeps_other_text():
    assert escape("Häher \u732b 5² \\ \U0001f426") == "Häher \u732b 5² \\ \U0001f426"
    assert escape("\ufffd\ufffe\uffff") == "\ufffd" + r"\ufffe\uffff"
    assert escape("\x1b\n\x85\u202e\udcff") == r"\x1b\n\x85\u202e\udcff"


def test_only_one_module_prints():
    for path in Path(_output.__file__).parent.glob("*.py"):
        names = {ast.unparse(n) for n in ast.walk(ast.parse(path.read_text()))}
        prints = {"print", "sys.stdout", "sys.stderr"} & names
        assert not prints or path.name == "_output.py", path


def test_info_escapes_names_of_modalities_and_attributes(folder, capsys, monkeypatch):
    # Writers reject such names of modalities, but a store may come from another program.
    modality = {"n_local_features": 2, "n_features": 2, "dtype": HOSTILE, "bytes": 8}
    modality["places"] = [HOSTILE]
    found = SimpleNamespace(
        n_items=1,
        complete=True,
        modalities={HOSTILE: modality},
        columns=[HOSTILE],
        attributes={HOSTILE: HOSTILE},
        label_names=[HOSTILE],
    )
    for command in ("info", "validate"):
        monkeypatch.setattr(acluster.sets, command, lambda _: found)
        lines = shown(capsys, command, "hostile.zarr").splitlines()
        assert len(lines) == 5 + (command == "validate")
        assert lines[1].startswith(r"  \x1b[2J\x07a\x9b31m\u202eb\u2028\n9 items")


def test_predict_and_attention_escape_ids_and_labels(folder, capsys):
    table = list(csv.reader(io.StringIO(shown(capsys, "predict", "model", "sets.zarr", "--proba"))))
    assert table[0] == ["id", "prediction", f"probability of {escape(HOSTILE)}",
                        "probability of =1+1"]  # fmt: skip
    assert [row[0] for row in table[1:]] == [*(f"{escape(HOSTILE)}{i}" for i in range(5)), "-X9P8"]
    shown(capsys, "attention", "model", "sets.zarr", f"{HOSTILE}3")
    assert "no item" in shown(capsys, "attention", "model", "sets.zarr", HOSTILE, status=1)


def test_predict_out_keeps_ids_and_labels(folder, capsys):
    shown(capsys, "predict", "model", "sets.zarr", "--out", "predictions.csv")
    with open("predictions.csv", encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert [row[0] for row in table[1:]] == acluster.open_feature_sets("sets.zarr").id.tolist()
    assert {row[1] for row in table[1:]} <= {HOSTILE, "=1+1"}


@pytest.mark.filterwarnings("default")
def test_errors_and_warnings_are_escaped(folder, capsys, monkeypatch):
    with safe_open("model", "np") as file:
        description = json.loads(file.metadata()["acluster"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    description["parameters"][HOSTILE] = 1
    save_file(tensors, "hostile", metadata={"acluster": json.dumps(description)})
    assert shown(capsys, "predict", "hostile", "sets.zarr", status=1).count("\n") == 1
    assert shown(capsys, "info", HOSTILE, status=1).count("\n") == 1
    monkeypatch.setattr(
        "acluster.command_line._commands.info", lambda _: warnings.warn(HOSTILE, stacklevel=1)
    )
    assert main(["info", "sets.zarr"]) == 0
    assert capsys.readouterr().err == f"warning: {escape(HOSTILE)}\n"


def test_usage_error_is_escaped_and_exits_2(capsys):
    for arguments in (["info", "a", HOSTILE], [HOSTILE]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert not RAW.search(capsys.readouterr().err)


def test_progress_escapes_its_label(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress([1], HOSTILE)) == [1]
    assert "\x1b" not in terminal.getvalue()


def test_predictions_are_utf8_in_any_locale(folder):
    X, y = acluster.open_feature_sets("sets.zarr"), ["\u732b", "\u72ac"] * 3
    clf = acluster.AttentionClusterClassifier(max_iter=2, tol=None, random_state=0).fit(X, y)
    clf.save("cats")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*COMMAND, "predict", "cats", "sets.zarr"]
    subprocess.run([*command, "--out", "cats.csv"], env={**os.environ, **locale}, check=True)
    # A pipe gets UTF-8 as well, even where PYTHONIOENCODING or the locale asks for less.
    locale["PYTHONIOENCODING"] = "ascii"
    piped = subprocess.run(command, env={**os.environ, **locale}, check=True, capture_output=True)
    for content in (Path("cats.csv").read_bytes(), piped.stdout):
        assert content.decode("utf-8").count("\u732b") >= 1
    Path("labels.csv").write_text("id,label\n\u732b,\u72ac\n", encoding="utf-8")
    Path("features").mkdir()
    np.save("features/\u732b.npy", np.ones((2, 2), np.float32))
    convert = [*COMMAND, "convert", "features", "c.zarr", "--labels", "labels.csv"]
    locale["PYTHONUTF8"] = "1"  # the name of the file needs it, the table does not
    subprocess.run(convert, env={**os.environ, **locale}, check=True)
    assert acluster.open_feature_sets("c.zarr").label.tolist() == ["\u72ac"]


@pytest.mark.parametrize("command", ["predict", "attention"])
def test_full_disk_keeps_the_earlier_file_and_its_mode(folder, capsys, monkeypatch, command):
    target = folder / "out.png"
    arguments = ["predict", "model", "sets.zarr", "--out", "out.png"]
    if command == "attention":
        arguments = ["attention", "model", "sets.zarr", "0", "--png", "out.png"]
    target.write_bytes(b"earlier")
    target.chmod(0o600)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left" in shown(capsys, *arguments, status=1)
    assert target.read_bytes() == b"earlier"
    assert not list(folder.glob(".out*"))
    shown(capsys, *arguments)
    assert target.read_bytes() != b"earlier"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="the devices of Linux")
@pytest.mark.parametrize("command", [["info", "sets.zarr"], ["predict", "model", "sets.zarr"]])
def test_stdout_that_cannot_be_written(folder, command):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *command], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "No space left on device. Free some space, and" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    closed = 'exec "$@" >&-'
    done = subprocess.run(["sh", "-c", closed, "sh", *COMMAND, *command], capture_output=True)
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupt_prints_one_line_and_exits_130(folder):
    Path("features").mkdir()
    os.mkfifo("table.csv")  # the command waits for the table
    np.save("features/a.npy", np.ones((2, 2), np.float32))
    command = [*COMMAND, "convert", "features", "new.zarr", "--labels", "table.csv"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # A job in the background of a shell starts with this signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process, open("table.csv", "w"):  # opens once the command reads it
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert (process.returncode, error) == (130, "acluster convert: interrupted\n")


@pytest.mark.parametrize("item", ["-X9P8", "-hello", "--png-of-x", "-1"])
def test_attention_accepts_an_id_that_begins_with_a_dash(folder, capsys, item):
    sets = [np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)]
    acluster.save_feature_sets("dash.zarr", sets, id=["first", item])
    for arguments in (["model", "dash.zarr", item], ["model", "dash.zarr", "--", item]):
        assert shown(capsys, "attention", *arguments).count("\n") == 4
    shown(capsys, "attention", "--png", "a.png", "model", "dash.zarr", item)
    shown(capsys, "attention", "model", "dash.zarr", item, "--png=b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert "no item '-y'" in shown(capsys, "attention", "model", "dash.zarr", "-y", status=1)


def test_attention_rejects_other_unknown_options(folder, capsys):
    for arguments in (["model", "sets.zarr", "a", "--pgn", "x"], ["model", "sets.zarr"]):
        with pytest.raises(SystemExit) as stop:
            main(["attention", *arguments])
        assert stop.value.code == 2
        assert "usage: acluster " in capsys.readouterr().err
