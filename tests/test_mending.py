"""What is told to type where a plugin does not work: pip lines for what came from an index, and for nothing that only an author has."""

import sys

import pytest

from kdcore.errors import KdError
from kdcore.mending import origin, upgraded_by
from kdcore.plugins import Plugins, installed

REPOSITORY = {"url": "https://git.example/idea.git", "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "1"}}
SOURCES = {
    "an index": (None, "idea-bad"),
    "a repository": (REPOSITORY, '"git+https://git.example/idea.git@main"'),
    "a folder of a repository": (
        {**REPOSITORY, "vcs_info": {"vcs": "git", "commit_id": "1"}, "subdirectory": "bad"},
        '"git+https://git.example/idea.git#subdirectory=bad"',
    ),
    "a file": ({"url": "file:///there/idea%20bad.whl", "archive_info": {}}, '"/there/idea bad.whl"'),
    "a file elsewhere": ({"url": "https://files.example/idea.whl", "archive_info": {}}, "https://files.example/idea.whl"),
}
"""What pip was given, what it wrote down, and what it would be given again."""

needs_posix_paths = pytest.mark.skipif(sys.platform == "win32", reason="paths as they are on Linux and macOS")


def said_of(plugin="bad") -> str:
    with pytest.raises(KdError) as caught:
        Plugins().load(plugin)
    return str(caught.value)


@needs_posix_paths
@pytest.mark.parametrize("came", SOURCES)
def test_what_pip_brought_is_brought_again_from_there(distribution, came):
    direct, source = SOURCES[came]
    distribution("bad", "x = = 1", direct=direct)
    assert said_of().endswith(f"; pip install --force-reinstall --no-deps {source}, or run without it")
    distribution("older", keywords="kdcore:loss,kdcore-api:0", direct=direct)
    assert said_of("older").endswith(f"; pip install --upgrade {source.replace('idea-bad', 'idea-older')}")


@needs_posix_paths
def test_what_is_missing_is_added_from_there(distribution):
    distribution("bad", "import no_such_thing", direct=REPOSITORY)
    assert said_of().endswith('; pip install "git+https://git.example/idea.git@main" adds what it says it needs, or run without it')
    distribution("own", "import no_such_thing", direct={"url": "file:///my/idea", "dir_info": {"editable": True}})
    assert said_of("own").endswith("; pip install -e /my/idea adds what it says it needs, or run without it")


@needs_posix_paths
@pytest.mark.parametrize(("editable", "then"), [(True, ""), (False, ", then pip install --force-reinstall --no-deps /my/idea")])
def test_an_authors_own_folder_is_mended_not_fetched(distribution, tmp_path, editable, then):
    direct = {"url": "file:///my/idea", "dir_info": {"editable": True} if editable else {}}
    distribution("bad", "x = 1\nx = = 1", direct=direct)
    assert said_of().endswith(f"; mend {tmp_path}/idea_bad.py:2{then}, or run without it")
    distribution("raises", "import json\n\njson.loads('{')", direct=direct)
    assert said_of("raises").endswith(f"; mend {tmp_path}/idea_raises.py:3{then}, or run without it")
    module = distribution("gone", direct=direct)
    (tmp_path / f"{module}.py").unlink()
    assert said_of("gone").endswith(f"; mend its entry point, which names idea_gone{then}, or run without it")
    distribution("older", keywords="kdcore:loss,kdcore-api:0", direct=direct)
    upgrade = "bring idea-older in /my/idea up to date" if editable else "pip install --upgrade /my/idea"
    assert said_of("older").endswith(f" was written for kdcore API 0 and this is API 1; {upgrade}")


@pytest.mark.parametrize("installer", ["", "conda\n"])
def test_without_pips_word_no_name_is_given_to_pip(distribution, tmp_path, installer):
    """As of `setup.py develop`, a folder on PYTHONPATH, or conda."""
    for name, code, keywords in (("bad", "x = = 1", ""), ("needs", "import no_such_thing", ""), ("older", "", "kdcore-api:0")):
        distribution(name, code, keywords=keywords)
        (tmp_path / f"idea_{name}-1.2.dist-info" / "INSTALLER").write_text(installer)
    assert said_of().endswith(f"; mend {tmp_path / 'idea_bad.py'}:1, or run without it")
    assert said_of("needs").endswith("; install what it says it needs, or run without it")
    assert said_of("older").endswith("; bring idea-older up to date")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"url": 3}', '{"url": "file:///x", "dir_info": 3}'])
def test_a_damaged_record_is_no_index(distribution, tmp_path, content):
    distribution("bad", "x = = 1")
    (tmp_path / "idea_bad-1.2.dist-info" / "direct_url.json").write_text(content)
    assert "pip install" not in said_of() + upgraded_by("idea-bad")
    assert origin("no-such-distribution") == origin("?")


def test_the_paper_is_the_link_of_that_name(distribution, tmp_path):
    distribution("one")
    about = tmp_path / "idea_one-1.2.dist-info" / "METADATA"
    about.write_text(about.read_text().replace("Project-URL: Paper, ", "Project-URL: Papers with Code, https://x\nProject-URL: PAPER , "))
    assert [info.paper for info in installed() if info.name == "one"] == ["https://arxiv.org/abs/1"]
