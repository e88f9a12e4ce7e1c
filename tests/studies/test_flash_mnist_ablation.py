import torch
from flash_mnist_ablation import VARIANTS, Variant, main
from torch.nn.functional import normalize

from acluster.nn import ShiftingOperation
from tests.studies.conftest import SMALL


def test_variant_computes_part_of_shifting():
    v = torch.randn(4, 3, 5)
    variants = {name: Variant(name, 3, 5) for name in VARIANTS}
    whole = ShiftingOperation(3)
    with torch.no_grad():
        whole.alpha.copy_(variants["shifting"].alpha.view_as(whole.alpha))
        whole.beta.copy_(variants["shifting"].beta.view_as(whole.beta))
    torch.testing.assert_close(variants["shifting"](v), whole(v))
    torch.testing.assert_close(
        variants["per dimension"](v).norm(dim=-1), torch.full((4, 3), 3**-0.5)
    )
    torch.testing.assert_close(variants["norm"](v), normalize(v, dim=-1) / 3**0.5)
    affine = variants["affine"]
    torch.testing.assert_close(affine(v), affine.alpha * v + affine.beta)
    assert variants["none"](v) is v


def test_main_runs_every_variant_once(bundled_digits, tmp_path, capsys):
    arguments = [*SMALL, "--epochs", "1"]
    arguments += ["--csv", str(tmp_path / "rows.csv"), "--work", str(tmp_path)]
    main(arguments)
    printed = capsys.readouterr().out
    for variant in VARIANTS:
        assert printed.count(f", {variant}, seed 0: epoch 1 of 1") == 2
    main(arguments)
    again = capsys.readouterr().out
    assert "epoch" not in again, "a finished run was repeated"
    assert printed.endswith(again)
