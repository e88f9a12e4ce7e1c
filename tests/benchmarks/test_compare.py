import copy
import json

import compare
import pytest

OLD = {
    "machine": {"device": "an abacus", "threads": 2},
    "workloads": {
        "A": {
            "ratios": {
                "acluster": {
                    "padded": {"fit": {"of_medians": 2.0}, "predict": {"of_medians": 1.0}},
                    "skorch": {"fit": {"of_medians": 3.0}},
                }
            }
        }
    },
}


def run_compare(folder, new, *options):
    for name, report in (("old", OLD), ("new", new)):
        (folder / f"{name}.json").write_text(json.dumps(report))
    return compare.main([str(folder / "old.json"), str(folder / "new.json"), *options])


def changed(**ratios):
    new = copy.deepcopy(OLD)
    for phase, ratio in ratios.items():
        new["workloads"]["A"]["ratios"]["acluster"]["padded"][phase]["of_medians"] = ratio
    return new


@pytest.mark.parametrize(
    ("new", "options", "verdict"),
    [
        (OLD, [], compare.SAME),
        (changed(fit=1.71), [], compare.SAME),
        (changed(fit=1.69), [], compare.SLOWER),
        (changed(fit=1.69), ["--tolerance", "0.2"], compare.SAME),
        (changed(fit=5.0, predict=0.8), [], compare.SLOWER),
        ({**OLD, "machine": {"device": "a slide rule", "threads": 2}}, [], compare.NOT_COMPARABLE),
        ({**OLD, "machine": {"device": "an abacus", "threads": 1}}, [], compare.NOT_COMPARABLE),
        ({**changed(fit=1.0), "machine": {"device": "a", "threads": 1}}, ["--any-device"], 1),
        ({**OLD, "workloads": {}}, [], compare.NOT_COMPARABLE),
    ],
)
def test_compare_returns_verdict(tmp_path, new, options, verdict):
    assert run_compare(tmp_path, new, *options) == verdict


def test_compare_shows_missing_ratio_without_failing(tmp_path, capsys):
    new = changed()
    del new["workloads"]["A"]["ratios"]["acluster"]["skorch"]
    assert run_compare(tmp_path, new) == compare.SAME
    line = next(line for line in capsys.readouterr().out.splitlines() if "skorch" in line)
    assert line.split()[-2:] == ["3.00", "-"]
