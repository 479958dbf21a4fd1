"""Why a request is not in the acceptance statistics."""

from typing import Literal, get_args

ExclusionReason = Literal[
    "aborted", "several_outputs", "stop_string", "no_record", "no_step", "no_shadow"
]
"""The reasons, each counted:

- aborted: the client left, or the engine gave up.
- several_outputs: more than one answer was asked for, n > 1.
- stop_string: found in the API process, after the engine had counted further.
- no_record: the engine gave no record of its steps.
- no_step: nothing was drafted, or nothing of it was compared.
- no_shadow: some of a challenger's drafts for the request were lost; only in the arm `shadow`.
"""

EXCLUSION_REASONS: tuple[ExclusionReason, ...] = get_args(ExclusionReason)
