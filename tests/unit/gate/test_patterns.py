"""Regular expressions and grammars stay out, wherever an engine would find one."""

import json

import pytest

from dpace_serve.gate.refusal import RequestError
from dpace_serve.gate.request_check import check
from dpace_serve.gate_config import LimitsConfig

EVIL = "(([a-z]{1,300}){1,300}){1,300}1"  # six seconds for the step after forty letters
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": EVIL}}}
HIDDEN = '{"type": "string", "pattern": "' + EVIL + '", "pattern": 1}'
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


@pytest.mark.parametrize(
    "values",
    [
        {"regex": EVIL},
        {"ebnf": 'root ::= "a"'},
        {"sampling_params": {"regex": EVIL}},
        {"sampling_params": [{}, {"json_schema": json.dumps(SCHEMA)}]},
        {"structured_outputs": {"regex": EVIL}},
        {"structured_outputs": {"grammar": 'root ::= "a"'}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"structured_outputs": {"json": HIDDEN}},
        {"structured_outputs": {"json": {}, "whitespace_pattern": EVIL}},
        {"structured_outputs": {"structural_tag": json.dumps({"format": {"pattern": EVIL}})}},
        {"structured_outputs": {"structural_tag": json.dumps({"s": json.dumps(SCHEMA)})}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"response_format": {"schema": {"patternProperties": {EVIL: {}}}}},
        {"response_format": {"schema": {"anyOf": [{}, {"pattern": EVIL}]}}},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"messages": [{"tools": [TOOL]}], "tool_choice": "required"},
    ],
)
def test_a_pattern_is_refused_wherever_it_is(values):
    with pytest.raises(RequestError, match="must have no regular expression and no grammar"):
        check(values, LimitsConfig())
    check(values, LimitsConfig(allow_grammars=True))


@pytest.mark.parametrize(
    "values",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"choice": ["pattern", "regex"], "regex": None}},
        {"structured_outputs": {"json": '{"properties": {"pattern": {"type": "string"}}}'}},
        {"response_format": {"schema": {"properties": {"pattern": {"type": "string"}}}}},
        {"response_format": {"schema": {"patternProperties": {}}}},
        {"tools": [TOOL]},  # may be called, need not be followed
        {"tools": [TOOL], "tool_choice": "auto"},
        {"tools": [{"function": {"parameters": {}}}], "tool_choice": "required"},
        {"messages": [{"role": "user", "content": '{"regex": "a"}'}]},
    ],
)
def test_schemas_without_patterns_are_let_through(values):
    check(values, LimitsConfig())
