"""Guided heads of the language model: which words they find, which patches are meant, and that they learn to look."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from vidllm.model.outputs import VisualPrefix
from vidllm.model.text import build_tokenizer
from vidllm.training.packing import Text, pack, packed_hidden
from vidllm.training.supervision.words import (
    Vocabulary,
    WordAttention,
    pooled_names,
    token_positions_loss,
    token_words_loss,
)

LOC, COORD = 1, 2
SENTENCES = [
    "i stand by the lamp . is the table by the red lamp ? and a lamp",
    "is the red table lamp on the table ?",
    "how many tables and lamps are there ?",
    "two coffee tables",
] * 9


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(SENTENCES, 320)


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return Vocabulary(tokenizer, ["lamp", "table", "table_lamp"], ["red"])


def test_longer_names_win_and_plurals_count(tokenizer, vocabulary):
    ids = tokenizer("is the red table lamp on the table, or two tables?", add_special_tokens=False)["input_ids"]
    found = [(kind, index) for _, kind, index in reversed(vocabulary.mentions(ids))]
    assert found == [("colour", 1), ("category", 3), ("category", 2), ("category", 2)]
    place = next(at for at, kind, index in vocabulary.mentions(ids) if (kind, index) == ("category", 3))
    assert tokenizer.decode(ids[place]).strip().endswith("lamp")


def test_pooled_patches_have_all_names_of_their_members():
    inverse = torch.tensor([[0, 0, 1, -1]])
    shown = (torch.tensor([[[2, 3, 0, 1]]]), torch.tensor([[[1, 1, 0, 1]]]), torch.tensor([[[0, 2, 1, 1]]]))
    names = pooled_names(inverse, shown, (4, 2, 3), 3)
    assert names.category[0].nonzero().tolist() == [[0, 2], [0, 3], [1, 0]]
    assert names.colour[0].nonzero().tolist() == [[0, 1], [1, 0]]
    assert names.material[0].nonzero().tolist() == [[0, 0], [0, 2], [1, 1]]


def _scene(ids: list[int]):
    torch.manual_seed(0)
    positions = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]])
    mask = torch.tensor([[True, True, True, False]])
    tokens = torch.randn(1, 4, 32)
    prefix = VisualPrefix(tokens, mask, tokens, positions, mask, torch.tensor([[0, 1, 2, -1]]))
    shown = (torch.tensor([[[1, 2, 3, 0]]]), torch.tensor([[[0, 0, 1, 0]]]), torch.zeros(1, 1, 4, dtype=torch.long))
    names = pooled_names(prefix.patch_index, shown, (4, 2, 1), 4)
    box = [2.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.0]
    text = Text([*ids, COORD, LOC], [False] * (len(ids) + 2), "q", [(1.1, 0.0, 0.0)], [box])
    return prefix, names, pack([[text]], LOC, 100)


def test_every_kind_of_word_means_its_patches(tokenizer, vocabulary):
    ids = tokenizer(" red table", add_special_tokens=False)["input_ids"]
    prefix, names, packed = _scene(ids)
    guide = WordAttention(_model(), vocabulary, COORD)
    wanted = {kind: targets.tolist() for kind, (_, _, targets) in guide._wanted(prefix, names, packed).items()}
    assert wanted == {
        "category": [[False, False, False, False]],  # no table is red
        "colour": [[False, False, True, False]],
        "coord": [[False, True, False, False]],
        "loc": [[False, False, True, False]],
    }


def _model():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def test_the_answer_looks_at_the_first_thing_asked_of_after_the_situation(tokenizer, vocabulary):
    prefix, names, _ = _scene([])
    said = "i stand by the lamp . is the table by the red lamp ?"
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    packed = pack([[Text([*ids, 7, 8], [False] * len(ids) + [True] * 2, "q", [])]], LOC, 100)
    guide = WordAttention(_model(), vocabulary, COORD)
    wanted = guide._wanted(prefix, names, packed)
    rows, places, targets = wanted["answer"]
    assert (rows.tolist(), places.tolist(), targets.tolist()) == ([0], [len(ids) - 1], [[False, True, False, False]])
    assert wanted["answer_1"][2].tolist() == [[False] * 4]  # no lamp is red
    assert wanted["answer_2"][2].tolist() == [[True, False, False, False]]  # where I stand
    assert wanted["answer_3"][2].tolist() == [[False] * 4]  # I face nothing


def test_heads_learn_to_look_where_words_mean_and_the_attention_told_is_the_model_s_own(tokenizer, vocabulary):
    ids = tokenizer(" red and a table", add_special_tokens=False)["input_ids"]
    prefix, names, packed = _scene(ids)
    model = _model()
    guide = WordAttention(model, vocabulary, COORD)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    figures = {}
    for _ in range(40):
        packed_hidden(model, prefix.tokens, prefix.mask, model.get_input_embeddings()(packed.input_ids), packed)
        loss, _, figures = guide.loss(prefix, names, packed, (0, 4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert set(figures) == {"look_category", "look_colour", "look_coord", "look_loc"}
    assert min(figures.values()) > 0.9
    text = model.get_input_embeddings()(packed.input_ids)
    whole = torch.cat([prefix.tokens[:, :3], text], 1)  # without the padding patch
    attention = model.base_model(inputs_embeds=whole, output_attentions=True).attentions[1][0, 0].detach()
    last = 3 + len(ids) - 1  # the word "table"
    assert attention[last, 1] / attention[last, :3].sum() == pytest.approx(figures["look_category"], abs=0.05)


def test_a_token_that_points_at_its_words_has_the_lower_loss(tokenizer, vocabulary):
    prefix, names, _ = _scene([])
    table = torch.randn(320, 32, generator=torch.Generator().manual_seed(1))
    told = {kind: table[torch.tensor(ids)] for kind, ids in vocabulary.words.items()}
    assert [tokenizer.decode([i]).strip() for i in vocabulary.words["category"]] == ["lamp", "table", "lamp"]
    alike = prefix.tokens.clone()
    alike[0, :3] = 0.1 * told["category"][[0, 1, 2]]
    alike[0, 2] += 0.1 * told["colour"][0]
    better = token_words_loss(replace(prefix, tokens=alike), names, table, vocabulary.words)
    assert better < 0.5 * token_words_loss(prefix, names, table, vocabulary.words)
    padding = alike.clone()
    padding[0, 3] = 9.0
    again = token_words_loss(replace(prefix, tokens=padding), names, table, vocabulary.words)
    torch.testing.assert_close(again, better)  # padding does not count


def test_nouns_and_tokens_learn_to_tell_where_things_are(tokenizer, vocabulary):
    ids = tokenizer(" lamp or table", add_special_tokens=False)["input_ids"]
    prefix, names, packed = _scene(ids)
    model = _model()
    guide = WordAttention(model, vocabulary, COORD)
    tokens = torch.nn.Parameter(prefix.tokens.clone())
    optimizer = torch.optim.Adam([*model.parameters(), tokens], 1e-2)
    told = []
    for _ in range(120):
        prefix = replace(prefix, tokens=tokens)
        packed_hidden(model, tokens, prefix.mask, model.get_input_embeddings()(packed.input_ids), packed)
        looking, nouns, _ = guide.loss(prefix, names, packed, (0, 4))
        told.append((nouns.item(), token_positions_loss(prefix).item()))
        optimizer.zero_grad()
        (looking + nouns + token_positions_loss(prefix)).backward()
        optimizer.step()
    assert told[-1][0] < 0.3 * told[0][0]
    assert told[-1][1] < 0.3 * told[0][1]
