"""A chat endpoint that speaks OpenAI's protocol, asked with nothing but the standard library.

    E2E_OPENAI_BASE_URL   e.g. https://api.openai.com/v1, or http://localhost:8000/v1
    E2E_OPENAI_MODEL      the model's name there
    E2E_OPENAI_API_KEY    if it wants one

There is no default address: nothing is contacted that these variables do not name. The key goes
into one header of requests to that address and nowhere else: redirects are not followed, and error
sentences hold neither the key nor anything the server wrote, which may repeat it.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.message import Message as Headers
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead, responses
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from e2e_lib.analysis.interpret.explainers import MalformedError, Message, PromptExplainer
from e2e_lib.analysis.interpret.protocol import ExplainerError, UnreachableError
from e2e_lib.errors import ConfigError

URL, MODEL, KEY = "E2E_OPENAI_BASE_URL", "E2E_OPENAI_MODEL", "E2E_OPENAI_API_KEY"
WORTH_ANOTHER_TRY = {408, 409, 425, 429} | set(range(500, 600))
LARGEST_ANSWER = 4_000_000  # bytes
LONGEST_WAIT = 300.0  # seconds that a server may make us wait


class NoRedirect(HTTPRedirectHandler):
    """Following one would send the key to an address that nobody set."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Leave the redirect an error."""


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
        backoff: float = 1.0, sleep: Callable[[float], object] = time.sleep,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ConfigError(
                f"{URL} must be an address such as https://host/v1, without user or password."
            )
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{KEY} holds characters that a header cannot hold.")
        self.host, self.model, self._key = parts.hostname, model, key
        self.address = url.rstrip("/") + "/chat/completions"
        self.timeout, self.retries, self.backoff, self.sleep = timeout, retries, backoff, sleep
        self.options: dict[str, Any] = {"temperature": 0}
        self._opener = build_opener(NoRedirect)

    def __call__(self, messages: list[Message], tokens: int) -> str:
        """The answer's text. `tokens` is not passed on: services disagree on the option's name.

        Raises:
            MalformedError: the answer is not of the protocol's form.
            UnreachableError: no answer after all retries.
            ExplainerError: the server refuses: wrong address, model or key.
        """
        wait = self.backoff
        for attempt in range(self.retries + 1):
            try:
                return read_answer(self._post({"model": self.model, "messages": messages}))
            except HTTPError as error:
                reason = f"status {error.code} ({responses.get(error.code, 'unknown')})"
                asked = retry_after(error.headers)
                error.close()
                if error.code == 400 and self.options:
                    self.options = {}  # reasoning models refuse to be told a temperature
                    return self(messages, tokens)
                if error.code not in WORTH_ANOTHER_TRY:
                    raise ExplainerError(
                        f"The endpoint at {self.host} refuses with {reason}: see {URL}, {MODEL} "
                        f"and {KEY}."
                    ) from None
            except (OSError, HTTPException) as error:  # time-outs and URLError are OSErrors
                cause = error.reason if isinstance(error, URLError) else error
                reason, asked = type(cause).__name__, 0.0
            if attempt == self.retries or asked > LONGEST_WAIT:
                break
            self.sleep(max(wait, asked))
            wait *= 2
        asks = f" and asks for a pause of {asked:.0f} s" if asked > LONGEST_WAIT else ""
        raise UnreachableError(
            f"The endpoint at {self.host} gave no answer in {attempt + 1} tries: {reason}{asks}."
        )

    def _post(self, body: Mapping[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "e2e_lib"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps({**body, **self.options}).encode()
        request = Request(self.address, data, headers, method="POST")
        deadline = time.monotonic() + self.timeout
        answer = bytearray()
        with self._opener.open(request, timeout=self.timeout) as response:
            # The socket's time-out starts anew with every byte; a trickle must end too.
            while part := response.read1(65536):
                answer += part
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(answer) > LARGEST_ANSWER:
                    raise MalformedError("The endpoint's answer is larger than 4 MB.")
            if response.length:  # read1 says nothing of a connection that ends early
                raise IncompleteRead(b"", response.length)
        return bytes(answer)


def read_answer(body: bytes) -> str:
    """The text of the first choice."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        raise MalformedError("The endpoint's answer is not a chat completion.")
    return content


def retry_after(headers: Headers | None) -> float:
    """Seconds that the server asks to wait, given as a number or as a date; 0 if it does not."""
    text = (headers.get("Retry-After") or "").strip() if headers else ""
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
