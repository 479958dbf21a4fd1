"""What one training run decides, part by part; the parts follow the data to the checkpoint."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from dpace_serve.config import Config
from dpace_training.data.input_config import InputConfig
from dpace_training.losses.config import LossConfig

AttentionName = Literal["two_part", "sdpa", "flex"]
TrackerName = Literal["aim", "comet_ml", "mlflow", "tensorboard", "trackio", "wandb"]


class EndpointConfig(Config):
    """An OpenAI-compatible server of the target."""

    base_url: str
    """Address of its API, such as http://127.0.0.1:8000/v1; without user name or password."""
    model: str
    """Name under which it serves the target."""
    api_key_file: Path | None = None
    """File that holds the API key; none sends no key of yours."""
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    """Documents answered at the same time."""
    max_retries: Annotated[int, Field(ge=0)] = 8
    """Further tries of a request after a lost connection or status 408, 409, 429 or 5xx."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Longest wait for one answer."""

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, base_url: str) -> str:
        if "@" in base_url or "?" in base_url:
            # The resolved configuration is saved beside the drafter.
            raise ValueError("must hold no password and no query; put the key into api_key_file")
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must start with http:// or https:// and a host")
        return base_url


class OfflineEngineConfig(Config):
    """vLLM without a server, in a process of its own that ends before training starts."""

    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """GPUs over which each layer of the target is split."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that the engine takes."""
    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Longest prompt and answer together in tokens; the target's own limit when not given."""
    eager: bool = False
    """Run without compilation and captured graphs: starts sooner, steps take longer."""


class RegenerateConfig(Config):
    """How the target writes the answers that the drafter is trained on."""

    enabled: bool = True
    """Replace every answer by the target's own; false trains on the text as it is."""
    keep_captured: bool = True
    """Leave answers captured from a server of the target as they are; false writes them anew, for a
    target that has changed since."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Sampling temperature of the answers; 0 is greedy."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer in tokens; one that reaches it is kept without an end token."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Prompts answered at the same time."""
    seed: int = 0
    """Seed of sampled answers."""
    backend: Literal["transformers", "vllm", "openai"] = "transformers"
    """Who runs the target: this process, vLLM beside it, or a server."""
    openai: EndpointConfig | None = None
    """The server, for backend openai."""

    @model_validator(mode="after")
    def _writes_anew_only_where_it_writes(self) -> "RegenerateConfig":
        if not (self.enabled or self.keep_captured):
            raise ValueError("keep_captured=false needs enabled=true")
        return self

    @model_validator(mode="after")
    def _names_its_server(self) -> "RegenerateConfig":
        if self.backend == "openai" and self.openai is None:
            raise ValueError("openai.base_url and openai.model must be set for backend openai")
        return self


class DataConfig(Config):
    """From conversations to token ids and the target's hidden states."""

    conversations: Path
    """JSONL, JSON, Parquet or text file, folder of texts, or Hugging Face dataset."""
    input: InputConfig = InputConfig()
    """How the conversations are read."""
    enable_thinking: bool | None = None
    """What the chat template is told; its own default holds when not given."""
    work: Path
    """Folder for what `dpace prepare` makes: answers and hidden states."""
    max_tokens: Annotated[int, Field(ge=2)] = 1024
    """Documents are cut after this many tokens; a plain text goes on in the next document."""
    regenerate: RegenerateConfig = RegenerateConfig()
    """How the target answers the prompts."""
    hidden_states: Literal["cache", "recompute"] = "cache"
    """Keep the target's hidden states on disk (bf16) or compute them anew for each batch."""
    hidden_states_backend: Literal["transformers", "vllm"] = "transformers"
    """Who computes the cached hidden states: this process, or vLLM beside it."""
    vllm: OfflineEngineConfig = OfflineEngineConfig()
    """The engine of both backends called vllm."""
    target_batch_size: Annotated[int, Field(ge=1)] = 32
    """Documents that the target reads at the same time."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Warn when a smaller share of the trained tokens is the target's own first choice."""

    @model_validator(mode="after")
    def _engine_fills_the_cache(self) -> "DataConfig":
        if self.hidden_states_backend == "vllm" and self.hidden_states != "cache":
            raise ValueError(
                "hidden_states must be cache for hidden_states_backend vllm, "
                f"is {self.hidden_states}"
            )
        return self


class SpecialistsConfig(Config):
    """Parameters of the drafter that each group of draft positions has of its own."""

    kind: Literal["low_rank", "last_layer"]
    """Adapters on the last hidden state, or the last layer once per group, keys and values shared.
    """
    group_size: Annotated[int, Field(ge=1)] = 2
    """Draft positions that share a specialist, counted from the first; the last group may be
    smaller."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """Inner width of an adapter of kind low_rank; 16 when not given."""

    @model_validator(mode="after")
    def _has_a_rank_for_its_adapters(self) -> "SpecialistsConfig":
        if self.kind == "last_layer" and self.rank is not None:
            raise ValueError("kind last_layer has no adapters: drop rank")
        return self


class DrafterShape(Config):
    """Size and start of the drafter; what is not given follows the target."""

    init_from: Path | None = None
    """Folder of a drafter to start from, in any known layout; it must have this shape. None starts
    from random weights."""
    num_hidden_layers: Annotated[int, Field(ge=1)] = 5
    """Layers of the drafter."""
    block_size: Annotated[int, Field(ge=2)] = 16
    """One anchor and block_size - 1 draft tokens."""
    num_taps: Annotated[int, Field(ge=1)] = 5
    """Target layers whose output the drafter reads, evenly spaced; see target_layer_ids."""
    target_layer_ids: tuple[int, ...] | None = None
    """These layers instead of num_taps evenly spaced ones; id i is the output of layer i."""
    intermediate_size: Annotated[int, Field(ge=1)] | None = None
    """Width of the feed-forward part; the target's when not given."""
    num_attention_heads: Annotated[int, Field(ge=1)] | None = None
    """Query heads; the target's when not given."""
    num_key_value_heads: Annotated[int, Field(ge=1)] | None = None
    """Key and value heads; the target's when not given."""
    head_dim: Annotated[int, Field(ge=2)] | None = None
    """Width of a head; the target's when not given."""
    attention_bias: bool = False
    """Biases on the four projections of attention."""
    rope_theta: Annotated[float, Field(gt=0)] | None = None
    """Base of a plain rotation of whole heads; the target's rotation, scaling included, when not
    given."""
    sliding_window: Annotated[int, Field(ge=2)] | None = None
    """Tokens that a position sees in the layers with a window, itself included; at least
    block_size. None: every layer sees the whole context."""
    sliding_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Layers with the window, from 0; all of them when not given. Some but not all is served by
    vLLM's second model runner only, so not on CPU."""
    sliding_is_causal: bool = False
    """Hide later positions of the block from earlier ones in layers with the window; SGLang always
    does, vLLM as the drafter says."""
    specialists: SpecialistsConfig | None = None
    """Position specialists; none trains a plain drafter. With init_from, a plain drafter or one
    with the same specialists."""
    mask_token_id: Annotated[int, Field(ge=0)] | None = None
    """Token put at the draft positions; the tokenizer's mask token, or its first unused id."""

    @model_validator(mode="after")
    def _has_a_window_for_its_layers(self) -> "DrafterShape":
        if self.sliding_window is None and self.sliding_layers is not None:
            raise ValueError("sliding_layers need a sliding_window: set it too")
        return self


class FitConfig(Config):
    """How the weights are fitted: order of the data, optimizer, schedule and what is saved."""

    epochs: Annotated[int, Field(ge=1)] = 6
    """Passes over the documents."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop, and end the learning-rate schedule, after this many optimizer steps."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Documents in one optimizer step, over all processes together."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Documents in one backward pass of one process; all that it has in a step when not given."""
    pack_tokens: Annotated[int, Field(ge=2)] | None = None
    """Documents share rows of this many tokens; each has a row of its own when not given."""
    num_anchors: Annotated[int, Field(ge=1)] = 512
    """Blocks drawn from one document in one epoch, at most."""
    allow_tail: bool = False
    """Let the last blocks run out of the document, unsupervised there."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon on the matrices with AdamW on the rest."""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    """Highest learning rate, of both optimizers."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.04
    """Share of the steps in which the learning rate rises; it then falls to 0 as a cosine."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay, decoupled from the gradient."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the whole gradient."""
    recompute_layers: bool = False
    """Keep no activations inside the drafter's layers: less memory, a forward pass more."""
    attention: AttentionName = "two_part"
    """How attention is computed, all to the same result: block and context apart, torch's SDPA with
    a full mask, or flex attention, whose gradient torch has on GPUs only."""
    autocast: Literal["none", "bfloat16"] = "none"
    """Number format of the drafter's matrix products; weights and losses stay in float32."""
    seed: int = 0
    """Seed of the initial weights, of the order of documents and of the anchors."""
    log_every: Annotated[int, Field(ge=1)] = 10
    """Steps averaged into one line of the log."""
    save_every: Annotated[int, Field(ge=1)] = 200
    """Steps between two saved states that training can resume from; a multiple of log_every."""
    keep_last: Annotated[int, Field(ge=1)] = 2
    """Saved states that are kept; older ones are deleted once a newer one is whole."""
    sharding: Literal["none", "fsdp2"] = "none"
    """With several processes: all weights on each, or a part of each weight (FSDP2)."""

    trackers: tuple[TrackerName, ...] = ()
    """Where the log's numbers go beside `log.jsonl`, such as `tensorboard`; each once."""

    @model_validator(mode="after")
    def _tracks_once(self) -> "FitConfig":
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers must differ, got {list(self.trackers)}")
        return self

    @model_validator(mode="after")
    def _saves_between_log_lines(self) -> "FitConfig":
        # A resumed run starts a new average, so a saved state must not lie inside one.
        if self.save_every % self.log_every:
            raise ValueError(
                f"save_every must be a multiple of log_every = {self.log_every}, "
                f"got {self.save_every}"
            )
        return self


class EvaluationConfig(Config):
    """Acceptance on held-out prompts, greedy, while training and at its end."""

    conversations: Path | None = None
    """Held-out prompts, in any form of `data.conversations`; none trains without evaluation."""
    input: InputConfig = InputConfig()
    """How the held-out prompts are read."""
    every: Annotated[int, Field(ge=1)] = 500
    """Steps between two evaluations; the last step is always evaluated."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Use only this many documents, evenly spread over the file."""
    max_new_tokens: Annotated[int, Field(ge=2)] = 256
    """Longest answer in tokens; the first comes with the prompt, drafts follow it."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Prompts answered, or documents read, at the same time."""


class TrainConfig(Config):
    """One training run, from a file of conversations to a drafter."""

    target: Path
    """Folder of the target model."""
    output: Path
    """Folder of the drafter; the state to resume from and the log lie beside the weights."""
    target_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format the target computes in."""
    data: DataConfig
    """The text to train on."""
    drafter: DrafterShape = DrafterShape()
    """The drafter's size."""
    # A factory, because what checks it needs torch, and this class is loaded before torch is.
    loss: LossConfig = Field(default_factory=LossConfig)
    """The objective."""
    fit: FitConfig = FitConfig()
    """Optimizer, schedule and what is saved."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out acceptance."""
