"""Sums over all records of a server, in the three places that show them."""

import collections

from dpace_serve.metrics import names


def drafted(row, position):
    return sum(count >= position for count in row["per_step_drafted"])


def accepted(row, position):
    return sum(count >= position for count in row["per_step_accepted"])


DRAFTER_METRICS = {
    names.ACCEPTANCE_REQUESTS: lambda row: 1,
    names.VERIFICATION_STEPS: lambda row: row["steps"],
    names.EMITTED_TOKENS: lambda row: row["emitted_tokens"],
    names.ACCEPTANCE_ACCEPTED: lambda row: row["accepted"],
    names.ACCEPTANCE_STEPS: lambda row: row["steps"],
    names.ACCEPTANCE_ACCEPTED_SQUARED: lambda row: row["accepted"] ** 2,
    names.ACCEPTANCE_STEPS_SQUARED: lambda row: row["steps"] ** 2,
    names.ACCEPTANCE_ACCEPTED_STEPS: lambda row: row["accepted"] * row["steps"],
}
POSITION_METRICS = {
    names.DRAFTED_TOKENS: drafted,
    names.ACCEPTED_TOKENS: accepted,
    names.POSITION_REQUESTS: lambda row, position: drafted(row, position) > 0,
    names.POSITION_ACCEPTED_SQUARED: lambda row, position: accepted(row, position) ** 2,
    names.POSITION_DRAFTED_SQUARED: lambda row, position: drafted(row, position) ** 2,
    names.POSITION_ACCEPTED_DRAFTED: lambda row, position: (
        accepted(row, position) * drafted(row, position)
    ),
}
IDENTITY = ("drafter", "revision")
NUM_DRAFT_TOKENS = 7


def require_same_sums(live):
    """The log, the metrics and the JSON of a server that is about to be idle say the same."""
    live.wait_until_idle()
    families = live.samples()
    # Series of drafters that were loaded long ago are gone; their rows stay in the log.
    known = {identity(sample.labels) for sample in families[names.ACCEPTANCE_REQUESTS.name]}
    rows = wait_for_rows(live, families, known)
    counted = [row for row in rows if row["excluded"] is None]
    assert counted
    for metric, value_of in DRAFTER_METRICS.items():
        require_same(
            families, metric.name, metric.labels, [(row, value_of(row)) for row in counted]
        )
    for metric, value_of in POSITION_METRICS.items():
        given = [
            ({**row, "position": str(position)}, value_of(row, position))
            for row in counted
            for position in range(1, NUM_DRAFT_TOKENS + 1)
        ]
        require_same(families, metric.name, metric.labels, given)
    require_same_unsettled(families, counted)
    require_same_taus(families, counted)
    excluded = [
        (row | {"reason": row["excluded"]}, 1)
        for row in rows
        if row["excluded"] and identity(row) in known
    ]
    require_same(families, names.REQUESTS_EXCLUDED.name, names.REQUESTS_EXCLUDED.labels, excluded)
    require_same_json(live.client.get("/dpace/acceptance").json(), rows)


def wait_for_rows(live, families, known):
    """Rows of known drafters and excluded ones, once all that is counted is written."""
    num_counted = sum(
        sample.value
        for name in (names.ACCEPTANCE_REQUESTS.name, names.REQUESTS_EXCLUDED.name)
        for sample in families[name]
    )

    def read():
        return [row for row in live.logged() if row["excluded"] or identity(row) in known]

    return live.wait_for(
        read, lambda found: sum(identity(row) in known for row in found) >= num_counted
    )


def identity(labels):
    return tuple(labels[name] for name in IDENTITY)


def require_same(families, name, labels, given):
    """A metric has these values, summed by its labels, and no others."""
    summed = collections.Counter()
    for row, value in given:
        summed[tuple(row[label] for label in labels)] += value
    counted = {
        tuple(sample.labels[label] for label in labels): sample.value for sample in families[name]
    }
    assert {key: value for key, value in counted.items() if value} == dict(+summed), name


def require_same_unsettled(families, rows):
    given = [
        (row | {"kind": kind}, row[f"unsettled_{kind}"])
        for row in rows
        for kind in ("drafted", "accepted")
    ]
    require_same(families, names.UNSETTLED_TOKENS.name, names.UNSETTLED_TOKENS.labels, given)


def require_same_taus(families, rows):
    labels = names.REQUEST_TAU.labels
    given = [(row, 1 + row["accepted"] / row["steps"]) for row in rows]
    require_same(families, f"{names.REQUEST_TAU.name}_count", labels, [(row, 1) for row in rows])
    bounds = {sample.labels["le"] for sample in families[f"{names.REQUEST_TAU.name}_bucket"]}
    below = [
        (row | {"le": bound}, 1) for row, tau in given for bound in bounds if tau <= float(bound)
    ]
    require_same(families, f"{names.REQUEST_TAU.name}_bucket", (*labels, "le"), below)


def require_same_json(shown, rows):
    reasons = collections.Counter(row["excluded"] for row in rows if row["excluded"])
    assert {reason: count for reason, count in shown["excluded"].items() if count} == reasons
    assert not any(shown["export_errors"].values())
    arms = collections.defaultdict(list)
    for row in rows:
        if row["excluded"] is None:
            arms[row["drafter"], row["revision"], row["arm"]].append(row)
    totals = [total for total in shown["drafters"] if "workload" not in total]
    assert arms.keys() == {
        (total["drafter"], total["revision"], total["arm"]) for total in totals if total["requests"]
    }
    for total in totals:
        given = arms[total["drafter"], total["revision"], total["arm"]]
        assert total["requests"] == len(given)
        assert total["steps"] == sum(row["steps"] for row in given)
        for name, count in (("accepted", accepted), ("drafted", drafted)):
            assert total[name] == [
                sum(count(row, position) for row in given)
                for position in range(1, NUM_DRAFT_TOKENS + 1)
            ]
        assert total["unsettled"]["drafted"] == sum(row["unsettled_drafted"] for row in given)
