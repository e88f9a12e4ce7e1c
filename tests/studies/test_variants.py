import defaults
import pytest
import torch
import variants

from tests.studies.conftest import read


def test_main_runs_candidates(data_home, tmp_path, capsys):
    chosen = ["as it is", "entmax", "batch norm", "slices of 8", "pyramid of time"]
    quick = {name: {**own, "max_iter": 20} for name, own in variants.CANDIDATES.items()}
    study = variants.VARIANTS._replace(candidates=quick, csv=tmp_path / "variants.csv")
    arguments = ["--sets", "japanese vowels", "--splits", "1", "--n-jobs", "1"]
    defaults.main(study, "Compare.", [*arguments, "--candidates", *chosen])
    rows = read(study.csv)
    assert {row["candidate"] for row in rows} == set(chosen)
    assert all(float(row["accuracy"]) > 70 for row in rows)
    assert "entmax " in "".join(capsys.readouterr().out.splitlines()[-5:])


@pytest.mark.parametrize(("name", "scale", "power"), [("sparsemax", 1, 1), ("entmax", 0.5, 2)])
def test_activations_match_bisection(name, scale, power):
    function = variants.ACTIVATIONS[name]
    scores = torch.randn(3, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores[1, 5:] = -torch.inf  # a shorter, padded set
    weights = function(2 * scores).permute(0, 2, 1).reshape(-1, 9)
    for z, found in zip((2 * scores).permute(0, 2, 1).reshape(-1, 9), weights, strict=True):
        low, high = scale * z.max() - 1, scale * z.max()  # bisect the threshold
        for _ in range(80):
            middle = (low + high) / 2
            total = ((scale * z - middle).clamp(min=0) ** power).sum()
            low, high = (middle, high) if total > 1 else (low, middle)
        torch.testing.assert_close(found, (scale * z - low).clamp(min=0) ** power)
    assert torch.autograd.gradcheck(function, scores[:1].clone().requires_grad_())
