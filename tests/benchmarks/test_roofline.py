import roofline

from tests.benchmarks.conftest import small_task


def test_work_matches_hand_count():
    task = small_task(shortest=6, longest=6)  # 10 sets of 6 x 4, N 5, 3 classes, 3 batches
    n_parameters = 4 * 5 + 2 * 5 + 20 * 3 + 3
    training, prediction = roofline.training_work(task), roofline.prediction_work(task)
    assert training.flops == 10 * (8 * 6 * 4 * 5 + 6 * 5 * 4 * 3)
    assert training.bytes == 4 * (2 * 10 * 6 * 4 + 4 * 10 * 20 + 3 * 6 * n_parameters)
    assert prediction.flops == 10 * (4 * 6 * 4 * 5 + 2 * 5 * 4 * 3)
    assert prediction.bytes == 4 * (10 * 6 * 4 + 2 * 10 * 20 + 3 * n_parameters)


def test_least_seconds_is_maximum_of_arithmetic_and_memory():
    device = {"matmul_gflops": {"float32": 2, "bfloat16": 4}, "copy_gb_per_second": 1}
    assert roofline.Work(8e9, 1e9).least_seconds(device, ["float32"]) == 4
    assert roofline.Work(8e9, 1e9).least_seconds(device, ["float32", "bfloat16"]) == 2
    assert roofline.Work(8e9, 6e9).least_seconds(device, ["float32"]) == 6
