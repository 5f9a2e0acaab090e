"""The same numbers when another plugin is installed, loaded, and stands in the run."""

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcore import API
from kdcore.installed import ONLY, WITHOUT
from kdcore.methods import Term
from kdcore.plugins import Plugins
from kdcore.recipes import Recipe
from kdcore.testing import scene
from kdcore.testing.base import fail
from kdcore.testing.running import RunChecks

NAME, MODULE = "kit-neighbour", "kit_neighbour"

CODE = '''"""Another plugin: it draws numbers when it is imported and when it is built, and its term has gradients of its own."""
import random

import torch
from torch import nn

from kdcore import hookimpl

random.random(), torch.rand(3)


class Draws(nn.Module):
    """A projection of the logits that is drawn anew in every run."""

    reads = ()
    sees = ("logits",)

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(7, 5))

    def setup(self, context):
        torch.rand(11)

    def forward(self, step, targets=None):
        return self.weight.square().mean() + 0 * step.outputs.logits[-1].sum()


@hookimpl
def losses():
    return {"draws": Draws}
'''


class NeighbourChecks(RunChecks):
    def test_another_plugin_changes_nothing(self) -> None:
        """With another plugin installed and a term of it in the run, this one begins with the same weights and comes to the same numbers."""
        self.built()
        found = []
        for beside in (False, True):
            with self.advising("beside another plugin"), scene.one_thread(), _installed(self.file if beside else None, beside) as there:
                known = self.plugins() if there is None else there
                composition = self.composed(plugins=known, change=_with_a_term(known) if beside else None)
                found.append([{name: value for name, value in answer.items() if name != "loss"} for answer in scene.trained(composition)])
        if differs := scene.first_difference(*found):
            fail(
                f"{self.about()}: its numbers change when another plugin is installed ({differs}); it must not ask what else is there, and "
                "draws its random numbers when it is built, in setup() or in a step, where the core seeds them by its name"
            )


def _with_a_term(known: Plugins) -> Callable[[Recipe], None]:
    def change(recipe: Recipe) -> None:
        part = known.part("losses", f"{NAME}.draws")
        recipe.method.terms[part.name] = Term(part.target, exits="deepest")
        recipe.labels[f"term {part.name}"] = part.label

    return change


@contextmanager
def _installed(file: str | None, beside: bool) -> Iterator[Plugins | None]:
    """All plugins anew, with another one that is installed for as long as this lasts; None where it shall not be."""
    if not beside:
        yield None
        return
    before, path, environment = dict(sys.modules), list(sys.path), dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        about = place / f"{MODULE}-1.0.dist-info"
        about.mkdir()
        (place / f"{MODULE}.py").write_text(CODE, encoding="utf-8", newline="\n")
        metadata = f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nKeywords: kdcore:loss,kdcore-api:{API}\n"
        (about / "METADATA").write_text(metadata, encoding="utf-8", newline="\n")
        (about / "entry_points.txt").write_text(f"[kdcore]\n{NAME} = {MODULE}\n", encoding="utf-8", newline="\n")
        sys.path.insert(0, folder)
        for variable in (ONLY, WITHOUT):  # what a user blocks is another matter
            os.environ.pop(variable, None)
        importlib.invalidate_caches()
        try:
            known = Plugins([file] if file else [])
            known.load(NAME)
            yield known
        finally:
            sys.path[:] = path
            os.environ.update({name: environment[name] for name in (ONLY, WITHOUT) if name in environment})
            for name in {MODULE} | {name for name in before if sys.modules.get(name) is not before[name]}:
                sys.modules.pop(name, None)  # of a loose file, the classes that other checks know
                if name in before:
                    sys.modules[name] = before[name]
            importlib.invalidate_caches()
