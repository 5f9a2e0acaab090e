"""What only the predictions of each image tell: calibration, the worst mistakes, and where exits disagree."""

from typing import Any

import torch

from kdcore.evaluation import BINS, Predictions, finite
from kdcore.predictions import Stored

SHOWN = 12  # images in each gallery


def details(stored: Stored, split: str, exit: int) -> dict[str, Any]:
    """`calibration`, `mistakes` (of `exit`) and `disagreements` of one split, as plain JSON values."""
    predictions = stored.delivered[split]
    probabilities = finite(predictions.logits).softmax(dim=-1)
    confidence, answers = probabilities.max(dim=-1)
    correct = answers == predictions.labels
    own = predictions.exits.index(exit)
    wrong = [i for i in confidence[own].argsort(descending=True, stable=True).tolist() if not correct[own, i]]
    apart = _apart(answers, confidence)
    images = Images(stored, split, answers, confidence)
    return {
        "calibration": [{"exit": k, "bins": reliability(confidence[place], correct[place])} for place, k in enumerate(predictions.exits)],
        "mistakes": {"of": len(wrong), "images": [images.entry(i) for i in wrong[:SHOWN]]},
        "disagreements": {"of": len(apart), "images": [images.entry(i) for i in apart[:SHOWN]]},
    }


def _apart(answers: torch.Tensor, confidence: torch.Tensor) -> list[int]:
    """Samples on which exits (answers and confidence [E, N]) differ: the most different answers first, then the surest."""
    different = [len(set(column)) for column in answers.T.tolist()]
    sure = confidence.double().mean(dim=0).tolist()
    return sorted((i for i, count in enumerate(different) if count > 1), key=lambda i: (-different[i], -round(sure[i], 6), i))


def reliability(confidence: torch.Tensor, correct: torch.Tensor) -> list[dict[str, Any]]:
    """Mean confidence and accuracy in percent, and the images, of every bin of the calibration error that has some."""
    place = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1), right=True).clamp(1, BINS)
    bins = []
    for k in place.unique().tolist():
        inside = place == k
        mean, right = float(confidence[inside].double().mean()), int(correct[inside].sum())
        bins.append(
            {"confidence": round(100 * mean, 4), "accuracy": round(100 * right / int(inside.sum()), 4), "images": int(inside.sum())}
        )
    return bins


class Images:
    """Single images of a split, as the galleries show them."""

    def __init__(self, stored: Stored, split: str, answers: torch.Tensor, confidence: torch.Tensor) -> None:
        self.predictions: Predictions = stored.delivered[split]
        self.names, self.class_names, self.split = stored.names[split], stored.class_names, split
        self.answers, self.confidence = answers, confidence

    def entry(self, i: int) -> dict[str, Any]:
        """confidence: in percent of the exit's answer."""
        numbers = self.predictions.numbers
        return {
            "split": self.split,
            "number": int(numbers[i]) if numbers is not None else i,
            "name": self.names[i],
            "label": int(self.predictions.labels[i]),
            "truth": self.class_names[int(self.predictions.labels[i])],
            "answers": [
                {
                    "exit": k,
                    "class": self.class_names[int(self.answers[place, i])],
                    "confidence": round(100 * float(self.confidence[place, i]), 3),
                    "right": bool(self.answers[place, i] == self.predictions.labels[i]),
                }
                for place, k in enumerate(self.predictions.exits)
            ],
        }
