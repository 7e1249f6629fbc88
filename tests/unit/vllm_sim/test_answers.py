"""Answers are pure functions of the prompt."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.vllm_sim.asking import user

from batchyard.vllm_sim.answers import chat_text, class_probabilities, completion_text, embedding, relevance
from batchyard.vllm_sim.prompts import chat_prompt, prompt_digest
from batchyard.vllm_sim.tokens import count_tokens, token_pieces, tokenize

MODEL = "my-vllm-model"


def test_an_answer_names_the_prompt_by_digest_and_last_words() -> None:
    text = chat_text(user("please tell me what the capital of France is"), MODEL)
    digest = prompt_digest(chat_prompt(user("please tell me what the capital of France is")).text)
    assert text == f"{digest} {MODEL} answers: what the capital of France is"


@given(st.text(), st.text())
def test_distinct_prompts_have_distinct_answers_however_short(one: str, other: str) -> None:
    answers = {chat_text(user(text), MODEL, max_tokens=1) for text in (one, other)}
    assert len(answers) == len({one, other})


def test_earlier_messages_change_the_answer() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert chat_text([system, *user("hello")], MODEL) != chat_text(user("hello"), MODEL)


def test_text_parts_read_like_plain_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    assert chat_text(parts, MODEL) == chat_text(user("hello"), MODEL)


@pytest.mark.parametrize(
    "part",
    [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, "plain", 7],
)
def test_other_parts_change_the_answer(part: Any) -> None:
    text = {"type": "text", "text": "hello"}
    with_part = [{"role": "user", "content": [text, part]}]
    assert chat_text(with_part, MODEL) != chat_text(user("hello"), MODEL)


def test_choices_differ() -> None:
    assert chat_text(user("hello"), MODEL, choice=1) != chat_text(user("hello"), MODEL)


def test_models_answer_differently() -> None:
    assert chat_text(user("hello"), "other") != chat_text(user("hello"), MODEL)


def test_fault_markers_are_not_repeated() -> None:
    assert "[[" not in chat_text(user("hello [[fault:reset,times=1]]"), MODEL)


@given(st.integers(1, 64))
def test_max_tokens_cuts(limit: int) -> None:
    text = completion_text("one two three four five six seven", MODEL, max_tokens=limit, min_tokens=64)
    assert count_tokens(text) == limit


def test_min_tokens_pads() -> None:
    assert count_tokens(chat_text(user("hello"), MODEL, min_tokens=200)) == 200


@given(st.text())
def test_pieces_are_tokens_with_their_white_space(text: str) -> None:
    pieces = token_pieces(text)
    assert [piece.lstrip() for piece in pieces] == tokenize(text)
    assert text.startswith("".join(pieces))


@given(st.text(), st.integers(1, 300))
def test_an_embedding_is_a_unit_vector_of_the_asked_length(text: str, dimensions: int) -> None:
    vector = embedding(text, dimensions)
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-5)


def test_embeddings_of_distinct_texts_differ() -> None:
    assert embedding("one", 8) != embedding("two", 8)


def test_a_document_that_shares_words_is_more_relevant() -> None:
    query = "the capital of France"
    assert relevance(query, "Paris is the capital of France") > relevance(query, "Horses and cows are animals")


def test_class_probabilities_sum_up_to_one() -> None:
    assert math.isclose(sum(class_probabilities("hello", 5)), 1.0)
