"""Drafters with position specialists draft in the engine what they draft in training.

One engine hosts them all, each in a slot of its own: both kinds, groups of one, two and three
positions (three does not divide seven), and a plain drafter beside them.
"""

import contextlib
import shutil
import time
from collections import defaultdict

import pytest

from dpace_serve.demo import bundle
from dpace_serve.drafter import checkpoint
from dpace_serve.drafter.doctor import require_servable
from dpace_serve.errors import CheckpointError
from dpace_serve.vllm_engine.packed_drafts import unpacked
from tests.engine.specialist_drafters import KINDS, make, shortened

pytestmark = [pytest.mark.engine, pytest.mark.slow]

MAX_TOKENS = 48
NUM_PROMPTS = 8
MIN_STEPS = 60
MAX_LOGIT_DIFFERENCE = 1e-4
SLOTS = {name: slot for slot, name in enumerate(KINDS)}
PLAIN = len(KINDS)
# Draft tokens that an engine is started with. Their number may change in the last one, whose
# drafters are compiled, as those of a server are.
ENGINES = {"full blocks": 7, "short blocks": 4, "any length": 7}
ANY_LENGTH = ("low_rank-2", "last_layer-3")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("specialists")
    return {
        name: make(root / name, specialists, seed=seed)
        for seed, (name, specialists) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="session")
def engines(engine_environment, folders):
    """Engines by name; one that is dropped takes the others' parallel groups with it."""
    started = {}

    def get(name):
        if name not in started:
            is_variable = name == "any length"
            given = [folders[kind] for kind in (ANY_LENGTH if is_variable else KINDS)]
            started[name] = _engine(given, ENGINES[name], is_variable=is_variable)
        return started[name]

    return get


@pytest.fixture(scope="session")
def chosen(prompts):
    """Prompts of all workloads."""
    return prompts[:: len(prompts) // NUM_PROMPTS][:NUM_PROMPTS]


@pytest.fixture(scope="session")
def reference(folders, chosen):
    """What the plain draft-verify loop does with each prompt, without any engine."""
    import torch

    from dpace_training.data.target_model import load_target
    from dpace_training.evaluation.compare import load_drafter
    from dpace_training.evaluation.decode import decode

    target = load_target(bundle.target_folder(), dtype=torch.float32)

    def decoded(name, num_draft_tokens):
        drafter = shortened(load_drafter(folders[name]), num_draft_tokens)
        return [
            decode(
                target.model,
                drafter,
                torch.tensor(prompt),
                max_tokens=MAX_TOKENS,
                end_ids=target.end_ids,
            )
            for prompt in chosen
        ]

    return decoded


def _engine(given, num_draft_tokens, *, is_variable):
    from vllm import LLM

    from dpace_serve.vllm_engine.drafter_worker import WORKER_EXTENSION
    from dpace_serve.vllm_engine.hosted_checkpoints import additional_config

    table = {"num_speculative_tokens_per_batch_size": [[1, 1, num_draft_tokens]]}
    return LLM(
        model=str(bundle.target_folder()),
        dtype="float32",
        max_model_len=512,
        max_num_seqs=NUM_PROMPTS,
        enforce_eager=not is_variable,
        seed=0,
        per_request_spec_decode_metrics="detailed",
        speculative_config={
            "method": "dflash",
            "model": str(given[0]),
            "num_speculative_tokens": num_draft_tokens,
            "draft_sample_method": "greedy",
            **(table if is_variable else {}),
        },
        additional_config=additional_config([*given[1:], bundle.drafter_folder("dpace")]),
        worker_extension_cls=WORKER_EXTENSION,
    )


def _proposer(engine):
    executor = engine.llm_engine.engine_core.engine_core.model_executor
    return executor.driver_worker.worker.model_runner.drafter


@contextlib.contextmanager
def recorded(engine, slot):
    """Anchor and logits of every block that a slot drafts, by request, in order."""
    proposer = _proposer(engine).slots[slot]
    runner = _proposer(engine).runner
    sample = proposer._sample_draft_tokens
    found = defaultdict(list)

    def keep(hidden, metadata):
        names = list(runner.input_batch.req_ids)
        logits = proposer.model.compute_logits(hidden).clone()
        block = 1 + proposer.num_speculative_tokens
        anchors = proposer.input_ids[: len(names) * block].view(len(names), block)[:, 0].tolist()
        by_row = logits.view(len(names), block - 1, -1)
        for name, anchor, row in zip(names, anchors, by_row, strict=True):
            found[name.split("-")[0]].append((anchor, row))
        return sample(hidden, metadata)

    proposer._sample_draft_tokens = keep
    try:
        yield found
    finally:
        del proposer._sample_draft_tokens


def ask(engine, prompts, bindings):
    from vllm import SamplingParams

    params = [
        SamplingParams(temperature=0, max_tokens=MAX_TOKENS, extra_args={"dpace": [index, *slots]})
        for index, slots in enumerate(bindings)
    ]
    tokens = [{"prompt_token_ids": prompt} for prompt in prompts]
    return engine.generate(tokens, params, use_tqdm=False)


def steps_of(outputs):
    """Accepted tokens of every step."""
    return [list(output.outputs[0].spec_decode_metrics.per_step_accepted) for output in outputs]


def load(engine, slot, folder):
    """Why a drafter is refused that is put into a slot; empty if it is loaded."""
    revision = checkpoint.revision(folder)
    engine.collective_rpc("dpace_open_drafter", args=(str(folder), revision))
    while engine.collective_rpc("dpace_drafter_verdict") == [None]:
        time.sleep(0.01)
    ((_, problem),) = engine.collective_rpc(
        "dpace_load_drafter", args=(slot, str(folder), revision)
    )
    return problem


def require_equal(engine, prompts, slot, decoded):
    """Check answers, drafts and logits of a batch against the loop without an engine."""
    with recorded(engine, slot) as found:
        outputs = ask(engine, prompts, [(slot,)] * NUM_PROMPTS)
    num_steps, largest = 0, 0.0
    for output, expected, prompt in zip(outputs, decoded, prompts, strict=True):
        assert tuple(output.outputs[0].token_ids) == tuple(expected.tokens)
        proposals = found[output.request_id]
        assert len(proposals) >= len(expected.steps)
        for (anchor, logits), step in zip(proposals, expected.steps, strict=False):
            assert anchor == expected.tokens[step.anchor - len(prompt)]
            assert tuple(logits.argmax(dim=-1).tolist()) == step.drafts
            largest = max(largest, float((logits - step.logits).abs().max()))
            num_steps += 1
    assert num_steps >= MIN_STEPS
    assert largest <= MAX_LOGIT_DIFFERENCE


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("engine", ["full blocks", "short blocks"])
def test_drafts_and_logits_are_those_of_the_training_model(
    engines, reference, chosen, name, engine
):
    decoded = reference(name, ENGINES[engine])
    require_equal(engines(engine), chosen, SLOTS[name], decoded)


@pytest.mark.long
@pytest.mark.parametrize("name", ANY_LENGTH)
def test_drafts_are_equal_where_the_length_changes_from_step_to_step(
    engines, reference, chosen, name
):
    from dpace_serve.vllm_engine.draft_lengths import DraftLengths

    engine = engines("any length")
    lengths = DraftLengths(engine.llm_engine)
    for num_draft_tokens in (7, 2, 1, 5):
        lengths.set(((1, NUM_PROMPTS, num_draft_tokens),))
        decoded = reference(name, num_draft_tokens)
        require_equal(engine, chosen, ANY_LENGTH.index(name), decoded)


@pytest.mark.long
@pytest.mark.parametrize("name", ANY_LENGTH)
def test_a_group_that_the_last_step_did_not_reach_is_tried_too(
    engines, folders, chosen, tmp_path, name
):
    import torch
    from safetensors.torch import load_file, save_file

    from dpace_serve.vllm_engine.draft_lengths import DraftLengths

    engine, slot = engines("any length"), ANY_LENGTH.index(name)
    DraftLengths(engine.llm_engine).set(((1, NUM_PROMPTS, 1),))
    before = ask(engine, chosen, [(slot,)] * NUM_PROMPTS)
    damaged = shutil.copytree(folders[name], tmp_path / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    for weight in (each for key, each in tensors.items() if key.startswith("specialists.")):
        weight[-1] = torch.nan
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    assert "must compute finite numbers" in load(engine, slot, damaged)
    assert load(engine, slot, folders[name]) == ""
    assert steps_of(ask(engine, chosen, [(slot,)] * NUM_PROMPTS)) == steps_of(before)


def test_the_specialists_of_a_test_draft_otherwise_than_a_plain_drafter(reference):
    """Else equality with the training model would say nothing of the specialists."""
    first = {name: reference(name, 7)[0].steps[0].logits for name in KINDS}
    names = list(KINDS)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert float((first[name] - first[other]).abs().max()) > 0.1


def test_requests_of_one_step_keep_to_their_own_drafters(engines, chosen):
    engine = engines("full blocks")
    slots = [*SLOTS.values(), PLAIN, SLOTS["last_layer-2"]]
    alone = {slot: steps_of(ask(engine, chosen, [(slot,)] * NUM_PROMPTS)) for slot in set(slots)}
    mixed = steps_of(ask(engine, chosen, [(slot,) for slot in slots]))
    assert mixed == [alone[slot][row] for row, slot in enumerate(slots)]
    # Whole lists: two drafters may well step alike on one prompt.
    assert len({str(steps) for steps in alone.values()}) == len(alone)


@pytest.mark.parametrize("name", ["low_rank-3", "last_layer-2"])
def test_specialists_that_shadow_a_plain_drafter_draft_what_the_training_model_drafts(
    engines, reference, chosen, name
):
    engine, slot = engines("full blocks"), SLOTS[name]
    alone = ask(engine, chosen, [(PLAIN,)] * NUM_PROMPTS)
    shadowed = ask(engine, chosen, [(PLAIN, slot)] * NUM_PROMPTS)
    assert steps_of(shadowed) == steps_of(alone)
    ((packed, left),) = engine.collective_rpc("dpace_take_drafts", args=(list(range(NUM_PROMPTS)),))
    assert left == []
    num_compared = 0
    for row, decoded in enumerate(reference(name, 7)):
        # Steps stand elsewhere than with the champion, but the first stands where its first does.
        known = {step.anchor: step.drafts for step in decoded.steps}
        for position, drafts in unpacked(packed[row])[slot]:
            if position in known:
                assert tuple(drafts) == known[position]
                num_compared += 1
    assert num_compared >= 3 * NUM_PROMPTS


@pytest.mark.parametrize("name", ["low_rank-2", "last_layer-2"])
def test_other_specialists_of_the_same_shape_are_swapped_in_and_out(
    engines, folders, chosen, tmp_path, name
):
    engine, slot = engines("full blocks"), SLOTS[name]
    bindings = [(slot,)] * NUM_PROMPTS
    before = ask(engine, chosen, bindings)
    other = make(tmp_path / "other", KINDS[name], source="dflash", seed=100)
    assert load(engine, slot, other) == ""
    swapped = ask(engine, chosen, bindings)
    assert load(engine, slot, folders[name]) == ""
    after = ask(engine, chosen, bindings)
    assert steps_of(swapped) != steps_of(before) == steps_of(after)


def test_weights_of_a_stack_that_is_shorter_are_refused_before_they_are_loaded(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["last_layer-2"], tmp_path / "damaged")
    tensors = load_file(folder / "model.safetensors")
    tensors["specialists.mlp.up_proj.weight"] = tensors["specialists.mlp.up_proj.weight"][:3]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"specialists\.mlp\.up_proj\.weight"):
        require_servable(bundle.target_folder(), folder)
