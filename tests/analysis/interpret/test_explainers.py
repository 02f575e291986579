"""Explainers that are language models: prompts, answers, a local model, a server of our own."""

import itertools
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import torch

from e2e_lib.analysis.interpret import endpoint, explainers, protocol
from e2e_lib.analysis.interpret.explainers import MalformedError
from e2e_lib.analysis.interpret.features import Example
from e2e_lib.analysis.interpret.protocol import (
    AnswerError,
    ExplainerError,
    Feature,
    UnreachableError,
)
from e2e_lib.errors import ConfigError, ModelError
from tests.helpers.chat_server import Chat, QuietServer, chat_server, completion
from tests.helpers.tiny_models import assert_sentence, build_tokenizer, model_folder

KEY = "sk-very-secret-0123456789"
SHOWN = Example(0, 0, 1, (" the", "\n", "fox"), (0.0, 4.0, 1.0))
WEAKER = Example(1, 0, 0, ("dog", "x\ty"), (2.0, 0.0))
FEATURE = Feature("run/7", [SHOWN, WEAKER], [SHOWN, WEAKER])


# -------------------------------------------------------------------- questions
def test_the_explainer_sees_tokens_with_activity_from_0_to_10():
    prompt = explainers.explain_prompt([SHOWN, WEAKER])
    assert "Excerpt 1\n the\t0\n\\n\t10\nfox\t2\n\nExcerpt 2\ndog\t5\nx\\ty\t0\n" in prompt


def test_the_simulator_sees_tokens_and_explanation_but_no_activity():
    asked = []

    def ask(messages, tokens):
        asked.append(messages[0]["content"])
        return "[0, 10, 2]"

    explainer = explainers.PromptExplainer("m", ask)
    assert explainer.simulate(FEATURE, "line breaks {n}", SHOWN) == [0, 10, 2]
    assert "it is active on line breaks {n}\n" in asked[0]
    assert '[" the", "\\n", "fox"]' in asked[0]
    assert "\t" not in asked[0] and "4.0" not in asked[0]


# ---------------------------------------------------------------------- answers
@pytest.mark.parametrize(
    ("answer", "numbers"),
    [("[1, 2.5, 0]", [1, 2.5, 0]), ("```json\n[1,2,3]\n```", [1, 2, 3]), ("So: [0, 0, 1e1].",
     [0, 0, 10])],
)  # fmt: skip
def test_numbers_are_read_from_what_stands_round_them(answer, numbers):
    assert explainers.read_numbers(answer, 3) == numbers


@pytest.mark.parametrize(
    ("answer", "says"),
    [("", "not a JSON list"), ("no idea", "not a JSON list"), ("[1, 2", "not a JSON list"),
     ('{"a": 1}', "not a JSON list"), ("[" * 9999 + "]" * 9999, "not a JSON list"),
     ("[1, 2]", "2 numbers instead of 3"), ("[[1, 2, 3]]", "1 numbers instead of 3"),
     ("[1, NaN, 2]", "finite"), ("[1, Infinity, 2]", "finite"), ("[1, null, 2]", "finite"),
     ('[1, "2", 3]', "finite"), ("[1, true, 3]", "finite"), ("][", "not a JSON list"),
     ("[1, 1e999, 2]", "finite"), ("[1, 2, 3] or [3, 2, 1]", "not a JSON list")],
)  # fmt: skip
def test_malformed_simulations(answer, says):
    with pytest.raises(MalformedError) as caught:
        explainers.read_numbers(answer, 3)
    assert_sentence(caught, says)


def test_explanations_are_one_line_of_bounded_length():
    assert explainers.read_explanation(' "this unit is active on  verbs\n." ') == "verbs ."
    assert len(explainers.read_explanation("x" * 5000)) == 400
    for empty in ("", " \n", '""'):
        with pytest.raises(MalformedError):
            explainers.read_explanation(empty)


def test_a_malformed_answer_is_asked_for_again():
    answers = iter(["", "verbs", "[1]", "[1, 2, 3]", "never", "never", "never"])
    explainer = explainers.PromptExplainer("m", lambda messages, tokens: next(answers), attempts=3)
    assert explainer.explain(FEATURE) == "verbs"
    assert explainer.simulate(FEATURE, "verbs", SHOWN) == [1, 2, 3]
    with pytest.raises(AnswerError, match="not a JSON list"):
        explainer.simulate(FEATURE, "verbs", SHOWN)
    assert next(answers, None) is None


# ------------------------------------------------------------------- a local model
def test_a_local_model_that_rambles_fails_its_features_one_by_one(tmp_path):
    explainer = explainers.local_explainer(str(long_context(tmp_path)))
    assert explainer.name == "local:long"
    table = protocol.interpret([FEATURE, FEATURE._replace(key="run/8")], explainer)
    assert table["score"].isna().all()
    assert all("JSON list" in error or "empty" in error for error in table["error"])


def test_a_local_model_that_answers_gives_a_score(tmp_path, monkeypatch):
    model = explainers.LocalModel(str(long_context(tmp_path)))
    answers = itertools.cycle(["w3 w4", "[0, 9, 3]", "[7, 0]"])
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids, **options: next(answers))
    explainer = explainers.PromptExplainer("local:x", model, attempts=1)
    table = protocol.interpret([FEATURE], explainer)
    assert table["explanation"][0] == "w3 w4" and table["error"][0] == ""
    expected = torch.corrcoef(torch.tensor([[0.0, 9, 3, 7, 0], [0, 4, 1, 2, 0]]))[0, 1]
    assert table["score"][0] == pytest.approx(float(expected), abs=1e-6)


def test_a_local_model_sees_the_question_and_only_its_answer_is_read(tmp_path, monkeypatch):
    model = explainers.LocalModel(str(long_context(tmp_path)))
    seen = {}

    def generate(ids, **options):
        seen.update(ids=ids, **options)
        return torch.cat([ids, torch.tensor([[5, 0, 6]])], dim=1)

    monkeypatch.setattr(model.model, "generate", generate)
    message = [{"role": "user", "content": "w1 w2"}]
    assert model(message, 3) == "w5 w6"
    assert (seen["ids"].tolist(), seen["max_new_tokens"]) == ([[1, 2]], 3)
    assert not seen["do_sample"]
    model.tokenizer.chat_template = "{% for m in messages %}w9 {{ m.content }}{% endfor %} w8"
    model(message, 3)
    assert seen["ids"].tolist() == [[9, 1, 2, 8]]


def test_a_question_too_long_for_the_local_model():
    model = explainers.LocalModel(str(model_folder("gpt2")))
    with pytest.raises(AnswerError) as caught:
        model([{"role": "user", "content": "w1 " * 20}], 5)
    assert_sentence(caught, "20 tokens", "up to 5", "context is 24")


def test_a_local_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelError) as caught:
        explainers.LocalModel(str(tmp_path / "none"))
    assert "explainer_model" in str(caught.value)
    with pytest.raises(ModelError, match="device"):
        explainers.LocalModel(str(model_folder("gpt2")), "cuda:77")


def test_a_local_model_is_found_and_read_as_other_models_are(tmp_path, monkeypatch):
    """`~` is the home folder, a relative path the project's, and text is cut as tokenizer.json
    says, whatever class its description names."""
    folder = long_context(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pyproject.toml").touch()
    for below in ("e2e_lib", "notebooks"):
        (tmp_path / below).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for name in (f"~/{folder.name}", folder.name):
        assert explainers.explainer_tokenizer(name)("w1 w2")["input_ids"] == [1, 2]
    described = folder / "tokenizer_config.json"
    described.write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    model = explainers.LocalModel(str(folder))
    assert model.tokenizer("w1 w2")["input_ids"] == [1, 2]


def long_context(tmp_path):
    """A tiny random model whose context holds the questions, in which every word is unknown."""
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=8, n_positions=1500, vocab_size=30, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "long")
    build_tokenizer().save_pretrained(tmp_path / "long")
    return tmp_path / "long"


# ------------------------------------------------------------------- an endpoint
@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with chat_server() as running:
        yield running


def client(server, **options):
    """An endpoint on the test's server that notes its waits instead of waiting."""
    waits = []
    url = f"http://127.0.0.1:{server.server_port}/v1/"
    made = endpoint.Endpoint(url, "tiny", KEY, sleep=waits.append, **options)
    return made, waits


QUESTION = [{"role": "user", "content": "hello"}]


def test_the_protocol(server):
    server.script = [(200, {}, completion("hi"))]
    ask, waits = client(server)
    assert ask(QUESTION, 5) == "hi"
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {"model": "tiny", "messages": QUESTION, "temperature": 0}
    assert waits == []


def test_without_a_key_there_is_no_header(server):
    ask = endpoint.Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "tiny")
    ask(QUESTION, 5)
    assert "Authorization" not in server.seen[0][1]


def test_a_feature_is_scored_through_the_endpoint(server, tmp_path):
    explainer = endpoint.endpoint_explainer({
        endpoint.URL: f"http://127.0.0.1:{server.server_port}/v1", endpoint.MODEL: "tiny",
        endpoint.KEY: KEY,
    })  # fmt: skip
    table = protocol.interpret([FEATURE], explainer, tmp_path / "f.jsonl")
    expected = torch.corrcoef(torch.tensor([[0.0, 10, 0, 0, 0], [0, 4, 1, 2, 0]]))[0, 1]
    assert table["score"][0] == pytest.approx(float(expected), abs=1e-6)
    assert table["explanation"][0] == "line breaks"
    assert table["explainer"][0] == "endpoint:tiny"
    assert len(server.seen) == 3
    assert KEY not in (tmp_path / "f.jsonl").read_text() + repr(explainer) + repr(explainer.ask)
    protocol.interpret([FEATURE], explainer, tmp_path / "f.jsonl")
    assert len(server.seen) == 3  # resumed


def test_rate_limits_and_failures_back_off_and_honour_retry_after(server):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.script = [
        (429, {"Retry-After": "7"}), (500,), (503, {"Retry-After": "0.5"}),
        (429, {"Retry-After": soon}), (502, {"Retry-After": "soon"}), (200, {}, completion("hi")),
    ]  # fmt: skip
    ask, waits = client(server)
    assert ask(QUESTION, 5) == "hi"
    assert waits[:3] == [7, 2, 4]
    assert 20 < waits[3] <= 30
    assert waits[4] == 16


def test_a_server_that_never_recovers(server):
    server.script = [(500, {}, f"your key {KEY} is fine")] * 3
    ask, waits = client(server, retries=2)
    with pytest.raises(UnreachableError) as caught:
        ask(QUESTION, 5)
    assert_sentence(caught, "127.0.0.1", "3 tries", "status 500")
    assert KEY not in str(caught.value)
    assert waits == [1, 2]


def test_a_pause_that_is_too_long_is_not_waited_for(server):
    server.script = [(429, {"Retry-After": "86400"})]
    ask, waits = client(server)
    with pytest.raises(UnreachableError) as caught:
        ask(QUESTION, 5)
    assert_sentence(caught, "status 429", "86400 s")
    assert waits == []


def test_slow_answers_time_out(server):
    server.script = [(200, {}, completion("late"), 0.6), (200, {}, completion("hi"))]
    ask, waits = client(server, timeout=0.3)
    assert ask(QUESTION, 5) == "hi"
    assert waits == [1]


def test_an_answer_that_trickles_in_times_out_too(server):
    server.trickle = True
    server.script = [(200, {}, completion("x" * 200))]
    ask, _ = client(server, timeout=0.2, retries=0)
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="TimeoutError"):
        ask(QUESTION, 5)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "body",
    ["", "oops", "{}", "[]", "null", '{"choices": []}', '{"choices": [{"message": null}]}',
     '{"choices": [{"message": {"content": null}}]}', "[" * 100_000],
)  # fmt: skip
def test_malformed_answers_fail_the_feature_and_the_rest_goes_on(server, body):
    server.script = [(200, {}, body)] * 3
    explainer = explainers.PromptExplainer("m", client(server)[0], attempts=3)
    table = protocol.interpret([FEATURE, FEATURE._replace(key="run/8")], explainer)
    assert "not a chat completion" in table["error"][0]
    assert table["error"][1] == "" and table["score"][1] > 0.8


def test_a_simulation_of_the_wrong_length_fails_the_feature(server):
    good, short = (200, {}, completion("line breaks")), (200, {}, completion("[1]"))
    server.script = [good, short, short, short]
    explainer = explainers.PromptExplainer("m", client(server)[0], attempts=3)
    table = protocol.interpret([FEATURE], explainer)
    assert table["error"][0] == "The model's simulation has 1 numbers instead of 3."
    assert table["explanation"][0] == "line breaks"


def test_an_answer_cut_off_is_tried_again(server):
    server.script = [(200, {"Content-Length": 500, "Connection": "close"}, "{")]
    ask, waits = client(server, timeout=0.5)
    assert ask(QUESTION, 5) == "line breaks"
    assert waits == [1]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_final_and_repeats_nothing_of_the_server(server, status):
    server.script = [(status, {}, f"Incorrect key provided: {KEY}")] * 5
    ask, waits = client(server)
    with pytest.raises(ExplainerError) as caught:
        ask(QUESTION, 5)
    assert_sentence(caught, f"status {status}", endpoint.KEY)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert KEY not in str(caught.value)
    assert (waits, len(server.seen)) == ([], 1)


def test_a_model_that_refuses_a_temperature_is_asked_without(server):
    server.script = [(400,), (200, {}, completion("hi")), (400,)]
    ask, _ = client(server)
    assert ask(QUESTION, 5) == "hi"
    assert "temperature" not in server.seen[1][2]
    with pytest.raises(ExplainerError, match="status 400"):
        ask(QUESTION, 5)


def test_a_backend_left_open_is_the_endpoint_if_one_is_named():
    assert (
        endpoint.chosen_backend({}) == endpoint.chosen_backend({endpoint.URL: " "}) == "storyworld"
    )
    named = {endpoint.URL: "http://127.0.0.1:1/v1", endpoint.MODEL: "tiny"}
    assert endpoint.chosen_backend(named) == "endpoint"
    for missing in named:
        with pytest.raises(ConfigError) as caught:
            endpoint.chosen_backend({k: v for k, v in named.items() if k != missing})
        assert_sentence(caught, f"{missing} is not set")


def test_redirects_are_not_followed(server):
    elsewhere = f"http://127.0.0.1:{server.server_port}/elsewhere"
    for status in (301, 302, 303, 307, 308):
        server.seen.clear()
        server.script = [(status, {"Location": elsewhere})]
        with pytest.raises(ExplainerError, match=f"status {status}"):
            client(server)[0](QUESTION, 5)
        assert [path for path, _, _ in server.seen] == ["/v1/chat/completions"]


def test_an_address_where_nobody_listens():
    with QuietServer(("127.0.0.1", 0), Chat) as gone:
        port = gone.server_port
    ask = endpoint.Endpoint(f"http://127.0.0.1:{port}", "m", KEY, retries=1, sleep=lambda s: None)
    with pytest.raises(UnreachableError, match="ConnectionRefusedError"):
        ask(QUESTION, 5)


@pytest.mark.parametrize("missing", [endpoint.URL, endpoint.MODEL])
def test_nothing_is_contacted_unless_it_is_set(missing, monkeypatch):
    opened = []
    monkeypatch.setattr(endpoint.httpx, "stream", lambda *a, **o: opened.append(a))
    environment = {endpoint.URL: "http://127.0.0.1:9", endpoint.MODEL: "m", endpoint.KEY: KEY}
    for value in (None, "  "):
        given = environment | {missing: value} if value else environment.copy()
        if value is None:
            del given[missing]
        with pytest.raises(ConfigError) as caught:
            endpoint.endpoint_explainer(given)
        assert_sentence(caught, missing)
    assert opened == []


@pytest.mark.parametrize(
    ("url", "key"),
    [("api.example.org/v1", ""), ("ftp://example.org", ""), (f"http://user:{KEY}@host/v1", ""),
     ("http://", ""), ("http://host/v1", f"{KEY}\nX-Evil: 1"), ("http://host/v1", f"{KEY}é")],
)  # fmt: skip
def test_unusable_settings_are_named_without_their_value(url, key):
    with pytest.raises(ConfigError) as caught:
        endpoint.Endpoint(url, "m", key)
    assert_sentence(caught, "E2E_OPENAI_")
    assert KEY not in str(caught.value)
