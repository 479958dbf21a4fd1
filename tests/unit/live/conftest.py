"""Drafters without files for the fleet, and the bundled ones for everything that reads them."""

import shutil
from pathlib import Path

import pytest

from dpace_serve.demo.bundle import drafter_folder, target_folder
from dpace_serve.drafter import checkpoint
from dpace_serve.live.admission import Admission
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.hosted import Candidate
from dpace_serve.live.traffic import Traffic

SALT = "a salt of tests"


@pytest.fixture
def config():
    return checkpoint.read_config(drafter_folder("dpace"))


@pytest.fixture
def candidate(config):
    """Make drafters of one shape that differ in name and revision."""

    def make(name, revision="r1", shape=config):
        return Candidate(name=name, revision=revision, folder=Path("/d") / name, config=shape)

    return make


@pytest.fixture
def fleet(candidate):
    """Make fleets; the champion is called a, the challengers as given."""

    def make(*challengers, spare=1, mode="shadow", share=0.1, shadow_share=1.0, **more):
        traffic = Traffic(mode=mode, share=share, shadow_share=shadow_share, draw_salt=SALT)
        return Fleet(
            candidate("a"),
            [candidate(name) for name in challengers],
            num_spare_slots=spare,
            traffic=traffic,
            **more,
        )

    return make


@pytest.fixture
def root(tmp_path):
    """A folder with two drafters that fit the bundled target, called dflash and dpace."""
    folder = tmp_path / "drafters"
    for name in ("dflash", "dpace"):
        shutil.copytree(drafter_folder(name), folder / name)
    return folder


@pytest.fixture
def admission(root, config):
    return Admission(
        target=str(target_folder()),
        root=root,
        num_draft_tokens=config.num_draft_tokens,
        target_layer_ids=config.target_layer_ids,
    )
