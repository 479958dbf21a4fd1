"""What the page reads: acceptance counted by the real metrics, the rest as the routes write it."""

import hashlib
import random

from prometheus_client import CollectorRegistry

from dpace_serve.acceptance.request import RequestAcceptance
from dpace_serve.metrics.drafters import LoadedDrafter
from dpace_serve.metrics.exporter import AcceptanceMetrics

NUM_DRAFT_TOKENS = 7
STARTED = 1_790_000_000.0


class Counted:
    """Real metrics of seeded requests."""

    def __init__(self, champion, *challengers, arm="shadow", request_name="chatcmpl"):
        self.request_name = request_name
        self.champion, self.challengers, self.arm = champion, challengers, arm
        self.metrics = AcceptanceMetrics(
            CollectorRegistry(),
            workloads=["code", "json"],
            num_draft_tokens=NUM_DRAFT_TOKENS,
            method="dflash",
        )
        self.records = []
        self._random = random.Random(4)
        loaded = [(champion, "champion"), *((name, arm) for name in challengers)]
        for name, its_arm in loaded:
            self.metrics.add_drafter(name, revision_of(name), 8, [its_arm])
        self.metrics.set_loaded([LoadedDrafter(n, revision_of(n), a, 8) for n, a in loaded])

    def add(self, count=1):
        for _ in range(count):
            number = len(self.records)
            workload = self._random.choice(["code", "code", "json"])
            chance = 0.8 if workload == "json" else 0.62
            rounds = self._random.randrange(6, 40)
            self._observe(number, self.champion, "champion", workload, chance, rounds)
            for place, name in enumerate(self.challengers, start=1):
                better = chance + 0.04 * place
                self._observe(number, name, self.arm, workload, better, rounds)

    def _observe(self, number, name, arm, workload, chance, rounds):
        accepted = tuple(self._length(chance) for _ in range(rounds))
        record = RequestAcceptance(
            request_id=f"{self.request_name}-{number:04d}",
            drafter=name,
            revision=revision_of(name),
            arm=arm,
            workload=workload,
            per_step_accepted=accepted,
            per_step_drafted=(NUM_DRAFT_TOKENS,) * rounds,
            emitted_tokens=0 if arm == "shadow" else sum(accepted) + rounds,
            unsettled_drafted=0,
            unsettled_accepted=0,
            finish_reason="stop",
        )
        self.metrics.observe(record)
        self.records.append(record)

    def _length(self, chance):
        length = 0
        while length < NUM_DRAFT_TOKENS and self._random.random() < chance:
            length += 1
        return length

    def acceptance(self, num_records=20, speed=None):
        return {
            "drafter": {
                "name": self.champion,
                "revision": revision_of(self.champion),
                "arm": "champion",
                "method": "dflash",
                "block_size": 8,
                "num_draft_tokens": NUM_DRAFT_TOKENS,
            },
            **self.metrics.snapshot(),
            "speed": speed,
            "records": [record.to_dict() for record in self.records[-num_records:]],
        }

    def drafters(self, mode="shadow"):
        names = [(self.champion, "champion"), *((name, "challenger") for name in self.challengers)]
        slots = [_slot(number, name, role) for number, (name, role) in enumerate(names)]
        return {
            "mode": mode,
            "share": 0.1,
            "shadow_share": 1.0,
            "drafters": [*slots, _slot(len(slots), None, "empty")],
        }


def revision_of(name):
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _slot(number, name, role):
    return {
        "slot": number,
        "role": role,
        "is_loading": False,
        "name": name,
        "revision": None if name is None else revision_of(name),
        "block_size": None if name is None else 8,
        "generation": None if name is None else number,
        "running": 0,
        "served": 120 if role == "champion" else 0,
        "shadowed": 120 if role == "challenger" else 0,
    }


def speed(speedup=1.84, calibrated_batch_sizes=None):
    rates = [] if speedup is None else [0.05, 0.08, 0.11, 0.15, 0.19, 0.24, 0.3]
    return {
        "window_seconds": 60,
        "steps": 812,
        "mean_batch_size": 3.2,
        "step_ms": 21.04,
        "tokens_per_second": 412.0,
        "calibrated_batch_sizes": [1, 8] if speedup is not None else calibrated_batch_sizes,
        "speedup": speedup,
        "break_even": [{"position": n, "rate": rate} for n, rate in enumerate(rates, start=1)],
    }


def comparison(name, decision="hold", cause="unclear", *, design="paired", requests=412):
    centre = {"promote": 0.043, "rollback": -0.06}.get(decision, 0.012)
    reach = 0.022 if decision != "hold" else 0.03
    history = [
        {
            "time": STARTED + 10 * step,
            "requests": 20 * step,
            "lift": centre + 0.05 / step,
            "low": centre + 0.05 / step - reach * (21 / step) ** 0.5,
            "high": centre + 0.05 / step + reach * (21 / step) ** 0.5,
            "decision": "hold" if step < 18 else decision,
        }
        for step in range(1, 22)
    ]
    tau = {"tau": 2.71, "low": 2.6, "high": 2.82}
    return {
        "challenger": {"name": name, "revision": revision_of(name)},
        "design": design,
        "decision": decision,
        "cause": cause,
        "reason": f"{name} gives {centre:+.1%} tokens per second [{centre - reach:+.1%}, "
        f"{centre + reach:+.1%}] after {requests} requests.",
        "since": STARTED + 180,
        "requests": {"champion": requests, "challenger": requests},
        "effect": {
            "of": "tokens_per_second",
            "lift": centre,
            "low": centre - reach,
            "high": centre + reach,
        },
        "tau": {
            "champion": tau,
            "challenger": {"tau": 2.83, "low": 2.71, "high": 2.94},
            "lift": centre,
            "low": centre - reach,
            "high": centre + reach,
        },
        "step_time": {"ratio": 1.0, "source": "same_shape"},
        "positions": [
            {
                "position": position,
                "champion": 0.66**position,
                "challenger": 0.68**position,
                "difference": 0.68**position - 0.66**position,
                "low": -0.01,
                "high": 0.06,
            }
            for position in range(1, NUM_DRAFT_TOKENS + 1)
        ],
        "more_requests": 1200 if decision == "hold" else None,
        "rule": {
            "minimum_lift": 0.02,
            "maximum_loss": 0.02,
            "confidence": 0.95,
            "planned_requests": 1000,
            "minimum_requests": 100,
        },
        "history": history,
    }


def too_little_data(name):
    return comparison(name, "hold", "too_little_data", requests=12) | {
        "reason": "12 requests are too few: at least 100 are needed.",
        "effect": None,
        "tau": None,
        "step_time": None,
        "positions": [],
        "more_requests": 88,
        "history": [],
    }


def verdict(champion, *comparisons):
    return {
        "champion": {"name": champion, "revision": revision_of(champion)},
        "time": STARTED + 210,
        "comparisons": list(comparisons),
    }


def history(counted, *, num_points=40):
    rows = [row for row in counted.metrics.snapshot()["drafters"] if "workload" not in row]
    wobble = random.Random(7)
    shares = [
        min(1.0, (step + wobble.random() / 2) / (num_points - 1)) for step in range(num_points)
    ]
    shares[-1] = 1.0
    return {
        "interval_seconds": 10,
        "points": [
            {
                "time": STARTED + 10 * step,
                "arms": [
                    {
                        "drafter": row["drafter"],
                        "revision": row["revision"],
                        "arm": row["arm"],
                        "requests": int(share * row["requests"]),
                        "steps": int(share * row["steps"]),
                        "accepted": int(share * (0.97 + 0.03 * share) * sum(row["accepted"])),
                    }
                    for row in rows
                ],
                "decode_seconds": 8.0 * step,
                "plain_decode_seconds": None,
                "decode_tokens": 3000 * step,
            }
            for step, share in enumerate(shares)
        ],
    }
