"""`kd plugins`, `kd methods`, `kd show`, help."""

import json
import sys

METHOD = '''
from kdcore import CE, Method, Term, hookimpl

def sweet(*, alpha: float = 0.5) -> Method:
    """Cross entropy with sugar.

    More of it. alpha: how sweet, in spoons.
    """
    return Method({"ce": Term(CE(), weight=alpha)})

@hookimpl
def methods():
    return {"sweet": sweet}
'''


def test_plugins_are_listed_from_metadata_alone(kd, distribution):
    distribution("kdcore-sour", "sour", "raise RuntimeError('went off')")
    distribution("kdcore-old", "old", "", keywords="kdcore:loss,kdcore-api:0")
    distribution("kdcore-twin", "twin", "")
    distribution("other-twin", "twin", "")
    found = [plugin for plugin in json.loads(kd("plugins", "--json").stdout) if plugin["name"] in ("sour", "old", "twin")]
    assert [plugin["status"] for plugin in found] == ["broken", "available", "clashing", "clashing"]
    assert "was written for kdcore API 0 and this is API 1" in found[0]["reason"] and found[1]["reason"] == ""
    both = "two distributions claim the plugin name 'twin': kdcore-twin 1.2 and other-twin 1.2"
    assert found[2]["reason"] == found[3]["reason"] and both in found[2]["reason"]
    assert found[0]["families"] == ["loss"] and found[1]["distribution"] == "kdcore-sour" and found[1]["summary"] == "a plugin"
    assert "kdcore_sour" not in sys.modules
    text = kd("plugins").stdout
    assert text.count(f"clashing: {both}") == 1 and "broken: plugin 'old' (kdcore-old 1.2) was written" in text


def test_methods_are_listed_beside_broken_plugins(kd, distribution):
    distribution("kdcore-sour", "sour", "raise RuntimeError('went off')")
    distribution("kdcore-sweet", "sweet", METHOD)
    text = kd("methods").stdout
    assert "Cross entropy with sugar." in text and "deep-supervision" in text
    broken = [line for line in text.splitlines() if line.startswith("broken: ")]
    assert len(broken) == 1 and "kdcore-sour 1.2" in broken[0] and "went off" in broken[0]
    found = json.loads(kd("methods", "--json").stdout)
    sweet = next(method for method in found["methods"] if method["name"] == "sweet")
    assert sweet["options"] == [{"name": "alpha", "type": "float", "default": 0.5, "required": False, "meaning": "how sweet, in spoons"}]
    assert "went off" in found["broken"]["sour"]


def test_show_a_plugin_a_method_and_a_part(kd, distribution):
    distribution("kdcore-sweet", "sweet", METHOD)
    text = kd("show", "sweet").stdout
    for word in ("a plugin", "kdcore-sweet 1.2", "method sweet", "Cross entropy with sugar.", "alpha", "float", "0.5"):
        assert word in text
    assert "More of it" not in text and "how sweet, in spoons" in text
    assert "(kdcore-sweet 1.2)" in text
    found = json.loads(kd("show", "kl", "--json").stdout)
    assert found["distribution"] == "kdcore" and [part["family"] for part in found["parts"]] == ["losses"]
    assert {option["name"]: option["default"] for option in found["parts"][0]["options"]}["temperature"] == 4.0
    assert "needs: teacher" in kd("show", "teacher").stdout
    assert {"ce", "single", "kd", "linear"} <= {part["name"] for part in json.loads(kd("show", "kdcore", "--json").stdout)["parts"]}
    assert "one of kl, soft_ce" in kd("show", "kl").stdout
    core = json.loads(kd("show", "kdcore", "--json").stdout)
    plugins = [json.loads(kd("show", name, "--json").stdout) for name in ("byot", "iskd", "mango", "mskd", "osakd", "tfkd")]
    parts = [part for shown in (core, *plugins) for part in shown["parts"]]
    assert not [(part["name"], option["name"]) for part in parts for option in part["options"] if not option["meaning"]]
    assert "meaning" in kd("show", "kl").stdout and "meaning" not in kd("show", "single").stdout


def test_show_looks_into_a_loose_file(kd, tmp_path):
    (tmp_path / "sweeter.py").write_text(METHOD)
    assert kd("show", "deepest").stdout.count("space") == 0 < kd("show", "mean-of-exits").stdout.count("probabilities (at T = 1)") < 2
    text = kd("show", "sweeter", "-p", "sweeter.py").stdout
    assert "method sweeter.sweet" in text and "(sweeter.py)" in text


def test_families_are_written_as_keywords_are(kd, distribution):
    distribution("kdcore-sour", "sour", "", keywords="kdcore:soft-targets,kdcore-api:1")
    assert "soft-targets" in kd("plugins").stdout and "soft_targets" not in kd("plugins").stdout


def test_a_large_number_stands_in_one_line():
    from kdcli.progress import losses
    from kdcli.tables import in_columns

    assert [in_columns(value) for value in (0.0, -1e-9, 1.2344, 12.3456, 150.39, 997341.399, 2.5e6)] == [
        "0.000",
        "0.000",
        "1.234",
        "12.346",
        "150.39",
        "997341",
        "2e+06",
    ]
    assert losses({"loss": 1.0, "past": -1e-9}) == "loss 1.000 (past 0.000)"


def test_help(kd):
    assert kd().stdout == kd("--help").stdout
    text = kd("-h").stdout
    for name in ("train", "plan", "eval", "demo", "plugins", "methods", "show"):
        assert f"\n  {name} " in text
        assert kd(name, "--help").stdout.startswith(f"Usage: kd {name} ")
    assert kd("--version").stdout.startswith("kd, version ")
