"""Detectors of transformers' own classes, random and small: what comes out is what their processors make of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from small_detectors import save_dino, save_owl, save_sam, with_type

from vidllm.cli import main
from vidllm.detection.detectors import KINDS, load_detector

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
NAMES = ("the red chair", "a table", "lamp")


def everything(folder):
    """The detector of a folder, taking any score for a find."""
    detector = load_detector(folder)
    detector.threshold = -1.0
    return detector


def same_boxes(found, told):
    """Boxes and scores, whatever their order."""
    ours = sorted((d.score, *d.box) for d in found)
    theirs = sorted(zip(told["scores"].tolist(), *told["boxes"].T.tolist(), strict=True))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_owl_finds_what_its_processor_says(tmp_path):
    found = everything(save_owl(tmp_path))(PICTURE, NAMES)
    processor = transformers.Owlv2Processor.from_pretrained(tmp_path)
    model = transformers.Owlv2ForObjectDetection.from_pretrained(tmp_path).eval()
    texts = [["a photo of a red chair", "a photo of a table", "a photo of a lamp"]]
    inputs = processor(text=texts, images=PICTURE, return_tensors="pt", max_length=24)
    with torch.inference_mode():
        told = processor.post_process_grounded_object_detection(model(**inputs), -1.0, [(40, 60)])[0]
    same_boxes(found, told)
    assert sorted(d.name for d in found) == sorted(told["labels"].tolist()) and len(found) == 16


def test_dino_finds_what_its_processor_says(tmp_path):
    detector = everything(save_dino(tmp_path))
    found = detector(PICTURE, NAMES)
    processor = transformers.GroundingDinoProcessor.from_pretrained(tmp_path)
    model = transformers.GroundingDinoForObjectDetection.from_pretrained(tmp_path).eval()
    inputs = processor(images=PICTURE, text="red chair. table. lamp.", return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
        told = processor.post_process_grounded_object_detection(outputs, inputs.input_ids, -1.0, 0.0, [(40, 60)])[0]
    boxes = sorted(d.box for d in found)
    np.testing.assert_allclose(boxes, sorted(map(tuple, told["boxes"].tolist())), rtol=1e-4, atol=1e-3)
    # the score of a name is that of its best token: here tokens are letters, 8 of "red chair", "." and the rest
    chances = outputs.logits[0].sigmoid()
    spans = {0: range(1, 9), 1: range(10, 15), 2: range(16, 20)}
    best = [max(float(chances[q, t]) for span in spans.values() for t in span) for q in range(6)]
    np.testing.assert_allclose(sorted(d.score for d in found), sorted(best), rtol=1e-4)


def test_dino_reads_long_lists_in_parts(tmp_path):
    detector = everything(save_dino(tmp_path))
    names = [f"thing {letter * 9}" for letter in "abcdefgh"]  # 15 tokens each and a stop: 4 fit into 64
    found = detector(PICTURE, names)
    assert len(found) == 2 * 6 and {d.name // 4 for d in found} == {0, 1}


def test_sam_gives_masks(tmp_path):
    found = everything(save_sam(tmp_path))(PICTURE, NAMES[:2])
    assert len(found) == 2 * 5 and {d.name for d in found} == {0, 1}
    model = transformers.Sam3Model.from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    words = tokenizer("table", padding="max_length", max_length=24, return_tensors="pt")
    small = torch.from_numpy(np.array(Image.fromarray(PICTURE).resize((56, 56), Image.Resampling.BILINEAR)))
    with torch.inference_mode():
        told = model(pixel_values=small.permute(2, 0, 1)[None] / 127.5 - 1, **words)
    scores = told.pred_logits.sigmoid()[0] * told.presence_logits.sigmoid()[0]
    ours = [d for d in found if d.name == 1]
    np.testing.assert_allclose([d.score for d in ours], scores.tolist(), rtol=1e-4)
    np.testing.assert_allclose([d.box for d in ours], told.pred_boxes[0] * torch.tensor([60, 40, 60, 40]), rtol=1e-4)
    assert all(d.mask.shape == (40, 60) and d.mask.dtype == bool for d in ours)


@pytest.mark.parametrize(
    ("save", "kind"), [(save_owl, "owlv2"), (save_dino, "grounding-dino"), (save_sam, "sam3")]
)
def test_a_threshold_leaves_out_what_has_a_lower_score(tmp_path, save, kind):
    assert load_detector(save(tmp_path)).threshold == KINDS[kind].threshold
    scores = sorted(d.score for d in everything(tmp_path)(PICTURE, NAMES))
    middle = scores[len(scores) // 2]
    found = load_detector(tmp_path, threshold=middle)(PICTURE, NAMES)
    assert sorted(d.score for d in found) == [s for s in scores if s > middle] and 0 < len(found) < len(scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--detector-threshold", "0.3"], "--detector-threshold is the minimum score of a detector; it needs"),
        (["--detector", "owl", "--detector-threshold", "1"], "threshold of a detector's scores is 1, expected 0 to"),
        (["--detector", "owl", "--detector-threshold", "nan"], "is nan, expected 0 to below 1"),
        (["--detector", "owl", "--detector-threshold", "low"], "--detector-threshold: expected a number"),
    ],
)
def test_a_wrong_threshold_is_one_line(tmp_path, capsys, options, message):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    assert main(["ground", str(tmp_path / "a.png"), "a chair", *options]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [("omdet-turbo", "needs torchvision"), ("llama", "type 'llama', which is no zero-shot detector")],
)
def test_what_is_no_detector_for_us_is_said(tmp_path, name, message):
    with pytest.raises(ValueError, match=message) as error:
        load_detector(with_type(tmp_path / "model", name))
    assert "\n" not in str(error.value)


def test_a_processor_that_needs_torchvision_is_said(tmp_path):
    save_owl(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Sam3ImageProcessor"}))
    with pytest.raises(ValueError, match=r"processor cannot be loaded: it needs torchvision") as error:
        load_detector(tmp_path)
    assert "\n" not in str(error.value)


def test_a_detector_without_weights_or_words_is_said(tmp_path):
    with pytest.raises(ValueError, match="missing weights"):
        load_detector(with_type(tmp_path / "empty", "owlv2"))
    save_owl(tmp_path / "mute")
    for file in (tmp_path / "mute").glob("*token*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"its tokenizer knows \d of 60 words"):
        load_detector(tmp_path / "mute")
