"""The studies' arithmetic on cases that can be worked out by hand."""

import json
import math

import pytest
import torch
from torch import nn

from kdcore import KdError, Outputs
from kdcore.errors import DataError
from kdcore.runs import Run
from kdcore_byot.studies.cost import lineage_minutes, teacher_minutes
from kdcore_byot.studies.embeddings import principal_plane, ratio
from kdcore_byot.studies.ensemble import agreement, disagreement
from kdcore_byot.studies.gradcam import class_map, correlation, exit_maps
from kdcore_byot.studies.gradients import layers_of, mean_gradients
from kdcore_byot.studies.noise import accuracy_and_loss, falls_to, noisy, summary, summed_up
from kdcore_byot.studies.shallow_gain import baseline_of, by_seed, gains, rank_correlation, trend

# -- noise --------------------------------------------------------------------------------------------------------------------


def network():
    net = nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.Linear(100, 100))
    with torch.no_grad():
        net[0].bias[:2] = torch.tensor([0.0, -0.0])
    return net


def bits(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same_bits(one, other):
    return all(torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)) for name in one if one[name].ndim)


def test_noise_goes_to_every_parameter_and_to_no_buffer_and_is_taken_back_bit_for_bit():
    net = network()
    before = bits(net)
    with noisy(net, 0.5, 0, 1):
        inside = bits(net)
    assert same_bits(before, bits(net))
    parameters = {name for name, _ in net.named_parameters()}
    for name, tensor in inside.items():
        assert (name in parameters) != torch.equal(tensor, before[name]), name
    drawn = (inside["2.weight"] - before["2.weight"]).flatten()
    assert drawn.std().item() == pytest.approx(0.5, rel=0.03) and abs(drawn.mean().item()) < 0.02
    with noisy(net, 0.0, 0, 1):
        assert same_bits(before, bits(net))
    with pytest.raises(KeyboardInterrupt), noisy(net, 0.5, 0):
        raise KeyboardInterrupt
    assert same_bits(before, bits(net))


def test_noise_is_the_same_for_the_same_names_and_grows_with_sigma_alone():
    net, other = network(), network()

    def added(net, sigma, *names, **options):
        before = net[2].weight.detach().clone()
        with noisy(net, sigma, *names, **options):
            return net[2].weight.detach() - before

    one = added(net, 0.5, 0, 1)
    assert torch.allclose(one, added(other, 0.5, 0, 1), atol=1e-6) and torch.allclose(2 * one, added(net, 1.0, 0, 1), atol=1e-6)
    assert not torch.allclose(one, added(net, 0.5, 0, 2), atol=0.1)
    with torch.no_grad():
        net[2].weight.fill_(3.0)  # its root mean square
    assert torch.allclose(3 * one, added(net, 0.5, 0, 1, relative=True), atol=1e-5)


def test_accuracy_and_loss():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]])
    accuracy, loss = accuracy_and_loss(logits, torch.tensor([0, 1, 1]))
    assert accuracy == pytest.approx(200 / 3) and loss == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(4)) / 3)
    assert accuracy_and_loss(torch.full((1, 2), float("nan")), torch.tensor([0])) == (100.0, pytest.approx(math.log(2)))


def test_a_curve_in_three_numbers():
    assert falls_to([(0, 80), (0.1, 60), (0.2, 20)], 40) == pytest.approx(0.15) and falls_to([(0, 80), (1, 70)], 40) is None
    rows = [{"sigma": 0.0, "accuracy": 80.0}, {"sigma": 0.1, "accuracy": 60.0}, {"sigma": 0.2, "accuracy": 20.0}]
    found = summary("one", rows)
    assert found == {"run": "one", "without noise": 80, "mean under noise": 40, "half at sigma": pytest.approx(0.15)}
    assert summed_up([(1.0, 2.0), (3.0, 2.0)]) == {
        "draws": 2,
        "accuracy": 2.0,
        "accuracy, deviation": pytest.approx(2**0.5, abs=1e-6),
        "loss": 2.0,
        "loss, deviation": 0.0,
    }


# -- gradients ------------------------------------------------------------------------------------------------------------------


def test_gradients_of_a_linear_network_by_hand():
    """y = b (a1 x1 + a2 x2), summed over x = (1, -2), (3, 4): dy/da = b (4, 2), so 6 on average with b = 2; dy/db = a1 4 + a2 2."""
    first, second, unused = nn.Conv2d(2, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -5.0]).view(1, 2, 1, 1))
        second.weight.fill_(2.0)
    images = torch.tensor([[1.0, -2.0], [3.0, 4.0]]).view(2, 2, 1, 1)
    loss = second(first(images)).sum()
    layers = {"first": first.weight, "second": second.weight, "unused": unused.weight}
    assert mean_gradients(loss, layers) == {"first": 6.0, "second": 6.0, "unused": 0.0}


def test_layers_are_the_convolutions_that_train_or_else_the_linear_ones():
    convolutions = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(1, 1), nn.Conv2d(1, 1, 1))
    assert list(layers_of(convolutions)) == ["0", "2"]
    assert list(layers_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(1, 1), nn.Linear(1, 1)))) == ["1", "2"]
    with pytest.raises(DataError, match="--freeze"):
        layers_of(convolutions.requires_grad_(False))


# -- embeddings -----------------------------------------------------------------------------------------------------------------


def test_points_in_a_plane_are_seen_as_they_lie():
    flat = torch.tensor([[-3.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    turned = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0][:2]
    plane, share = principal_plane(flat.double() @ turned + 7)
    assert torch.allclose(plane.abs(), flat.double().abs(), atol=1e-6) and share == pytest.approx(1)
    line, share = principal_plane(torch.tensor([[0.0], [2.0], [4.0], [6.0]]))
    assert torch.allclose(line, torch.tensor([[-3.0, 0], [-1, 0], [1, 0], [3, 0]]).double()) and share == 1
    _, share = principal_plane(torch.eye(3).repeat(2, 1) * torch.tensor([1.0, 1.0, 0.0]))
    assert share == pytest.approx(1) and ratio(4.0, 16.0) == 0.25 and ratio(4.0, 0.0) is None


# -- Grad-CAM -------------------------------------------------------------------------------------------------------------------


def test_a_class_map_by_hand():
    """Two channels with mean gradients 1 and -1: relu(a - b) is (0, 1; 2, 0), halved."""
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[2.0, 1.0], [1.0, 4.0]]]])
    gradient = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    assert torch.equal(class_map(maps, gradient), torch.tensor([[[0.0, 0.5], [1.0, 0.0]]]))
    assert torch.equal(class_map(maps, -gradient.abs()), torch.zeros(1, 2, 2))  # nowhere positive


class Looks(nn.Module):
    """One channel; class 0 is the map's sum, class 1 minus that."""

    def forward(self, images):
        maps = images * 2
        total = maps.sum(dim=(1, 2, 3))
        return Outputs([torch.stack([total, -total], dim=1)], [], [maps])


def test_maps_of_an_exit_are_where_its_class_is():
    images = torch.tensor([[[[0.0, 1.0], [4.0, 0.0]]], [[[-1.0, 0.0], [0.0, -2.0]]]])
    maps, logits = exit_maps(Looks(), images)  # the second image is of class 1: minus what is there
    assert maps.shape == (1, 2, 2, 2) and logits[0].argmax(dim=1).tolist() == [0, 1]
    assert torch.equal(maps[0, 0], torch.tensor([[0.0, 0.25], [1.0, 0.0]])) and torch.equal(
        maps[0, 1], torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    )
    maps, _ = exit_maps(Looks(), images, torch.tensor([0, 0]))
    assert torch.equal(maps[0, 1], torch.zeros(2, 2))


def test_an_exit_beside_its_map_is_refused():
    class Beside(Looks):
        def forward(self, images):
            outputs = super().forward(images)
            return Outputs(outputs.logits, [], [outputs.maps[0].clone()])

    with pytest.raises(DataError, match="exit 1 does not compute its logits from the map"):
        exit_maps(Beside(), torch.ones(1, 1, 2, 2))


def test_correlation():
    one = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert correlation(one, 5 * one + 1) == pytest.approx(1) and correlation(one, -one) == pytest.approx(-1)
    assert correlation(one, torch.ones(2, 2)) is None


# -- ensemble -------------------------------------------------------------------------------------------------------------------


def test_disagreement_by_hand():
    answers, labels = torch.tensor([[0, 1, 2, 0], [0, 1, 1, 1]]), torch.tensor([0, 2, 2, 0])
    assert disagreement(answers) == [[0, 50], [50, 0]]
    found = agreement(answers, torch.tensor([0, 1, 2, 1]), labels)
    assert list(found.values()) == [50, 50, 0, 50, 75]
    assert agreement(answers[:1], answers[0], labels)["deepest right where they disagree"] is None


# -- shallow gain ---------------------------------------------------------------------------------------------------------------


def test_gains_are_paired_by_seed_and_exit():
    own, base = {1: {0: 50.0, 1: 54.0, 9: 0.0}, 2: {0: 60.0, 1: 60.0}, 3: {0: 1.0}}, {1: {0: 40.0, 1: 42.0}, 2: {0: 59.0, 1: 59.0}}
    first, second = gains("byot", own, "plain", base)
    assert (first["exit"], first["gain"], first["seeds"], first["accuracy"], first["baseline"]) == (1, 11.0, 2, 52.0, 41.0)
    assert first["high"] - 11 == pytest.approx(12.706, abs=1e-3) and second["low"] == second["high"] == second["gain"] == 1
    assert by_seed(own, base) == [[10.0, 1.0], [12.0, 1.0]]
    with pytest.raises(DataError, match="none in common"):
        gains("byot", {1: {0: 1.0}, 2: {0: 1.0}}, "plain", {1: {3: 1.0}, 2: {3: 1.0}})
    with pytest.raises(DataError, match="need two that both have"):
        gains("byot", own, "plain", {1: {0: 1.0}})


def test_the_trend_of_gains_that_fall_with_depth():
    """Of 4! orders in each of two seeds, one pair falls throughout: p = 1 / 576."""
    found = trend([[4.0, 3.0, 2.0, 1.0], [9.0, 5.0, 1.0, 0.0]], [6.5, 4.0, 1.5, 0.5])
    assert found["rank correlation"] == found["by seed, mean"] == pytest.approx(-1) and found["p"] == pytest.approx(1 / 576)
    assert found["seeds in which it falls"] == "2 of 2"
    rising = trend([[1.0, 2.0, 3.0]] * 3, [1.0, 2.0, 3.0])
    assert rising["p"] == pytest.approx(1) and rising["seeds in which it falls"] == "0 of 3"
    assert rank_correlation([1.0, 1.0]) is None and trend([[1.0, 1.0]], [1.0, 1.0])["p"] is None


def test_the_baseline_is_named():
    assert baseline_of(["byot", "plain:--epochs=3"], "plain") == "plain:--epochs=3"
    assert baseline_of(["plain", "plain:--epochs=3"], "plain") == "plain"
    with pytest.raises(KdError, match="none of the runs is of 'deep-supervision'"):
        baseline_of(["byot", "plain"], "deep-supervision")
    with pytest.raises(KdError, match="'plain' is 2 experiments"):
        baseline_of(["plain:a=1", "plain:a=2"], "plain")


# -- cost -----------------------------------------------------------------------------------------------------------------------


def fake(path, teacher=None, minutes=1.0):
    """Two epochs of half the minutes each, and the end in .25."""
    path.mkdir()
    (path / "config.toml").write_text('model = "resnet18"\n' + (f'teacher = "{teacher}"\n' if teacher else ""))
    records = [{"phase_number": 1, "epoch": epoch, "minutes": minutes / 2} for epoch in (1, 2)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "results.json").write_text(json.dumps({"minutes": minutes + 0.25}))
    return path


def test_a_teachers_minutes_are_those_of_its_run_and_of_its_own_teacher(tmp_path):
    first = fake(tmp_path / "first", minutes=10.0)
    checkpoint = first / "checkpoints" / "01-main" / "epoch-0001.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.with_suffix(".json").write_text(json.dumps({"about": {"epoch": 1}}))
    second = fake(tmp_path / "second", checkpoint, minutes=3.0)
    student = fake(tmp_path / "student", second / "student.safetensors")
    assert lineage_minutes(Run(first)) == (None, True)
    assert lineage_minutes(Run(second)) == (5.0, True)  # up to that epoch, without the end
    assert lineage_minutes(Run(student)) == (8.25, True)
    assert teacher_minutes(str(first)) == (Run(first), 10.25)
    assert lineage_minutes(Run(fake(tmp_path / "timm", "resnet50.a1_in1k"))) == (None, False)
    own = fake(tmp_path / "own", tmp_path / "own")
    assert lineage_minutes(Run(own))[1] is False  # a circle ends
