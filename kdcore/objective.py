"""The trainable module of a task: the network, the sources of soft targets and the weighted losses under one forward pass.

DDP, compile and EMA wrap it whole. Here, and only here, targets are detached, exits and views cut, terms weighted and summed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.methods import Weight, declared, exit_indices
from kdcore.phases import Where
from kdcore.vocabulary import Batch, Outputs, SoftTargets, Step, map_tensors, pick


@dataclass
class Bound:
    """A component in its place: `term kd`, `source teacher`. `label` is how errors name it."""

    name: str
    run: Callable
    label: str
    takes_views: bool


@dataclass
class BoundTerm(Bound):
    source: str | None
    weight: Weight
    exits: Any


def plain_call(bound: Bound, *args: Any) -> Any:
    return bound.run(*args)


class Objective(nn.Module):
    """`forward(batch, teacher) -> {"loss", "output", every term by name}`.

    model: images [B, C, H, W] -> Outputs. The terms' values are those before their weights. Components that are modules are registered
    here, so that their parameters train and their buffers are saved.
    """

    epoch: Tensor
    progress: Tensor

    def __init__(self, model: nn.Module, sources: dict[str, Bound], terms: list[BoundTerm], exits: int) -> None:
        super().__init__()
        self.model = model
        self.sources = sources
        self.terms = terms
        self.parts = nn.ModuleDict(
            {part_key(kind, bound.name): bound.run for kind, bound in self._bounds() if isinstance(bound.run, nn.Module)}
        )
        self.call: Callable = plain_call
        self._chosen = {term.name: exit_indices(term.exits, exits) for term in terms}
        self._exits = exits
        self._frozen: list[nn.Module] = []
        self._moving = [term for term in terms if callable(term.weight)]
        self.register_buffer("epoch", torch.zeros(()), persistent=False)
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        for k, _ in enumerate(self._moving):
            self.register_buffer(f"weight{k}", torch.ones(()), persistent=False)

    def _bounds(self) -> list[tuple[str, Bound]]:
        return [("source", bound) for bound in self.sources.values()] + [("term", term) for term in self.terms]

    def forward(self, batch: Batch, teacher: Outputs | None = None) -> dict[str, Tensor]:
        outputs = self.model(batch.images)
        whole = Step(batch, outputs, self.epoch, self.progress, teacher)
        steps = {True: whole, False: first_view(whole) if batch.views > 1 else whole}
        targets = {}
        for name, source in self.sources.items():
            with torch.no_grad():
                targets[name] = map_tensors(self.call(source, steps[source.takes_views]), torch.detach)
        answer: dict[str, Tensor] = {}
        total: Tensor | None = None
        cuts: dict[Any, Step] = {}
        for term in self.terms:
            chosen = self._chosen[term.name]
            key = (term.takes_views, term.exits if chosen is None else tuple(chosen))
            if key not in cuts:
                cuts[key] = cut(steps[term.takes_views], term.exits, chosen)
            target = None
            if term.source is not None:
                target = self._cut_targets(targets[term.source], term, chosen, batch)
            value = self.call(term, cuts[key], target)
            answer[term.name] = value.detach()
            weight = self._weight(term)
            weighted = value if isinstance(weight, float) and weight == 1.0 else value * weight
            total = weighted if total is None else total + weighted
        assert total is not None
        return {"loss": total, "output": outputs.logits[-1], **answer}

    def _cut_targets(self, targets: SoftTargets, term: BoundTerm, chosen: list[int] | None, batch: Batch) -> SoftTargets:
        assert term.source is not None
        if batch.views > 1 and self.sources[term.source].takes_views and not term.takes_views:
            rows = batch.images.shape[0]
            targets = map_tensors(targets, lambda tensor: tensor[:: batch.views] if tensor.ndim and tensor.shape[0] == rows else tensor)
        if chosen is None:
            return targets
        return SoftTargets(
            logits=pick(targets.logits, chosen, self._exits),
            probs=pick(targets.probs, chosen, self._exits),
            embeddings=pick(targets.embeddings, chosen, self._exits),
            maps=targets.maps,
            extras=targets.extras,
        )

    def _weight(self, term: BoundTerm) -> Any:
        for k, moving in enumerate(self._moving):
            if moving is term:
                return getattr(self, f"weight{k}")
        return float(term.weight)  # type: ignore[arg-type]

    def at(self, where: Where) -> None:
        """Says where training stands: fills the clocks and the moving weights in place, on the host's side of the stream."""
        self.epoch.fill_(where.epoch)
        self.progress.fill_(where.progress)
        for k, term in enumerate(self._moving):
            getattr(self, f"weight{k}").fill_(term.weight(where))  # type: ignore[operator]

    def after_step(self) -> None:
        """Lets components that keep state of their own (a memory bank) bring it up to date, outside the graph."""
        for _, bound in self._bounds():
            if hasattr(bound.run, "after_step"):
                bound.run.after_step()

    # -- modes --------------------------------------------------------------------------------------------------------

    def freeze_rest(self) -> None:
        """Keeps every module in eval mode that has parameters and trains none of them, with all that is inside it (its dropout too)."""
        self._frozen = [
            module
            for module in self.modules()
            if (held := list(module.parameters())) and not any(parameter.requires_grad for parameter in held)
        ]
        self.train(self.training)

    def train(self, mode: bool = True) -> "Objective":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    # -- what timm's optimisers ask of a model --------------------------------------------------------------------------

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name in self._backbone_names("no_weight_decay")}

    def _backbone_names(self, ask: str) -> set[str]:
        net, prefix = backbone_within(self.model)
        answer = getattr(net, ask, None)
        return {f"model.{prefix}{name}" for name in answer()} if callable(answer) else set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layer groups of the backbone under this module's names; exits and losses belong with the head."""
        net, prefix = backbone_within(self.model)
        begin = "model." + prefix
        matcher = net.group_matcher(coarse=coarse)
        return {key: _prefixed(pattern, begin) for key, pattern in matcher.items()}


def _prefixed(pattern: Any, begin: str) -> Any:
    import re

    literal = re.escape(begin)
    if isinstance(pattern, str):
        unanchored = re.sub(r"(^|[|])\^", r"\1", pattern)
        return f"^{literal}(?:{unanchored})"  # timm's "^cls_token|pos_embed" is two patterns
    if isinstance(pattern, tuple):
        return tuple(_prefixed(item, begin) if isinstance(item, str) else item for item in pattern)
    return [_prefixed(item, begin) for item in pattern]


def backbone_within(model: nn.Module) -> tuple[nn.Module, str]:
    """The timm model inside a multi-exit one, and the prefix of its parameters' names. Of several, the one that exits were attached to."""
    from kdcore.tapped import Tapped

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Tapped)]
    if not found:
        return model, ""
    name, tapped = next((pair for pair in found if pair[1].trunk), found[0])
    return tapped.net, f"{name}.net." if name else "net."


def part_key(kind: str, name: str) -> str:
    """A component's name among a module's parts: no dots."""
    return f"{kind}:{name}".replace(".", "/")


def first_view(step: Step) -> Step:
    """The rows of view 0 alone, of everything that has a row for each view."""
    views, rows = step.batch.views, step.batch.images.shape[0]

    def rows_of(tensor: Tensor) -> Tensor:
        return tensor[::views] if tensor.ndim and tensor.shape[0] == rows else tensor

    batch = map_tensors(step.batch, rows_of)
    batch.views = 1
    return Step(batch, map_tensors(step.outputs, rows_of), step.epoch, step.progress, map_tensors(step.teacher, rows_of))


def cut(step: Step, exits: Any, chosen: list[int] | None) -> Step:
    """The step with the logits and embeddings of the chosen exits, or of one entry of `extras`. Maps are not cut by exit."""
    outputs = step.outputs
    if chosen is None:
        outputs = Outputs([outputs.extras[exits]], [], outputs.maps, outputs.extras)
    elif len(chosen) != len(outputs.logits):
        embeddings = [outputs.embeddings[k] for k in chosen] if outputs.embeddings else []
        outputs = Outputs([outputs.logits[k] for k in chosen], embeddings, outputs.maps, outputs.extras)
    return Step(step.batch, outputs, step.epoch, step.progress, step.teacher)


def takes_views(component: Any) -> bool:
    return "views" in declared(component)
