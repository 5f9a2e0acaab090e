"""The trainable module of a task: the network, the sources of soft targets and the weighted losses under one forward pass.

DDP, compile and EMA wrap it whole. Here, and only here, targets are detached, exits and views cut, terms weighted and summed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.losses import SHORT, full
from kdcore.methods import Weight, declared, exit_indices, hands_on, seen_by
from kdcore.phases import Where
from kdcore.vocabulary import Batch, Outputs, SoftTargets, Step, detached, map_tensors, pick


@dataclass
class Bound:
    """A component in its place: `term kd`, `source teacher`. `label` is how errors name it."""

    name: str
    run: Callable
    label: str
    takes_views: bool


@dataclass
class BoundTerm(Bound):
    """looked: whether its loss looks at its soft targets, which the rehearsal finds out."""

    source: str | None
    weight: Weight
    exits: Any
    looked: bool = False


@dataclass
class Planned:
    """A term with all that can be settled before the first step. Terms with the same `cut` see the same step.

    chosen: positions of its exits, None for an entry of `extras`. whole: it sees all exits as they are. targets: key of its soft targets
    as it sees them. buffer: the name of the tensor that a moving weight is kept in.
    """

    term: BoundTerm
    chosen: list[int] | None
    whole: bool
    cut: int
    targets: tuple[str, int] | None
    buffer: str | None


def plain_call(bound: Bound, *args: Any) -> Any:
    return bound.run(*args)


class Objective(nn.Module):
    """`forward(batch, teacher) -> {"loss", "output", every term by name}`.

    model: images [B, C, H, W] -> Outputs. The terms' values are those before their weights. Components that are modules are registered
    here, so that their parameters train and their buffers are saved. Logits reach sources and terms in float32, also under autocast:
    cast once, so that the gradients of several terms are summed before they are rounded.
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
        seen = seen_by(bound.run for _, bound in self._bounds())
        self.reads_only_logits = not seen & {"embeddings", "maps", "extras"}
        self.only_logits = self.reads_only_logits and hasattr(model, "classify") and exits == 1
        self._clocked = "clock" in seen
        self._exits = exits
        self._frozen: list[nn.Module] = []
        self._moving = [term for term in terms if callable(term.weight)]
        self._plan = self._planned()
        self._handing = {name for name, bound in sources.items() if hands_on(bound.run)}
        self.steppers = [bound.run for _, bound in self._bounds() if hasattr(bound.run, "after_step")]
        self.updaters = [bound.run for _, bound in self._bounds() if hasattr(bound.run, "after_update")]
        self.register_buffer("epoch", torch.zeros(()), persistent=False)
        self.register_buffer("progress", torch.zeros(()), persistent=False)
        for k, _ in enumerate(self._moving):
            self.register_buffer(f"weight{k}", torch.ones(()), persistent=False)

    def _bounds(self) -> list[tuple[str, Bound]]:
        return [("source", bound) for bound in self.sources.values()] + [("term", term) for term in self.terms]

    def _planned(self) -> list[Planned]:
        cuts: dict[Any, int] = {}
        plan = []
        for term in self.terms:
            chosen = exit_indices(term.exits, self._exits)
            number = cuts.setdefault((term.takes_views, term.exits if chosen is None else tuple(chosen)), len(cuts))
            buffers = [f"weight{k}" for k, other in enumerate(self._moving) if other is term]
            whole = chosen is not None and len(chosen) == self._exits
            targets = None if term.source is None else (term.source, number)
            plan.append(Planned(term, chosen, whole, number, targets, buffers[0] if buffers else None))
        return plan

    def forward(self, batch: Batch, teacher: Outputs | None = None) -> dict[str, Tensor]:
        # Not self.model and self.epoch: nn.Module looks those up by a function of its own, half a microsecond each.
        model, buffers = self._modules["model"], self._buffers
        outputs = model.classify(batch.images) if self.only_logits else model(batch.images)
        outputs = in_full(outputs)
        if teacher is not None:
            teacher = in_full(teacher)
        step = Step(batch, outputs, buffers["epoch"], buffers["progress"], teacher)
        first = first_view(step) if batch.views > 1 else step
        plain = self.call is plain_call
        targets: dict[Any, SoftTargets] = {}
        for name, source in self.sources.items():
            seen = step if source.takes_views else first
            if name in self._handing and plain:
                targets[name] = detached(source.run(seen))
            else:
                with torch.no_grad():
                    targets[name] = detached(self.call(source, seen))
        answer: dict[str, Any] = {"loss": None, "output": outputs.logits[-1]}
        total: Tensor | None = None
        cuts: dict[int, Step] = {}
        for planned in self._plan:
            term, target = planned.term, None
            seen = step if term.takes_views else first
            if not planned.whole:
                if planned.cut not in cuts:
                    cuts[planned.cut] = cut(seen, term.exits, planned.chosen)
                seen = cuts[planned.cut]
            if planned.targets is not None:
                if planned.whole and batch.views == 1:
                    target = targets[planned.targets[0]]
                else:
                    if planned.targets not in targets:
                        targets[planned.targets] = self._cut_targets(targets[planned.targets[0]], planned, batch)
                    target = targets[planned.targets]
            value = term.run(seen, target) if plain else self.call(term, seen, target)
            answer[term.name] = value.detach()
            if planned.buffer is not None:
                value = value * getattr(self, planned.buffer)
            elif term.weight != 1:
                value = value * term.weight  # a float: a tensor would cost an operation more
            total = value if total is None else total + value
        assert total is not None
        answer["loss"] = total
        return answer

    def _cut_targets(self, targets: SoftTargets, planned: Planned, batch: Batch) -> SoftTargets:
        term = planned.term
        assert term.source is not None
        if batch.views > 1 and self.sources[term.source].takes_views and not term.takes_views:
            rows = batch.images.shape[0]
            targets = map_tensors(targets, lambda tensor: tensor[:: batch.views] if tensor.ndim and tensor.shape[0] == rows else tensor)
        if planned.chosen is None or planned.whole:
            return targets
        return SoftTargets(
            logits=pick(targets.logits, planned.chosen, self._exits),
            probs=pick(targets.probs, planned.chosen, self._exits),
            embeddings=pick(targets.embeddings, planned.chosen, self._exits),
            maps=targets.maps,
            extras=targets.extras,
        )

    @property
    def listens(self) -> bool:
        """Whether a component may read the clocks, or a weight moves."""
        return self._clocked or bool(self._moving)

    def at(self, epoch: float, progress: float, where: Callable[[], Where]) -> None:
        """Says where training stands: fills the clocks, if a component may read them, and the moving weights in place.

        where: tells all of it, and is asked only where a weight moves.
        """
        if self._clocked:
            self.epoch.fill_(epoch)
            self.progress.fill_(progress)
        if self._moving:
            told = where()
            for k, term in enumerate(self._moving):
                getattr(self, f"weight{k}").fill_(term.weight(told))  # type: ignore[operator]

    @property
    def remembers(self) -> bool:
        """Whether a component has something to do after a step."""
        return bool(self.steppers or self.updaters)

    def after_step(self, updated: bool) -> None:
        """Lets components bring state of their own up to date, outside the graph: what follows the samples (a memory bank) by `after_step`,
        after every batch; what follows the weights (their average) by `after_update`, after the optimiser's step.

        updated: whether the optimiser took one, which it does not after every batch where gradients are accumulated.
        """
        for component in self.steppers:
            component.after_step()
        for component in self.updaters if updated else ():
            component.after_update()

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


def in_full(outputs: Outputs) -> Outputs:
    """The outputs with logits in float32, where autocast made some of them shorter; themselves where it made none."""
    for logits in outputs.logits:
        if logits.dtype in SHORT:
            return Outputs([full(logits) for logits in outputs.logits], outputs.embeddings, outputs.maps, outputs.extras)
    return outputs


def takes_views(component: Any) -> bool:
    return "views" in declared(component)
