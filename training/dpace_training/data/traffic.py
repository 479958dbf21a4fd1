"""Captured traffic: requests to an OpenAI-compatible server with the answers it gave."""

from typing import Any

from dpace_serve.errors import ConfigError

FINISHED = frozenset({"stop", "length"})
_REASON_LENGTH = 40


class UnusableRecordError(Exception):
    """A record is in order but holds nothing to train on; its text is the reason, for counting."""


def traffic_record(record: dict[str, Any], place: str) -> dict[str, Any]:
    """A request and its response in our own form.

    A chat is `{"request": {"messages": [...]}, "response": {"choices": [{"message": {"role":
    "assistant", "content": ...}, "finish_reason": "stop"}]}}`, a completion is `{"request":
    {"prompt": "..."}, "response": {"choices": [{"text": "...", "finish_reason": "stop"}]}}`: the
    bodies of `/v1/chat/completions` and `/v1/completions` as they are, a streamed response put
    together. The record, or the request's `metadata`, may name a `workload`. Of the request
    nothing else is read: sampling is set by `data.regenerate`, thinking by `data.enable_thinking`.
    An answer that reached the token limit (`finish_reason` length) is kept without an end token.

    Raises:
        ConfigError: If the record has another form.
        UnusableRecordError: If the answer failed, is unfinished or empty, or tools, images,
            several choices or several prompts were asked for.
    """
    request, response = record.get("request"), record.get("response")
    if not isinstance(request, dict) or not {"messages", "prompt"} & request.keys():
        raise ConfigError(
            f"{place}: request must be an object with messages or prompt. Correct the line."
        )
    choice = _finished_choice(response)
    metadata = request.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ConfigError(f"{place}: request.metadata must be an object. Correct the line.")
    workload = record.get("workload") or metadata.get("workload")
    tag = {} if workload is None else {"workload": workload}
    if "messages" in request:
        return _chat(request, choice, place) | tag
    return _completion(request, choice) | tag


def _finished_choice(response: object) -> dict[str, Any]:
    if not isinstance(response, dict) or response.get("error"):
        raise UnusableRecordError("error instead of an answer")
    choices = response.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise UnusableRecordError("error instead of an answer")
    if len(choices) != 1:
        raise UnusableRecordError("several choices" if choices else "error instead of an answer")
    choice: dict[str, Any] = choices[0]
    reason = choice.get("finish_reason")
    if reason in ("tool_calls", "function_call"):
        raise UnusableRecordError("tool calls")
    require_finished(reason)
    return choice


def require_finished(reason: object) -> None:
    """Refuse the answer that ended for another reason than a whole one's.

    Raises:
        UnusableRecordError: If it did.
    """
    if isinstance(reason, str) and reason in FINISHED:
        return
    # Reasons are counted and logged: whatever else stands there is one of them.
    is_word = isinstance(reason, str) and reason.isidentifier() and len(reason) <= _REASON_LENGTH
    raise UnusableRecordError(f"finish_reason {reason if is_word else 'missing'}")


def _chat(request: dict[str, Any], choice: dict[str, Any], place: str) -> dict[str, Any]:
    messages, answer = request["messages"], choice.get("message")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ConfigError(f"{place}: request.messages must be a list of objects. Correct the line.")
    if not isinstance(answer, dict):
        raise UnusableRecordError("error instead of an answer")
    if _offers_a_tool(request) or any(map(_calls_a_tool, [*messages, answer])):
        raise UnusableRecordError("tool calls")
    if any(map(_holds_more_than_text, messages)):
        raise UnusableRecordError("images or other content that is not text")
    if not answer.get("content"):
        raise UnusableRecordError("empty answer")
    said = {"role": "assistant", "content": answer["content"]}
    # vLLM calls it reasoning, other servers reasoning_content.
    reasoning = answer.get("reasoning_content") or answer.get("reasoning")
    if reasoning:
        said["reasoning_content"] = reasoning
    is_cut = {"answer_is_cut": True} if choice["finish_reason"] == "length" else {}
    return {"messages": [*messages, said], **is_cut}


def _completion(request: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(request["prompt"], str):
        raise UnusableRecordError("prompt that is not one text")
    if request.get("echo") or request.get("suffix"):
        raise UnusableRecordError("echo or suffix")
    if not choice.get("text"):
        raise UnusableRecordError("empty answer")
    return {"prompt": request["prompt"], "completion": choice["text"]}


def _offers_a_tool(request: dict[str, Any]) -> bool:
    return bool(request.get("tools") or request.get("functions"))


def _calls_a_tool(message: dict[str, Any]) -> bool:
    return bool(message.get("tool_calls") or message.get("function_call"))


def _holds_more_than_text(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        not isinstance(part, dict) or part.get("type") != "text" for part in content
    )
