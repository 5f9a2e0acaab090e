"""What the tests of several rooms share. pytest reads this file first, wherever it is started in the repository."""

import os

import pytest

from kdcore.experiments import pace


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """What the tests find out about plugins stays out of the user's cache, and no test waits for the machine to be timed."""
    os.environ["KDCORE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "timed", lambda: pace.Pace(image=1e-3, mac=1e-11))
        pace.pace_here()


@pytest.fixture
def carried(tmp_path, monkeypatch):
    """Installs the distribution kdcore-squares 1.2, which carries the experiment squares/t: `carried(text)` gives its file.

    Its package raises an error where it is imported: experiments are found without.
    """

    def install(text):
        package, info = tmp_path / "squares-site/kdcore_squares", tmp_path / "squares-site/kdcore_squares-1.2.dist-info"
        (package / "experiments").mkdir(parents=True)
        info.mkdir()
        (package / "__init__.py").write_text("raise ImportError('must not be imported')")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kdcore-squares\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text("[kdcore]\nsquares = kdcore_squares\n")
        file = package / "experiments/t.toml"
        file.write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(package.parent))
        return file

    return install
