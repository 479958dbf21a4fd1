import json
import threading

import pytest

from dpace_serve.errors import ConfigError
from dpace_training.data.provenance import claim_key


def test_a_claim_holds_for_the_same_key_and_refuses_another(tmp_path):
    path = tmp_path / "new" / "answers.key.json"
    claim_key(path, {"target": "a", "seed": 1}, what="answers")
    claim_key(path, {"seed": 1, "target": "a"}, what="answers")
    assert json.loads(path.read_text()) == {"target": "a", "seed": 1}
    with pytest.raises(ConfigError, match="answers there were made with another seed, target"):
        claim_key(path, {"target": "b"}, what="answers")


@pytest.mark.parametrize("content", [b"", b'{"target": ', b"[1]", b"\xff\xfe"])
def test_a_damaged_key_is_one_clear_line(tmp_path, content):
    path = tmp_path / "answers.key.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        claim_key(path, {"target": "a"}, what="answers")
    assert str(caught.value) == (
        f"{path}: damaged, so nobody knows what the answers beside it were made from. "
        "Delete it together with them, or choose another folder."
    )
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written \(File exists\)"):
        claim_key(tmp_path / "file" / "key.json", {"target": "a"}, what="answers")


def test_of_two_processes_with_different_keys_one_is_told(tmp_path):
    path, num = tmp_path / "key.json", 8
    barrier, refused = threading.Barrier(num), []

    def claim(seed):
        barrier.wait()
        try:
            claim_key(path, {"seed": seed}, what="answers")
        except ConfigError:
            refused.append(seed)

    threads = [threading.Thread(target=claim, args=(seed,)) for seed in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == num - 1
    assert json.loads(path.read_text())["seed"] not in refused
