from benchmarks import mfu


def test_the_row_that_compiles_is_left_out():
    rows = [
        {"tokens_per_s": 1.0, "flops_per_s": 2.0},
        *({"tokens_per_s": n, "flops_per_s": 10.0 * n} for n in (3, 4, 9)),
    ]
    assert mfu.rates(rows) == (4, 40.0)


def test_the_peak_is_one_that_products_reach():
    assert mfu.peak(64, 2) > 1e6
