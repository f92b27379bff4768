"""The bodies of OpenAI's requests. What is not supported is refused by name, unless it asks for nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, field_validator

from service.schemas.base import RequestBody, Text, storable
from service.schemas.generate import MAX_SEED

MOST_LOGPROBS = 20


def _example(body: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [body]})


def _only(*neutral: Any) -> AfterValidator:
    """The check of a parameter that is not supported: it may have these values, which change nothing."""

    def check(value: Any) -> Any:
        same = (value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)
        if value is None or any(same):
            return value
        raise ValueError("is not supported: leave it out")

    return AfterValidator(check)


Never = Annotated[Any, _only()]
Zero = Annotated[Any, _only(0)]
One = Annotated[Any, _only(1)]
Empty = Annotated[Any, _only([], {})]
No = Annotated[Any, _only(False)]
NoTool = Annotated[Any, _only("none")]
TextOnly = Annotated[Any, _only(["text"])]


def _prompts(value: Any) -> list[str | tuple[int, ...]]:
    """One or several prompts, each a text or the ids of its tokens."""
    several = value if isinstance(value, list) and value and not _are_ids(value) else [value]
    found: list[str | tuple[int, ...]] = []
    for each in several:
        if isinstance(each, str):
            found.append(storable(each))
        elif isinstance(each, list) and each and _are_ids(each):
            found.append(tuple(each))
        else:
            raise ValueError("must be a text, a list of token ids, or a list of either")
    return found


def _are_ids(value: list[Any]) -> bool:
    return all(isinstance(each, int) and not isinstance(each, bool) for each in value)


def _stops(value: Any) -> list[str]:
    """No, one or several strings at which the text ends."""
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(s, str) and s for s in stops):
        raise ValueError("must be a text or a list of at most 16, none of them empty")
    return [storable(stop) for stop in stops]


Prompts = Annotated[
    list[str | tuple[int, ...]],
    PlainValidator(_prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]]),
]
Stops = Annotated[list[str], PlainValidator(_stops, json_schema_input_type=str | list[str] | None)]


class StreamOptions(RequestBody):
    """How a stream is told."""

    include_usage: bool = Field(False, description="End with the tokens that were read and written.")
    include_obfuscation: bool | None = None
    continuous_usage_stats: No = None


class _Sampling(RequestBody):
    """What all requests for text have."""

    model: Text = Field(min_length=1, max_length=256, description="ID, ID@live, ID@base, ID@7 or ID@alias.")
    temperature: float | None = Field(None, ge=0, le=10, description="0 is greedy; by default 1.")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), le=MAX_SEED)
    stop: Stops = Field(default_factory=list)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Not used.")
    safety_identifier: str | None = Field(None, description="Not used.")
    metadata: dict[str, str] | None = Field(None, description="Not used.")
    store: No = None
    n: One = None
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    logit_bias: Empty = None

    @field_validator("stream_options")
    @classmethod
    def needs_a_stream(cls, given: StreamOptions | None, before: Any) -> StreamOptions | None:
        """Refuse options of a stream where there is none.

        Raises:
            ValueError: `stream` is not set.
        """
        if given is not None and not before.data.get("stream"):
            raise ValueError("is for streams only: set stream")
        return given


class CompletionBody(_Sampling):
    """The body of `POST /v1/completions`."""

    model_config = _example({"model": "smollm2-135m-instruct", "prompt": "The capital of Australia is"})

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0, description="Most tokens to generate; by default 16.")
    echo: bool | None = Field(None, description="Begin with the prompt.")
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    best_of: One = None
    suffix: Never = None


class TextPart(RequestBody):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(RequestBody):
    """A turn of a conversation."""

    role: Text = Field(min_length=1, max_length=64)
    content: Text | list[TextPart] | None = None
    name: Text | None = None
    tool_calls: Empty = None
    refusal: Never = None

    def for_template(self) -> dict[str, str]:
        """As chat templates take it."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        named = {"name": self.name} if self.name is not None else {}
        return {"role": self.role, "content": text, **named}


class ResponseFormat(RequestBody):
    """What form the answer has: text."""

    type: Literal["text"]


class ChatBody(_Sampling):
    """The body of `POST /v1/chat/completions`."""

    model_config = _example(
        {
            "model": "smollm2-135m-instruct@live",
            "messages": [{"role": "user", "content": "What is the capital of Australia?"}],
        }
    )

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to generate; by default, what fits.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    response_format: ResponseFormat | None = None
    tools: Empty = None
    tool_choice: NoTool = None
    parallel_tool_calls: bool | None = Field(None, description="Not used.")
    functions: Empty = None
    function_call: NoTool = None
    modalities: TextOnly = None
    audio: Never = None
    prediction: Never = None
    reasoning_effort: Never = None
    web_search_options: Never = None

    @field_validator("top_logprobs")
    @classmethod
    def needs_logprobs(cls, given: int | None, before: Any) -> int | None:
        """Refuse the most probable tokens where log-probabilities are not asked for.

        Raises:
            ValueError: `logprobs` is not set.
        """
        if given is not None and not before.data.get("logprobs"):
            raise ValueError("needs logprobs")
        return given


class TokenizeBody(RequestBody):
    """The body of `POST /tokenize`: a prompt, or messages for the chat template."""

    model_config = _example({"model": "smollm2-135m-instruct", "prompt": "The capital of Australia is"})

    model: Text | None = Field(None, max_length=256, description="By default the only one.")
    prompt: Text | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=4096, validate_default=True)
    add_special_tokens: bool | None = Field(None, description="By default true for prompts.")
    add_generation_prompt: bool = True
    return_token_strs: bool | None = None

    @field_validator("messages")
    @classmethod
    def says_one_thing(cls, given: list[Message] | None, before: Any) -> list[Message] | None:
        """Refuse a prompt and messages together, and neither.

        Raises:
            ValueError: unless exactly one of the two is there.
        """
        if "prompt" in before.data and (before.data["prompt"] is None) == (given is None):
            raise ValueError("give exactly one of prompt and messages")
        return given


class DetokenizeBody(RequestBody):
    """The body of `POST /detokenize`."""

    model_config = _example({"model": "smollm2-135m-instruct", "tokens": [504, 3575, 282, 9640, 314]})

    model: Text | None = Field(None, max_length=256, description="By default the only one.")
    tokens: list[int] = Field(max_length=1_000_000)
