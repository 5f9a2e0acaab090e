"""Images and labels: where they come from, how they are split, and the batches that training and evaluation see.

`load_data` reads, `Preprocessing` and `Augmentation` say what becomes of an image, `Batches` yields them. Every draw is a function of
(seed, epoch, sample number).
"""

from kdcore.data.batches import Batches
from kdcore.data.mixing import Mixing
from kdcore.data.opening import open_image
from kdcore.data.sources import load_data
from kdcore.data.splits import Data, Split
from kdcore.data.transforms import Augmentation, Preprocessing, default_augmentation, default_preprocessing

__all__ = [
    "Augmentation",
    "Batches",
    "Data",
    "Mixing",
    "Preprocessing",
    "Split",
    "default_augmentation",
    "default_preprocessing",
    "load_data",
    "open_image",
]
