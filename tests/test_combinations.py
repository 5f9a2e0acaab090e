"""Methods of different papers in one run: the six combinations of the tutorial learn, and every pair of methods trains or is refused in a line.

The pair A + B is method A and what B has and A lacks, as one would type it:

- `--loss` for every term of B but its cross entropy, with its soft targets, exits, weight and options, unless A has the same loss on the
  same soft targets;
- `--schedule` of B where A has none of its own (with two generations, where six are the default);
- what A says stays as it is: its weights, and its exits, or none where it has none; a teacher where a part needs one and no schedule brings it,
  with as many exits as the student where B asks it exit by exit.

It is trained for three steps of its first phase, and of its last with a frozen copy of the student as teacher: losses are finite, and every
term has been active. `combinations.toml` holds what came of each; `python tests/test_combinations.py` writes it anew when a method is added.
"""

import copy
import json
import math
import random
import re
import shlex
import tomllib
from collections.abc import Sequence
from functools import cache
from itertools import cycle, islice, permutations
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import kdcore
from kdcli import flags
from kdcli.train import train as train_command
from kdcore import CE, KdError, Method, Term
from kdcore.backbones import create_backbone
from kdcore.composition import Composition
from kdcore.config import Config, read_config
from kdcore.methods import declared
from kdcore.options import configured, read_assignments, target_of
from kdcore.plugins import Plugins, installed
from kdcore.preparing import resolve_recipe
from kdcore.recipes import resolve

MATRIX = Path(__file__).with_name("combinations.toml")
TUTORIAL = Path(__file__).parents[1] / "docs/tutorial.md"

TRAINED, NOTHING = "trained", "nothing to add"


# -- the six of the tutorial ------------------------------------------------------------------------------------------------------

SIX = {
    "byot-in-generations": {"ce_deepest", "ce_shallow", "kd", "hint", "kl"},
    "byot-and-osakd": {"ce_deepest", "ce_shallow", "kd", "hint", "mse"},
    "mango-on-iskd": {"ce", "kd", "mango.triplet", "mango.ordinal"},
    "osakd-and-a-teacher": {"ce", "sd", "kl"},
    "byot-and-osakd-on-a-vit": {"ce_deepest", "ce_shallow", "kd"},
    "tfkd-on-every-exit": {"ce", "kd"},
}
"""The terms that train, for each command of the tutorial's section."""


def commands() -> list[str]:
    section = TUTORIAL.read_text().partition("### Combinations\n")[2]
    return section.partition("```text\n")[2].partition("```")[0].splitlines()


def typed(command: str, **facts) -> Composition:
    """The composition of a `kd train` command, read by the command's own parser."""
    words = shlex.split(command)
    assert words[:2] == ["kd", "train"]
    values = train_command.make_context("train", words[2:]).params
    config = read_config(flags.read_settings({name: value for name, value in values.items() if name in Config.model_fields}, None, "train"))
    recipe = resolve_recipe(config, Plugins())
    return kdcore.compose(config.model, recipe, num_classes=10, image_size=config.img_size, batch_size=32, **facts)


def digit_batches(size: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Four batches of 32 digits, at so many pixels."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels[:128]).float().view(128, 1, 8, 8) / 16
    images = F.interpolate(images, size=(size, size), mode="bilinear").expand(-1, 3, -1, -1)
    return list(zip(images.split(32), torch.from_numpy(labels[:128]).split(32), torch.arange(128).split(32), strict=True))


def losses_of(task: kdcore.DistillationTask, batches, steps: int) -> tuple[list[float], set[str]]:
    """The loss of each of some steps of training, and the terms that were active."""
    task.train()
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=2e-3)
    found, terms = [], set()
    for step, batch in enumerate(islice(cycle(batches), steps)):
        task.at(epoch=step / steps, progress=step / steps)
        answer = task(*batch)
        answer["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_step()
        found.append(float(answer["loss"].detach()))
        terms |= set(answer) - {"loss", "output"}
    return found, terms


@pytest.fixture(scope="module")
def digits_teacher() -> torch.nn.Module:
    composition = kdcore.compose("test_resnet_32px", "plain", num_classes=10, image_size=16)
    losses_of(composition.task(), digit_batches(16), 20)
    return copy.deepcopy(composition.student)


@pytest.mark.parametrize(("number", "terms"), list(enumerate(SIX.values())), ids=list(SIX))
def test_each_of_the_six_learns(number, terms, digits_teacher):
    command = commands()[number]
    composition = typed(command, teacher=digits_teacher if "--teacher" in command else None)
    batches = digit_batches(composition.context.image_size[0])
    assert len(composition.phases) == (2 if "generations" in command else 1)
    trained, before = set(), None
    for phase in composition.phases:
        composition.start(phase)
        found, active = losses_of(composition.task(phase, teacher=before), batches, 20)
        # Not a ratio: BYOT's soft cross entropy falls to its targets' entropy, T squared times, and not to 0.
        assert max(found[-5:]) < min(found[:5]), (phase.name, found)
        trained, before = trained | active, copy.deepcopy(composition.student)
    assert trained == terms


def test_the_tutorial_has_six():
    assert len(commands()) == len(SIX)


# -- every pair -------------------------------------------------------------------------------------------------------------------


@cache
def plugins() -> Plugins:
    """Every plugin with a method, imported."""
    found = Plugins()
    for info in installed():
        if "method" in info.families:
            found.load(info.name)
    return found


@cache
def methods() -> dict[str, Method]:
    """Every installed method with its defaults."""
    parts = [part for name in ("kdcore", *plugins().loaded) for part in plugins().parts_of(name, "methods").values()]
    return {part.name: part.target() for part in parts}


def name_of(family: str, component) -> str:
    part = plugins().name_of(family, target_of(component))
    assert part is not None
    return part.name


def written(component, name: str) -> list[str]:
    """`NAME.OPTION=VALUE` for what a method has set in one of its parts."""
    usual = configured(target_of(component))
    return [f"{name}.{option}={value}" for option, value in configured(component).items() if value != usual[option]]


def parts_of(method: Method, term: Term) -> tuple:
    return target_of(term.loss), target_of(method.sources[term.source]) if term.source else None


def words_for(one: str, other: str) -> tuple[list[str], list[str], str | None]:
    """What makes A the pair A + B: values of `--loss`, of `-o` and of `--schedule`."""
    first, second = methods()[one], methods()[other]
    has = {parts_of(first, term) for term in first.terms.values()}
    losses, options, names = [], [], []
    for term in second.terms.values():
        if parts_of(second, term) in has or target_of(term.loss) is CE:
            continue
        name = text = name_of("losses", term.loss)
        options += written(term.loss, name + "+" * names.count(name))
        names.append(name)
        if term.source is not None:
            text += "@" + name_of("soft_targets", second.sources[term.source])
            options += written(second.sources[term.source], name_of("soft_targets", second.sources[term.source]))
        losses.append(f"{text}:{term.exits}={term.weight:g}")
    schedule = name_of("schedules", second.schedule) if first.schedule is None and second.schedule is not None else None
    chosen = schedule or (name_of("schedules", first.schedule) if first.schedule is not None else None)
    options += ["iskd.generations.max_generations=2"] * (chosen == "iskd.generations")
    return losses, options, schedule


def outcome(one: str, other: str, exits: str | None = None) -> str:
    """What becomes of A + B: `trained`, `nothing to add`, or `refused: ` and the line, without versions."""
    losses, options, schedule = words_for(one, other)
    if not losses and schedule is None:
        return NOTHING
    try:
        composition = composed(one, losses, options, schedule, exits)
    except KdError as error:
        assert "\n" not in str(error)
        return "refused: " + re.sub(r"(\([\w-]+) \d[\w.]*\)", r"\1)", str(error))
    images, labels = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4
    batches, active = [(images, labels, torch.arange(16))], set()
    first, last = composition.phases[0], composition.phases[-1]
    for phase in [first, last] if last is not first else [first]:
        before = copy.deepcopy(composition.student)
        composition.start(phase)
        found, terms = losses_of(composition.task(phase, teacher=before), batches, 3)
        assert all(map(math.isfinite, found)), (phase.name, found)
        active |= terms
    assert active == {term.name for term in composition.terms}, "a term that was never active"
    assert set(composition.sources) == {term.source for term in composition.terms} - {None}, "a source that no term has"
    return TRAINED


def composed(one: str, losses: Sequence[str], options: Sequence[str], schedule: str | None, exits: str | None) -> Composition:
    """A with all that is added, and with a teacher where a part needs one that no schedule brings."""

    def recipe(has_teacher: bool):
        given = read_assignments(options)
        return resolve(one, given, plugins=plugins(), exits=exits, losses=losses, schedule=schedule, has_teacher=has_teacher)

    parts = recipe(has_teacher=True).components()
    brings = "teacher" in getattr(target_of(parts["schedule"]), "provides", ())
    wants = any("teacher" in declared(part) for part in parts.values()) and not brings
    teacher = create_backbone("test_resnet_32px", num_classes=4) if wants else None
    made = recipe(wants)
    if teacher is not None and "teacher.exits=match" in options and made.method.exits is not None:
        teacher = kdcore.attach_exits(teacher, "linear", image_size=16)  # B asks it exit by exit, and A gives it none
    return kdcore.compose("test_resnet_32px", made, num_classes=4, image_size=16, batch_size=16, teacher=teacher)


def matrix() -> dict[str, dict[str, str]]:
    return tomllib.loads(MATRIX.read_text()) if MATRIX.exists() else {}


def some_fast(cases: list, share: float) -> list:
    """The cases, of which a share that is drawn by a seed runs in the fast tier."""
    fast = set(random.Random(0).sample(cases, math.ceil(len(cases) * share)))
    return [pytest.param(*case, marks=() if case in fast else pytest.mark.slow, id=" + ".join(case)) for case in cases]


PAIRS = list(permutations(matrix(), 2))
REFUSED = [pair for pair in PAIRS if matrix()[pair[0]][pair[1]].startswith("refused")]


@pytest.mark.parametrize(("one", "other"), some_fast(PAIRS, 1 / 3))
def test_every_pair_comes_out_as_the_matrix_says(one, other):
    assert outcome(one, other) == matrix()[one][other]


@pytest.mark.parametrize(("one", "other"), some_fast(REFUSED, 1 / 9))
def test_what_is_refused_trains_with_the_exits_of_the_other(one, other):
    assert outcome(one, other, exits=name_of("exits", methods()[other].exits)) == TRAINED


def test_the_matrix_has_every_pair_and_three_quarters_train():
    assert {one: set(row) for one, row in matrix().items()} == {name: set(methods()) - {name} for name in methods()}
    found = [value for row in matrix().values() for value in row.values() if value != NOTHING]
    assert set(found) - {TRAINED} == {value for value in found if value.startswith("refused: ")}
    assert found.count(TRAINED) >= 0.75 * len(found)


def write() -> None:
    lines = ["# What becomes of each pair of methods; tests/test_combinations.py says what a pair is, and writes this file."]
    for one in methods():
        lines += ["", f"[{json.dumps(one)}]"]
        lines += [f"{json.dumps(other)} = {json.dumps(outcome(one, other))}" for other in methods() if other != one]
    MATRIX.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write()
