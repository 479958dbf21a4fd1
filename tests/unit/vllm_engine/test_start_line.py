"""The line that a server writes of its drafters when it starts."""

from pathlib import Path

import pytest

from dpace_serve.demo import bundle
from dpace_serve.live.admission import describe
from dpace_serve.live.fleet import Fleet
from dpace_serve.live.traffic import Traffic
from dpace_serve.serve_config import ServeConfig
from dpace_serve.vllm_engine.start_line import start_line


@pytest.fixture
def line():
    champion, challenger = (describe(bundle.drafter_folder(name)) for name in ("dpace", "dflash"))

    def write(*, is_compared=False, has_admin_key=False, **settings):
        config = ServeConfig(target="t", drafter=Path("d"), **settings)
        traffic = Traffic(config.mode, config.share, config.shadow_share, "a-salt-for-tests")
        challengers = [challenger] if is_compared else []
        fleet = Fleet(champion, challengers, num_spare_slots=0, traffic=traffic)
        return start_line(fleet, config, has_admin_key=has_admin_key)

    return write


def test_it_names_the_drafters_and_the_mode(line):
    revisions = [describe(bundle.drafter_folder(name)).revision for name in ("dpace", "dflash")]
    assert line(is_compared=True, mode="split", share=0.25).startswith(
        f"champion dpace (revision {revisions[0]}); challengers dflash (revision {revisions[1]}); "
        "mode split, each serves 25% of the requests; "
    )
    assert "; challengers none; mode shadow, along with 50% of the requests; " in line(
        shadow_share=0.5
    )


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ({}, "which needs drafter_root and an admin key and spare_drafter_slots"),
        ({"drafter_root": Path("/r"), "spare_drafter_slots": 1}, "which needs an admin key"),
        ({"spare_drafter_slots": 1, "has_admin_key": True}, "which needs drafter_root"),
        (
            {"drafter_root": Path("/r"), "spare_drafter_slots": 0, "has_admin_key": True},
            "which needs spare_drafter_slots",
        ),
        ({"drafter_root": Path("/r"), "has_admin_key": True}, "; 1 more can be loaded from /r"),
    ],
)
def test_it_says_what_can_be_loaded_or_what_that_needs(line, given, end):
    assert line(**given).endswith(end)
