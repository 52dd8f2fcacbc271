"""Checks a running Troupe with the official `openai` client, and its raw streams with the standard
library.

    pip install openai
    python tests/e2e/openai_checks.py http://127.0.0.1:8000 [NAME...]

Works with any model that has a chat format, the demo model above all. Each check is a function; the
script prints one line per check and exits 1 if one failed. With --raw only the checks that need no
package run.
"""

import concurrent.futures
import http.client
import json
import sys
import time
import traceback
import urllib.parse

CHECKS = []
RAW_CHECKS = []
HELLO = [{"role": "user", "content": "What is Troupe?"}]


def check(function):
    CHECKS.append(function)
    return function


def raw_check(function):
    RAW_CHECKS.append(function)
    return function


class Server:
    def __init__(self, base_url):
        self.base_url = base_url.rstrip("/")
        parts = urllib.parse.urlsplit(self.base_url)
        self.host, self.port = parts.hostname, parts.port or 80
        _, _, body = self.request("GET", "/v1/models")
        self.model = json.loads(body)["data"][0]["id"]
        self.max_model_len = json.loads(body)["data"][0]["max_model_len"]

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        data = json.dumps(body) if isinstance(body, (dict, list)) else body
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        result = response.status, response.headers, response.read()
        connection.close()
        return result

    def openai(self, **options):
        import openai

        return openai.OpenAI(base_url=self.base_url + "/v1", api_key="any", **options)

    def chat(self, **fields):
        fields = {"model": self.model, "messages": HELLO, "max_tokens": 24, "temperature": 0, **fields}
        return self.openai().chat.completions.create(**fields)

    def complete(self, **fields):
        fields = {"model": self.model, "prompt": "Troupe is", "max_tokens": 12, "temperature": 0, **fields}
        return self.openai().completions.create(**fields)

    def events(self, path="/v1/chat/completions", **fields):
        """The lines of a stream, as bytes, read without any client."""
        body = {"messages": HELLO, "max_tokens": 16, "temperature": 0, "stream": True, **fields}
        status, headers, data = self.request("POST", path, body)
        assert status == 200, data
        return headers, data


def raises(kind, function):
    import openai

    try:
        function()
    except getattr(openai, kind) as error:
        return error
    raise AssertionError(f"no {kind}")


# --- models -------------------------------------------------------------------------------------


@check
def models_are_listed(server):
    models = server.openai().models.list().data
    assert [m.id for m in models] == [server.model] and models[0].object == "model"


@check
def a_model_is_retrieved_by_its_id(server):
    card = server.openai().models.retrieve(server.model)
    assert card.id == server.model and card.owned_by


@check
def an_unknown_model_is_not_found(server):
    error = raises("NotFoundError", lambda: server.chat(model="no/such"))
    assert error.code == "model_not_found" and error.param == "model", error.body
    raises("NotFoundError", lambda: server.openai().models.retrieve("no/such"))


# --- chat ---------------------------------------------------------------------------------------


@check
def a_chat_is_answered(server):
    completion = server.chat()
    choice = completion.choices[0]
    assert completion.object == "chat.completion" and completion.model == server.model
    assert completion.id.startswith("chatcmpl-") and abs(completion.created - time.time()) < 300
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length") and choice.message.tool_calls is None


@check
def usage_adds_up(server):
    usage = server.chat().usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0


@check
def the_request_id_comes_back(server):
    assert server.chat()._request_id
    assert server.chat(extra_headers={"X-Request-Id": "abc-1"})._request_id == "abc-1"


@check
def max_tokens_ends_with_length(server):
    for name in ("max_tokens", "max_completion_tokens"):
        completion = server.chat(**{"max_tokens": None, name: 2, "extra_body": {"ignore_eos": True}})
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage.completion_tokens == 2


@check
def ignore_eos_forces_the_length(server):
    completion = server.chat(max_tokens=64, extra_body={"ignore_eos": True})
    assert completion.usage.completion_tokens == 64


@check
def greedy_answers_repeat(server):
    assert server.chat().choices[0].message.content == server.chat().choices[0].message.content


@check
def a_seed_repeats_a_sampled_answer(server):
    texts = {
        seed: {server.chat(temperature=1.5, seed=seed).choices[0].message.content for _ in range(2)}
        for seed in (1, 2, -3)
    }
    assert all(len(found) == 1 for found in texts.values()), texts


@check
def sampling_extensions_are_taken(server):
    completion = server.chat(temperature=2, top_p=0.9, seed=7, extra_body={"top_k": 1, "min_p": 0.1})
    assert completion.choices[0].message.content == server.chat().choices[0].message.content


@check
def n_gives_n_choices(server):
    completion = server.chat(n=3, temperature=1, seed=5)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    alone = server.chat(n=1, temperature=1, seed=6)
    assert completion.choices[1].message.content == alone.choices[0].message.content


@check
def a_stop_string_ends_the_text_before_it(server):
    text = server.chat().choices[0].message.content
    stop = text[len(text) // 2 :][:3]
    completion = server.chat(stop=[stop, "never to be seen"])
    assert completion.choices[0].message.content == text[: text.index(stop)]
    assert completion.choices[0].finish_reason == "stop"


@check
def system_and_developer_messages_and_parts_are_taken(server):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "Troupe?"}]
    messages = [{"role": "user", "content": parts}]
    assert server.chat(messages=messages).choices[0].message.content == server.chat().choices[0].message.content
    for role in ("system", "developer"):
        server.chat(messages=[{"role": role, "content": "Be brief."}, *HELLO])


@check
def a_conversation_goes_on(server):
    first = server.chat().choices[0].message
    messages = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": "More?"}]
    assert server.chat(messages=messages).usage.prompt_tokens > server.chat().usage.prompt_tokens


@check
def chat_logprobs_match_the_text(server):
    choice = server.chat(logprobs=True, top_logprobs=3).choices[0]
    content = choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in content).decode() == choice.message.content
    for entry in content:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[-1].logprob


# --- chat streams -------------------------------------------------------------------------------


def text_of(chunks, index=0):
    return "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )


@check
def a_stream_carries_the_same_text(server):
    chunks = list(server.chat(stream=True))
    assert text_of(chunks) == server.chat().choices[0].message.content
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    assert all(c.object == "chat.completion.chunk" for c in chunks)


@check
def a_stream_names_the_role_once_and_first(server):
    chunks = list(server.chat(stream=True))
    roles = [c.choices[0].delta.role for c in chunks]
    assert roles[0] == "assistant" and not any(roles[1:])
    reasons = [c.choices[0].finish_reason for c in chunks]
    assert reasons[-1] in ("stop", "length") and not any(reasons[:-1])


@check
def a_stream_without_asking_has_no_usage_and_no_empty_choices(server):
    chunks = list(server.chat(stream=True))
    assert all(c.choices and c.usage is None for c in chunks)


@check
def a_stream_has_usage_at_its_end_when_asked(server):
    chunks = list(server.chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage == server.chat().usage
    assert all(c.choices and c.usage is None for c in chunks[:-1])


@check
def a_stream_of_several_choices_can_be_taken_apart(server):
    whole = server.chat(n=3, temperature=1, seed=5)
    chunks = list(server.chat(n=3, temperature=1, seed=5, stream=True))
    for choice in whole.choices:
        assert text_of(chunks, choice.index) == choice.message.content


@check
def the_clients_own_accumulator_accepts_a_stream(server):
    with server.openai().chat.completions.stream(
        model=server.model, messages=HELLO, max_tokens=24, temperature=0
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == server.chat().choices[0].message.content
    assert final.choices[0].message.role == "assistant"


@check
def a_stream_stops_at_a_stop_string(server):
    text = server.chat().choices[0].message.content
    stop = text[len(text) // 2 :][:3]
    assert text_of(server.chat(stop=stop, stream=True)) == text[: text.index(stop)]


@check
def a_stream_carries_logprobs(server):
    chunks = list(server.chat(stream=True, logprobs=True))
    content = [e for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content]
    assert b"".join(bytes(e.bytes) for e in content).decode() == text_of(chunks)


@check
def a_closed_stream_frees_the_cluster(server):
    stream = server.chat(stream=True, max_tokens=200, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    for _ in range(200):
        status = json.loads(server.request("GET", "/v1/troupe/status")[2])
        if status["requests"]["running"] + status["requests"]["queued"] == 0:
            return
        time.sleep(0.05)
    raise AssertionError(status["requests"])


@check
def requests_at_once_get_their_own_answers(server):
    def ask(seed):
        return server.chat(temperature=1, seed=seed).choices[0].message.content

    alone = [ask(seed) for seed in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


@check
def an_async_client_is_served(server):
    import asyncio

    import openai

    async def ask():
        client = openai.AsyncOpenAI(base_url=server.base_url + "/v1", api_key="any")
        fields = {"model": server.model, "messages": HELLO, "max_tokens": 24, "temperature": 0}
        text = ""
        async for chunk in await client.chat.completions.create(stream=True, **fields):
            text += chunk.choices[0].delta.content or ""
        await client.close()
        return text

    assert asyncio.run(ask()) == server.chat().choices[0].message.content


# --- completions --------------------------------------------------------------------------------


@check
def a_completion_is_answered(server):
    completion = server.complete()
    assert completion.object == "text_completion" and completion.id.startswith("cmpl-")
    assert completion.choices[0].text and completion.choices[0].finish_reason in ("stop", "length")


@check
def completions_give_16_tokens_unless_told(server):
    completion = server.complete(max_tokens=None, extra_body={"ignore_eos": True})
    assert completion.usage.completion_tokens == 16


@check
def completions_take_all_forms_of_prompts(server):
    _, _, body = server.request("POST", "/tokenize", {"prompt": "Troupe is"})
    tokens = json.loads(body)["tokens"]
    text = server.complete().choices[0].text
    assert server.complete(prompt=tokens).choices[0].text == text
    for prompt in (["Troupe is", "Troupe is"], [tokens, tokens]):
        choices = server.complete(prompt=prompt).choices
        assert [c.index for c in choices] == [0, 1] and [c.text for c in choices] == [text, text]


@check
def completions_echo_the_prompt(server):
    assert server.complete(echo=True).choices[0].text == "Troupe is" + server.complete().choices[0].text


@check
def completions_stream(server):
    text = "".join(c.choices[0].text for c in server.complete(stream=True) if c.choices)
    assert text == server.complete().choices[0].text


@check
def completion_logprobs_have_their_shape(server):
    choice = server.complete(logprobs=2).choices[0]
    logprobs = choice.logprobs
    sizes = {len(logprobs.tokens), len(logprobs.token_logprobs), len(logprobs.text_offset)}
    assert sizes == {len(logprobs.top_logprobs)} and logprobs.text_offset[0] == 0
    assert len(logprobs.top_logprobs[0]) >= 2


@check
def an_echo_has_the_logprobs_of_the_prompt(server):
    alone = server.complete(echo=True, logprobs=2, max_tokens=0)
    longer = server.complete(echo=True, logprobs=2)
    scores = alone.choices[0].logprobs
    assert alone.choices[0].text == "Troupe is" and alone.usage.completion_tokens == 0
    assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
    n = len(scores.tokens)
    assert n == alone.usage.prompt_tokens
    assert scores.token_logprobs == longer.choices[0].logprobs.token_logprobs[:n]
    assert all(value < 0 for value in scores.token_logprobs[1:])


@check
def prompt_logprobs_have_vllms_shape(server):
    answer = server.chat(extra_body={"prompt_logprobs": 2})
    scores = answer.prompt_logprobs
    assert scores[0] is None and len(scores) == answer.usage.prompt_tokens
    for position in scores[1:]:
        assert 2 <= len(position) <= 3
        assert {entry["rank"] for entry in position.values()} >= {1, 2}


# --- errors -------------------------------------------------------------------------------------


@check
def wrong_values_name_their_field(server):
    for field, value in (("temperature", 3), ("top_p", 0), ("n", 0), ("max_tokens", 0), ("stop", 5)):
        error = raises("BadRequestError", lambda: server.chat(**{field: value}))
        assert error.param == field and error.code == "invalid_value", error.body
        assert error.type == "invalid_request_error" and error.request_id


@check
def unsupported_features_are_refused_not_ignored(server):
    for fields in ({"length_penalty": 2}, {"use_beam_search": True}):
        error = raises("BadRequestError", lambda: server.chat(extra_body=fields))
        assert error.code == "unsupported_parameter" and error.param in fields, error.body


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["good", "bad"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}


def is_person(text):
    person = json.loads(text)
    assert list(person) == ["name", "age", "mood"], text
    assert 0 <= person["age"] <= 150 and person["mood"] in ("good", "bad"), text


@check
def a_json_schema_is_followed(server):
    asked = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}
    answer = server.chat(n=2, max_tokens=100, response_format=asked)
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        is_person(choice.message.content)


@check
def a_stream_follows_a_json_schema(server):
    asked = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
    chunks = list(server.chat(stream=True, max_tokens=100, response_format=asked))
    is_person(text_of(chunks))


@check
def regexes_and_choices_are_followed(server):
    regex = server.chat(max_tokens=50, extra_body={"structured_outputs": {"regex": "[ab]{3}-[0-9]"}})
    text = regex.choices[0].message.content
    assert len(text) == 5 and set(text[:3]) <= set("ab") and text[3] == "-", text
    choice = server.chat(max_tokens=50, extra_body={"guided_choice": ["left", "right"]})
    assert choice.choices[0].message.content in ("left", "right")


@check
def a_bad_schema_is_refused_with_its_place(server):
    schema = {"type": "object", "properties": {"a": {"not": {}}}}
    asked = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    error = raises("BadRequestError", lambda: server.chat(response_format=asked))
    assert error.param == "response_format.json_schema.schema", error.body
    assert "#/properties/a" in error.message and "not" in error.message


@check
def too_long_prompts_say_so(server):
    error = raises("BadRequestError", lambda: server.chat(max_tokens=server.max_model_len))
    assert error.code == "context_length_exceeded", error.body
    assert f"maximum context length is {server.max_model_len} tokens" in error.message


@check
def unknown_fields_are_accepted(server):
    server.chat(extra_body={"never_heard_of": {"a": 1}}, user="me")


# --- rules of the stream, by the standard library ------------------------------------------------


@raw_check
def stream_headers_are_right(server):
    headers, _ = server.events()
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache" and headers["X-Accel-Buffering"] == "no"
    assert headers["x-request-id"]


@raw_check
def stream_framing_is_right(server):
    for options in ({}, {"include_usage": True}):
        _, data = server.events(stream_options=options)
        assert b"\r" not in data and data.endswith(b"\n\ndata: [DONE]\n\n")
        events = data.decode("utf-8").split("\n\n")[:-1]
        assert all(e.startswith(("data: ", ": ")) and "\n" not in e for e in events)
        assert events.count("data: [DONE]") == 1


@raw_check
def errors_before_the_stream_have_a_status(server):
    body = {"messages": HELLO, "stream": True, "temperature": 9}
    status, headers, data = server.request("POST", "/v1/chat/completions", body)
    error = json.loads(data)["error"]
    assert status == 400 and headers["Content-Type"] == "application/json"
    assert set(error) == {"message", "type", "param", "code"} and isinstance(error["code"], str)


@raw_check
def null_means_unset(server):
    names = ("stop", "n", "seed", "top_p", "logprobs", "stream_options", "tools", "logit_bias", "user")
    body = {"messages": HELLO, "max_tokens": 4, "temperature": 0, **dict.fromkeys(names)}
    assert server.request("POST", "/v1/chat/completions", body)[0] == 200


@raw_check
def model_ids_are_decoded(server):
    quoted = urllib.parse.quote(server.model, safe="")
    status, _, body = server.request("GET", f"/v1/models/{quoted}")
    assert status == 200 and json.loads(body)["id"] == server.model


@raw_check
def bad_requests_get_their_status(server):
    assert server.request("GET", "/nothing")[0] == 404
    assert server.request("GET", "/v1/chat/completions")[0] == 405
    assert server.request("POST", "/v1/completions", "{")[0] == 400
    assert server.request("POST", "/v1/completions", b'{"prompt":"\xff"}')[0] == 400
    assert server.request("POST", "/v1/completions", "a=b", {"Content-Type": "text/plain"})[0] == 415
    for path in ("/nothing", "/v1/models/x"):
        assert isinstance(json.loads(server.request("GET", path)[2])["error"], dict)


@raw_check
def browsers_may_ask(server):
    wanted = {"Access-Control-Request-Headers": "authorization, x-stainless-lang", "Origin": "http://a"}
    status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", headers=wanted)
    assert status == 204 and headers["Access-Control-Allow-Origin"] == "*"
    assert "authorization" in headers["Access-Control-Allow-Headers"]


@raw_check
def operators_are_served(server):
    assert json.loads(server.request("GET", "/health")[2]) == {"status": "ok"}
    assert json.loads(server.request("GET", "/version")[2])["version"]
    assert "/v1/chat/completions" in json.loads(server.request("GET", "/openapi.json")[2])["paths"]
    metrics = server.request("GET", "/metrics")[2].decode()
    for name in ("vllm:num_requests_running", "vllm:time_to_first_token_seconds", "troupe_build_info"):
        assert name in metrics, name


@raw_check
def text_survives_tokenize_and_detokenize(server):
    text = "Troupe: 七个 actors, 3.5×, 😀\n"
    body = {"prompt": text, "add_special_tokens": False}
    tokens = json.loads(server.request("POST", "/tokenize", body)[2])
    assert tokens["count"] == len(tokens["tokens"]) and tokens["max_model_len"] == server.max_model_len
    back = json.loads(server.request("POST", "/detokenize", {"tokens": tokens["tokens"]})[2])
    assert back["prompt"] == text


def main(arguments):
    raw_only = "--raw" in arguments
    names = [a for a in arguments if a != "--raw"]
    if not names:
        print(__doc__)
        return 2
    server = Server(names.pop(0))
    checks = [c for c in (RAW_CHECKS if raw_only else CHECKS + RAW_CHECKS) if not names or c.__name__ in names]
    failed = 0
    for function in checks:
        try:
            function(server)
            print(f"ok    {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {function.__name__}\n{traceback.format_exc()}", flush=True)
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
