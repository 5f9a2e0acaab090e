"""What the conformance kit takes for waiting on a machine without a GPU: all that would wait on one, and no more."""

import pytest
import torch
import torch.nn.functional as F

from kdcore.testing.waiting import Waits, no_waiting

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
SQUARE = X @ X.T + 4 * torch.eye(4)
INDEX = torch.tensor([0, 1, 1, 2])

WAITS = {
    "to('cpu')": lambda: X.to("cpu"),
    "to(device='cpu')": lambda: X.to(device="cpu"),
    "print": lambda: repr(X),
    "f-string": lambda: f"{X.sum():.3f}",
    "in": lambda: 3.0 in X,
    "allclose": lambda: torch.allclose(X, X),
    "repeat_interleave": lambda: X.repeat_interleave(INDEX, 0),
    "tensor_split": lambda: torch.tensor_split(X, INDEX),
    "unique": lambda: torch.unique(INDEX),
    "unique rows": lambda: torch.unique(X, dim=0),
    "unique_consecutive": lambda: torch.unique_consecutive(INDEX),
    "where": lambda: torch.where(X > 0),
    "uint8 mask": lambda: X[X.new_ones(4, dtype=torch.uint8)],
    "index_put": lambda: X.index_put((X > 0,), X.new_zeros(())),
    "histc": lambda: torch.histc(X, 4),
    "inv": lambda: torch.linalg.inv(SQUARE),
    "cholesky": lambda: torch.linalg.cholesky(SQUARE),
    "solve": lambda: torch.linalg.solve(SQUARE, X),
    "eigvalsh": lambda: torch.linalg.eigvalsh(SQUARE),
    "svdvals": lambda: torch.linalg.svdvals(X),
    "pinv": lambda: torch.linalg.pinv(X),
    "one_hot": lambda: F.one_hot(INDEX),
    "a tensor from the host": lambda: torch.tensor(0.5, device=X.device),
    "new_tensor": lambda: X.new_tensor([0.5]),
    "a tensor of tensors": lambda: torch.tensor([X[0, 0], X[0, 1]]),
}

DOES_NOT = {
    "to(other)": lambda: X.to(INDEX).to(X.dtype),
    "to(device)": lambda: X.to(X.device),
    "repeat_interleave by a number": lambda: X.repeat_interleave(2, 0),
    "repeat_interleave with its size": lambda: X.repeat_interleave(INDEX, 0, output_size=4),
    "tensor_split by numbers": lambda: torch.tensor_split(X, (1, 2)),
    "rows": lambda: X[INDEX],
    "where": lambda: torch.where(X > 0, X, 0.0),
    "masked_fill": lambda: X.masked_fill(X > 0, 0.0),
    "histc in a range": lambda: torch.histc(X, 4, -3, 3),
    "det": lambda: torch.linalg.det(X),
    "one_hot of so many": lambda: F.one_hot(INDEX, 4),
    "a number": lambda: X * torch.tensor(0.5),
    "new_zeros": lambda: X.new_zeros(()),
}


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("what", WAITS)
def test_what_waits_is_seen(what):
    WAITS[what]()  # it runs where it may wait
    with pytest.raises(Waits, match="the step waits for the device"), no_waiting():
        WAITS[what]()


@pytest.mark.parametrize("what", DOES_NOT)
def test_what_does_not_wait_may_be_done(what):
    with no_waiting():
        found = DOES_NOT[what]()
    wanted = DOES_NOT[what]()
    assert all(map(torch.equal, found, wanted)) if isinstance(found, tuple) else torch.equal(found, wanted)
