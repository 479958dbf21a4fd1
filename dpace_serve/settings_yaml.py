"""Settings as YAML: the safe part of it, each key once, and no more than a person would write."""

from collections.abc import Hashable
from typing import Any

import yaml

from dpace_serve.outside_text import MAX_DEPTH, MAX_NUMBER_CHARACTERS, MAX_VALUES


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - YAML holds values of any type
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: If it is none, has a key twice, a tag, or more than the limits allow.
        ValueError: If a date or a number is none.
    """
    return yaml.load(text, Loader=_SettingsLoader)  # noqa: S506 - a subclass of the safe loader


class _SettingsLoader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._num_values = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count values while they are put together: as often as aliases repeat them."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # not in yaml's types
        mark = event.start_mark
        if getattr(event, "tag", None) is not None:  # `!!timestamp x` has no check of its own
            raise _refusal(f"the tag {event.tag:.40} is not read", mark)
        if self._depth > MAX_DEPTH:
            raise _refusal(f"more than {MAX_DEPTH} lists and groups inside each other", mark)
        before = self._num_values
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _refusal(f"*{event.anchor:.40} stands inside itself", mark)
            self._num_values += self._sizes[node]
        elif node is not None:
            self._num_values += 1
            self._sizes[node] = self._num_values - before
        if self._num_values > MAX_VALUES:
            raise _refusal(f"more than {MAX_VALUES} values, repeated ones included", mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse equal keys: YAML keeps the last of them without a word."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise _refusal(f"the key {key.value:.80} stands there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Refuse numbers that Python would not print."""
        if len(node.value) > MAX_NUMBER_CHARACTERS:
            raise _refusal(f"a number of {len(node.value)} digits", node.start_mark)
        number: int = super().construct_yaml_int(node)
        return number


_SettingsLoader.add_constructor("tag:yaml.org,2002:int", _SettingsLoader.construct_yaml_int)


def _refusal(problem: str, mark: yaml.Mark | None) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)
