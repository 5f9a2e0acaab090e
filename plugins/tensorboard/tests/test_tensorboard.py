"""What a run writes for TensorBoard, read back with TensorBoard's own reader."""

import re
from pathlib import Path

import pytest

import kdcore
import kdcore_tensorboard
from kdcore.session import Watch

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]
SMALL = {"img_size": 16, "labels_per_class": 10, "batch_size": 32, "log_interval": 2, "device": "cpu", "plugin": ["tensorboard"]}


def train(run, **settings):
    return kdcore.train("test_resnet_32px", "digits", run=run, **{**SMALL, **settings})


def scalars(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    return {tag: {point.step: point.value for point in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


class Stop(KeyboardInterrupt): ...


class Killed(Watch):
    def log(self, record):
        if record["epoch"] == 2:
            raise Stop


def test_what_is_written(tmp_path):
    trained = train(tmp_path / "run", epochs=2)
    found, records = scalars(tmp_path / "run"), trained.run.metrics()
    assert set(found["train/loss"]) == {2, 3, 5, 6} and set(found["train/lr"]) == {2, 3, 5, 6}  # 3 steps an epoch
    for k, record in enumerate(records, start=1):
        for name, value in record["dev"].items():
            assert found[f"dev/{name}"][3 * k] == pytest.approx(value, rel=1e-5), name
    assert found["phase"] == {3: 1.0, 6: 1.0}
    exits = trained.results["last"]["test"]["exits"]
    assert found["test/last/exit2/top1"] == {2: pytest.approx(exits[1]["top1"], rel=1e-5)}
    assert not kdcore_tensorboard._open


def test_a_resumed_run_goes_on_where_it_was(tmp_path):
    train(tmp_path / "whole", epochs=2)
    with pytest.raises(Stop):
        train(tmp_path / "parts", epochs=2, watch=Killed())
    kdcore.train(run=tmp_path / "parts", resume=True)
    whole, parts = scalars(tmp_path / "whole"), scalars(tmp_path / "parts")
    assert whole == parts


def test_a_run_that_lacked_its_end_alone_keeps_what_it_logged(tmp_path, monkeypatch):
    """The disk was full at the end, say: resuming has no epoch to train."""
    train(tmp_path / "whole", epochs=2)
    with monkeypatch.context() as broken, pytest.raises(Stop):
        broken.setattr("kdcore.training.deliver", lambda *_: (_ for _ in ()).throw(Stop))
        train(tmp_path / "parts", epochs=2)
    kdcore.train(run=tmp_path / "parts", resume=True)
    assert scalars(tmp_path / "parts") == scalars(tmp_path / "whole")


def test_it_is_off_unless_it_is_asked_for(tmp_path):
    train(tmp_path / "run", epochs=1, plugin=[])
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_where_it_fails_the_run_goes_on(tmp_path, monkeypatch):
    said = []

    class Notes(Watch):
        def note(self, text):
            said.append(text)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kdcore_tensorboard, "_begin", full)
    trained = train(tmp_path / "run", epochs=1, watch=Notes())
    assert trained.results["last"]["epoch"] == 1
    [line] = [text for text in said if "tensorboard" in text]
    assert "plugin 'tensorboard'" in line and "No space left on device; it is left out of the rest of this run" in line


def test_the_snippet_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, {})
    assert list(Path("runs/with-tensorboard/tensorboard").iterdir())
