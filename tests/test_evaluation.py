import json
import math

import pytest
import torch
from torch import nn

from kdcore.errors import DataError, KdError
from kdcore.evaluation import Predictions, collect, fit_weights, mean_logits, mixture, quick, report
from kdcore.vocabulary import Outputs

NAMES = ["ant", "bee", "cat"]


def planted(seed: int, samples: int = 400, classes: int = 4, strengths=(0.5, 3.0, 1.0)) -> Predictions:
    """Exits that know the label by so much, beside noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    truth = nn.functional.one_hot(labels, classes).float()
    noise = torch.randn(len(strengths), samples, classes, generator=generator)
    logits = torch.stack([strength * truth + noise[k] for k, strength in enumerate(strengths)])
    return Predictions(logits, labels, list(range(1, len(strengths) + 1)))


def logits_of(probabilities) -> torch.Tensor:
    return torch.tensor(probabilities).log()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn, self.frozen, self.drop = nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.Dropout(0.5)
        self.frozen.eval()
        self.heads = nn.ModuleList([nn.Linear(2, 3), nn.Linear(2, 12), nn.Linear(2, 3)])

    def forward(self, images):
        x = self.drop(self.frozen(self.bn(images)))
        return Outputs(logits=[head(x) for head in self.heads])


def batches(sizes=(4, 4, 3)):
    start = 0
    for size in sizes:
        index = torch.arange(start, start + size)
        yield torch.stack([index.float(), -index.float()], dim=1), index % 3, index
        start += size


def test_collect_keeps_the_exits_of_the_right_width_and_leaves_the_model_as_it_was():
    net = Net()
    flags = {name: module.training for name, module in net.named_modules()}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    predictions = collect(net, batches(), num_classes=3)
    assert predictions.exits == [1, 3]
    assert predictions.logits.shape == (2, 11, 3) and predictions.logits.dtype == torch.float32
    assert predictions.labels.tolist() == [k % 3 for k in range(11)] and predictions.labels.dtype == torch.int64
    assert {name: module.training for name, module in net.named_modules()} == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    again = collect(net, batches((11,)), num_classes=3)
    torch.testing.assert_close(again.logits, predictions.logits)
    assert not predictions.logits.is_inference()


def test_collect_restores_flags_when_the_model_fails():
    net = Net()
    with pytest.raises(RuntimeError):
        collect(net, [(torch.zeros(2, 5), torch.zeros(2), torch.zeros(2))], num_classes=3)
    assert net.training and net.drop.training and not net.frozen.training


def test_collect_takes_plain_tensors_autocast_and_functions():
    linear = nn.Linear(2, 3)
    plain = collect(linear, batches(), num_classes=3)
    assert plain.exits == [1]
    for autocast in (torch.autocast("cpu", torch.bfloat16), lambda device: torch.autocast(device.type, torch.bfloat16)):
        lower = collect(linear, batches(), num_classes=3, autocast=autocast)
        assert lower.logits.dtype == torch.float32 and not torch.equal(lower.logits, plain.logits)
        torch.testing.assert_close(lower.logits, plain.logits, rtol=0.05, atol=0.05)
    assert torch.equal(collect(lambda images: linear(images), batches(), num_classes=3).logits, plain.logits)


def test_collect_makes_no_tensor_of_the_loader_an_inference_tensor():
    kept = []

    def caching():
        for images, labels, index in batches():
            kept.append(images * 2)
            yield kept[-1], labels, index

    collect(nn.Linear(2, 3), caching(), num_classes=3)
    assert not any(images.is_inference() for images in kept)


def test_collect_refuses_nothing_and_other_widths():
    with pytest.raises(DataError, match="nothing to evaluate"):
        collect(nn.Linear(2, 3), [], num_classes=3)
    with pytest.raises(KdError, match="no exit has the 5 classes of the data; the exits have 3, 12, 3"):
        collect(Net(), batches(), num_classes=5)


def test_calibration_error_by_hand():
    """Confidences .9 .9 .9 .9 (three right) and .6 .6 (one right): 4/6 * |.75 - .9| + 2/6 * |.5 - .6| = 2/15."""
    logits = logits_of([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2)[None]
    predictions = Predictions(logits, torch.tensor([0, 0, 0, 1, 0, 1]), [1])
    values = quick(predictions)
    assert values["exit1/ece"] == pytest.approx(100 * 2 / 15, abs=1e-4)
    assert values["top1"] == values["exit1/top1"] == pytest.approx(100 * 4 / 6)
    by_hand = -(3 * math.log(0.9) + math.log(0.1) + math.log(0.6) + math.log(0.4)) / 6
    assert values["nll"] == pytest.approx(by_hand, abs=1e-6)
    assert set(values) == {"exit1/top1", "exit1/nll", "exit1/ece", "top1", "nll"}


def test_certain_and_wrong_is_a_calibration_error_of_100():
    certain = Predictions(torch.tensor([[[0.0, 60.0], [0.0, 60.0]]]), torch.tensor([0, 0]), [1])
    values = quick(certain)
    assert values["exit1/ece"] == pytest.approx(100) and values["top1"] == 0 and values["nll"] == pytest.approx(60)


def test_logits_between_0_and_1_are_not_taken_for_probabilities():
    flat = Predictions(torch.tensor([[[0.9, 0.1], [0.9, 0.1]]]), torch.tensor([0, 0]), [1])
    confidence = 1 / (1 + math.exp(-0.8))
    assert quick(flat)["exit1/ece"] == pytest.approx(100 * (1 - confidence), abs=1e-4)


def test_confusion_and_recall_by_hand():
    """Rows are the true class. ant: 2 of 3 found, one taken for a bee. bee: both found. cat: no sample."""
    said = torch.tensor([0, 0, 1, 1, 1])
    predictions = Predictions(10 * nn.functional.one_hot(said, 3).float()[None], torch.tensor([0, 0, 0, 1, 1]), [1])
    table = report(predictions, NAMES)
    (exit_1,) = table["exits"]
    assert exit_1["confusion"] == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert exit_1["recall"] == {"ant": pytest.approx(200 / 3), "bee": 100, "cat": None}
    assert exit_1["top1"] == pytest.approx(80) and "top5" not in exit_1 and exit_1["exit"] == 1
    assert table["ensembles"] == {} and table["samples"] == 5
    json.dumps(table, allow_nan=False)


def test_top5_only_with_more_than_five_classes():
    logits = torch.arange(6.0).flip(0).repeat(3, 1)[None]
    table = report(Predictions(logits, torch.tensor([0, 4, 5]), [1]), list("abcdef"))
    assert table["exits"][0]["top5"] == pytest.approx(200 / 3)
    assert "top5" not in report(Predictions(logits[..., :5], torch.tensor([0, 4, 3]), [1]), list("abcde"))["exits"][0]


def test_the_ensembles_of_the_papers_vector():
    logits = torch.tensor([[2.0, 0, 0], [0, 1.5, 0], [0, 1.0, 0]])[:, None]
    assert mean_logits(logits)[0].tolist() == pytest.approx([0.6667, 0.8333, 0], abs=1e-4)
    assert mixture(logits).exp()[0].tolist() == pytest.approx([0.3844, 0.4580, 0.1576], abs=1e-4)
    table = report(Predictions(logits, torch.tensor([1]), [1, 2, 3]), NAMES)
    assert table["ensembles"]["mean_logits"]["top1"] == table["ensembles"]["mean_probabilities"]["top1"] == 100
    assert table["ensembles"]["mean_probabilities"]["nll"] == pytest.approx(-math.log(0.4580), abs=1e-3)
    assert quick(Predictions(logits, torch.tensor([1]), [1, 2, 3]))["ensemble/top1"] == 100


def test_quick_and_report_agree_and_the_plain_names_are_the_deepest_exits():
    predictions = planted(0)
    values, table = quick(predictions), report(predictions, list("abcd"))
    for exit_table in table["exits"]:
        for name in ("top1", "nll", "ece"):
            assert values[f"exit{exit_table['exit']}/{name}"] == exit_table[name]
    assert values["ensemble/nll"] == table["ensembles"]["mean_logits"]["nll"]
    assert values["top1"] == values["exit3/top1"] and values["nll"] == values["exit3/nll"]


@pytest.mark.parametrize("seed", range(4))
def test_fitted_weights_find_the_best_exit_and_are_no_worse_than_the_mean(seed):
    dev = planted(seed)
    weights = fit_weights(dev)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all() and weights.argmax() == 1
    assert nll(dev, weights) <= nll(dev, torch.full((3,), 1 / 3)) + 1e-6
    for other in torch.eye(3) * 0.98 + 0.02 / 3:
        assert nll(dev, weights) <= nll(dev, other) + 2e-6


def nll(dev: Predictions, weights: torch.Tensor) -> float:
    return float(nn.functional.nll_loss(mixture(dev.logits, weights).double(), dev.labels))


def test_fitted_weights_of_one_perfect_exit_and_of_equals():
    labels = torch.tensor([0, 1, 2, 0])
    perfect = 60 * nn.functional.one_hot(labels, 3).float()
    weights = fit_weights(Predictions(torch.stack([perfect, -perfect]), labels, [1, 2]))
    assert weights.tolist() == pytest.approx([1, 0], abs=1e-5)
    same = fit_weights(Predictions(torch.stack([perfect, perfect]), labels, [1, 2]))
    assert same.tolist() == pytest.approx([0.5, 0.5])


def test_the_fitted_ensemble_is_there_with_dev_predictions_only():
    test, dev = planted(1), planted(2)
    assert set(report(test, list("abcd"))["ensembles"]) == {"mean_logits", "mean_probabilities"}
    fitted = report(test, list("abcd"), dev=dev)["ensembles"]["fitted"]
    assert sum(fitted["weights"]) == pytest.approx(1) and len(fitted["weights"]) == 3
    assert fitted["nll"] == pytest.approx(nll(test, fit_weights(dev)), abs=1e-5)
    dev.exits = [1, 2, 4]
    with pytest.raises(KdError, match=r"exits \[1, 2, 4\], these of \[1, 2, 3\]"):
        report(test, list("abcd"), dev=dev)


def test_nothing_is_ever_nan():
    predictions = planted(3)
    predictions.logits[0, :10] = math.nan
    predictions.logits[1, 0, 0] = math.inf
    predictions.logits[1, 1] = -math.inf
    predictions.logits[2] = math.nan
    table = report(predictions, list("abcd"), dev=predictions)
    json.dumps([table, quick(predictions)], allow_nan=False)
    assert [exit_table["not_finite"] for exit_table in table["exits"]] == [10, 2, 400]
    assert table["exits"][2]["nll"] == pytest.approx(math.log(4)) and quick(predictions)["exit3/not_finite"] == 400


def test_further_metrics_are_merged_under_their_names():
    def distance(logits, labels):
        return (logits.argmax(-1) - labels).abs().float().mean()

    metrics = {"distance": distance, "both": lambda logits, labels: {"n": len(labels), "bad": math.nan}}
    predictions = planted(0)
    table = report(predictions, list("abcd"), metrics=metrics)
    for one in [*table["exits"], *table["ensembles"].values()]:
        assert isinstance(one["distance"], float) and one["both"] == {"n": 400, "bad": None}
    with pytest.raises(KdError, match="'top1'"):
        report(predictions, list("abcd"), metrics={"top1": distance})
    with pytest.raises(KdError, match="3 class names, but the exits have 4 classes"):
        report(predictions, NAMES)
