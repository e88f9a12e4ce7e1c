import shutil

import pytest
import spoken_digits

from tests.studies.conftest import read

pytest.importorskip("av", reason="needs the extra media")


@pytest.fixture
def few_recordings(data_home, tmp_path, monkeypatch):
    """Copy fifteen recordings of each of three digits by one speaker."""
    source = data_home / "fsdd" / "recordings"
    if not source.exists():
        pytest.skip("there is no fsdd in the data home")
    folder = tmp_path / "data" / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in (0, 3, 6):
        for index in range(15):
            shutil.copy(source / f"{digit}_jackson_{index}.wav", folder)
    monkeypatch.setenv("ACLUSTER_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(spoken_digits, "WORK", tmp_path / "work")
    return folder


def test_sets_of_the_files_are_those_of_the_loader(few_recordings):
    spoken_digits.extracted("10 spectra")
    X, y, index = spoken_digits.sets("10 spectra")
    _, y_loaded, index_loaded = spoken_digits.sets(spoken_digits.LOADER)
    assert X.n_features == 640
    assert sorted(zip(y, index, strict=True)) == sorted(zip(y_loaded, index_loaded, strict=True))
    assert set(y) == {0, 3, 6}
    assert set(index) == set(range(15))


def test_main_chooses_on_the_training_recordings(few_recordings, tmp_path, capsys, monkeypatch):
    kept = {name: spoken_digits.FEATURES[name] for name in (spoken_digits.DEFAULT, "10 spectra")}
    monkeypatch.setattr(spoken_digits, "FEATURES", kept)
    monkeypatch.setattr(spoken_digits, "N_VALIDATION_SEEDS", 1)
    table = tmp_path / "table.csv"
    arguments = ["--csv", str(table), "--seeds", "1", "--n-jobs", "1"]
    spoken_digits.main(arguments)
    out = capsys.readouterr().out
    chosen = out.partition("chosen on the validation part: ")[2].splitlines()[0]
    rows = read(table)
    parts = {(row["part"], row["features"]) for row in rows}
    assert {name for part, name in parts if part == "validation"} == set(kept)
    tested = {name for part, name in parts if part == "test"}
    assert tested == {spoken_digits.LOADER, spoken_digits.DEFAULT, chosen}
    assert {row["n_items"] for row in rows} == {"15"}
    assert all(float(row["accuracy"]) > 60 for row in rows)
    spoken_digits.main(arguments)
    assert read(table) == rows, "a finished run was repeated"
