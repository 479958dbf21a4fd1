"""Everything that training needs before its first step, made once and found again later."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from dpace_serve.drafter.checkpoint import DrafterConfig
from dpace_serve.errors import ConfigError
from dpace_training.config import EvaluationConfig, RegenerateConfig, TrainConfig
from dpace_training.data.backends import answer_writer, feature_reader, load_needed_target
from dpace_training.data.captured_answer import CapturedAnswer
from dpace_training.data.captured_origin import warn_of_other_name
from dpace_training.data.conversations import Document, spread
from dpace_training.data.cuts import report_cuts, report_splits
from dpace_training.data.feature_cache import cache_features
from dpace_training.data.hidden_states import FeatureSource, RecomputedFeatures
from dpace_training.data.input_config import InputConfig
from dpace_training.data.refused_documents import require_rendering, results_of_accepted
from dpace_training.data.regenerate import regenerate_file
from dpace_training.data.sources import read_source
from dpace_training.data.target_model import Target
from dpace_training.data.tokenize import (
    TokenizedConversation,
    require_verification_steps,
    tokenize_pieces,
)
from dpace_training.drafter.shape import drafter_config

logger = logging.getLogger(__name__)

AGREEMENT_DOCUMENTS = 512


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The target, the drafter's shape, the documents with their features, and held-out ones.

    `agreement` is the share of trained tokens that are the target's own most likely ones, judged by
    some of the documents.
    """

    target: Target
    drafter: DrafterConfig
    documents: list[TokenizedConversation]
    features: FeatureSource
    held_out: list[TokenizedConversation]
    held_out_features: FeatureSource
    agreement: float

    @property
    def num_trained_tokens(self) -> int:
        """Tokens that the assistant wrote."""
        return sum(sum(document.loss_mask) for document in self.documents)


def prepare(config: TrainConfig, device: torch.device | None = None) -> PreparedData:
    """Let the target answer the prompts, tokenise, and read the target's hidden states.

    What lies in `data.work` already is used, provided that it was made from the same.

    Args:
        config: The run.
        device: Where the target computes; the CPU when not given.

    Raises:
        ConfigError: If a file or setting is wrong, or `data.work` holds something else's data.
        CheckpointError: If the target cannot be loaded or the drafter's shape breaks a rule.
    """
    source = read_source(
        config.data.conversations,
        config.data.input,
        needs_prompt=config.data.regenerate.enabled,
    )
    held_out_source = _held_out_prompts(config.evaluation)
    target = load_needed_target(config, device or torch.device("cpu"))
    drafter = drafter_config(config, target)
    source = _rendered(target, source, config.data.conversations, config.data.input)
    held_out_source = _rendered(
        target, held_out_source, config.evaluation.conversations, config.evaluation.input
    )
    if config.data.input.model is None:
        warn_of_other_name(source, config.target, config.data.conversations)
    source = _with_answers(config, target, source)
    held_out = _tokenize_held_out(
        config, target, _answered_held_out(config, target, held_out_source)
    )
    documents = _tokenize(config, target, source)
    features, held_out_features = _features(config, target, drafter, documents, held_out)
    return PreparedData(
        target=target,
        drafter=drafter,
        documents=documents,
        features=features,
        held_out=held_out,
        held_out_features=held_out_features,
        agreement=_report_agreement(config, documents, features),
    )


def target_agreement(documents: Sequence[TokenizedConversation], features: FeatureSource) -> float:
    """Share of the trained tokens that equal the target's most likely token; nan without any.

    Judged by at most 512 documents, drawn from all: where sources follow one another or take
    turns, neither the first ones nor evenly spaced ones stand for the rest.
    """
    draw = torch.randperm(len(documents), generator=torch.Generator().manual_seed(0))
    agreed = total = 0
    for index in sorted(draw[:AGREEMENT_DOCUMENTS].tolist()):
        document = documents[index]
        next_token = features.of([index])[0].next_token[:-1]
        is_trained = torch.tensor(document.loss_mask[1:], dtype=torch.bool)
        following = torch.tensor(document.token_ids[1:])
        agreed += int((next_token == following)[is_trained].sum())
        total += int(is_trained.sum())
    return agreed / total if total else float("nan")


def _held_out_prompts(evaluation: EvaluationConfig) -> list[Document]:
    if evaluation.conversations is None:
        return []
    prompts = read_source(evaluation.conversations, evaluation.input, needs_prompt=True)
    return spread(prompts, evaluation.max_documents)


def _rendered(
    target: Target, documents: Sequence[Document], source: Path | None, options: InputConfig
) -> list[Document]:
    kept = results_of_accepted(
        documents, partial(require_rendering, target), source=source, invalid=options.invalid
    )
    return [document for document, _ in kept]


def _with_answers(
    config: TrainConfig, target: Target, documents: Sequence[Document]
) -> list[Document]:
    """Documents with the answers to train on, in the order given."""
    answers = config.data.regenerate
    if not answers.enabled:
        return list(documents)
    kept: list[Document] = []
    asked: list[Document] = []
    for document in documents:
        is_kept = answers.keep_captured and isinstance(document, CapturedAnswer)
        (kept if is_kept else asked).append(document)
    if kept:
        logger.info(
            "%d captured answers are kept as the server gave them; "
            "data.regenerate.keep_captured=false has the target write them anew",
            len(kept),
        )
    written = _answered(config, target, asked, "answers.jsonl", answers) if asked else []
    return sorted([*kept, *written], key=lambda document: document.document_id)


def _answered_held_out(
    config: TrainConfig, target: Target, prompts: Sequence[Document]
) -> list[Document]:
    if not prompts:
        return []
    # Always greedy and always the target's: acceptance is measured on nothing else.
    greedy = RegenerateConfig(
        max_new_tokens=config.evaluation.max_new_tokens,
        batch_size=config.evaluation.batch_size,
        backend=config.data.regenerate.backend,
        openai=config.data.regenerate.openai,
    )
    return _answered(config, target, prompts, "held_out.jsonl", greedy)


def _answered(
    config: TrainConfig,
    target: Target,
    prompts: Sequence[Document],
    name: str,
    answers: RegenerateConfig,
) -> list[Document]:
    writer = answer_writer(target, answers, config.data)
    return regenerate_file(target, prompts, config.data.work / name, answers, writer=writer)


def _features(
    config: TrainConfig,
    target: Target,
    drafter: DrafterConfig,
    documents: Sequence[TokenizedConversation],
    held_out: Sequence[TokenizedConversation],
) -> tuple[FeatureSource, FeatureSource]:
    """Features of the documents and of the held-out ones."""
    data, layer_ids = config.data, drafter.target_layer_ids
    with_final = config.loss.needs_target
    # Few, and read once: worth files only where another process must read them.
    of_held_out: FeatureSource = RecomputedFeatures(target, held_out, layer_ids)
    if data.hidden_states == "recompute":
        computed = RecomputedFeatures(target, documents, layer_ids, with_final=with_final)
        return computed, of_held_out
    longest = max(len(document.token_ids) for document in [*documents, *held_out])
    with feature_reader(target, layer_ids, data, max_tokens=longest, scratch=data.work) as reader:
        cached = partial(cache_features, target, layer_ids=layer_ids, reader=reader)
        size = data.target_batch_size
        features = cached(
            documents, folder=data.work / "hidden_states", batch_size=size, with_final=with_final
        )
        if data.hidden_states_backend != "transformers" and held_out:
            of_held_out = cached(
                held_out, folder=data.work / "held_out_hidden_states", batch_size=size
            )
    return features, of_held_out


def _tokenize(
    config: TrainConfig, target: Target, documents: Sequence[Document]
) -> list[TokenizedConversation]:
    used = results_of_accepted(
        documents,
        partial(_pieces, config, target),
        source=config.data.conversations,
        invalid=config.data.input.invalid,
    )
    documents, pieces = [document for document, _ in used], [own for _, own in used]
    report_splits(documents, pieces)
    tokenized = [piece for own in pieces for piece in own]
    report_cuts(documents, pieces, max_tokens=config.data.max_tokens)
    if not any(any(piece.loss_mask) for piece in tokenized):
        raise ConfigError(
            f"{config.data.conversations}: no token was written by an assistant. "
            "Add answers or set data.regenerate.enabled to true."
        )
    return tokenized


def _tokenize_held_out(
    config: TrainConfig, target: Target, documents: Sequence[Document]
) -> list[TokenizedConversation]:
    # Only last answers are replayed.
    used = results_of_accepted(
        documents,
        lambda document: _pieces(config, target, document)[-1:],
        source=config.evaluation.conversations,
        invalid=config.evaluation.input.invalid,
    )
    documents, pieces = [document for document, _ in used], [own for _, own in used]
    report_cuts(documents, pieces, max_tokens=config.data.max_tokens)
    held_out = [piece for own in pieces for piece in own]
    if held_out:
        require_verification_steps(held_out, source=config.evaluation.conversations)
    return held_out


def _pieces(config: TrainConfig, target: Target, document: Document) -> list[TokenizedConversation]:
    return tokenize_pieces(
        target.tokenizer,
        document,
        end_ids=target.end_ids,
        max_tokens=config.data.max_tokens,
        enable_thinking=target.enable_thinking,
    )


def _report_agreement(
    config: TrainConfig, documents: Sequence[TokenizedConversation], features: FeatureSource
) -> float:
    agreement = target_agreement(documents, features)
    logger.info(
        "%.2f %% of the trained tokens are the target's first choice, judged by %d of %d documents",
        100 * agreement,
        min(len(documents), AGREEMENT_DOCUMENTS),
        len(documents),
    )
    if agreement < config.data.min_agreement:
        logger.warning(
            "agreement %.3f is below data.min_agreement = %.3f: the text is not what this target "
            "says. Set data.regenerate.enabled, with keep_captured=false for captured answers, or "
            "lower the limit for sampled ones.",
            agreement,
            config.data.min_agreement,
        )
    return agreement
