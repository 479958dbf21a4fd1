"""An engine that answers when it is let, and whose shutdown waits for its answers."""

import asyncio
import threading
import time
from array import array
from types import SimpleNamespace

from dpace_serve.demo import bundle

PROMPT = [1, 2, 3]
# The first token comes with the prompt, the step accepts 4 of 7 and adds a bonus token.
ANSWER = [9, 11, 12, 13, 14, 15]
# After token 9, at position 3, with 7 tokens as the worker packs them: 2 accepted.
SHADOW_DRAFTS = array("i", [3, 7, 11, 12, 0, 0, 0, 0, 0]).tobytes()


class SlowEngine:
    """Answers when it is let; takes calls until it is shut down, which waits for its answers."""

    def __init__(self):
        self.vllm_config = SimpleNamespace(
            speculative_config=SimpleNamespace(
                method="dflash", model=str(bundle.drafter_folder("dpace")), num_speculative_tokens=7
            ),
            model_config=SimpleNamespace(
                model=str(bundle.target_folder()), served_model_name="tiny"
            ),
        )
        self.logger_manager = None
        self.errored = False
        self.is_stopping = threading.Event()
        self.may_answer = asyncio.Event()
        self.num_running = 0
        self.events = []

    async def generate(self, prompt, sampling_params, request_id):
        self.num_running += 1
        try:
            await self.may_answer.wait()
            counts = SimpleNamespace(
                histogram=[0] * 4 + [1], per_step_accepted=[4], per_step_drafted=[7]
            )
            answer = SimpleNamespace(
                finish_reason="length",
                stop_reason=None,
                spec_decode_metrics=counts,
                token_ids=list(ANSWER),
            )
            yield SimpleNamespace(
                request_id=request_id, finished=True, outputs=[answer], prompt_token_ids=PROMPT
            )
        finally:
            self.num_running -= 1

    async def collective_rpc(self, method, args):
        assert method == "dpace_take_drafts"
        await asyncio.sleep(0)
        if self.is_stopping.is_set():
            raise RuntimeError("Server shutting down")
        self.events.append("drafts")
        return [({key: {1: SHADOW_DRAFTS} for key in args[0]}, [])]  # none is left

    def shutdown(self, timeout=None):
        self.events.append("shutdown")
        self.is_stopping.set()
        while self.num_running:  # what waits for the engine core's process
            time.sleep(0.005)


def params():
    return SimpleNamespace(
        n=1,
        extra_args={},
        output_kind=SimpleNamespace(name="FINAL_ONLY"),
        structured_outputs=None,
        logprob_token_ids=None,
        temperature=0.0,
    )


async def ask(engine, request_id):
    prompt = {"type": "token", "prompt_token_ids": PROMPT}
    async for _ in engine.generate(prompt, params(), request_id):
        pass
