"""Sums over all records of a server, in the three places that show them."""

import collections

SUMS = {
    "dpace_acceptance_requests_total": lambda record: 1,
    "dpace_verification_steps_total": lambda record: record["steps"],
    "dpace_emitted_tokens_total": lambda record: record["emitted_tokens"],
    "dpace_acceptance_accepted_total": lambda record: record["accepted"],
    "dpace_acceptance_steps_squared_total": lambda record: record["steps"] ** 2,
    "dpace_acceptance_accepted_steps_total": lambda record: record["accepted"] * record["steps"],
}


def require_same_sums(live):
    """The log, the metrics and the JSON of a server that is about to be idle say the same."""
    live.wait_until_idle()
    families = live.samples()
    # Nothing is under way: what is counted is in the log, up to the writer's thread.
    num_counted = sum(sample.value for sample in families["dpace_acceptance_requests_total"])
    num_excluded = sum(sample.value for sample in families["dpace_requests_excluded_total"])
    rows = live.wait_for(live.logged, lambda found: len(found) >= num_counted + num_excluded)
    assert len(rows) == num_counted + num_excluded
    for metric, value_of in SUMS.items():
        summed = collections.Counter()
        for row in rows:
            if row["excluded"] is None:
                key = tuple(row[name] for name in ("drafter", "revision", "arm", "workload"))
                summed[key] += value_of(row)
        counted = {
            tuple(sample.labels[name] for name in ("drafter", "revision", "arm", "workload")):
            sample.value for sample in families[metric]
        }  # fmt: skip
        assert +summed == {key: value for key, value in counted.items() if value}
    excluded = collections.Counter(
        (row["drafter"], row["revision"], row["arm"], row["excluded"])
        for row in rows
        if row["excluded"]
    )
    assert excluded == {
        tuple(sample.labels[name] for name in ("drafter", "revision", "arm", "reason")):
        sample.value
        for sample in families["dpace_requests_excluded_total"]
        if sample.value
    }  # fmt: skip
    require_same_json(live.client.get("/dpace/acceptance").json(), rows)


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
        assert sum(total["accepted"]) == sum(row["accepted"] for row in given)
        assert total["unsettled"]["drafted"] == sum(row["unsettled_drafted"] for row in given)
