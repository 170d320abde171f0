"""All prompt templates, with a common beginning (docs/method.md, section 7).

A prompt is ``VISUAL_PREFIX`` and a suffix. The scene comes first, so that the key-value cache of the prefix serves
every later question about the scene; suffixes are short, because at small sizes each token counts.

    USER: <video>\n{question} ASSISTANT: {answer}</s>

The templates are strings; ``text.py`` turns them into ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

VIDEO_TOKEN = "<video>"  # replaced by the scene's bridge tokens and 3D patches
LOC_TOKEN = "<loc>"  # its hidden state asks the grounding decoder
COORD_TOKEN = "<coord>"  # replaced by the embedding of a 3D point
SPECIAL_TOKENS = (VIDEO_TOKEN, LOC_TOKEN, COORD_TOKEN)
BOS_TOKEN, EOS_TOKEN, PAD_TOKEN = "<s>", "</s>", "<pad>"

USER = "USER:"
ASSISTANT = "ASSISTANT:"
VISUAL_PREFIX = f"{USER} {VIDEO_TOKEN}\n"
MAX_QUESTION_CHARS = 2000

OBJECT_REQUEST = "Describe the object at {where}."
ROOM_REQUEST = "Describe the room."
FIND_ONE = "Find: {expression}"
FIND_ALL = "Find all: {expression}"

_RESERVED = (*SPECIAL_TOKENS, BOS_TOKEN, EOS_TOKEN, PAD_TOKEN)

# The images of a message are one scene. What is inside ``generation`` is marked by ``return_assistant_tokens_mask``.
CHAT_TEMPLATE = """\
{{- bos_token or '' -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
  {%- set said = message['content'] -%}
  {%- set parts = [{'type': 'text', 'text': said}] if said is string else said -%}
  {%- set words = parts | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') -%}
  {%- if message['role'] == 'system' -%}
    {%- set ns.system = words ~ ' ' -%}
  {%- elif message['role'] == 'user' -%}
    {{- 'USER: ' -}}
    {%- for part in parts if part['type'] == 'video' -%}{{- '<video>\\n' -}}{%- endfor -%}
    {%- if parts | selectattr('type', 'equalto', 'image') | list -%}{{- '<video>\\n' -}}{%- endif -%}
    {{- ns.system ~ words ~ ' ' -}}
    {%- set ns.system = '' -%}
  {%- else -%}
    {{- 'ASSISTANT:' -}}
    {%- generation -%}{{- ' ' ~ words ~ (eos_token or '') -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


def check_question(text: object, what: str = "question") -> str:
    """The text on one line, with single blanks; ValueError when empty, too long, not text, or with a reserved token."""
    if not isinstance(text, str):
        raise ValueError(f"the {what} must be text, received {type(text).__name__}")
    kept = " ".join(text.split())
    if not kept:
        raise ValueError(f"the {what} is empty; write a sentence")
    if len(kept) > MAX_QUESTION_CHARS:
        raise ValueError(f"the {what} has {len(kept)} characters, at most {MAX_QUESTION_CHARS} are allowed; shorten it")
    return check_text(kept, what)


def check_text(text: str, what: str) -> str:
    """The text as it is; ValueError when it holds a reserved token or is not valid Unicode.

    The one check of whatever a tokenizer reads from a user: questions, situations, expressions, answers, captions.
    """
    lowered = text.lower()
    reserved = [token for token in _RESERVED if token in lowered]
    if reserved:
        raise ValueError(f"the {what} contains the reserved token {reserved[0]}; leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the {what} is not valid Unicode text ({error.reason}); pass UTF-8") from error
    return text


def format_coordinate(point: Sequence[float]) -> str:
    """A scene point in metres as text: ``(1.0, -0.25, 0.4)``, centimetres at most; ValueError unless three numbers."""
    values = [float(v) for v in point]
    if len(values) != 3 or not all(math.isfinite(v) for v in values):
        raise ValueError(f"expected three finite numbers (x, y, z in metres), received {list(point)}")
    return "(" + ", ".join(str(round(v, 2) + 0.0) for v in values) + ")"


def wrap(request: str) -> str:
    """A whole prompt around a request that has been checked: visual prefix, request, the assistant's turn."""
    return f"{VISUAL_PREFIX}{request} {ASSISTANT}"


def qa_prompt(question: str) -> str:
    """Question answering (ScanQA's kind)."""
    return wrap(check_question(question))


def situated_prompt(situation: str, question: str) -> str:
    """Situated question answering (SQA3D's kind): where one stands and looks, then the question."""
    return wrap(f"{check_question(situation, what='situation')} {check_question(question)}")


def question_prompt(question: str, situation: str | None = None) -> str:
    """A question, situated where a situation is given."""
    return situated_prompt(situation, question) if situation else qa_prompt(question)


def caption_prompt() -> str:
    """Caption of the object at a point, which is a ``<coord>`` token."""
    return wrap(OBJECT_REQUEST.format(where=COORD_TOKEN))


def room_prompt() -> str:
    """Description of the whole room."""
    return wrap(ROOM_REQUEST)


def grounding_prompt(expression: str) -> str:
    """One object from its description; ends in ``<loc>``, whose hidden state the grounding decoder reads."""
    return f"{wrap(FIND_ONE.format(expression=check_question(expression, what='expression')))} {LOC_TOKEN}"


def multi_grounding_prompt(expression: str) -> str:
    """Zero, one or several objects from a description (Multi3DRefer's kind); ends in ``<loc>``."""
    return f"{wrap(FIND_ALL.format(expression=check_question(expression, what='expression')))} {LOC_TOKEN}"


def fixed_texts() -> list[str]:
    """The words of all templates, for a tokenizer's training."""
    return [
        OBJECT_REQUEST.format(where=""),
        OBJECT_REQUEST.format(where=format_coordinate((-1.25, 2.5, 0.75))),
        ROOM_REQUEST,
        FIND_ONE.format(expression="the"),
        FIND_ALL.format(expression="the"),
    ]
