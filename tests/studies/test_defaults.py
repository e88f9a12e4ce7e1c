import defaults
import rival_learning_rates

from acluster.rivals import AverageClassifier


def test_ranked_uses_common_splits_and_data_sets(tmp_path):
    study = defaults.Study({"a": {"N": 1}, "b": {"N": 2}}, None, tmp_path / "rows.csv")
    lines = ["dataset,candidate,split,accuracy,parameters"]
    for dataset, candidate, split, accuracy, n in [
        ("skeleton", "a", 0, 50, 1),
        ("skeleton", "a", 1, 60, 1),
        ("skeleton", "b", 0, 52, 2),  # split 1 is missing, so it does not count
        ("depth", "a", 0, 10, 1),  # b lacks depth, so ranks ignore it
        ("inertial", "a", 0, 99, 7),  # parameters of an earlier a
        ("skeleton", "c", 5, 99, 3),  # no longer a candidate
    ]:
        lines.append(f'{dataset},{candidate},{split},{accuracy},"{{""N"": {n}}}"')
    study.csv.write_text("\n".join(lines))
    assert defaults.ranked(defaults.read_study(study, study.csv), study.candidates) == [
        ["candidate", "rank of 1", "mean", "skeleton", "depth"],
        ["b", "1.0", "52.0", "52.0", ""],
        ["a", "2.0", "50.0", "50.0", "10.0"],
    ]
    assert defaults.ranked({}, study.candidates) == [["candidate", "rank of 0", "mean"]]


def test_splits_exclude_test_items(data_home):
    assert set(defaults.SETS).isdisjoint(["musk1", "elephant", "birds"]), (
        "all their items are test items"
    )
    train, test = defaults.load("japanese vowels").folds(0)[0]
    splits = defaults.splits("japanese vowels")
    assert len(splits) == 10
    for fit, held in splits:
        assert set(fit) | set(held) == set(train)
        assert not set(fit) & set(held)
        assert not set(test) & (set(fit) | set(held))


def test_main_runs_every_candidate_once(data_home, tmp_path, capsys):
    quick = {name: {**own, "max_iter": 2} for name, own in defaults.CANDIDATES.items()}
    study = defaults.DEFAULTS._replace(candidates=quick, csv=tmp_path / "defaults.csv")
    arguments = ["--sets", "japanese vowels", "--splits", "1", "--n-jobs", "1"]
    arguments += ["--candidates", "rmsprop 0.001", "adam 0.01"]
    defaults.main(study, "Choose.", arguments)
    printed = capsys.readouterr().out
    assert printed.count("japanese vowels, ") == 2
    assert sorted(line.split("  ")[0] for line in printed.splitlines()[-2:]) == [
        "adam 0.01",
        "rmsprop 0.001",
    ]
    defaults.main(study, "Choose.", arguments)
    assert "vowels, " not in capsys.readouterr().out, "a finished run was repeated"


def test_rival_learning_rates_are_candidates_of_every_network():
    study = rival_learning_rates.STUDY
    assert len(study.candidates) == 3 * len(rival_learning_rates.NETWORKS)
    clf = study.make(False, 0, **study.candidates["average, 0.003"])
    assert isinstance(clf, AverageClassifier)
    assert clf.learning_rate == 0.003
