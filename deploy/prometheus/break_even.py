"""Write rules/break_even.yml: one rule for each draft position.

PromQL cannot add up "all positions below this one", nor join position K + 1 to length K. So each
position gets a rule that names them.

    python deploy/prometheus/break_even.py
"""

import sys
from pathlib import Path

MAX_POSITION = 16
"""Positions that get a rule. One without calibration or without drafts has no value."""

HEADER = """\
# Written by break_even.py: change that, then run it.
#
# Drafting position K + 1 pays if and only if
#   S_(K+1) > tau(K) * (T(K+1) - T(K)) / T(K)
# with tau(K) = 1 + S_1 + ... + S_K of the drafter and T(K) the calibrated time of a step. The
# right side is dpace:break_even, the difference dpace:marginal_gain: below 0, the position costs
# more than it brings. No value where K or K + 1 is not calibrated, or a position up to K was not
# drafted.

groups:
  - name: dpace-break-even
    rules:
"""

FIRST_RULE = """\
      - record: dpace:break_even:rate5m
        labels:
          position: "1"
        expr: |-
          (1 + 0 * sum without (position) (dpace:acceptance_overall:ratio5m{position="1"}))
          * on (job, model) group_left ()
          (
            sum by (job, model) (dpace:step_cost:ratio5m{num_draft_tokens="1"})
            / sum by (job, model) (dpace:step_cost:ratio5m{num_draft_tokens="0"})
            - 1
          )
"""

RULE = """\
      - record: dpace:break_even:rate5m
        labels:
          position: "{position}"
        expr: |-
          (
            1 + sum without (position) (dpace:acceptance_overall:ratio5m{{position=~"{up_to}"}})
            and
            count without (position) (dpace:acceptance_overall:ratio5m{{position=~"{up_to}"}})
            == {length}
          )
          * on (job, model) group_left ()
          (
            sum by (job, model) (dpace:step_cost:ratio5m{{num_draft_tokens="{position}"}})
            / sum by (job, model) (dpace:step_cost:ratio5m{{num_draft_tokens="{length}"}})
            - 1
          )
"""

LAST_RULE = """\
      - record: dpace:marginal_gain:rate5m
        expr: dpace:acceptance_overall:ratio5m - dpace:break_even:rate5m
"""


def rules() -> str:
    """Text of the rule file."""
    parts = [HEADER, FIRST_RULE]
    for position in range(2, MAX_POSITION + 1):
        length = position - 1
        up_to = "|".join(str(known) for known in range(1, position))
        parts.append(RULE.format(position=position, length=length, up_to=up_to))
    return "".join([*parts, LAST_RULE])


def main() -> None:
    """Write the file, elsewhere if a folder is given."""
    default = Path(__file__).parent / "rules"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    (folder / "break_even.yml").write_text(rules(), encoding="utf-8")


if __name__ == "__main__":
    main()
