"""How often the text agrees with the target, judged by some of the documents."""

import torch

from dpace_training.data.hidden_states import TargetFeatures
from dpace_training.data.prepare import AGREEMENT_DOCUMENTS, target_agreement
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
