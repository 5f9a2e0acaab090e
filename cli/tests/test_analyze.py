"""`kd analyze`, and `kd runs --lineage`, on folders written by hand: no training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = '''
from typing import Literal
from matplotlib.figure import Figure
from kdcore import Analysis, hookimpl

def curve(run, *, split: Literal["dev", "test"] = "dev"):
    """Accuracy by epoch.

    Much more of this.
    """
    rows = [{"epoch": r["epoch"], "top-1": r[split]["top1"]} for r in run.metrics()]
    return Analysis({"curve": rows}, {"curve": Figure()}, "It rises.")

@hookimpl
def analyses():
    return {"curve": curve}
'''


def phase(number, start, teacher):
    return {"name": f"generation-{number}", "generation": number, "start": start, "teacher": teacher}


@pytest.fixture
def run():
    """Three generations, the third under way."""
    path = Path("runs/one")
    (path / "checkpoints" / "03-generation-3").mkdir(parents=True)
    Path("study.py").write_text(PLUGIN)
    (path / "config.toml").write_text('model = "resnet18"\ndata = "digits"\nteacher = "/big"\n')
    (path / "environment.json").write_text(json.dumps({"date": "2026-03-01T10:00:00+00:00", "command": "kd train"}))
    tops = {(1, 1): 70.0, (1, 2): 72.0, (2, 1): 75.0, (2, 2): 74.0, (3, 1): 60.0}
    records = [
        {"phase": f"generation-{n}", "phase_number": n, "epoch": e, "epochs": 2, "minutes": 0.1, "dev": {"top1": top}}
        for (n, e), top in tops.items()
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done = [phase(1, "stands", "given"), phase(2, "pretrained", "checkpoints/01-generation-1/epoch-0002")]
    (path / "phases.json").write_text(json.dumps([{"phase": one} for one in done]))
    last = phase(3, "checkpoints/01-generation-1/epoch-0001", "checkpoints/02-generation-2/epoch-0001")
    (path / "checkpoints" / "03-generation-3" / "epoch-0001.json").write_text(json.dumps({"about": {"phase": last}}))
    return path


def test_without_a_name_it_lists_what_there_is(kd, run):
    shown = kd("analyze", "-p", "study.py").stdout
    assert "study.curve" in shown and "Accuracy by epoch." in shown and "Much more" not in shown
    found = json.loads(kd("analyze", "-p", "study.py", "--json").stdout)
    (own,) = [one for one in found["analyses"] if one["name"] == "study.curve"]
    assert own["options"][0]["type"] == "one of dev, test"


def test_tables_on_the_screen_and_files_in_the_run(kd, run):
    shown = kd("analyze", "study.curve", run, "-p", "study.py").stdout
    assert "epoch" in shown and "72" in shown and "It rises." in shown and "runs/one/analyses/study.curve: curve.csv" in shown
    found = json.loads(kd("analyze", "study.curve", run, "-p", "study.py", "--json", "--out", "there").stdout)
    assert found["tables"]["curve"][1] == {"epoch": 2, "top-1": 72.0} and found["folder"] == "there"
    assert (Path("there") / "curve.png").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("study.curve", "RUN is missing: write kd analyze study.curve RUN"),
        ("study.curve runs/one -o splt=dev", "has no option 'splt'; did you mean 'split'?"),
        ("study.curve runs/one -o split", "write -o name=value"),
        ("curve runs/one", "did you mean 'study.curve'?"),
        ("nothing.curve runs/one", "there is no analysis 'nothing.curve'"),
    ],
)
def test_what_is_wrong_is_one_line(kd, run, line, says):
    done = kd("analyze", *line.split(), "-p", "study.py", status=2)
    assert says in done.stderr and len(done.stderr.splitlines()) == 1
    assert kd("analyze", "study.curve", "nowhere", "-p", "study.py", status=74).stderr.startswith("kd: there is no run folder")


def test_who_taught_whom(kd, run):
    shown = kd("runs", "--lineage").stdout.splitlines()
    assert shown[1].split() == ["one", "generation-1", "1", "initial", "weights", "/big", "2/2", "72.0", "72.0"]
    assert shown[2].split() == ["generation-2", "2", "pretrained", "generation-1,", "epoch", "2", "2/2", "74.0", "75.0"]
    found = json.loads(kd("runs", "--lineage", "--json", run).stdout)
    assert [(one["start"], one["teacher"], one["epochs"]) for one in found["runs/one"]][2] == (
        "generation-1, epoch 1",
        "generation-2, epoch 1",
        "1/2",
    )


def test_runs_of_one_phase_have_no_lineage(kd, run):
    (run / "metrics.jsonl").write_text("")
    assert "no run in elsewhere has several phases" in kd("runs", "--lineage", _two(Path("elsewhere"))).stdout


def _two(folder):
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.toml").write_text('model = "resnet18"\ndata = "digits"\n')
    return folder


def test_neither_imports_torch(run):
    code = (
        "import sys; from kdcli.main import kd\ntry:\n    kd.main(sys.argv[1:], prog_name='kd')\n"
        "finally:\n    print(sorted({'torch', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    for line in ("analyze --help", "runs --lineage"):
        done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stderr.splitlines()[-1] == "[]", done.stderr
