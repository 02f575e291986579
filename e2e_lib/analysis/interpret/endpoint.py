"""A chat endpoint that speaks OpenAI's protocol.

    E2E_OPENAI_BASE_URL   e.g. https://api.openai.com/v1, or http://localhost:8000/v1
    E2E_OPENAI_MODEL      the model's name there
    E2E_OPENAI_API_KEY    if it wants one

There is no default address: nothing is contacted that these variables do not name. The key goes
into one header of requests to that address and nowhere else: redirects are not followed, and error
sentences hold neither the key nor anything the server wrote, which may repeat it.
"""

import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import httpx
from tenacity import Future, RetryError, Retrying, retry_if_exception

from e2e_lib.analysis.interpret.explainers import MalformedError, Message, PromptExplainer
from e2e_lib.analysis.interpret.protocol import ExplainerError, UnreachableError
from e2e_lib.errors import ConfigError

URL, MODEL, KEY = "E2E_OPENAI_BASE_URL", "E2E_OPENAI_MODEL", "E2E_OPENAI_API_KEY"
WORTH_ANOTHER_TRY = {408, 409, 425, 429} | set(range(500, 600))
LARGEST_ANSWER = 4_000_000  # bytes
LONGEST_WAIT = 300.0  # seconds that a server may make us wait


class Endpoint:
    """Asks a chat endpoint; a function from messages to an answer.

    Args:
        url: address up to and without `/chat/completions`.
        model: the model's name there.
        key: sent as `Authorization: Bearer`, unless empty.
        timeout: seconds for one answer, from the first byte sent to the last received.
        retries: further tries after 408, 409, 425, 429, 5xx, a time-out or a broken connection.
        backoff: seconds before the first of them, doubled each time; a `Retry-After` that is
            longer counts instead.
        sleep: how to wait.

    Raises:
        ConfigError: an address that is no http(s) address, or a key that no header can hold.
    """

    def __init__(
        self, url: str, model: str, key: str = "", *, timeout: float = 60.0, retries: int = 5,
        backoff: float = 1.0, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        try:
            parts = httpx.URL(url.rstrip("/") + "/chat/completions")
        except httpx.InvalidURL:
            parts = httpx.URL()
        if parts.scheme not in ("http", "https") or not parts.host or parts.userinfo:
            raise ConfigError(
                f"{URL} must be an address such as https://host/v1, without user or password."
            )
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{KEY} holds characters that a header cannot hold.")
        self.address, self.model, self._key, self.timeout = parts, model, key, timeout
        self.options: dict[str, Any] = {"temperature": 0}
        self._retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=lambda s: s.attempt_number > retries or retry_after(s.outcome) > LONGEST_WAIT,
            wait=lambda s: max(backoff * 2 ** (s.attempt_number - 1), retry_after(s.outcome)),
            sleep=sleep,
        )

    def __call__(self, messages: list[Message], tokens: int) -> str:
        """The answer's text. `tokens` is not passed on: services disagree on the option's name.

        Raises:
            MalformedError: the answer is not of the protocol's form.
            UnreachableError: no answer after all retries.
            ExplainerError: the server refuses: wrong address, model or key.
        """
        where = f"The endpoint at {self.address.host}"
        try:
            return read_answer(self._retrying(self._post, messages))
        except httpx.HTTPStatusError as error:
            raise ExplainerError(
                f"{where} refuses with {_reason(error)}: see {URL}, {MODEL} and {KEY}."
            ) from None
        except ImportError as error:  # a SOCKS proxy in the environment needs a further package
            raise ExplainerError(f"{where} is out of reach: {error}") from None
        except RetryError as error:
            last, pause = error.last_attempt, retry_after(error.last_attempt)
            reason = _reason(last.exception())
            reason += f" and asks for a pause of {pause:.0f} s" if pause > LONGEST_WAIT else ""
            raise UnreachableError(
                f"{where} gave no answer in {last.attempt_number} tries: {reason}."
            ) from None

    def _post(self, messages: list[Message]) -> bytes:
        # No compression: a few bytes could unpack to any size.
        headers = {"Accept-Encoding": "identity", "User-Agent": "e2e_lib"}
        headers["Content-Type"] = "application/json"
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        body = json.dumps({"model": self.model, "messages": messages, **self.options})
        deadline = time.monotonic() + self.timeout
        answer = bytearray()
        options: dict[str, Any] = {"timeout": self.timeout, "verify": _certificates()}
        with httpx.stream(
            "POST", self.address, content=body, headers=headers, **options
        ) as response:
            if response.status_code == 400 and self.options:
                self.options = {}  # reasoning models refuse to be told a temperature
                return self._post(messages)
            response.raise_for_status()
            # The time-out starts anew with every byte; a trickle must end too.
            for part in response.iter_raw():
                answer += part
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(answer) > LARGEST_ANSWER:
                    raise MalformedError("The endpoint's answer is larger than 4 MB.")
        return bytes(answer)


@cache  # reading them takes longer than a short answer
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _may_pass(error: BaseException) -> bool:
    """Whether another try may succeed."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in WORTH_ANOTHER_TRY
    return isinstance(error, (httpx.TransportError, TimeoutError))


def _reason(error: BaseException | None) -> str:
    """The status, or the name of the exception at the root: `ConnectionRefusedError`."""
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        return f"status {code} ({httpx.codes.get_reason_phrase(code) or 'unknown'})"
    while error and error.__context__:
        error = error.__context__
    return type(error).__name__


def read_answer(body: bytes) -> str:
    """The text of the first choice."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        raise MalformedError("The endpoint's answer is not a chat completion.")
    return content


def retry_after(tried: Future | None) -> float:
    """Seconds that the server asks to wait, given as a number or as a date; 0 if it does not."""
    error = tried.exception() if tried else None
    headers = error.response.headers if isinstance(error, httpx.HTTPStatusError) else {}
    text = headers.get("Retry-After", "").strip()
    try:
        if text.replace(".", "", 1).isdecimal():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def chosen_backend(environment: Mapping[str, str] = os.environ) -> str:
    """Who explains features where that is left open: the endpoint, if one is named.

    Raises:
        ConfigError: one of its variables is set, but they name no usable endpoint.
    """
    if not any(environment.get(name, "").strip() for name in (URL, MODEL)):
        return "storyworld"
    endpoint_explainer(environment)
    return "endpoint"


def endpoint_explainer(
    environment: Mapping[str, str] = os.environ, **options: Any
) -> PromptExplainer:
    """An explainer that is the chat endpoint of the environment variables.

    Raises:
        ConfigError: the address or the model is not set, or not usable.
    """
    url, model, key = (environment.get(name, "").strip() for name in (URL, MODEL, KEY))
    for name, value in ((URL, url), (MODEL, model)):
        if not value:
            raise ConfigError(
                f"{name} is not set, but backend 'endpoint' needs it: the address of an "
                "OpenAI-compatible service (up to /v1) and the name of a model there."
            )
    return PromptExplainer(f"endpoint:{model}", Endpoint(url, model, key, **options))
