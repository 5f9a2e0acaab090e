"""`kd tune`: what it refuses, and what it prints."""

import json
import subprocess
import sys

import pytest

TINY = ["test_resnet_32px", "--data", "digits", "--method", "plain", "--img-size", "16", "--labels-per-class", "10", "--epochs", "1"]
TINY += ["--amp", "none", "--no-channels-last", "-b", "16"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tune", "BACKBONE is missing: write kd tune resnet18 --data SPEC"),
        ("tune resnet18 --data digits", "there is nothing to search: add --search; write NAME=LOW..HIGH[:log][:STEP] or NAME=A,B,C"),
        ("tune resnet18 --data digits --search lr", "--search lr: write NAME=LOW..HIGH"),
        ("tune resnet18 --data digits --search lr=0..1:log", "--search lr=0..1:log: a logarithmic range begins above 0"),
        ("tune resnet18 --data digits --search lr=0.1..1 --sampler tpe", "(the order of the images) - did you mean --strategy?"),
        ("tune --resume", "--resume needs the study's folder: add --dir DIR"),
        ("tune --dir nowhere --resume", "nowhere holds no study of kd tune: it has no study.json"),
        ("tune --dir nowhere --resume --pruner none", "--resume takes everything from --dir: leave out --pruner"),
        ("tune resnet18 --data nowhere --search lr=0.1..1", "no such file or folder: 'nowhere'"),
    ],
)
def test_refused_in_one_line(kd, line, said):
    status = 65 if "--data nowhere" in line else 74 if line.endswith("nowhere --resume") else 2
    done = kd(*line.split(), status=status)
    (last,) = [text for text in done.stderr.splitlines() if text.startswith("kd: ")]
    assert said in last and not done.stdout


def test_help_and_a_slip_of_the_pen_import_no_torch():
    code = (
        "import sys\nfrom kdcli.main import kd\ntry:\n    kd.main(sys.argv[1:], prog_name='kd')\n"
        "finally:\n    print(*{'torch', 'optuna', 'timm', 'numpy'} & set(sys.modules))"
    )
    for line, said in (("tune --help", "NAME=LOW..HIGH"), ("tune resnet18 --data digits --search lr=1", "")):
        done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, timeout=60)
        assert said in done.stdout and done.stdout.endswith("\n\n" if said else "\n") and not done.stdout.splitlines()[-1].strip()


def test_a_study_says_what_it_does_and_what_comes_next(kd, elsewhere):
    space = ["--search", "lr=0.05,0.2", "--search", "opt=sgd,adamw", "--strategy", "grid"]
    done = kd("tune", *TINY, *space, "--trials", "2", "--dir", "my study")
    first, second, *rest = done.stderr.splitlines()
    assert first == "  trying 3 settings (every choice, and both ends of every range) before the first trial"
    assert second.startswith("tuning plain on test_resnet_32px, digits, by dev top-1: 2 trials (a grid, pruner median); my study")
    said = "\n".join(rest)
    assert "every trial trains with seed 0" in said and "the test split is not looked at" in said and "this run takes about " in said
    assert any(line.startswith("trial 0: lr=0.05 opt=sgd: ") and line.endswith("% (epoch 1), the best so far") for line in rest)
    for text in (
        "2 trials: 2 finished",
        "dev top-1 %",
        "kd train --config 'my study'/best.toml",
        "kd runs 'my study'/trials --sort dev",
    ):
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 140

    more = kd("tune", "--dir", "my study", "--resume", "--trials", "3", "--json", "--quiet")
    found = json.loads(more.stdout)
    assert [row["settings"] for row in found["trials"]] == [
        {"lr": 0.05, "opt": "sgd"},
        {"lr": 0.05, "opt": "adamw"},
        {"lr": 0.2, "opt": "sgd"},
    ]
    assert found["best"] in found["trials"] and not more.stderr.strip()
    assert json.loads(kd("runs", "my study/trials", "--json").stdout)[0]["test"] is None


def test_ctrl_c_says_how_to_go_on(kd, monkeypatch, elsewhere):
    from kdcli.tune_view import View

    def stop(self, record):
        raise KeyboardInterrupt

    monkeypatch.setattr(View, "epoch", stop)
    done = kd("tune", *TINY, "--search", "lr=0.1,0.2", status=130)
    assert "kd: stopped; all is kept up to the last finished epoch. To go on: kd tune --dir runs/tune-1 --resume" in done.stderr
