import pytest


@pytest.fixture
def values(target_folder, write_jsonl, tmp_path):
    def chats(name, count):
        lines = [{"messages": [{"role": "user", "content": f"{name} {i}"}]} for i in range(count)]
        return str(write_jsonl(f"{name}.jsonl", lines))

    return {
        "base": {
            "target": str(target_folder),
            "output": str(tmp_path / "study"),
            "data": {
                "conversations": chats("say", 8),
                "work": str(tmp_path / "prepared"),
                "regenerate": {"max_new_tokens": 12},
            },
            "drafter": {"num_hidden_layers": 1, "block_size": 4, "num_taps": 2},
            "fit": {"epochs": 1, "batch_size": 4, "num_anchors": 4},
            "evaluation": {"conversations": chats("early", 2), "every": 1, "max_new_tokens": 12},
        },
        "arms": {"dpace": {"recipe": "dpace"}, "auf": {"recipe": "auf"}},
        "baseline": "dpace",
        "seeds": [0, 1],
        "held_out": {
            "greedy": {"conversations": chats("tell", 3), "max_new_tokens": 12},
            "sampled": {
                "conversations": chats("ask", 3),
                "max_new_tokens": 12,
                "temperature": 1,
            },
        },
    }
