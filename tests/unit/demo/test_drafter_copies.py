"""Drafters to swap between."""

import pytest
from safetensors.torch import load_file

from dpace_serve.demo import bundle
from dpace_serve.demo.drafter_copies import write_drafter_root
from dpace_serve.drafter import checkpoint

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafters")
    drafters = {name: bundle.drafter_folder(name) for name in ("dpace", "dflash")}
    names = write_drafter_root(folder, drafters, num_perturbed=2)
    assert names == ["dpace", "dflash", "dpace-1", "dpace-2"]
    return folder


def test_every_copy_is_a_whole_drafter_of_the_same_shape_and_a_revision_of_its_own(root):
    folders = sorted(root.iterdir())
    first, *others = (checkpoint.validate(folder) for folder in folders)
    assert all(other.num_draft_tokens == first.num_draft_tokens for other in others)
    assert len({checkpoint.revision(folder) for folder in folders}) == 4


def test_plain_copies_are_equal_to_what_is_bundled(root):
    for name in ("dpace", "dflash"):
        assert checkpoint.revision(root / name) == checkpoint.revision(bundle.drafter_folder(name))


def test_perturbed_weights_are_close_to_the_first_drafters(root):
    given, perturbed = (
        load_file(root / name / "model.safetensors") for name in ("dpace", "dpace-1")
    )
    assert given.keys() == perturbed.keys()
    num_changed = 0
    for name, weight in given.items():
        assert perturbed[name].dtype == weight.dtype
        difference = (perturbed[name].float() - weight.float()).abs().max()
        assert difference <= 0.1 * max(weight.float().abs().max(), 1e-6)
        num_changed += bool(difference)
    assert num_changed > len(given) / 2
