"""A plugin that is broken in every way, one at a time: the exact line that a user reads, and proof that everything else goes on."""

import importlib
import json
import re
import sys
import tempfile

import pytest
import torch

import kdcore
from kdcore import tracing, verdicts
from kdcore.composition import compose
from kdcore.errors import KdError
from kdcore.events import Events
from kdcore.hookspecs import EVENTS, FAMILIES
from kdcore.mending import upgraded_by
from kdcore.plugins import Plugins, installed
from kdcore.recipes import resolve
from kdcore.session import Watch

LOSS = """
from kdcore import hookimpl

def gap(step, targets=None, *, scale: float = 1.0):
    return scale * step.outputs.logits[-1].square().mean()

@hookimpl
def losses():
    return {"gap": gap}
"""
HOOKS = f"hooks are {', '.join(FAMILIES + EVENTS)}"
AGAIN = "pip install --force-reinstall --no-deps idea-bad, or run without it"


def hook(text: str) -> str:
    return LOSS.replace("def losses():\n    return", text)


WAYS = {
    "it raises when it is imported": ("raise RuntimeError('went off\\nlate')", f"cannot be imported: RuntimeError: went off; {AGAIN}"),
    "it leaves": ("raise SystemExit(3)", f"cannot be imported: SystemExit: 3; {AGAIN}"),
    "a syntax error": ("x = = 1", f"cannot be imported: SyntaxError: invalid syntax (idea_bad.py, line 1); {AGAIN}"),
    "a dependency that is missing": (
        "import no_such_thing",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such_thing'; "
        "pip install idea-bad adds what it says it needs, or run without it",
    ),
    "a hook that is misspelt": (hook("def loses():\n    return"), f": unknown hook 'loses'; did you mean 'losses'?; {HOOKS}"),
    "a hook with an argument too many": (
        hook("def losses(config):\n    return"),
        f": Plugin 'bad' for hook 'losses': Argument(s) {{'config'}} are declared in the hookimpl "
        f"but can not be found in the hookspec; {HOOKS}",
    ),
    "a hook with a keyword of its own": (
        hook("def losses(*, config):\n    return"),
        ": its hook losses() failed: TypeError: losses() missing 1 required keyword-only argument: 'config'",
    ),
    "a hook that yields": (hook("def losses():\n    yield"), ": its hook losses() must return a dict of names, not generator"),
    "a hook that wraps others": (
        LOSS.replace("@hookimpl", "@hookimpl(wrapper=True)").replace("return {", "yield {"),
        f": hook 'losses' is a wrapper, and wrappers would change what others answer; {HOOKS}",
    ),
    "a hook that raises": (hook("def losses():\n    return 1 / 0 or"), ": its hook losses() failed: ZeroDivisionError: division by zero"),
    "a hook that returns a list": (LOSS.replace('{"gap": gap}', "[gap]"), ": its hook losses() must return a dict of names, not list"),
    "a hook that returns no class": (
        LOSS.replace('"gap": gap', '"gap": 3'),
        ": its hook losses() must map names to classes or functions, not 'gap' to 3",
    ),
    "a part that cannot be typed": (
        LOSS.replace('"gap"', '"gap@x"'),
        ": its hook losses() names a part 'gap@x', which cannot be typed: a name has letters, digits, . _ and -",
    ),
}
"""Of code: what is wrong, and what is said of it after `plugin 'bad' (idea-bad 1.2)`."""

DISTRIBUTIONS = {
    "a newer API": (
        {"keywords": "kdcore:loss,kdcore-api:2"},
        f"plugin 'bad' (idea-bad 1.2) was written for kdcore API 2 and this is API 1; {upgraded_by('kdcore')}",
        "broken",
    ),
    "an older API": (
        {"keywords": "kdcore:loss,kdcore-api:0"},
        "plugin 'bad' (idea-bad 1.2) was written for kdcore API 0 and this is API 1; pip install --upgrade idea-bad",
        "broken",
    ),
    "another distribution has the name": (
        {"plugin": "tfkd"},
        f"two distributions claim the plugin name 'tfkd': idea-tfkd 1.2 and kdcore-tfkd {kdcore.__version__}; "
        "pip uninstall idea-tfkd, or kd --no-plugin idea-tfkd",
        "clashing",
    ),
}
"""Of metadata: what is wrong, the whole line, and the word of `kd plugins`. None of them is imported."""


@pytest.fixture
def bad(distribution):
    """Beside the bad plugin there is a good one, in a distribution of its own."""
    distribution("good")
    return distribution


def refusal(name: str) -> str:
    with pytest.raises(KdError) as caught:
        Plugins().part("losses", f"{name}.gap")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listed() -> dict[str, tuple[str, str]]:
    from kdcli.plugin_list import described

    return {info["distribution"]: (info["status"], info["reason"]) for info in described()}


def everything_else_goes_on() -> None:
    found = resolve("byot", losses=["good.gap=0.1"])
    assert found.labels["term good.gap"] == "loss 'good.gap' (idea-good 1.2)" and set(found.plugins.loaded) == {"kdcore", "byot", "good"}
    assert listed()["idea-good"] == listed()["kdcore-byot"] == ("available", "")


@pytest.mark.parametrize("way", WAYS)
def test_code_that_is_broken(bad, way):
    code, said = WAYS[way]
    bad("bad", code)
    everything_else_goes_on()
    assert listed()["idea-bad"] == ("available", "")  # nobody has looked yet
    line = refusal("bad")
    assert line == f"plugin 'bad' (idea-bad 1.2){'' if said.startswith(':') else ' '}{said}"
    everything_else_goes_on()
    word, reason = listed()["idea-bad"]
    found, _, day = reason.removeprefix("plugin 'bad' (idea-bad 1.2): ").rpartition(" (found on ")
    assert word == "broken" and found and said.removeprefix(": ").startswith(found) and re.fullmatch(r"\d{4}-\d\d-\d\d\)", day)


@pytest.mark.parametrize("way", DISTRIBUTIONS)
def test_metadata_that_is_wrong(bad, way):
    how, line, word = DISTRIBUTIONS[way]
    name = how.get("plugin", "bad")
    bad(**{"plugin": name, "code": "raise RuntimeError('imported')"} | how)
    everything_else_goes_on()
    assert listed()[f"idea-{name}"] == (word, line) and refusal(name) == line
    everything_else_goes_on()


def test_the_name_of_the_core_cannot_be_had(bad):
    bad("kdcore", "raise RuntimeError('imported')", name="idea-core")
    line = "idea-core 1.2 claims the plugin name 'kdcore', which is the core's own; pip uninstall idea-core"
    assert listed()["idea-core"] == ("clashing", line)
    assert Plugins().load("kdcore").distribution == "kdcore"
    everything_else_goes_on()


def test_the_name_of_a_part_of_the_core_stays_the_cores(bad):
    bad("kl", LOSS.replace('"gap"', '"kl"'))
    assert Plugins().part("losses", "kl").plugin.name == "kdcore" and Plugins().part("losses", "kl.kl").plugin.name == "kl"
    everything_else_goes_on()


def test_a_part_under_the_name_of_anothers_stays_its_own(bad):
    bad("bad", LOSS.replace('"gap"', '"byot.hint"'))
    assert list(Plugins().parts_of("bad", "losses")) == ["bad.byot.hint"]
    assert Plugins().part("losses", "byot.hint").plugin.name == "byot"
    everything_else_goes_on()


def test_a_name_that_cannot_be_typed(bad):
    bad("bad.idea", name="idea-bad", module="idea_bad")
    line = "plugin 'bad.idea' (idea-bad 1.2): its name must be letters, digits, _ and -; tell its author"
    assert listed()["idea-bad"] == ("broken", line)
    everything_else_goes_on()


@pytest.mark.parametrize(("file", "content"), [("entry_points.txt", b"[kdcore]\nno equals sign\n"), ("METADATA", b"Name: \xff\xfe")])
def test_files_of_a_distribution_that_are_damaged(bad, tmp_path, file, content):
    bad("bad")
    (tmp_path / "idea_bad-1.2.dist-info" / file).write_bytes(content)
    everything_else_goes_on()
    assert "byot" in {info.name for info in installed()}


def test_an_import_that_takes_long_is_said_aloud(bad, monkeypatch, capsys):
    monkeypatch.setattr(tracing, "SLOW", 0.2)
    bad("slow", f"import time\ntime.sleep(0.5)\n{LOSS}")
    everything_else_goes_on()
    assert "slow" not in capsys.readouterr().err  # whoever does not name it does not wait
    Plugins().part("losses", "slow.gap")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "kd: plugin 'slow' (idea-slow 1.2) is being imported, for 0.2 s so far"
    assert second.startswith("kd: plugin 'slow' (idea-slow 1.2) took 0.") and second.endswith(" s to import")


# -- what is known of a broken plugin ---------------------------------------------------------------------------------------------------


def test_a_verdict_goes_with_what_it_was_found_in(bad, tmp_path, monkeypatch):
    module = bad("bad", f"import idea_needed\n{LOSS}")
    refusal("bad")
    assert listed()["idea-bad"][1].startswith("plugin 'bad' (idea-bad 1.2): cannot be imported: ModuleNotFoundError")

    (tmp_path / f"{module}.py").write_text(LOSS)  # edited: nobody has looked at it as it is now
    assert listed()["idea-bad"] == ("available", "")
    (tmp_path / f"{module}.py").write_text(f"import idea_needed\n{LOSS}")
    assert listed()["idea-bad"][0] == "broken"

    (tmp_path / "idea_needed.py").write_text("")  # the dependency is installed, and nothing of the plugin has changed
    importlib.invalidate_caches()
    Plugins().part("losses", "bad.gap")
    assert listed()["idea-bad"] == ("available", "")


def test_a_verdict_is_that_of_one_environment(bad, tmp_path, monkeypatch):
    """What another virtual environment, Python or kdcore found broken may be well here; the cache is one."""
    bad("bad", "import idea_needed")
    refusal("bad")
    elsewhere = {
        (sys, "prefix"): str(tmp_path),
        (verdicts.platform, "python_version"): lambda: "3.99.0",
        (verdicts, "version"): lambda name: "9",
    }
    for place, value in elsewhere.items():
        with monkeypatch.context() as there:
            there.setattr(*place, value)
            assert listed()["idea-bad"] == ("available", "")
        assert listed()["idea-bad"][0] == "broken"


def test_a_user_without_a_home_has_plugins_too(bad, tmp_path, monkeypatch):
    def no_home(*args, **options):
        raise RuntimeError("Could not determine home directory.")

    bad("bad", "import idea_needed")
    monkeypatch.delenv("KDCORE_CACHE")
    monkeypatch.setattr(verdicts.Path, "home", no_home)
    monkeypatch.setattr("platformdirs.user_cache_path", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert "No module named 'idea_needed'" in refusal("bad")
    everything_else_goes_on()
    assert verdicts.path().is_relative_to(tmp_path) and listed()["idea-bad"][0] == "broken"


def test_a_verdict_on_one_hook_is_not_lifted_by_another(bad, tmp_path):
    both = LOSS + "\n@hookimpl\ndef metrics():\n    import idea_later\n    return {}\n"
    bad("bad", both)
    with pytest.raises(KdError, match=r"its hook metrics\(\) failed: ModuleNotFoundError"):
        Plugins().parts_of("bad", "metrics")
    Plugins().part("losses", "bad.gap")
    assert "its hook metrics() failed" in listed()["idea-bad"][1]
    (tmp_path / "idea_later.py").write_text("")
    importlib.invalidate_caches()
    Plugins().parts_of("bad", "metrics")
    assert listed()["idea-bad"] == ("available", "")


def test_a_cache_that_cannot_be_written_ends_nothing(bad, tmp_path, monkeypatch):
    bad("bad", "raise RuntimeError('went off')")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "file" / "within"))
    assert "went off" in refusal("bad") and listed()["idea-bad"] == ("available", "")
    assert verdicts.path().is_relative_to(tmp_path)


# -- in a run ---------------------------------------------------------------------------------------------------------------------------

EVENT = """
from kdcore import hookimpl

@hookimpl
def log(run, record):
    raise OSError("no space left")
"""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("step.outputs.logits[-1].square().mean(1)", "loss 'bad.gap' (idea-bad 1.2) must return a scalar tensor, not (16,)"),
        (
            "step.outputs.logits[-1].square().mean() * float('nan')",
            "loss 'bad.gap' (idea-bad 1.2) gives nan on a first batch of noise; a loss must stay finite",
        ),
        ("None", "loss 'bad.gap' (idea-bad 1.2) must return a scalar tensor, not NoneType"),
        ("1 / 0", "loss 'bad.gap' (idea-bad 1.2) failed: ZeroDivisionError: division by zero (idea_bad.py:5)"),
    ],
)
def test_a_loss_that_answers_nonsense(bad, answer, said):
    bad("bad", LOSS.replace("scale * step.outputs.logits[-1].square().mean()", answer))
    with pytest.raises(KdError) as caught:
        compose("test_resnet", "plain", num_classes=3, image_size=32, losses=["good.gap=.1", "bad.gap=.1"])
    assert str(caught.value) == said
    everything_else_goes_on()
    task = compose("test_resnet", "plain", num_classes=3, image_size=32, losses=["good.gap=.1"]).task()
    answer = task(torch.randn(4, 3, 32, 32), torch.arange(4) % 3)
    answer["loss"].backward()
    assert answer["loss"].isfinite() and answer["good.gap"] > 0


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("OSError('no space left\\nwrite failed')", "OSError: no space left"),
        ("SystemExit(3)", "SystemExit: 3"),
        ("KeyError", "KeyError: no message"),
    ],
)
def test_a_logger_that_fails_in_any_way_is_told_in_one_line_and_left_out(bad, raised, said):
    bad("logger", EVENT.replace('OSError("no space left")', raised))
    other = bad("other", EVENT.replace('raise OSError("no space left")', "told.append(record)") + "\ntold = []\n")
    reported: list[str] = []
    events = Events(Plugins(["logger", "other"]), reported.append)
    for step in range(2):
        events.fire("log", run=None, record={"step": step})
    assert reported == [f"plugin 'logger' (idea-logger 1.2) failed in log: {said}; it is left out of the rest of this run"]
    assert sys.modules[other].told == [{"step": 0}, {"step": 1}]


def test_everything_else_trains_beside_all_of_them(bad, tmp_path):
    """All broken plugins at once, and a logger that raises in the middle of the run: reported once, and the run ends well."""
    for number, (code, _) in enumerate(WAYS.values()):
        bad(f"bad{number}", code)
    bad("logger", EVENT)

    notes: list[str] = []
    watch = Watch()
    watch.note = notes.append
    trained = kdcore.train(
        "test_resnet_32px", "digits", run=tmp_path / "run", method="deep-supervision", loss=["good.gap=0.1"], plugin=["logger"], img_size=16,
        labels_per_class=7, epochs=1, batch_size=32, amp="none", channels_last=False, device="cpu", log_interval=1, watch=watch,
    )  # fmt: skip
    reported = [note for note in notes if "logger" in note]
    assert reported == [
        "plugin 'logger' (idea-logger 1.2) failed in log: OSError: no space left; it is left out of the rest of this run",
    ]
    assert len(trained.run.metrics()) == 1 and trained.results["best"]
    used = json.loads((trained.run.path / "environment.json").read_text())["plugins"]
    assert [plugin["name"] for plugin in used] == ["kdcore", "good", "logger"] and all(len(plugin["files"]) == 64 for plugin in used)
