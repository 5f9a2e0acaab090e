"""Self-knowledge distillation with progressive refinement of targets (PS-KD; Kim et al., ICCV 2021, arXiv:2006.12000).

What it registers: the soft targets `pskd.past`, what the network predicted for each sample in the epoch before, and the method `pskd`.
"""

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from kdcore import CE, KL, Context, KdError, Method, SoftTargets, Step, Term, Where, gathered, hookimpl
from kdcore.losses import full


class Past(nn.Module):
    """P_{t-1}(x): what the deepest exit answered when it last trained on each sample, augmented as it was then; for all exits.

    A sample's first target is its label, as in the authors' code. The memory is a float32 row for each training sample, on the run's
    device: 0.2 MB for 5,000 samples of 10 classes, 5 GB for ImageNet. It is saved with the run. Mixed images have no past of their own,
    and are refused; a step with fewer samples in one process than in another cannot be gathered.
    """

    needs = ("index", "hard_labels")
    sees = ("logits",)
    memory: Tensor

    def setup(self, context: Context) -> None:
        """Makes room. Raises KdError where nobody says how many samples there are."""
        if not context.num_samples:
            raise KdError("pskd.past keeps a row for each training sample: compose(..., num_samples=N)")
        self.register_buffer("memory", torch.zeros(context.num_samples, context.num_classes))
        self.now: tuple[Tensor, Tensor] | None = None

    def forward(self, step: Step) -> SoftTargets:
        """The rows of this batch, [B, K], which sum to one."""
        past, logits = self.memory[step.batch.index], full(step.outputs.logits[-1])
        self.now = step.batch.index, logits.detach().softmax(dim=-1)
        label = torch.zeros_like(past).scatter_(1, step.batch.labels[:, None], 1.0)
        return SoftTargets(probs=[torch.where(past.sum(dim=-1, keepdim=True) > 0, past, label)])

    @torch.no_grad()
    def after_step(self) -> None:
        """Writes down what the step predicted, that of all processes in each."""
        if self.now is not None:
            index, predicted = map(gathered, self.now)
            self.memory[index] = predicted
            self.now = None


def share(where: Where, *, alpha_T: float, of_the_past: bool) -> float:
    """Equation 4, alpha_t = alpha_T t / T in epoch t of T, counted from 1; or 1 - alpha_t. Epoch 1, where both targets are the label, has 0."""
    done = where.progress / where.epoch if where.epoch else 0.0  # 1 / T
    alpha = alpha_T * min((int(where.epoch) + 1) * done, 1.0)
    return alpha if of_the_past else 1 - alpha


def pskd(*, alpha_T: Annotated[float, Ge(0), Le(1)] = 0.8) -> Method:
    """H((1 - alpha_t) y + alpha_t P_{t-1}(x), P_t(x)), equation 3, as the two cross entropies that it is the sum of; on every exit.

    alpha_T: the share of the past in the last epoch. There is no temperature: the paper sets it to 1 in equation 2. Left open by the paper,
    and as in the authors' code here: soft cross entropy rather than KL (equal in gradient, not in value), the mean over the batch alone,
    predictions of train mode, and what stands for the past in epoch 1. Whether its baseline rows counted the loss in the same way is not said.
    """
    labels, past = (partial(share, alpha_T=alpha_T, of_the_past=which) for which in (False, True))
    terms = {"ce": Term(CE(), weight=labels), "past": Term(KL(form="soft_ce", temperature=1), source="past", weight=past)}
    return Method(sources={"past": Past}, terms=terms)


@hookimpl
def soft_targets():
    return {"past": Past}


@hookimpl
def methods():
    return {"pskd": pskd}
