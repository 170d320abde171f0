"""Every way to generate says what ``Scene.ask`` says; the cache goes by either of its names, and no keyword is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import VIDEO, micro_model, video
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache, pipeline

import vidllm
from vidllm.model import prompts
from vidllm.model.generation import cache_of, run_language_model
from vidllm.model.huggingface import one_cache
from vidllm.model.loading import load_pretrained
from vidllm.scene import TINY, VidLLM

CLIP = str(Path(vidllm.__file__).parent / "weights" / "demo" / "room.mp4")
QUESTIONS = ("How many chairs are there?", "What is the largest object that stands left of the table?")
PROMPTS = [prompts.qa_prompt(question) for question in QUESTIONS]
TOKENS = 8
IDS = torch.tensor([[1, 6, VIDEO, 7, 8, 9]])


@pytest.fixture(scope="module")
def shipped():
    """The model of transformers."""
    return VidLLM(*load_pretrained(TINY))


@pytest.fixture(scope="module")
def scene(shipped_model):
    """By the plain network."""
    return shipped_model.reconstruct(CLIP)


@pytest.fixture(scope="module")
def wanted(scene):
    return [scene.ask(question, max_new_tokens=TOKENS) for question in QUESTIONS]


@pytest.fixture(scope="module")
def model():
    return micro_model()


def said(shipped, text, videos=CLIP, padding_side="left", **options):
    batch = shipped.processor(text=text, videos=videos, padding_side=padding_side)
    ids = shipped.model.generate(**batch, **{"max_new_tokens": TOKENS, "do_sample": False, **options})
    return shipped.processor.decode_answers(ids)


# ---- the shipped model says the same by every way -------------------------------------------------------------------


def test_generate_says_what_ask_says(shipped, wanted):
    assert wanted[0] and "office" not in wanted[0]
    assert [said(shipped, prompt)[0] for prompt in PROMPTS] == wanted


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"do_sample": True, "top_k": 1},
        {"cache_implementation": "static", "do_sample": True, "top_k": 1},
    ],
)
def test_a_scene_that_is_encoded_already_is_a_prefix_in_every_way_of_decoding(shipped, scene, wanted, options):
    for prompt, answer in zip(PROMPTS, wanted, strict=True):
        assert said(shipped, prompt, None, prefix=scene._prefix, **options) == [answer]


@pytest.mark.slow
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}])
def test_prompts_of_different_lengths_are_answered_as_each_alone(shipped, wanted, padding_side, options):
    assert said(shipped, PROMPTS, [CLIP, CLIP], padding_side, **options) == wanted


def best_by_search(shipped, prompt, beams, steps):
    """Beam search written out: no cache, the whole sequence read anew for each step of each beam."""
    batch, stop = shipped.processor(text=prompt, videos=CLIP), shipped.processor.tokenizer.eos_token_id
    prefix = shipped.model.encode_scene(batch["pixel_values"]).prefix
    alive, ended = [(0.0, [])], []
    for _ in range(steps):
        grown = []
        for score, tokens in alive:
            ids = torch.cat([batch["input_ids"], torch.tensor([tokens], dtype=torch.long)], 1)
            whole = shipped.model.prepare(ids, prefix=prefix)
            out = shipped.model.language_model(inputs_embeds=whole.embeddings, logits_to_keep=1)
            top = out.logits[0, -1].float().log_softmax(-1).topk(2 * beams)
            pairs = zip(top.values.tolist(), top.indices.tolist(), strict=True)
            grown += [(score + p, [*tokens, token]) for p, token in pairs]
        grown.sort(reverse=True)
        ended += [(score / len(tokens), tokens) for score, tokens in grown[:beams] if tokens[-1] == stop]
        alive = [(score, tokens) for score, tokens in grown if tokens[-1] != stop][:beams]
    return max(ended + [(score / len(tokens), tokens) for score, tokens in alive])[1]


@pytest.mark.slow
def test_beams_find_what_a_search_without_a_cache_finds(shipped):
    with torch.inference_mode():
        found = [best_by_search(shipped, prompt, beams=3, steps=4) for prompt in PROMPTS]
    texts = [said(shipped, prompt, num_beams=3, max_new_tokens=4)[0] for prompt in PROMPTS]
    assert texts == shipped.processor.decode_answers(found)


def test_text_without_a_video_is_continued(shipped):
    ids = shipped.processor(text="USER: hello there ASSISTANT:")["input_ids"]
    found = shipped.model.generate(input_ids=ids, max_new_tokens=5, min_new_tokens=5, do_sample=False)[0].tolist()
    stop = shipped.processor.tokenizer.eos_token_id
    for token in found:
        with torch.no_grad():
            logits = shipped.model(input_ids=ids).logits[0, -1]
        logits[stop] = -torch.inf
        assert token == int(logits.argmax())
        ids = torch.cat([ids, torch.tensor([[token]])], 1)


@pytest.mark.slow
@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_peft_generates_the_same(wanted, task):
    fresh = VidLLM(*load_pretrained(TINY))  # peft changes the model in place
    config = LoraConfig(r=2, target_modules=r"language_model.*\.(q_proj|v_proj)", task_type=task)
    fresh.model = get_peft_model(fresh.model, config).eval()
    assert said(fresh, PROMPTS, [CLIP, CLIP]) == wanted


@pytest.mark.slow
def test_pipelines_answer(shipped, wanted):
    talks = [
        [{"role": "user", "content": [{"type": "video", "video": CLIP}, {"type": "text", "text": question}]}]
        for question in QUESTIONS
    ]
    for task in ("image-text-to-text", "any-to-any"):
        ask = pipeline(task, model=shipped.model, processor=shipped.processor)
        answers = []
        for talk in talks:
            options = {"max_new_tokens": TOKENS, "do_sample": False}
            (told,) = ask(text=talk, return_full_text=False, generate_kwargs=options)
            answers.append(told["generated_text"].strip())
        assert answers == wanted, task


# ---- either name of the cache, and no keyword lost ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_forward_takes_the_cache_by_either_name(model, name):
    images, cache = video(), DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        whole = model(input_ids=IDS, pixel_values=images).logits[:, -1]
        first = model(input_ids=IDS[:, :-1], pixel_values=images, use_cache=True, **{name: cache})
        assert cache_of(first) is cache and cache.get_seq_length() == first.logits.shape[1]
        last = model(input_ids=IDS[:, -1:], **{name: cache})
    assert torch.allclose(last.logits[:, -1], whole, atol=1e-5)


def test_two_caches_are_one_too_many(model):
    one, other = DynamicCache(), DynamicCache()
    assert one_cache(one, None) is one and one_cache(None, one) is one and one_cache(one, one) is one
    with pytest.raises(ValueError, match="two names of one argument"):
        model(input_ids=IDS[:, :2], cache=one, past_key_values=other)


class WithOlderName(torch.nn.Module):
    """A language model as it was before transformers 5.24."""

    def forward(self, inputs_embeds=None, past_key_values=None, **kwargs):
        return inputs_embeds, past_key_values, kwargs


class WithNewerName(torch.nn.Module):
    def forward(self, inputs_embeds=None, cache=None, **kwargs):
        return inputs_embeds, cache, kwargs


class Wrapped(torch.nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def get_base_model(self):
        return self.inside

    def forward(self, *args, **kwargs):
        return self.inside(*args, **kwargs)


@pytest.mark.parametrize("kind", [WithOlderName, WithNewerName])
@pytest.mark.parametrize("wrap", [lambda m: m, Wrapped, lambda m: torch.compile(m, backend="eager")])
def test_a_language_model_gets_the_cache_under_its_own_name(kind, wrap):
    cache = DynamicCache()
    assert run_language_model(wrap(kind()), cache=cache, inputs_embeds=1) == (1, cache, {})


def test_an_unknown_keyword_is_refused(model):
    with pytest.raises(TypeError, match="unexpected keyword argument 'pixel_value'"):
        model(input_ids=IDS[:, :2], pixel_value=video())
    with pytest.raises(ValueError, match="pixel_value"):
        model.generate(input_ids=IDS[:, :2], pixel_value=video(), max_new_tokens=2)
    with pytest.raises(ValueError, match="by any of the names cache, past_key_values"):
        run_language_model(torch.nn.Identity(), cache=None)


def test_a_scene_that_would_not_be_read_is_refused(model):
    images, cache = video(), DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        model(input_ids=IDS, pixel_values=images, cache=cache)
    for given in ({"input_ids": IDS, "cache": cache}, {"inputs_embeds": model.embed_text(IDS)}):
        with pytest.raises(ValueError, match="first call"):
            model(pixel_values=images, **given)
    with pytest.raises(ValueError, match="without input_ids"):
        model.generate(pixel_values=images, inputs_embeds=model.embed_text(IDS), max_new_tokens=2)


def test_generate_takes_its_input_by_transformers_name(model):
    options = {"pixel_values": video(), "max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(inputs=IDS, **options), model.generate(IDS, **options))


def test_a_tuple_is_returned_where_one_is_asked_for(model):
    with torch.no_grad():
        named, plain = (model(input_ids=IDS, pixel_values=video(), return_dict=d) for d in (True, False))
    assert isinstance(plain, tuple) and torch.equal(plain[0], named.logits)
