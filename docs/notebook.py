# %% [markdown]
# # Train, look, predict
#
# A notebook as a script: VS Code, PyCharm and Jupyter (with jupytext) show its cells, `python docs/notebook.py` runs it as it is, and a test
# of this repository runs every cell. It takes about ten seconds on a CPU, and writes `runs/notebook` and `new-digits` where it is run.

# %%
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import kdcore
from kdcore.data import load_data
from kdcore.runs import Run
from kdcore.session import Watch

# %% [markdown]
# ## Train
#
# `kdcore.train` takes the settings of `kd train` as keywords, and prints nothing. Whoever wants to see something gives it a `Watch`: this one
# prints a line for each epoch, which reads well in a notebook, in a log and in a terminal.


# %%
class Lines(Watch):
    """A line for each epoch: the mean loss, and the top-1 on dev of every exit, shallow to deep, in percent."""

    def note(self, text):
        print(text)

    def epoch(self, record):
        exits = [f"{value:5.1f}" for name, value in record["dev"].items() if name.startswith("exit") and name.endswith("/top1")]
        print(
            f"epoch {record['epoch']:2} of {record['epochs']}   loss {record['train']['loss']:6.3f}   dev top-1 by exit {' '.join(exits)} %"
        )


SETTINGS = {
    "data": "digits",
    "method": "deep-supervision",
    "img_size": 32,
    "epochs": 5,
    "batch_size": 32,
    "lr": 0.1,
    "device": "cpu",
    "amp": "none",
}
trained = kdcore.train("test_resnet", run="runs/notebook", watch=Lines(), **SETTINGS)

# %% [markdown]
# ## Look
#
# `trained.results` is what `results.json` holds: the delivered checkpoint, the best on dev, is under `best`. What an exit costs is in `model.json`.

# %%
test = trained.results["best"]["test"]
print("exit  top-1 on test, %   calibration error, %")
for row in test["exits"]:
    print(f"{row['exit']:4}  {row['top1']:16.1f}  {row['ece']:21.1f}")
for name, row in test["ensembles"].items():
    print(f"the exits together ({name}): {row['top1']:.1f} %")

# %% [markdown]
# The course of training is in `metrics.jsonl`, one record an epoch.

# %%
records = Run.open("runs/notebook").metrics()
figure = Figure(figsize=(6, 3.2), layout="constrained")
axes = figure.subplots()
for number in range(1, len(test["exits"]) + 1):
    axes.plot([r["epoch"] for r in records], [r["dev"][f"exit{number}/top1"] for r in records], marker="o", label=f"exit {number}")
axes.set(xlabel="epoch", ylabel="top-1 on dev, %")
axes.legend()
figure.savefig("runs/notebook/curve.png", dpi=120)
figure  # noqa: B018 - a notebook draws it here

# %% [markdown]
# `kd report runs/notebook` makes a page of this and much more.
#
# ## Predict
#
# Images from anywhere: files, folders, patterns, or PIL images. Here are 100 test digits as files. Class names and preprocessing come from the
# run; without `exit` the best on dev answers.

# %%
digits = load_data("digits").test
Path("new-digits").mkdir(exist_ok=True)
for number in range(100):
    Image.fromarray(digits.images[number, 0].numpy()).save(f"new-digits/{number:03}-is-{digits.labels[number]}.png")

predictions = kdcore.predict("runs/notebook", "new-digits")
for found in predictions[:3]:
    print(f"{found.path}: {found.name} ({found.confidence:.0%}), else {found.top(2)[1][0]}")
right = sum(Path(found.path).stem.endswith(found.name) for found in predictions)
print(f"{right} of {len(predictions)} right")

# %% [markdown]
# The models themselves: all exits at once, or one of them alone. Each carries the run's own preprocessing for timm.

# %%
import timm  # noqa: E402
import torch  # noqa: E402

small = kdcore.load("runs/notebook", exit=1)
config = timm.data.resolve_model_data_config(small)
transform = timm.data.create_transform(**config)
with torch.inference_mode():
    image = transform(Image.open(predictions[0].path).convert("L"))  # one channel, as in training
    probabilities = small(image[None]).softmax(-1)[0]
print(f"exit 1 says {small.pretrained_cfg['label_names'][probabilities.argmax()]}; input {config['input_size']}")

# %% [markdown]
# ## Interrupted
#
# Stop the kernel, or lose it: a run keeps all up to its last finished epoch, and goes on to the numbers that it would have had. The interrupt is
# staged here; afterwards any process, or a fresh kernel, can go on with no more than the folder's name.


# %%
class Impatient(Lines):
    def epoch(self, record):
        super().epoch(record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt


try:
    kdcore.train("test_resnet", run="runs/notebook-stopped", watch=Impatient(), **SETTINGS)
except KeyboardInterrupt:
    print("interrupted")

# %%
resumed = kdcore.train(run="runs/notebook-stopped", resume=True, watch=Lines())
same = resumed.results["best"] == trained.results["best"]
print(f"the same numbers as without the interrupt: {same}")
