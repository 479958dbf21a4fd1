import pytest

from dpace_serve.demo.prompts import DemoPrompt, choose_prompts, read_prompts
from dpace_serve.errors import ConfigError


def write(tmp_path, *lines):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_chat_record_is_a_question_with_its_right_answer(tmp_path):
    path = write(
        tmp_path,
        '{"workload": "units", "messages": [{"role": "user", "content": "2 m in cm?"},'
        ' {"role": "assistant", "content": "200 cm"}]}',
    )
    assert read_prompts(path) == [
        DemoPrompt("units", 0, "2 m in cm?", is_chat=True, expected="200 cm")
    ]


def test_prompts_are_numbered_within_their_workload_and_every_second_is_streamed(tmp_path):
    lines = [f'{{"workload": "{name}", "prompt": "p"}}' for name in ("a", "b", "a", "b", "a")]
    prompts = read_prompts(write(tmp_path, *lines))
    assert [prompt.key for prompt in prompts] == ["a-000", "b-000", "a-001", "b-001", "a-002"]
    assert [prompt.is_streamed for prompt in prompts] == [False, False, True, True, False]


def test_library_lines_are_read_from_the_running_interpreter(tmp_path):
    line = '{"workload": "code", "library_file": "this.py", "first_line": 1, "num_lines": 1}'
    (prompt,) = read_prompts(write(tmp_path, line))
    # The poem of `import this` is stored enciphered: "The Zen of Python" in ROT13.
    assert prompt.text == 's = """Gur Mra bs Clguba, ol Gvz Crgref\n'
    assert not prompt.is_chat


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not valid JSON"),
        ('["prompt"]', "must be an object with one of messages, prompt, library_file"),
        ('{"workload": "a"}', "must be an object with one of"),
        ('{"workload": "a", "prompt": ""}', "prompt: String should have at least 1 character"),
        ('{"prompt": "x"}', "workload: Field required"),
        ('{"workload": "a", "prompt": "x", "seed": 1}', "seed: Extra inputs are not permitted"),
        ("", "holds no usable prompt"),
    ],
)
def test_a_bad_prompt_file_is_one_line_that_says_where(tmp_path, line, complaint):
    with pytest.raises(ConfigError) as caught:
        read_prompts(write(tmp_path, line))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ['"no_such.py", "first_line": 1', '"this.py", "first_line": 999'])
def test_library_lines_that_this_python_lacks_are_left_out_aloud(tmp_path, caplog, place):
    lost = f'{{"workload": "code", "library_file": {place}, "num_lines": 1}}'
    (prompt,) = read_prompts(write(tmp_path, lost, '{"workload": "code", "prompt": "x"}'))
    assert (prompt.text, prompt.number) == ("x", 0)
    assert "prompts.jsonl:1: left out" in caplog.text


def test_a_missing_prompt_file_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")


def test_the_first_prompts_of_each_workload_are_chosen_in_order():
    prompts = [
        DemoPrompt(workload, number, "x", is_chat=False, expected=None)
        for number in range(3)
        for workload in ("a", "b")
    ]
    chosen = choose_prompts(prompts, per_workload=2)
    assert [prompt.key for prompt in chosen] == ["a-000", "b-000", "a-001", "b-001"]


def test_more_prompts_than_there_are_is_refused():
    prompts = [DemoPrompt("a", 0, "x", is_chat=False, expected=None)]
    with pytest.raises(ConfigError, match="at most 1, which is what a has, got 2"):
        choose_prompts(prompts, per_workload=2)
