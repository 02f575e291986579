"""Explainers that are language models: what they are asked, how their answers are read.

`PromptExplainer` writes the two prompts and reads the two kinds of answer; whoever answers is a
function from messages to text. Here: a local Hugging Face model. `endpoint`: a chat endpoint.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from e2e_lib.analysis.interpret.features import Example
from e2e_lib.analysis.interpret.protocol import AnswerError, Feature
from e2e_lib.data.described import NO_CODE, load_tokenizer
from e2e_lib.data.model_checks import check_names
from e2e_lib.data.models import check_device
from e2e_lib.errors import ModelError, require, reworded
from e2e_lib.files import source_path

SCALE = 10  # activations are shown as whole numbers from 0 to this
LONGEST_EXPLANATION = 400  # characters
Message = dict[str, str]  # role and content, as chat templates take them

_PROMPTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


class MalformedError(AnswerError):
    """An answer that is not of the form asked for; asked again, the model may do better."""


class PromptExplainer:
    """Explains and simulates by asking a language model.

    Args:
        name: which model, for tables and for the file of finished features.
        ask: messages and the greatest number of tokens to answer with → the model's answer. Raises
            AnswerError or ExplainerError.
        attempts: how often a question is asked until its answer has the form asked for; 1 for a
            model that always answers the same.
    """

    def __init__(
        self, name: str, ask: Callable[[list[Message], int], str], attempts: int = 3
    ) -> None:
        require(attempts >= 1, "attempts", attempts, "at least 1")
        self.name, self.ask, self.attempts = name, ask, attempts

    def explain(self, feature: Feature) -> str:
        """A phrase that completes "This unit is active on"."""
        return str(self._answer(explain_prompt(feature.shown), 200, read_explanation))

    def simulate(self, feature: Feature, explanation: str, example: Example) -> list[float]:
        """The activity that the model expects from the explanation alone, a number each token."""
        n = len(example.tokens)
        prompt = _PROMPTS["simulate"].format(
            explanation=explanation, n=n, tokens=json.dumps(example.tokens, ensure_ascii=False)
        )
        return list(self._answer(prompt, 20 + 6 * n, lambda text: read_numbers(text, n)))

    def _answer(self, prompt: str, tokens: int, read: Callable[[str], Any]) -> Any:
        """Ask until the answer can be read."""
        messages = [{"role": "user", "content": prompt}]
        malformed, last = retry_if_exception_type(MalformedError), stop_after_attempt(self.attempts)
        asking = Retrying(retry=malformed, stop=last, reraise=True)
        return asking(lambda: read(self.ask(messages, tokens)))


def explain_prompt(examples: Sequence[Example]) -> str:
    """Excerpts as lines of token and activity; 10 is the largest activity in any of them."""
    largest = max(max(example.activations) for example in examples)
    excerpts = []
    for number, example in enumerate(examples, 1):
        lines = [
            f"{json.dumps(token, ensure_ascii=False)[1:-1]}\t{round(SCALE * value / largest)}"
            for token, value in zip(example.tokens, example.activations, strict=True)
        ]
        excerpts.append("\n".join([f"Excerpt {number}", *lines]))
    return _PROMPTS["explain"].format(excerpts="\n\n".join(excerpts))


def read_explanation(answer: str) -> str:
    """The explanation on one line, without the words that the prompt began.

    >>> read_explanation('"This unit is active on verbs\\n in the plural."')
    'verbs in the plural.'
    """
    text = " ".join(answer.split()).strip("\"'` ")
    opening = "this unit is active on "
    text = text[len(opening) :] if text.lower().startswith(opening) else text
    if not text:
        raise MalformedError("The model's explanation was empty.")
    return text[:LONGEST_EXPLANATION]


def read_numbers(answer: str, n: int) -> list[float]:
    """The `n` numbers of the JSON list in an answer, whatever stands round it.

    >>> read_numbers('Sure: ```json\\n[0, 10, 2.5]\\n```', 3)
    [0.0, 10.0, 2.5]
    """
    start, end = answer.find("["), answer.rfind("]")
    try:
        values = json.loads(answer[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise MalformedError("The model's simulation was not a JSON list.")
    if len(values) != n:
        raise MalformedError(f"The model's simulation has {len(values)} numbers instead of {n}.")
    if not all(type(value) in (int, float) and abs(value) < math.inf for value in values):
        raise MalformedError("The model's simulation holds something that is not a finite number.")
    return [float(value) for value in values]


def explainer_tokenizer(name_or_folder: str) -> Any:
    """The tokenizer of a local model that explains: a relative folder is the project's.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        if not name_or_folder:
            raise ModelError("none is named.")
        return load_tokenizer(name_or_folder)
    except ModelError as error:
        raise ModelError(f"{_no_explainer(name_or_folder)}: {error}") from error


def _no_explainer(name_or_folder: str) -> str:
    return (
        f"explainer_model is {name_or_folder!r}, but it must be a folder in the hub's layout "
        "or a hub name that can be loaded"
    )


class LocalModel:
    """A Hugging Face causal language model that answers by greedy decoding.

    With a chat template in its tokenizer the question is put as a user's turn, otherwise as plain
    text. Nothing that a model folder brings as code is run.

    Args:
        name_or_folder: a folder in Hugging Face layout or a hub name.
        device: `cpu`, `cuda`, ...

    Raises:
        ModelError: no such device, or the model cannot be loaded.
    """

    def __init__(self, name_or_folder: str, device: str = "cpu") -> None:
        from transformers import AutoModelForCausalLM

        check_device(device)
        self.tokenizer: Any = explainer_tokenizer(name_or_folder)
        with reworded(ModelError, _no_explainer(name_or_folder)):
            told: Any = AutoModelForCausalLM.from_pretrained(
                source_path(name_or_folder), dtype="auto", output_loading_info=True, **NO_CODE
            )
            model, info = told
            check_names(name_or_folder, **info)
        self.model: Any = model.eval()
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, messages: list[Message], tokens: int) -> str:
        """The answer, of at most `tokens` tokens.

        Raises:
            AnswerError: question and answer do not fit the model's context.
        """
        if self.tokenizer.chat_template:
            encoded = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        else:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            encoded = self.tokenizer(text, return_tensors="pt")
        ids = encoded["input_ids"]
        context = getattr(self.model.config, "max_position_embeddings", math.inf)
        length = ids.shape[1]
        if length + tokens > context:
            raise AnswerError(
                f"The question has {length} tokens and its answer up to {tokens}, but the model's "
                f"context is {context}."
            )
        end, padding = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        answer = self.model.generate(
            ids.to(self.model.device),
            attention_mask=torch.ones_like(ids).to(self.model.device),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=end if padding is None else padding,
        )
        return str(self.tokenizer.decode(answer[0, length:], skip_special_tokens=True))


def local_explainer(name_or_folder: str, device: str = "cpu") -> PromptExplainer:
    """An explainer that is a local model."""
    name = f"local:{Path(name_or_folder).name}"
    return PromptExplainer(name, LocalModel(name_or_folder, device), attempts=1)
