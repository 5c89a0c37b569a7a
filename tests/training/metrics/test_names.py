import pytest

from training.metrics import names


@pytest.mark.parametrize(
    "name", ["ndcg_at_10", "val_wape", "test_ndcg_at_10_gain_lo", "test_ece_hi", "test_auc_30d_gain_lo", "train_loss"]
)
def test_names_of_the_list_pass(name: str) -> None:
    assert names.check(name) == name


@pytest.mark.parametrize("name", ["ndcg@10", "ndcg_at_5", "dev_wape", "test_train_loss", "wape_", "", "test_ndcg_at_10_lo_hi"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="closed list"):
        names.check(name)


def test_an_interval_becomes_three_names() -> None:
    assert names.with_interval("test_wape", (0.5, 0.4, 0.6)) == {"test_wape": 0.5, "test_wape_lo": 0.4, "test_wape_hi": 0.6}


def test_every_metric_has_a_direction() -> None:
    assert set(names.HIGHER_IS_BETTER) == {*names.RANKING, *names.FORECAST, *names.CLASSIFICATION, *names.PROPENSITY, *names.RANKER}
