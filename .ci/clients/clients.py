"""The `openai` package against running servers: clients.py PROGRAM FOLDER TEXTS IMAGES QUEUE.

FOLDER has the base and the adapters of the servers at TEXTS and QUEUE. The server at IMAGES has a key. The one at QUEUE takes
one text, and lets one more wait.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
import traceback
import urllib.request

import openai

PROGRAM, FOLDER, TEXTS, IMAGES, QUEUE = sys.argv[1:]
with open(f"{FOLDER}/val.txt", encoding="utf-8") as rows:
    PROMPT = rows.readline().split("||")[0]
MESSAGES = [
    {"role": "system", "content": "Say where it stands."},
    {"role": "user", "content": "thing : shield | room : 30"},
]
TOKENS = 12

# What went over the wire since a check began, shown if it fails.
WIRE = []


def sent(request):
    WIRE.append(f"> {request.method} {request.url}\n{request.content.decode(errors='replace')}")


def answered(response):
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    body = "(a stream)" if is_stream else response.read().decode(errors="replace")
    WIRE.append(f"< {response.status_code}\n{body}")


def client(address, key="none", **options):
    wire = openai.DefaultHttpxClient(event_hooks={"request": [sent], "response": [answered]})
    options = {"max_retries": 0, "timeout": 60, **options}
    return openai.OpenAI(base_url=f"{address}/v1", api_key=key, http_client=wire, **options)


texts = client(TEXTS)


def complete(model="museum", prompt=PROMPT, asked=texts, **fields):
    """A greedy completion."""
    fields = {"max_tokens": TOKENS, "temperature": 0, **fields}
    return asked.completions.create(model=model, prompt=prompt, **fields)


def chat(model="museum", messages=MESSAGES, **fields):
    """A greedy answer."""
    fields = {"max_tokens": TOKENS, "temperature": 0, **fields}
    return texts.chat.completions.create(model=model, messages=messages, **fields)


def generated(*arguments):
    """What `nola-train generate` writes."""
    command = [PROGRAM, "generate", "--json", "--device", "cpu", "--model", "base", "--max-new-tokens", str(TOKENS)]
    done = subprocess.run([*command, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return json.loads(done.stdout)["texts"][0]["text"]


def metric(name):
    """A number of `/metrics`."""
    with urllib.request.urlopen(f"{TEXTS}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def same(found, expected, told=""):
    assert found == expected, f"{told}\nfound    {found!r}\nexpected {expected!r}"


def refused(kind, code, param, ask):
    """`ask` has to fail with this error of the package."""
    try:
        answer = ask()
    except openai.APIStatusError as error:
        same((type(error), error.code, error.param), (kind, code, param))
        assert error.message and error.type, error.body
        return error
    raise AssertionError(f"it was answered: {answer}")


def models_are_listed():
    models = texts.models.list().data
    same([model.id for model in models], ["base", "exhibit", "museum"])
    same([model.parent for model in models], [None, "base", "base"])
    assert all(model.object == "model" and model.created > 0 and model.owned_by for model in models), models
    museum = texts.models.retrieve("museum")
    same((museum.id, museum.parent, museum.method, museum.max_model_len), ("museum", "base", "nola", 256))
    refused(openai.NotFoundError, "model_not_found", "model", lambda: texts.models.retrieve("nobody"))


def a_completion_is_what_generate_writes():
    found = {}
    for model in ["base", "museum", "exhibit"]:
        answer = complete(model)
        found[model] = answer.choices[0].text
        adapter = [] if model == "base" else ["--adapter", f"adapters/{model}"]
        same(found[model], generated(*adapter, PROMPT), model)
        same((answer.object, answer.model, len(answer.choices)), ("text_completion", model, 1))
        same(answer.choices[0].finish_reason in ("stop", "length"), True)
        usage = answer.usage
        same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        assert 0 < usage.completion_tokens <= TOKENS < usage.prompt_tokens, usage
    same(len(set(found.values())), 3, "each adapter has its own text")
    raw = complete(extra_body={"raw": True}).choices[0].text
    same(raw, generated("--adapter", "adapters/museum", "--raw", PROMPT))


def a_streamed_completion_is_the_same_text():
    whole = complete().choices[0].text
    chunks = list(complete(n=2, stream=True, stream_options={"include_usage": True}))
    for index in range(2):
        choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        same("".join(choice.text for choice in choices), whole)
        assert len(choices) > 2, "it comes in parts"
        same([choice.finish_reason is not None for choice in choices], [False] * (len(choices) - 1) + [True])
    same((len({chunk.id for chunk in chunks}), {chunk.object for chunk in chunks}), (1, {"text_completion"}))
    same(chunks[-1].choices, [])
    assert chunks[-1].usage.completion_tokens > TOKENS / 2, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1]), chunks


def several_texts_are_drawn():
    def drawn(**fields):
        choices = complete(n=3, temperature=1.5, **fields).choices
        same([choice.index for choice in choices], [0, 1, 2])
        return [choice.text for choice in choices]

    first = drawn(seed=7)
    same(drawn(seed=7), first, "one seed, the same texts")
    assert len(set(first)) > 1, first
    assert drawn(seed=8) != first, first
    assert drawn() != drawn(), "without a seed, others each time"
    likeliest = [complete().choices[0].text] * 3
    same(drawn(extra_body={"top_k": 1}), likeliest)
    same(drawn(top_p=0), likeliest)
    for fields in [{"frequency_penalty": 2}, {"presence_penalty": 2}, {"extra_body": {"repetition_penalty": 5, "min_p": 0.1}}]:
        complete(**fields)


def several_prompts_are_answered():
    other = PROMPT.replace("shield", "crown")
    both = [complete(prompt=prompt).choices[0].text for prompt in (PROMPT, other)]
    same([choice.text for choice in complete(prompt=[PROMPT, other]).choices], both)
    tokens = [5, 6, 7]
    answer = complete("base", prompt=tokens)
    same(answer.usage.prompt_tokens, len(tokens))
    lists = complete("base", prompt=[tokens, [8]])
    same((len(lists.choices), lists.choices[0].text), (2, answer.choices[0].text))


def a_text_ends_before_a_stop_text():
    whole = complete().choices[0].text
    stop = whole[5:8]
    expected = whole[: whole.index(stop)]
    for wanted in (stop, ["never to be written", stop]):
        choice = complete(stop=wanted).choices[0]
        same((choice.text, choice.finish_reason), (expected, "stop"))
        chunks = list(complete(stop=wanted, stream=True))
        same("".join(chunk.choices[0].text for chunk in chunks), expected)
        same(chunks[-1].choices[0].finish_reason, "stop")
    short = complete(max_tokens=2)
    same((short.choices[0].finish_reason, short.usage.completion_tokens), ("length", 2))


def tokens_have_probabilities():
    choice = complete(logprobs=3).choices[0]
    scores = choice.logprobs
    same("".join(scores.tokens), choice.text)
    assert all(score <= 0 for score in scores.token_logprobs), scores
    for token, score, top in zip(scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True):
        same(top[token], score)
        same(max(top.values()), score, "the likeliest was taken")
        assert len(top) >= 3, top
    offsets = [sum(map(len, scores.tokens[:index])) for index in range(len(scores.tokens))]
    same(scores.text_offset, offsets)
    streamed = [chunk.choices[0].logprobs for chunk in complete(logprobs=3, stream=True)]
    same([token for part in streamed if part for token in part.tokens], scores.tokens)
    same(complete().choices[0].logprobs, None)
    choice = chat(logprobs=True, top_logprobs=2).choices[0]
    content = choice.logprobs.content
    same("".join(entry.token for entry in content), choice.message.content)
    for entry in content:
        same(bytes(entry.bytes).decode(), entry.token)
        same([len(entry.top_logprobs), entry.top_logprobs[0].token], [2, entry.token])


def a_chat_goes_through_the_template():
    system, user = (message["content"] for message in MESSAGES)
    for model in ["base", "museum"]:
        adapter = [] if model == "base" else ["--adapter", f"adapters/{model}"]
        expected = generated(*adapter, "--chat", "--system", system, user)
        answer = chat(model)
        choice = answer.choices[0]
        same((choice.message.content, choice.message.role), (expected, "assistant"), model)
        same((answer.object, answer.model), ("chat.completion", model))
        chunks = list(chat(model, stream=True, stream_options={"include_usage": True}))
        same(chunks[0].choices[0].delta.role, "assistant")
        same("".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]), expected, model)
        same({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
        same(chunks[-1].usage, answer.usage)
    parts = [{"role": "developer", "content": system}, {"role": "user", "content": [{"type": "text", "text": user}]}]
    same(chat(messages=parts).choices[0].message.content, expected, "parts of text, and the newer name of the system")
    same(chat(max_completion_tokens=3).usage.completion_tokens <= 3, True)
    same(len({choice.index for choice in chat(n=2, temperature=1).choices}), 2)


def the_package_puts_a_stream_together():
    expected = chat().choices[0].message.content
    with texts.chat.completions.stream(model="museum", messages=MESSAGES, max_tokens=TOKENS, temperature=0) as stream:
        parts = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion()
    same(("".join(parts), whole.choices[0].message.content), (expected, expected))


def what_is_wrong_is_an_error_of_its_own():
    bad, missing = openai.BadRequestError, openai.NotFoundError
    refused(missing, "model_not_found", "model", lambda: complete("nobody"))
    refused(missing, "model_not_found", "model", lambda: chat("nobody"))
    refused(missing, "model_not_found", "model", lambda: complete("nobody", stream=True))
    refused(bad, "context_length_exceeded", "prompt", lambda: complete(prompt="a shield " * 400))
    refused(bad, "context_length_exceeded", "prompt", lambda: chat(messages=[{"role": "user", "content": "shield " * 400}]))
    refused(bad, "invalid_value", "temperature", lambda: complete(temperature=3))
    refused(bad, "invalid_value", "messages", lambda: chat(messages=[]))
    refused(bad, "invalid_value", "top_logprobs", lambda: chat(top_logprobs=2))
    refused(bad, "invalid_prompt", "prompt", lambda: complete(prompt=[99999]))
    refused(bad, "unsupported_parameter", "echo", lambda: complete(echo=True))
    refused(bad, "unsupported_parameter", "response_format", lambda: chat(response_format={"type": "json_object"}))
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    refused(bad, "unsupported_parameter", "tools", lambda: chat(tools=tools))
    refused(bad, "unknown_parameter", "temprature", lambda: complete(extra_body={"temprature": 1}))
    refused(missing, "not_found", None, lambda: texts.embeddings.create(model="museum", input="a"))


def a_key_is_asked_for():
    error = refused(openai.AuthenticationError, "invalid_api_key", None, lambda: client(IMAGES, "a-wrong-key").models.list())
    same(error.response.headers["www-authenticate"], "Bearer")
    with_key = client(IMAGES, os.environ["CLIENTS_API_KEY"])
    same([model.id for model in with_key.models.list()], ["vit-micro", "lora", "nola"])
    refused(openai.NotFoundError, "wrong_modality", "model", lambda: complete("lora", asked=with_key))


def many_ask_at_once():
    expected = {model: complete(model).choices[0].text for model in ("base", "museum", "exhibit")}

    async def all_texts():
        async with openai.AsyncOpenAI(base_url=f"{TEXTS}/v1", api_key="none", max_retries=0, timeout=60) as many:

            async def one(model, is_streamed):
                asked = many.completions.create(
                    model=model, prompt=PROMPT, max_tokens=TOKENS, temperature=0, stream=is_streamed
                )
                answer = await asked
                if not is_streamed:
                    return model, answer.choices[0].text
                return model, "".join([chunk.choices[0].text async for chunk in answer])

            wanted = [one(model, is_streamed) for model in expected for is_streamed in (False, True) for _ in range(3)]
            return await asyncio.gather(*wanted)

    for model, text in asyncio.run(all_texts()):
        same(text, expected[model], model)


def a_client_that_goes_away_costs_nothing():
    before = metric("nola_texts_cancelled_total")
    stream = complete("base", "a", n=128, temperature=1, max_tokens=200, stream=True)
    next(iter(stream))
    stream.close()
    began = time.monotonic()
    while metric("nola_texts_running") + metric("nola_texts_waiting") > 0:
        assert time.monotonic() - began < 30, "texts still run"
        time.sleep(0.05)
    assert metric("nola_texts_cancelled_total") > before


def a_full_queue_is_tried_again_later():
    fields = {"model": "base", "prompt": "a", "max_tokens": 200, "temperature": 0, "stop": "never to be written"}

    async def at_once(count, retries):
        async with openai.AsyncOpenAI(base_url=f"{QUEUE}/v1", api_key="none", max_retries=retries, timeout=60) as many:
            wanted = [many.completions.create(**fields) for _ in range(count)]
            return await asyncio.gather(*wanted, return_exceptions=True)

    answers = asyncio.run(at_once(16, 0))
    errors = [answer for answer in answers if isinstance(answer, Exception)]
    assert 0 < len(errors) < len(answers), f"{len(errors)} of {len(answers)} were refused"
    for error in errors:
        same((type(error), getattr(error, "code", error)), (openai.RateLimitError, "queue_full"))
        assert int(error.response.headers["retry-after"]) > 0, error.response.headers
    # Left to itself, the package waits as long as the server says.
    expected = texts.completions.create(**fields).choices[0].text
    for answer in asyncio.run(at_once(4, 30)):
        assert not isinstance(answer, Exception), repr(answer)
        same(answer.choices[0].text, expected)


CHECKS = [
    models_are_listed,
    a_completion_is_what_generate_writes,
    a_streamed_completion_is_the_same_text,
    several_texts_are_drawn,
    several_prompts_are_answered,
    a_text_ends_before_a_stop_text,
    tokens_have_probabilities,
    a_chat_goes_through_the_template,
    the_package_puts_a_stream_together,
    what_is_wrong_is_an_error_of_its_own,
    a_key_is_asked_for,
    many_ask_at_once,
    a_client_that_goes_away_costs_nothing,
    a_full_queue_is_tried_again_later,
]


def main():
    failed = 0
    for check in CHECKS:
        WIRE.clear()
        try:
            check()
        except Exception as error:  # whatever it is, the others are checked, too
            failed += 1
            frames = traceback.extract_tb(error.__traceback__)
            lines = ", ".join(str(frame.lineno) for frame in frames if frame.filename == __file__)
            print(f"FAILED {check.__name__}, lines {lines}: {type(error).__name__}: {error}")
            print("\n".join(WIRE[-8:]))
        else:
            print(f"ok {check.__name__}")
    sys.exit(failed > 0)


main()
