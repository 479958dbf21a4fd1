import pytest

from dpace_serve.demo import bundle
from dpace_serve.errors import ConfigError
from dpace_serve.vllm_engine.tuning_calls import ChatMessage, TuningPrompt
from dpace_serve.vllm_engine.tuning_process import prompt_token_ids

transformers = pytest.importorskip("transformers")

CHAT = TuningPrompt(
    "prompts.jsonl:3", (ChatMessage("system", "Be brief."), ChatMessage("user", "hi"))
)


@pytest.fixture
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(bundle.target_folder())


def test_a_chat_goes_through_the_template_and_a_text_does_not(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}answer={% endif %}"
    )
    ids = prompt_token_ids(tokenizer, CHAT)
    assert tokenizer.decode(ids) == "system=Be brief.;user=hi;answer="
    assert tokenizer.decode(prompt_token_ids(tokenizer, TuningPrompt("p:1", "hi"))) == "hi"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        (None, "template"),
    ],
)
def test_a_template_that_takes_no_such_chat_is_one_line_with_its_place(tokenizer, template, reason):
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=r"^prompts.jsonl:3: .*must take the messages") as caught:
        prompt_token_ids(tokenizer, CHAT)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
