"""How often the text agrees with the target, judged by some of the documents."""

import types

import pytest
import torch

from dpace_training.config import TrainConfig
from dpace_training.data.hidden_states import TargetFeatures
from dpace_training.data.prepare import (
    AGREEMENT_DOCUMENTS,
    _report_agreement,
    target_agreement,
)
from dpace_training.data.tokenize import TokenizedConversation

TOKENS = (5, 6, 7)  # the last two are trained on


class Opinions:
    """A target that would have said `says[place]` wherever it is asked about that document."""

    def __init__(self, says):
        self.says = says
        self.asked = []

    def of(self, indices):
        self.asked += indices
        return [
            TargetFeatures(
                torch.zeros(3, 1), torch.tensor([self.says[i], self.says[i], -1], dtype=torch.int32)
            )
            for i in indices
        ]


def documents(count):
    return [TokenizedConversation(TOKENS, (False, True, True), "other", i) for i in range(count)]


def test_agreement_is_the_share_of_trained_tokens():
    # The target says 6 everywhere in one document, 9 in the other: one of four tokens agrees.
    assert target_agreement(documents(2), Opinions([6, 9])) == 0.25


def test_foreign_text_behind_the_first_documents_is_seen():
    count = 3 * AGREEMENT_DOCUMENTS
    opinions = Opinions([6] * AGREEMENT_DOCUMENTS + [9] * (count - AGREEMENT_DOCUMENTS))
    found = target_agreement(documents(count), opinions)
    assert len(opinions.asked) == len(set(opinions.asked)) == AGREEMENT_DOCUMENTS
    # All documents: 1/3 x 1/2. Five standard deviations of a draw of 512 are 0.04.
    assert abs(found - 1 / 6) < 0.04
    again = Opinions(opinions.says)
    target_agreement(documents(count), again)
    assert again.asked == opinions.asked


def test_sources_that_take_turns_are_all_seen():
    count = 4 * AGREEMENT_DOCUMENTS
    turns = Opinions([6 if place % 4 else 9 for place in range(count)])
    # Every fourth document agrees nowhere; evenly spaced places would see no other.
    assert abs(target_agreement(documents(count), turns) - 3 / 8) < 0.06


def agreed(share_in_twenty):
    """Twenty trained tokens, of which the target would have written so many."""
    document = TokenizedConversation((5,) * 21, (False,) + (True,) * 20, "other", 0)
    says = [5] * share_in_twenty + [9] * (20 - share_in_twenty) + [-1]
    features = TargetFeatures(torch.zeros(21, 1), torch.tensor(says, dtype=torch.int32))
    return [document], types.SimpleNamespace(of=lambda indices: [features for _ in indices])


@pytest.mark.parametrize(
    ("num_agreed", "is_warned", "settings"),
    [
        (17, True, {}),  # 85 %, below the 90 % of the default
        (18, False, {}),  # 90 % is not below it
        (19, False, {}),
        (19, True, {"min_agreement": 0.96}),
        (17, False, {"min_agreement": 0.8}),
    ],
)
def test_less_than_90_percent_agreement_is_warned_of(num_agreed, is_warned, settings, caplog):
    data = {"conversations": "chats.jsonl", "work": "work", **settings}
    config = TrainConfig.model_validate({"target": "target", "output": "output", "data": data})
    found = _report_agreement(config, *agreed(num_agreed))
    assert found == num_agreed / 20
    assert ("below data.min_agreement" in caplog.text) == is_warned
