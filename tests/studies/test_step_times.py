import json

import pytest
import step_times
from step_times import Machine, Sizes, step_seconds

SIZES = Sizes(batch_size=128)
MACHINE = Machine(operations=1e11, memory=1e10, network=1e9)


def test_one_process_exchanges_nothing():
    seconds = SIZES.n_operations / 1e11 + 20 * SIZES.n_weights / 1e10
    assert step_seconds("items", 1, SIZES, MACHINE) == pytest.approx(seconds)
    assert step_seconds("units", 1, SIZES, MACHINE) == pytest.approx(seconds)


def test_shared_items_repeat_the_update_and_sum_the_gradients():
    update, exchange = 20 * SIZES.n_weights / 1e10, 2 * 3 / 4 * 4 * SIZES.n_weights / 1e9
    expected = SIZES.n_operations / 1e11 / 4 + update + exchange
    assert step_seconds("items", 4, SIZES, MACHINE) == pytest.approx(expected)


def test_shared_units_sum_the_logits():
    expected = step_seconds("units", 1, SIZES, MACHINE) / 4 + 2 * 3 / 4 * 4 * 128 * 400 / 1e9
    assert step_seconds("units", 4, SIZES, MACHINE) == pytest.approx(expected)


def test_step_takes_at_least_the_time_of_launching():
    machine = Machine(operations=1e15, memory=1e13, network=1e13, latency=1e-5, launch=1e-2)
    assert step_seconds("units", 8, SIZES, machine) == pytest.approx(1.001e-2, rel=1e-2)


def test_main_prints_measured_steps_beside_the_model(tmp_path, capsys):
    steps = {
        "sizes": {
            "batch_size": 128,
            "local_features": 25,
            "n_features": 1536,
            "units": 64,
            "classes": 400,
            "ranks": 2,
        },
        "seconds_per_step": {"one thread": 0.6, "items": 0.5, "units": 0.31},
        "bytes_per_second": {"memory": 1e10, "exchange": 1e9},
    }
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps({"steps": steps}))
    step_times.main(["--measured", str(path)])
    printed = capsys.readouterr().out
    assert "units: measured 0.310, model 0.300, ratio 1.03" in printed
    assert "128 GPUs" in printed
