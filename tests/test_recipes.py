"""From names and options to a recipe: what the command line adds to a method or replaces, and every refusal in one line."""

from functools import partial

import pytest

from kdcore import CE, KL, KdError, Method, Term, deepest, linear, mean_of_exits, needs, single
from kdcore.options import configured
from kdcore.plugins import Plugins
from kdcore.recipes import RESERVED, parse_loss, resolve

IDEA = """
from functools import partial
from typing import Annotated
from annotated_types import Ge
import kdcore
from kdcore import CE, KL, Method, Term, deepest, hookimpl, linear, mean_of_exits

class Built:
    def __init__(self, *, margin: float = 1.0, width: int = 2) -> None:
        self.margin = margin
    def __call__(self, step, targets=None):
        return step.outputs.logits[-1].sum() * self.margin

class Required:
    def __init__(self, *, margin: float) -> None:
        self.margin = margin

class Reads:
    reads = ("embeddings",)
    def __init__(self, *, k: Annotated[int, Ge(1)] = 8) -> None:
        self.k = k

@kdcore.needs("teacher")
def wants_teacher(step, targets=None): ...
@kdcore.needs("exits>=3")
def wants_exits(step, targets=None): ...
@kdcore.needs("hard_labels")
def wants_hard(step, targets=None): ...
@kdcore.needs("crystal ball")
def wants_magic(step, targets=None): ...
def both(step, targets=None): ...

def two(*, alpha: float = 0.5):
    return Method(
        exits=linear,
        sources={"deepest": deepest, "mean": mean_of_exits},
        terms={"ce": Term(CE()), "kd": Term(KL(), source="deepest", weight=alpha), "built": Term(Built(), weight=0.1)},
    ) if alpha < 9 else None

def one(*, alpha: float = 0.5):
    return Method(
        exits=linear,
        sources={"deepest": deepest},
        terms={"ce": Term(CE()), "kd": Term(KL(temperature=3), source="deepest", weight=alpha), "part": Term(partial(Built, margin=3.0))},
    )

def differing():
    return Method(
        exits=linear,
        sources={"a": deepest, "b": mean_of_exits},
        terms={"x": Term(KL(), source="a"), "y": Term(KL(), source="b")},
    )

def fails():
    raise RuntimeError("inside")

def wrong():
    return {"ce": 1}

def source(step, *, k: int = 4): ...
def steps(context, *, rounds: int = 2): ...

@hookimpl
def losses():
    return {
        "built": Built, "required": Required, "reads": Reads, "teacher": wants_teacher, "exits": wants_exits, "hard": wants_hard,
        "magic": wants_magic,
    }
@hookimpl
def soft_targets():
    return {"source": source}
@hookimpl
def schedules():
    return {"steps": steps}
@hookimpl
def methods():
    return {"one": one, "two": two, "differing": differing, "fails": fails, "wrong": wrong}
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "idea.py"
    path.write_text(IDEA)
    return Plugins([str(path)])


@pytest.fixture
def make(plugins):
    return partial(resolve, plugins=plugins)


@pytest.fixture
def refused(make):
    def check(*args, **more) -> str:
        with pytest.raises(KdError) as error:
            make(*args, **more)
        assert "\n" not in str(error.value)
        return str(error.value)

    return check


# -- --loss NAME[@SOURCE][:EXITS][=WEIGHT] ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("kl", ("kl", None, "all", 1.0)),
        ("kl@deepest", ("kl", "deepest", "all", 1.0)),
        ("kl@deepest:shallow=0.5", ("kl", "deepest", "shallow", 0.5)),
        ("a.b:1,3=1e-3", ("a.b", None, [1, 3], 1e-3)),
        ("ce:deepest", ("ce", None, "deepest", 1.0)),
        ("ce=0", ("ce", None, "all", 0.0)),
        ("ce:gate=-1", ("ce", None, "gate", -1.0)),
        ("a@b.c:2", ("a", "b.c", [2], 1.0)),
    ],
)
def test_a_loss_as_it_is_typed(text, parsed):
    assert parse_loss(text) == parsed


@pytest.mark.parametrize("text", ["", "@deepest", "kl@", "kl:", "kl@:shallow", "=1", "kl=", "kl=much", "kl=nan", "kl=inf"])
def test_a_loss_that_cannot_be_read(text):
    with pytest.raises(KdError, match=r"--loss .*: (write NAME|the weight)"):
        parse_loss(text)


def test_losses_are_added_each_under_a_name_of_its_own(make):
    recipe = make("plain", exits="linear", losses=["kl@deepest:shallow=0.5", "kl@mean-of-exits:1,2", "ce:1"])
    terms = recipe.method.terms
    assert list(terms) == ["ce", "kl", "kl+", "ce+"] and list(recipe.method.sources) == ["deepest", "mean-of-exits"]
    assert (terms["kl"].loss, terms["kl"].source, terms["kl"].exits, terms["kl"].weight) == (KL, "deepest", "shallow", 0.5)
    assert (terms["kl+"].source, terms["kl+"].exits) == ("mean-of-exits", [1, 2])
    assert recipe.labels["term kl+"].startswith("loss 'kl' (kdcore ")


def test_a_loss_takes_the_only_source_there_is(make):
    assert make("idea.one", losses=["idea.reads"]).method.terms["idea.reads"].source == "deepest"
    assert make("idea.one", losses=["idea.built"]).method.terms["idea.built"].source is None
    assert make("idea.one", losses=["mse@deepest"]).method.terms["mse"].source == "deepest"


@pytest.mark.parametrize(
    ("method", "loss", "says"),
    [
        ("plain", "kl", "loss 'kl' (kdcore 0.1.0) needs soft targets and the method has none; write --loss kl@SOURCE, e.g. kl@deepest"),
        ("idea.differing", "idea.reads", "needs soft targets and the method has a, b; write --loss idea.reads@SOURCE"),
        ("plain", "lk", "there is no loss 'lk'"),
        ("plain", "kl@depest", "there is no source of soft targets 'depest'; did you mean 'deepest'?"),
        ("plain", "idea.bulit", "plugin 'idea'"),
    ],
)
def test_a_loss_that_cannot_be_added(refused, method, loss, says):
    assert says in refused(method, losses=[loss])


# -- replacing --------------------------------------------------------------------------------------------------------------------


def test_soft_targets_replace_the_source_of_every_term(make):
    recipe = make("idea.one", soft_targets="mean-of-exits", losses=["kl"])
    assert list(recipe.method.sources) == ["mean-of-exits"]
    assert recipe.method.terms["kd"].source == recipe.method.terms["kl"].source == "mean-of-exits"
    assert recipe.labels["source mean-of-exits"].startswith("soft targets 'mean-of-exits' (kdcore")
    assert make("kd", soft_targets="deepest", exits="linear").method.terms["kd"].source == "deepest"


def test_soft_targets_are_refused_where_terms_differ_or_have_none(refused):
    assert "has terms with different soft targets (a, b), so one cannot replace them" in refused("idea.differing", soft_targets="deepest")
    assert "no term of method 'plain' has soft targets; add one with --loss kl@deepest" in refused("plain", soft_targets="deepest")


def test_exits_and_schedules_are_replaced(make, refused):
    recipe = make(
        "plain", exits="byot.bottleneck", schedule="idea.steps", options={"idea.steps.rounds": 3, "byot.bottleneck.width": "quarter"}
    )
    assert recipe.labels["exits"] == "exits 'byot.bottleneck' (kdcore-byot 0.1.0)" and configured(recipe.method.exits)["width"] == "quarter"
    assert configured(recipe.method.schedule) == {"rounds": 3}
    assert make("plain").method.schedule is single and make("plain").method.exits is None
    assert "there is no exit attachment 'linaer'; did you mean 'linear'?" in refused("plain", exits="linaer")
    assert "there is no schedule" in refused("plain", schedule="double")


def test_a_recipe_leaves_the_method_it_came_from_alone(make):
    method = Method(terms={"ce": Term(CE())}, sources={"deepest": deepest}, exits=linear)
    make(method, losses=["kl"], options={"ce.label_smoothing": 0.1}, exits="byot.bottleneck")
    assert list(method.terms) == ["ce"] and method.terms["ce"].loss == CE() and method.exits is linear and method.schedule is None


# -- options ----------------------------------------------------------------------------------------------------------------------


def test_options_of_the_method_and_of_its_parts(make):
    recipe = make("idea.one", {"alpha": ".1", "kd.temperature": 2, "ce.label_smoothing": 0.1, "part.margin": 5})
    terms = recipe.method.terms
    assert terms["kd"].weight == 0.1 and terms["kd"].loss.temperature == 2 and terms["ce"].loss.label_smoothing == 0.1
    assert configured(terms["part"].loss) == {"margin": 5.0, "width": 2}
    assert recipe.options == {"alpha": 0.1}
    assert configured(make("idea.one", {"idea.built.width": 7}).method.terms["part"].loss) == {"margin": 3.0, "width": 7}
    assert make("idea.one", {"kl.temperature": 2}).method.terms["kd"].loss.temperature == 2


def test_a_part_named_by_its_full_name_is_every_such_part(make):
    recipe = make("idea.one", {"kl.temperature": 2, "ce.label_smoothing": 0.2}, losses=["ce:1"])
    assert configured(recipe.method.terms["ce"].loss)["label_smoothing"] == 0.2
    both = make("idea.differing", {"kl.temperature": 2}).method.terms
    assert both["x"].loss.temperature == both["y"].loss.temperature == 2


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("idea.one", {"alhpa": 1}, "method 'idea.one' ("),
        ("idea.one", {"alhpa": 1}, "has no option 'alhpa'; did you mean 'alpha'?"),
        ("idea.one", {"nosuch.alpha": 1}, "-o nosuch.alpha=1: this run has no part 'nosuch'; there is: ce, deepest, idea.built"),
        ("idea.one", {"kd.temprature": 1}, "has no option 'temprature'; did you mean 'temperature'?"),
        ("idea.one", {"kd.temperature": 0}, "temperature=0 is refused"),
        ("idea.two", {"built.margin": 2}, "was built by its method and cannot take margin"),
        ("plain", {"alpha": 1}, "has no option 'alpha'; it has none"),
        ("plain", {"kl.temperature": 1}, "this run has no part 'kl'"),
    ],
)
def test_options_that_are_refused(refused, method, options, says):
    assert says in refused(method, options)


@pytest.mark.parametrize(
    "words",
    [
        {"losses": ["kl@deepest:shallow=0.5"]},
        {"soft_targets": "nosuch", "losses": ["kl@nothing"]},  # each is said once the option stands where it belongs
    ],
)
def test_an_option_of_a_part_without_its_name_says_what_to_type(refused, words):
    said = refused("deep-supervision", {"temperature": 2}, **words)
    assert "has no option 'temperature', which loss 'kl' (kdcore" in said and said.endswith("write -o kl.temperature=2")


def test_an_option_of_a_part_that_the_method_brings_says_what_to_type(refused):
    assert refused("idea.two", {"temperature": 2}).endswith("has no option 'temperature', which its term kd has: write -o kd.temperature=2")
    assert refused("idea.two", {"space": "logits"}).endswith("which its source mean has: write -o mean.space=logits")


def test_a_source_and_a_term_of_one_name_each_get_their_own_options():
    terms = {"mean": Term(KL(), source="mean")}
    method = Method(exits=linear, sources={"mean": mean_of_exits}, terms=terms)
    made = resolve(method, {"mean.space": "probabilities", "mean.temperature": 2}).method
    assert configured(made.sources["mean"])["space"] == "probabilities" and made.terms["mean"].loss.temperature == 2


def test_a_required_option_of_a_part_says_what_to_type(refused, make):
    assert "requires the option margin: float, required; add -o idea.required.margin=..." in refused("plain", losses=["idea.required"])
    made = make("plain", {"idea.required.margin": 2}, losses=["idea.required"])
    assert configured(made.method.terms["idea.required"].loss) == {"margin": 2.0}


# -- needs ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ("idea.teacher", "loss 'idea.teacher' ("),
        ("idea.teacher", "needs a teacher: add --teacher BACKBONE, --teacher RUN or --teacher FILE"),
        ("idea.exits", "needs at least 3 exits, and this run has one: add --exits linear"),
        ("idea.hard", "needs hard labels, and mixup or cutmix makes soft ones"),
        ("idea.magic", "declares a need that kdcore does not know: crystal ball"),
        ("kl@deepest", "soft targets 'deepest' (kdcore 0.1.0) needs at least 2 exits"),
        ("kl@teacher", "soft targets 'teacher' (kdcore 0.1.0) needs a teacher"),
    ],
)
def test_what_a_part_needs_is_checked_before_anything_is_built(refused, loss, says):
    assert says in refused("plain", losses=[loss], hard_labels=False)


def test_what_is_there_is_not_asked_for(make):
    make("kd", has_teacher=True)
    make("plain", losses=["idea.hard"])
    make("plain", losses=["idea.teacher"], has_teacher=True)
    make("plain", losses=["idea.exits"], exits="linear")


def test_a_teacher_that_the_schedule_gives_is_enough(refused):
    def generations(context): ...

    method = Method(terms={"ce": Term(CE()), "kd": Term(needs("teacher")(lambda step, targets: None))}, schedule=generations)
    assert "needs a teacher" in refused(method)
    generations.provides = ("teacher",)
    resolve(method)


# -- an author's mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("idea.fails", "failed: RuntimeError: inside"),
        ("idea.wrong", "must return a kdcore.Method, not dict"),
        (Method(terms={}), "has no terms"),
        (Method(terms={"ce": CE()}), "its term 'ce' must be a kdcore.Term, not CE"),
        (Method(terms={"ce": Term(CE(), weight="0.3")}), "the weight of its term 'ce' must be a number or a function of Where, not '0.3'"),
        (Method(terms={"ce": Term(CE(), weight=float("nan"))}), "the weight of its term 'ce' must be a number"),
        (
            Method(terms={"kd": Term(KL(), source="deepset")}, sources={"deepest": deepest}),
            "names the source 'deepset', and it has deepest",
        ),
        (Method(terms={"kd": Term(KL(), source="deepest")}), "names the source 'deepest', and it has none"),
        (Method(terms={"ce": Term("ce")}), "its term 'ce' must be a class, a function or something callable, not 'ce'"),
        (Method(terms={"ce": Term(CE())}, sources={"deepest": "deepest"}), "its source 'deepest' must be a class"),
        (Method(terms={"ce": Term(partial(CE, smoothing=0.1))}), "has no option 'smoothing'"),
        (Method(terms={"kd": Term(KL(temperature=0), source="d")}, sources={"d": deepest}), "temperature=0 is refused"),
    ],
)
def test_a_method_with_a_mistake(refused, method, says):
    assert says in refused(method)


@pytest.mark.parametrize("name", RESERVED)
def test_names_that_a_step_or_a_log_line_holds_already(refused, name):
    assert f"no term can be called '{name}'" in refused(Method(terms={name: Term(CE())}))


def test_a_method_that_is_already_made_takes_no_options(refused):
    assert "takes no options: alpha" in refused(Method(terms={"ce": Term(CE())}), {"alpha": 1})


def test_labels_say_who_brought_what(make):
    recipe = make("idea.one", losses=["mse@deepest"])
    labels = recipe.labels
    assert labels["method"].startswith("method 'idea.one' (") and labels["exits"] == "exits 'linear' (kdcore 0.1.0)"
    assert labels["term kd"] == "loss 'kl' (kdcore 0.1.0)" and labels["source deepest"] == "soft targets 'deepest' (kdcore 0.1.0)"
    assert labels["term part"].startswith("loss 'idea.built' (") and labels["schedule"] == "schedule 'single' (kdcore 0.1.0)"
    own = make(Method(terms={"mine": Term(lambda step, targets: 0)}))
    assert own.labels["term mine"] == "term mine of method (custom)"
    assert set(recipe.components()) == set(labels) - {"method"}
