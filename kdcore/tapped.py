"""Any timm backbone, answering with `Outputs`: its logits, the embedding that enters its classifier, and maps at taps."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import KdError, nearest
from kdcore.taps import Tap, TapSpec, as_nchw, default_taps, quarters
from kdcore.vocabulary import Outputs


class Capture:
    """A forward hook that keeps what it saw last until the forward pass takes it. Its own copies and pickles begin empty.

    copies: keep a clone, where a later layer writes into the module's output.
    """

    def __init__(self, copies: bool = False) -> None:
        self.values: list[Tensor] = []
        self.copies = copies

    def __getstate__(self) -> dict:
        return {"values": [], "copies": self.copies}

    def before(self, module: nn.Module, args: tuple) -> None:
        self.values[:] = [args[0]]

    def after(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.values[:] = [output.clone() if self.copies and isinstance(output, Tensor) else output]

    def take(self) -> Tensor:
        return self.values.pop()


class Tapped(nn.Module):
    """A timm backbone with taps. `forward(images [B, C, H, W]) -> Outputs` with E = 1.

    `net`: the timm model. `taps`: shallow to deep, the last being the last stage. Channels and shapes are measured in a dry run at
    `image_size` on the backbone's device, in eval mode with all state restored. `trunk`: the core sets it on the backbone that a model's
    exits were attached to, which tells it from a cohort's peers.

    Raises KdError for a backbone that does not classify and for a tap that does not exist.
    """

    trunk = False

    def __init__(self, net: nn.Module, taps: TapSpec = None, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.net = net
        name = backbone_name(net)
        if not hasattr(net, "forward_intermediates") or not hasattr(net, "feature_info"):
            raise KdError(f"backbone '{name}' gives no intermediate features (timm's forward_intermediates); kd needs a backbone that does")
        classifiers = classifiers_of(net)
        if not classifiers or getattr(net, "num_classes", 0) <= 0:
            raise KdError(f"backbone '{name}' does not classify: it has no head; choose one that is not an encoder")
        self.num_classes = int(net.num_classes)
        self.image_size: tuple[int, int] = image_size or default_size(net)
        self.in_chans = int(getattr(net, "in_chans", 3))
        self._captures = [Capture() for _ in classifiers]
        self._listening = False
        self._listen(True)
        self._hooked: dict[str, Capture] = {}
        self._second_call = False
        everything = self._measure()
        self.taps: tuple[Tap, ...] = tuple(self._choose(taps, everything))
        self._indices = sorted({tap.index for tap in self.taps if tap.index is not None} | {len(everything) - 1})
        self._settle_embedding()

    # -- the forward pass ---------------------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Outputs:
        self.listen()
        final, found = self.net.forward_intermediates(images, indices=self._indices, output_fmt="NCHW")
        logits = self.net.forward_head(final)
        embedding = self._embedding(final)
        by_index = dict(zip(self._indices, found, strict=True))
        maps = [by_index[tap.index] if tap.index is not None else self._hooked_map(tap) for tap in self.taps]
        return Outputs([first(logits)], [embedding], maps)

    def classify(self, images: Tensor) -> Outputs:
        """The logits alone: no maps, no embedding, what `net(images)` costs."""
        if not self.plain_forward:
            return self(images)
        if self._listening and not torch.compiler.is_compiling():
            self._listen(False)
        logits = self._modules["net"](images)
        if self._listening or self._hooked:
            self._forget()
        return Outputs([first(logits)])

    def listen(self) -> None:
        """Puts the hooks back that `classify` took away. torch.compile cannot trace that, so whoever compiles does it before."""
        if not self._listening:
            self._listen(True)

    def _listen(self, on: bool) -> None:
        """Hooks the classifiers, or takes the hooks away: a step that asks for logits alone does without them."""
        for capture, classifier in zip(self._captures, classifiers_of(self.net), strict=True):
            if on:
                classifier.register_forward_pre_hook(capture.before)
            else:
                unhook(classifier, capture)
        self._listening = on

    def _embedding(self, final: Tensor) -> Tensor:
        if self._second_call:
            vectors = [self.net.forward_head(final, pre_logits=True)]
            self._forget()
        else:
            vectors = [capture.take().flatten(1) for capture in self._captures]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=1)

    def _forget(self) -> None:
        for capture in [*self._captures, *self._hooked.values()]:
            capture.values.clear()

    def _hooked_map(self, tap: Tap) -> Tensor:
        return as_nchw(self._hooked[tap.module].take(), tap, self.net)

    # -- what the dry run finds ---------------------------------------------------------------------------------------

    def _dry_images(self) -> Tensor:
        some = next(self.net.parameters())
        shape = (2, self.in_chans, *self.image_size)
        return torch.linspace(-1, 1, math.prod(shape), device=some.device, dtype=some.dtype).view(shape)

    def _measure(self) -> list[Tap]:
        infos = feature_infos(self.net)
        try:
            with dry(self.net), torch.no_grad():
                _, maps = self.net.forward_intermediates(self._dry_images(), indices=list(range(len(infos))), output_fmt="NCHW")
        except Exception as error:
            raise KdError(
                f"backbone '{backbone_name(self.net)}' does not run on {self.in_chans} x {self.image_size[0]} x {self.image_size[1]} images: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}; try another --img-size (its own is {default_size(self.net)[0]})"
            ) from error
        return [
            Tap(info["module"], k, found.shape[1], found.shape[2], found.shape[3], self.image_size[0] / found.shape[2])
            for k, (info, found) in enumerate(zip(infos, maps, strict=True))
        ]

    def _choose(self, spec: TapSpec, everything: list[Tap]) -> list[Tap]:
        if isinstance(spec, str) and spec not in ("stages", "quarters"):
            spec = [spec]
        if spec is None or spec == "stages":
            chosen = default_taps(everything)
        elif spec == "quarters":
            chosen = quarters(everything)
        else:
            chosen = [self._named(piece, everything) for piece in spec]
            if everything[-1] not in chosen:
                chosen.append(everything[-1])
            order = self._module_order()
            chosen = sorted(dict.fromkeys(chosen), key=lambda tap: (tap == everything[-1], order.get(tap.module, len(order))))
        return chosen

    def _named(self, piece: int | str, everything: list[Tap]) -> Tap:
        name = backbone_name(self.net)
        if isinstance(piece, int) or piece.removeprefix("-").isdigit():
            number = int(piece)
            if not -len(everything) <= number < len(everything):
                raise KdError(
                    f"backbone '{name}' has no tap {number}: it has 0 to {len(everything) - 1} ({', '.join(t.module for t in everything)})"
                )
            return everything[number]
        for tap in everything:
            if tap.module == piece:
                return tap
        modules = dict(self.net.named_modules())
        if piece not in modules or not piece:
            raise KdError(
                f"backbone '{name}' has no module '{piece}' to tap{nearest(piece, {t.module for t in everything} | set(modules) - {''})}"
            )
        return self._hook(piece, modules[piece])

    def _hook(self, name: str, module: nn.Module) -> Tap:
        capture, witness = Capture(), Capture(copies=True)
        module.register_forward_hook(capture.after)
        watching = module.register_forward_hook(witness.after)
        with dry(self.net), torch.no_grad():
            self.net(self._dry_images())
        watching.remove()
        if not capture.values or not isinstance(capture.values[-1], Tensor):
            raise KdError(f"backbone '{backbone_name(self.net)}': module '{name}' gives no map when the backbone runs; tap another")
        capture.copies = not same_bits(capture.values[-1], witness.take())  # an in-place ReLU after it, say
        found = as_nchw(capture.take(), name, self.net)
        self._hooked[name] = capture
        self._forget()
        height, width = int(found.shape[2]), int(found.shape[3])
        return Tap(name, None, int(found.shape[1]), height, width, self.image_size[0] / height)

    def _module_order(self) -> dict[str, int]:
        """The order in which modules finish, which is the order of their depth."""
        finished: list[str] = []
        handles = [
            module.register_forward_hook(lambda *_, name=name: finished.append(name)) for name, module in self.net.named_modules() if name
        ]
        with dry(self.net), torch.no_grad():
            self.net(self._dry_images())
        for handle in handles:
            handle.remove()
        self._forget()
        return {name: position for position, name in enumerate(finished)}

    def _settle_embedding(self) -> None:
        """The classifier's input by its hook; by a second call of the head where the hook sees no vector (sequencer, samvit)."""
        with dry(self.net), torch.no_grad():
            final, _ = self.net.forward_intermediates(self._dry_images(), indices=self._indices, output_fmt="NCHW")
            logits = self.net.forward_head(final)
            seen = [capture.values[-1] if capture.values else None for capture in self._captures]
            self._second_call = any(v is None or (v.ndim != 2 and v.numel() != v.shape[0] * v.shape[1]) for v in seen)
            self.embedding_dim = int(self._embedding(final).shape[1])
            self._forget()
            own = type(self).forward is Tapped.forward  # a subclass may make its logits otherwise
            self.plain_forward = own and same_bits(first(logits), first(self.net(self._dry_images())))
            self._forget()

    # -- leaving ------------------------------------------------------------------------------------------------------

    def strip(self, exit: int = -1) -> nn.Module:
        """A copy of the backbone as an ordinary timm model, without the hooks of this wrapper."""
        if exit not in (-1, 1):
            raise KdError(f"there is no exit {exit}: this model has one")
        return unhooked(copied(self.net))


def first(answer: Any) -> Any:
    """The logits that count, of a backbone that may answer with several (distilled heads)."""
    return answer[0] if isinstance(answer, tuple | list) else answer


def same_bits(one: Any, other: Any) -> bool:
    """Whether two tensors are known to be equal, which on the meta device they never are: it has shapes and no values."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.is_meta or other.is_meta:
        return False
    return torch.equal(one, other)


def unhooked(net: nn.Module) -> nn.Module:
    """The network with every hook of a `Capture` removed, in place."""
    for module in net.modules():
        unhook(module)
    return net


def unhook(module: nn.Module, capture: Capture | None = None) -> None:
    """Takes one capture's hooks, or those of all captures, off a module."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, Capture) and capture in (None, owner):
                del hooks[key]


def copied(net: nn.Module) -> nn.Module:
    """A deep copy. Caches that some models (levit, efficientformer) fill in eval mode, which cannot be copied, are dropped as their
    `train()` drops them."""
    modes = [(part, part.training) for part in net.modules()]
    net.train()
    twin = copy.deepcopy(net)
    for (part, training), other in zip(modes, twin.modules(), strict=True):
        part.training = other.training = training
    return twin


@contextmanager
def dry(module: nn.Module) -> Iterator[None]:
    """Eval mode within the block; every module's own mode is put back after it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def feature_infos(net: nn.Module) -> list[dict]:
    info = net.feature_info
    return info if isinstance(info, list) else list(info.info)


def backbone_name(net: nn.Module) -> str:
    config = getattr(net, "pretrained_cfg", None) or {}
    return config.get("architecture") or type(net).__name__


def default_size(net: nn.Module) -> tuple[int, int]:
    """The image size a backbone was made for: that of its patch embedding where it is fixed, else its configuration's."""
    fixed = getattr(getattr(net, "patch_embed", None), "img_size", None)
    if fixed is not None:
        return (int(fixed[0]), int(fixed[1]))
    size = (getattr(net, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))
    return (size[1], size[2])


def classifiers_of(net: nn.Module) -> list[nn.Module]:
    """The modules whose inputs are the embedding: one, the first of a tuple (distilled heads), or each of a ModuleList (crossvit)."""
    classifier = _classifier(net)
    if isinstance(classifier, tuple):
        classifier = classifier[0]
    modules = list(classifier) if isinstance(classifier, nn.ModuleList) else [classifier]
    return [module for module in modules if isinstance(module, nn.Module) and not isinstance(module, nn.Identity)]


def head_names(net: nn.Module) -> tuple[str, ...]:
    """How the names of the head's tensors begin: those of every classifier, a distilled one too."""
    classifier = _classifier(net)
    several = classifier if isinstance(classifier, tuple | list | nn.ModuleList) else [classifier]
    heads = {id(module) for module in several}
    return tuple(f"{name}." for name, module in net.named_modules() if id(module) in heads)


def _classifier(net: nn.Module) -> Any:
    """What timm calls the classifier: a module, a tuple or a list of them; None where a network has no such thing."""
    try:
        return net.get_classifier()
    except (AttributeError, NotImplementedError):
        return None
