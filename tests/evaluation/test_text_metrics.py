"""BLEU, ROUGE-L, CIDEr, METEOR and the tokeniser against numbers of the published evaluators."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from evaluation_data import load

from vidllm.evaluation.text_metrics import captions as meteor_module
from vidllm.evaluation.text_metrics.captions import bleu, cider, meteor, meteor_jar, rouge_l
from vidllm.evaluation.text_metrics.ptb import tokenize


@pytest.fixture(scope="module")
def micro(golden: Path) -> dict[str, Any]:
    return load(golden, "micro_text")


def test_tokenizer_agrees_on_every_golden_string(micro):
    items = micro["ptb_tokenizer"]
    found = tokenize([item["input"] for item in items])
    wrong = [(i["input"], t) for i, t in zip(items, found, strict=True) if t != i["after_punctuation_removal"]]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("3½ feet", "3 1/2 feet"),
        ("3 1/2 feet", "3\u00a01/2 feet"),
        ("12,000 items 3.5m", "12,000 items 3.5 m"),
        ("red,white a,1 1,a", "red white a ,1 1 a"),
        ("yes😀no ❤", "yes no ❤"),
        ("between a. and b. here", "between a. and b. here"),
        ("5 ft. by 6 in. tall", "5 ft. by 6 in tall"),
        ("on no. 5 or no. x", "on no. 5 or no x"),
        ("what?! no!!! ok?", "what ?! no !!! ok"),
        ("end., and a.,b", "end. and a. b"),
        ("couldn't've y'all's", "could n't 've y' all 's"),
        ("cannot gonna 'tis", "can not gon na 't is"),
        ("(left) [right] {up}", "-lrb- left -rrb- -lsb- right -rsb- -lcb- up -rcb-"),
        ("red.blue red..blue red/blue a_b", "red.blue red blue red/blue a_b"),
        ("£5 5¢ 5€ US$5 50%", "# 5 5 cents 5 $ us$ 5 50 %"),
        ("U.S.-based T.V. set", "u.s.-based t.v. set"),
        ("a — b…c ‘dog’ “e”", "a b c dog e"),
    ],
)
def test_tokenizer_rules(text, tokens):
    assert tokenize([text]) == [tokens]


@pytest.mark.parametrize("word", ("No", "art", "ca", "Fig", "figs", "nos", "op", "pp", "PROP"))
def test_an_abbreviation_before_a_number_over_one_blank_or_line_break(word):
    low = word.lower()
    assert tokenize([f"{word}. 5"]) == [f"{low}. 5"]
    assert tokenize([f"see {word}.", "5 x"]) == [f"see {low}.", "5 x"]
    assert tokenize([f"see {word}.", " 5 x", f"{word}.  5"]) == [f"see {low}", "5 x", f"{low} 5"]
    assert tokenize([f"{word}. x"]) == [f"{low} x"]


def test_rouge_of_an_answer_whose_last_word_is_an_abbreviation_before_the_next_answers_number():
    answers, references = tokenize(["the answer no.", "2 chairs"]), tokenize(["the answer no", "2 chairs"])
    assert rouge_l([[text] for text in references], answers).per_item[0][0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("LA. AZ. la. az. x", "la. az. la az x"),
        ("Mtg. MTG. Pty. PTY. PTY. Ltd. x", "mtg. mtg pty. pty pty. ltd. x"),
        ("Mlle. Msgr. Profs. alex. x", "mlle. msgr. profs. alex. x"),
        ("chair A.  The end", "chair a the end"),
        ("\u00ad a", "a"),
        ("is\u00adn't it", "is n't it"),
        ("We'Re we'll", "we 're we ll"),
        ("tv reps-ave., x", "tv reps-ave. x"),
        ("<a@b.c> x", "<a@b.c> x"),
    ],
)
def test_tokenizer_rules_found_by_comparison_with_the_original(text, tokens):
    assert tokenize([text]) == [tokens]


def test_an_initial_before_the_next_line_is_a_full_stop_where_a_sentence_begins():
    assert tokenize(["chair A.", "The end"]) == ["chair a", "the end"]
    assert tokenize(["chair A.", "the end"]) == ["chair a.", "the end"]


def test_line_breaks_inside_a_text_do_not_shift_the_others():
    texts = ["a\u2028b", "c\rd", "e\r\nf", "\n", "g\x0bh\x0ci"]
    assert tokenize(texts) == ["a b", "c d", "e f", "", "g h i"]
    assert tokenize([]) == []
    with pytest.raises(ValueError, match="sequence of texts"):
        tokenize("red chair")


def test_bleu_of_equal_and_foreign_texts():
    same = bleu([["a red chair here"]], ["a red chair here"])
    assert same.total == pytest.approx((1.0, 1.0, 1.0, 1.0), abs=1e-6)
    none = bleu([["a b c d"]], ["w x y z"])
    assert 0.0 < none.total[3] < 1e-6
    short = bleu([["a b c d"]], ["a b"])  # precision 1, brevity exp(1 - 4/2)
    assert short.total[0] == pytest.approx(math.exp(-1.0), abs=1e-6)


def test_rouge_splits_at_single_blanks():
    assert rouge_l([[""]], [""]).total == (1.0,)
    assert rouge_l([["red chair"]], ["red  chair"]).total[0] < 1.0
    assert rouge_l([["a b", "c d"]], ["a d"]).total[0] == pytest.approx(0.5)


def test_cider_of_short_answers_and_of_one_item():
    references = [["one"], ["red chair"], ["on the left"], ["behind the big sofa"]]
    found = cider(references, [group[0] for group in references])
    assert [value for (value,) in found.per_item] == pytest.approx([2.5, 5.0, 7.5, 10.0])
    assert cider([["red chair"]], ["red chair"]).total == (0.0,)


@pytest.mark.parametrize("metric", [bleu, rouge_l, cider, meteor])
def test_nothing_to_score_is_an_error(metric):
    with pytest.raises(ValueError, match="nothing to score"):
        metric([], [])
    with pytest.raises(ValueError, match="give one each"):
        metric([["a"]], [])
    with pytest.raises(ValueError, match="at least one string"):
        metric([[]], ["a"])


def _fake_java(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A ``java`` that runs ``script``, and a jar for it."""
    java = folder / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    (folder / "meteor-1.5.jar").write_bytes(b"")
    monkeypatch.setenv("VIDLLM_METEOR_JAR", str(folder / "meteor-1.5.jar"))
    monkeypatch.setattr(meteor_module.shutil, "which", lambda _: str(java))
    meteor_module._align.cache_clear()


def test_meteor_scores_from_statistics(micro, tmp_path, monkeypatch):
    items = micro["meteor"]["items"]
    rows = "\n".join(" ".join(str(number) for number in item["stats"]) for item in items)
    (tmp_path / "rows").write_text(rows + "\n")
    _fake_java(tmp_path, monkeypatch, f"cat > /dev/null; cat {tmp_path / 'rows'}")
    found = meteor([item["references"] for item in items], [item["hypothesis"] for item in items])
    assert found is not None
    assert found.total[0] == pytest.approx(micro["meteor"]["system_score"], abs=1e-12)
    assert [value for (value,) in found.per_item] == pytest.approx([item["score"] for item in items], abs=1e-12)


def test_meteor_by_the_jar_where_it_is_installed(micro):
    items = micro["meteor"]["items"]
    found = meteor([item["references"] for item in items], [item["hypothesis"] for item in items])
    if found is None:  # no Java or no jar: no number at all
        assert meteor_module.shutil.which("java") is None or meteor_jar() is None
        return
    assert found.total[0] == pytest.approx(micro["meteor"]["system_score"], abs=1e-9)


def test_meteor_cannot_wait_for_ever_and_tells_of_a_broken_jar(tmp_path, monkeypatch):
    _fake_java(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(meteor_module, "_START_SECONDS", 0.2)
    with pytest.raises(ValueError, match="gave no answer within"):
        meteor([["a"]], ["a"])
    monkeypatch.setattr(meteor_module, "_START_SECONDS", 30.0)
    _fake_java(tmp_path, monkeypatch, "cat > /dev/null; echo no memory >&2; exit 1")
    with pytest.raises(ValueError, match=r"0 of 1 segments .*no memory"):
        meteor([["a"]], ["a"])


def test_meteor_requests_hold_no_line_break():
    line = meteor_module._line(["a\nb", "c \u2028 d"], "e\r\nf ||| g")
    assert line == "SCORE ||| a b ||| c d ||| e f g"


def test_meteor_is_absent_without_the_jar(monkeypatch):
    monkeypatch.setenv("VIDLLM_METEOR_JAR", "/nonexistent/meteor-1.5.jar")
    assert meteor([["a"]], ["a"]) is None
