"""The small tokenizer: every text has ids and comes back; prefixes never depend on what follows."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vidllm.model import prompts, text

CORPUS = [
    sentence
    for n in range(40)
    for sentence in ("how many chairs are there?", str(n), f"the red sofa is {n}.5 m from the bed.", "two", "left")
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return text.build_tokenizer(CORPUS, vocab_size=600)


def foreign_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of another make: words only, no start token, no padding token, none of our tokens."""
    words = {w: i for i, w in enumerate(["<unk>", "<end>", "USER", ":", "ASSISTANT", "how", "many", "two", "?"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", eos_token="<end>")


def test_special_ids_are_where_the_configuration_expects_them(tokenizer):
    assert tokenizer.convert_ids_to_tokens(list(range(6))) == ["<pad>", "<s>", "</s>", "<video>", "<loc>", "<coord>"]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert text.special_token_ids(tokenizer) == {"<video>": 3, "<loc>": 4, "<coord>": 5}
    assert len(tokenizer) <= 600


@pytest.mark.parametrize("sentence", ["how many chairs?", "12.5 m", "naïve café, 日本 🙂", "tab\tand\nline", "a\x00b"])
def test_any_text_comes_back_in_lower_case(tokenizer, sentence):
    ids = tokenizer.encode(sentence, add_special_tokens=False)
    assert tokenizer.decode(ids) == sentence.lower()


def test_case_does_not_matter_and_digits_stand_alone(tokenizer):
    assert tokenizer.encode("HOW MANY Chairs") == tokenizer.encode("how many chairs")
    assert len(tokenizer.tokenize("39")) == 2
    assert all(sum(c.isdigit() for c in token) <= 1 for token in tokenizer.get_vocab())


def test_suffixes_are_short(tokenizer):
    _, suffix = text.encode_parts(tokenizer, prompts.qa_prompt("how many chairs are there?"))
    assert len(suffix) == 8  # six of the question, two of the assistant's turn


def test_training_is_deterministic(tokenizer):
    again = text.build_tokenizer(iter(CORPUS), vocab_size=600)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_vocabulary_that_cannot_hold_the_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 262"):
        text.build_tokenizer(CORPUS, vocab_size=261)


@pytest.mark.parametrize("make", ["ours", "foreign"])
def test_prefix_ids_do_not_depend_on_the_question(tokenizer, make):
    used = tokenizer if make == "ours" else foreign_tokenizer()
    text.add_special_tokens_for(used)
    questions = ["how many?", " two", "\nwhat", "12", "🙂"]
    parts = [text.encode_parts(used, prompts.wrap(q)) for q in questions]
    assert len({tuple(head) for head, _ in parts}) == 1
    for question, (head, tail) in zip(questions, parts, strict=True):
        assert text.encode_prompt(used, prompts.wrap(question)) == head + tail


def test_a_start_token_written_out_is_not_doubled(tokenizer):
    prompt = prompts.qa_prompt("how many?")
    ids = text.encode_prompt(tokenizer, prompt)
    assert text.encode_prompt(tokenizer, "<s>" + prompt) == ids
    assert ids.count(tokenizer.bos_token_id) == 1
    assert text.encode_prompt(tokenizer, prompt, add_bos=False) == ids[1:]
    assert tokenizer.encode(prompt) == ids  # the plain call agrees


def test_an_answer_continues_its_prompt(tokenizer):
    prompt = prompts.qa_prompt("how many chairs are there?")
    ids = text.encode_prompt(tokenizer, prompt) + text.encode_answer(tokenizer, "two")
    assert ids == tokenizer.encode(f"{prompt} two</s>")


def test_answers_come_back_cut_and_stripped(tokenizer):
    row = text.encode_answer(tokenizer, "two red chairs")
    assert text.decode_answers(tokenizer, [row + row, [0, 0, *row], [2], [], row[:-1]]) == [
        "two red chairs", "two red chairs", "", "", "two red chairs",
    ]  # fmt: skip


def test_any_tokenizer_can_be_given_our_tokens():
    foreign = foreign_tokenizer()
    with pytest.raises(ValueError, match="add_special_tokens_for"):
        text.special_token_ids(foreign)
    before = len(foreign)
    ids = text.add_special_tokens_for(foreign)
    assert sorted(ids.values()) == [before, before + 1, before + 2]
    assert text.add_special_tokens_for(foreign) == ids  # again changes nothing
    assert foreign.pad_token == "<end>"
    assert foreign.encode("how many <video> ?").count(ids["<video>"]) == 1


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (prompts.qa_prompt("how many chairs?"), prompts.caption_prompt(), prompts.grounding_prompt("a sofa")):
        assert loaded.encode(prompt) == tokenizer.encode(prompt)
    assert loaded.chat_template == tokenizer.chat_template
