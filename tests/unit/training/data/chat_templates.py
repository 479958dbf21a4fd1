"""Small templates that behave as the known families do."""

CHATML_TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
CHATML_PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}" + CHATML_TURN + "{% endfor %}" + CHATML_PROMPT

# Begins with a token of its own, trims every content, and writes no newline behind a turn.
LLAMA_LIKE = (
    "<|mask|>{% for m in messages %}<|im_start|>{{ m['role'] }}:\n\n"
    "{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:\n\n{% endif %}"
)

# Keeps thinking behind the last question alone, and writes an empty thought where thinking is off.
QWEN3_LIKE = """
{%- set seen = namespace(question=-1) -%}
{%- for m in messages -%}
  {%- if m['role'] == 'user' -%}{%- set seen.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
  {{- '<|im_start|>' + m['role'] + '\n' -}}
  {%- if m['role'] == 'assistant' -%}
    {%- set thought = m['reasoning_content'] or '' -%}
    {%- set said = m['content'] -%}
    {%- if '</think>' in said -%}
      {%- set thought = said.split('</think>')[0].split('<think>')[-1] -%}
      {%- set said = said.split('</think>')[-1] -%}
    {%- endif -%}
    {%- if loop.index0 > seen.question -%}
      {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' -}}
    {%- endif -%}
    {{- said.lstrip('\n') -}}
  {%- else -%}
    {{- m['content'] -}}
  {%- endif -%}
  {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
  {%- if enable_thinking is defined and not enable_thinking -%}
    {{- '<think>\n\n</think>\n\n' -}}
  {%- endif -%}
{%- endif -%}
"""
