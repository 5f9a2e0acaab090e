"""Random numbers are functions of names and sample numbers: not of order, batch, or what else takes part."""

import random
from functools import partial

import pytest
import torch
from torch import nn

from kdcore import CE, Method, Term, compose, linear
from kdcore.seeds import draws, seed_of, seeded


def test_seeds_are_the_same_everywhere():
    assert seed_of(0, "term", "crd") == seed_of("0", "term", "crd") != seed_of(0, "term", "crd2")
    assert seed_of("a", "bc") != seed_of("ab", "c")


def test_a_seeded_block_leaves_the_generator_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(0, "a"):
        inside = torch.rand(2)
    with seeded(0, "a"):
        assert torch.equal(torch.rand(2), inside)
    with seeded(0, "b"):
        assert not torch.equal(torch.rand(2), inside)
    assert torch.equal(torch.rand(4), expected)
    with pytest.raises(ValueError), seeded(0):
        raise ValueError
    state = torch.get_rng_state()
    with seeded(0):
        torch.rand(100)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_uniform():
    found = draws(0, torch.arange(50_000), 4)
    assert found.shape == (50_000, 4) and found.dtype == torch.float32 and found.min() >= 0 and found.max() < 1
    for column in found.T:
        counts = torch.histc(column, bins=100, min=0, max=1)
        assert ((counts - 500) ** 2 / 500).sum() < 160  # chi-squared with 99 degrees: above once in ten thousand
    correlation = torch.corrcoef(torch.cat([found.T, found.T[:, torch.arange(1, 50_001) % 50_000]]))
    assert (correlation - torch.eye(8)).abs().max() < 0.025


def test_a_draw_is_a_function_of_seed_sample_and_position():
    index = torch.tensor([5, 0, 7, 2**40, 5])
    found = draws(1, index, 6)
    assert torch.equal(found[0], found[4])
    order = [3, 1, 0]
    assert torch.equal(draws(1, index[order], 6), found[order])
    assert torch.equal(draws(1, index, 3), found[:, :3])
    assert torch.equal(draws(1, index.int() if index.max() < 2**31 else index, 6), found)
    other = draws(2, index, 6)
    assert not (other == found).any()
    assert draws(seed_of("any", 1), index, 2).isfinite().all() and draws(2**63 - 1, index, 2).isfinite().all()


def test_neighbouring_seeds_have_nothing_in_common():
    table = torch.stack([draws(seed, torch.arange(2000), 1)[:, 0] for seed in range(8)])
    assert (torch.corrcoef(table) - torch.eye(8)).abs().max() < 0.1
    assert torch.unique(draws(0, torch.arange(2000), 8)).numel() > 15_900


# -- what a plugin draws does not depend on what else takes part -------------------------------------------------------------------


class Learnt(nn.Module):
    """Draws when it is built, in its setup, in its first run, and once more with dropout."""

    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        self.built = nn.Parameter(torch.randn(width))
        self.lazy = nn.LazyLinear(width)
        random.random()

    def setup(self, context) -> None:
        self.noise = nn.Parameter(torch.rand(context.num_classes))

    def forward(self, step, targets=None):
        seen = self.lazy(step.outputs.embeddings[-1])
        return (seen * self.built).mean() + (step.outputs.logits[-1] * self.noise).mean()


def composed(**terms):
    method = Method(exits=linear, terms={"ce": Term(CE()), **terms})
    return compose("test_resnet", method, num_classes=3, image_size=32, seed=4)


def weights(composition, name):
    run = next(term.run for term in composition.terms if term.name == name)
    return dict(run.state_dict())


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_another_plugins_term_changes_neither_a_plugins_initial_weights_nor_the_backbones():
    alone = composed(a=Term(Learnt))
    later, earlier = composed(a=Term(Learnt), b=Term(partial(Learnt, width=7))), composed(b=Term(partial(Learnt, width=7)), a=Term(Learnt))
    for other in (later, earlier):
        assert same(weights(alone, "a"), weights(other, "a"))
        assert same(alone.student.state_dict(), other.student.state_dict())
    assert same(weights(later, "b"), weights(earlier, "b"))
    assert not torch.equal(weights(later, "a")["noise"], weights(later, "b")["noise"])


def test_exits_do_not_change_the_backbones_initial_weights():
    plain = compose("test_resnet", "plain", num_classes=3, image_size=32, seed=4)
    deep = composed()
    assert same(plain.student.net.state_dict(), deep.student.backbone.net.state_dict())
    other = compose("test_resnet", "plain", num_classes=3, image_size=32, seed=5)
    assert not same(plain.student.net.state_dict(), other.student.net.state_dict())


def test_composing_draws_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    composed(a=Term(Learnt))
    assert torch.equal(torch.get_rng_state(), state)
