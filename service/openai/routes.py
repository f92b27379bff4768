"""The routes of OpenAI's clients, and of vLLM's for the tokenizer."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from broker.generation import GenerationCall, TextRequest
from service import sse
from service.context import Services, ServicesDep
from service.generation import GenerateParams, build_calls, unless_disconnected
from service.guard import GenerateKey
from service.limits import check_prompt, refuse
from service.openai.answers import Answering, Piece, head_of
from service.openai.errors import errors
from service.openai.models import CAUSAL, find_model, find_writer, list_names, show, task_of
from service.openai.schemas import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from service.openai.scores import Scores
from service.problems import FieldError, Problem, pointer
from service.routes import router

routes = router("openai")
MODEL = FieldError("/model", "")
DEFAULT_TOKENS = 16


@routes.get("/v1/models", responses=errors())
def list_models(services: ServicesDep, _: GenerateKey) -> dict[str, Any]:
    """Every model that is ready, with its base and each of its aliases."""
    return {"object": "list", "data": list_names(services)}


@routes.get("/v1/models/{name}", responses=errors(404))
def get_model(name: str, services: ServicesDep, _: GenerateKey) -> dict[str, Any]:
    """One model or version by its name."""
    return show(services, name)


@routes.post("/v1/completions", response_model=None, responses=errors(400, 404, 409, 413, 415, 429))
async def post_completions(
    body: CompletionBody, request: Request, services: ServicesDep, _: GenerateKey
) -> Response:
    """Continue one or several prompts, each a text or the ids of its tokens."""
    answering = await run_in_threadpool(_completion, services, body)
    return await _answer(request, answering, body)


@routes.post("/v1/chat/completions", response_model=None, responses=errors(400, 404, 409, 413, 415, 429))
async def post_chat(body: ChatBody, request: Request, services: ServicesDep, _: GenerateKey) -> Response:
    """Answer a conversation, which the model's own chat template puts into a prompt."""
    answering = await run_in_threadpool(_chat, services, body)
    return await _answer(request, answering, body)


async def _answer(request: Request, answering: Answering, body: CompletionBody | ChatBody) -> Response:
    if not body.stream:
        return JSONResponse(await unless_disconnected(request, answering.whole))
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    return sse.answer(await unless_disconnected(request, partial(answering.stream, include_usage)))


def _completion(services: Services, body: CompletionBody) -> Answering:
    model, ref = find_writer(services, body.model)
    most = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    _check_tokens("/max_tokens", most, services)
    if most == 0 and not body.echo:
        _refuse("/max_tokens", "must be at least 1, unless the prompt is echoed")
    if body.echo and body.logprobs is not None and task_of(model) != CAUSAL:
        _refuse(
            "/echo", f"{model.id!r} reads its prompt apart, and cannot score it: leave out logprobs or echo"
        )
    several = len(body.prompt) > 1
    calls: list[GenerationCall] = []
    number = ref
    tokenizer = services.tokenizers.get(model)
    for at, prompt in enumerate(body.prompt):
        field = FieldError(pointer("prompt", at) if several else "/prompt", "")
        if isinstance(prompt, str):
            refuse(check_prompt(prompt, field, services.settings))
        (call,) = _calls(services, body, model.id, number, prompt, most, body.logprobs, field)
        calls.append(call)
        number = str(call.version)
    prompts = [_ids(call) for call in calls]
    texts = [
        prompt if isinstance(prompt, str) else tokenizer.text(prompt) if body.echo else ""
        for prompt in body.prompt
    ]

    def choice(index: int, piece: Piece, scores: Scores, text: str) -> dict[str, Any]:
        said = None if body.logprobs is None else scores.completion(piece.scores)
        return {"index": index, "text": text, "logprobs": said, "finish_reason": piece.finish_reason}

    return Answering(
        services,
        calls,
        [Scores(tokenizer, () if body.echo else ids) for ids in prompts],
        lambda index, piece, scores: choice(
            index, piece, scores, texts[index] + piece.text if body.echo else piece.text
        ),
        lambda index, piece, scores: choice(index, piece, scores, piece.text),
        head_of("text_completion", body.model, "cmpl"),
        "text_completion",
        (lambda index: choice(index, Piece(), Scores(tokenizer, ()), texts[index])) if body.echo else None,
    )


def _chat(services: Services, body: ChatBody) -> Answering:
    model, ref = find_writer(services, body.model)
    tokenizer = services.tokenizers.get(model)
    ids = tokenizer.chat([message.for_template() for message in body.messages])
    asked = body.max_completion_tokens or body.max_tokens
    if asked is not None:
        _check_tokens(
            "/max_completion_tokens" if body.max_completion_tokens else "/max_tokens", asked, services
        )
    most = asked or services.settings.max_new_tokens
    top = (body.top_logprobs or 0) if body.logprobs else None
    calls = _calls(services, body, model.id, ref, ids, most, top, FieldError("/messages", ""))

    def said(piece: Piece, scores: Scores) -> dict[str, Any] | None:
        return scores.chat(piece.scores) if body.logprobs else None

    def whole(index: int, piece: Piece, scores: Scores) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": said(piece, scores),
            "finish_reason": piece.finish_reason,
        }

    def part(index: int, piece: Piece, scores: Scores) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {
            "index": index,
            "delta": delta,
            "logprobs": said(piece, scores),
            "finish_reason": piece.finish_reason,
        }

    begun = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    return Answering(
        services,
        calls,
        [Scores(tokenizer, ids)],
        whole,
        part,
        head_of("chat.completion", body.model, "chatcmpl"),
        "chat.completion.chunk",
        lambda index: {"index": index, **begun},
    )


def _ids(call: GenerationCall) -> tuple[int, ...]:
    """The ids of a call's prompt."""
    assert isinstance(call.request, TextRequest)
    assert isinstance(call.request.prompt, tuple)
    return call.request.prompt


def _calls(
    services: Services,
    body: CompletionBody | ChatBody,
    model_id: str,
    ref: str,
    prompt: str | tuple[int, ...],
    most: int,
    logprobs: int | None,
    field: FieldError,
) -> list[GenerationCall]:
    asked = GenerateParams(
        prompt=prompt,
        max_new_tokens=most,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=tuple(body.stop),
        refs=((ref, MODEL),),
        where="body",
        stream=bool(body.stream),
        logprobs=logprobs,
        echo=isinstance(body, CompletionBody) and bool(body.echo),
    )
    try:
        return build_calls(services, model_id, asked)
    except Problem as problem:
        errors = [
            FieldError(field.pointer if error.pointer == "/prompt" else error.pointer, error.detail)
            for error in problem.errors
        ]
        raise Problem(problem.code, problem.detail, errors=errors, headers=problem.headers) from problem


def _check_tokens(at: str, asked: int, services: Services) -> None:
    limit = services.settings.max_new_tokens
    if asked > limit:
        _refuse(at, f"{asked} is more than {limit}. Ask for fewer, or raise ERRATA_MAX_NEW_TOKENS.")


def _refuse(at: str, detail: str) -> None:
    raise Problem("invalid-request", f"{at.strip('/')}: {detail}", errors=[FieldError(at, detail)])


@routes.get("/tokenizer_info", responses=errors(404))
def tokenizer_info(
    services: ServicesDep, _: GenerateKey, model: Annotated[str | None, Query(max_length=256)] = None
) -> dict[str, Any]:
    """What a model's tokenizer says of itself, its chat template included."""
    return services.tokenizers.get(find_model(services, model)[0]).info()


@routes.post("/tokenize", responses=errors(400, 404, 409, 413, 415))
def tokenize(body: TokenizeBody, services: ServicesDep, _: GenerateKey) -> dict[str, Any]:
    """The ids of a prompt's tokens, or of a conversation's."""
    model, _ref = find_model(services, body.model)
    tokenizer = services.tokenizers.get(model)
    if body.messages is not None:
        turns = [message.for_template() for message in body.messages]
        ids = tokenizer.chat(turns, answer=body.add_generation_prompt)
    else:
        text = body.prompt or ""
        ids = tokenizer.encode(text) if body.add_special_tokens is False else tokenizer.read(text)
    return {
        "count": len(ids),
        "max_model_len": model.context_length,
        "tokens": list(ids),
        "token_strs": tokenizer.texts(ids) if body.return_token_strs else None,
    }


@routes.post("/detokenize", responses=errors(400, 404, 409, 413, 415))
def detokenize(body: DetokenizeBody, services: ServicesDep, _: GenerateKey) -> dict[str, Any]:
    """The text of some tokens."""
    tokenizer = services.tokenizers.get(find_model(services, body.model)[0])
    unknown = tokenizer.unknown(body.tokens)
    if unknown is not None:
        raise Problem("token-not-embedded", unknown, errors=[FieldError("/tokens", unknown)])
    return {"prompt": tokenizer.text(body.tokens, special=True)}
