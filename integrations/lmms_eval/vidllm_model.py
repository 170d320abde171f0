"""vidllm as a model of lmms-eval: ``python vidllm_model.py --model vidllm --model_args pretrained=MODEL ...``.

On the tasks beside this file it is asked through the same functions as ``vidllm eval``, with the scene's own frames; on
any other task it reconstructs the video or pictures that it is given and answers the text.
"""

from __future__ import annotations

import json
from typing import Any

from lmms_eval.api.model import lmms

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.predicting import Helpers, predict
from vidllm.evaluation.recording import EvaluationScene
from vidllm.evaluation.tasks import Item, Variant, task_named
from vidllm.scene import Scene, load


class VidLLMForLmmsEval(lmms):  # type: ignore[misc]
    """A model by folder or hub id (``pretrained``; the shipped one without), in one setting."""

    def __init__(
        self,
        pretrained: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        setting: str = "raw",
        frames: int | str | None = None,
        batch_size: int | str = 1,
        **_: Any,
    ) -> None:
        super().__init__()
        self.vidllm = load(pretrained, device, dtype)
        self.column = Variant("vidllm", setting)
        self.frames = None if frames is None else int(frames)
        self._cases: dict[tuple[str, str], EvaluationScene] = {}
        self._items: dict[tuple[str, str, str], dict[str, Item]] = {}
        self._scene: tuple[Any, Scene] | None = None

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Greedy answers, in the order of the requests; a scene is reconstructed once while its requests follow."""
        answers = []
        for request in requests:
            context, kwargs, to_visual, number, task, split = request.args
            doc = self.task_dict[task][split][number]
            if "benchmark" in doc:
                answers.append(self._benchmark(doc))
            else:
                answers.append(self._seen(to_visual(doc)).ask(context, max_new_tokens=kwargs.get("max_new_tokens", 64)))
        return answers

    def _benchmark(self, doc: dict[str, Any]) -> str:
        """The answer as text; captions and boxes as the JSON of their rows."""
        task, where = task_named(doc["benchmark"]), (doc["root"], doc["scene_id"])
        if where not in self._cases:
            self._cases.clear()
            self._cases[where] = EvaluationScene(DataRoot(doc["root"]), doc["scene_id"], self.vidllm, self.frames)
        source = doc["root"], doc["benchmark"], doc["split"]
        if source not in self._items:
            entries = DataRoot(doc["root"]).annotations(task.name, doc["split"])
            self._items[source] = {item.key: item for item in task.items(entries)}
        (row,) = predict(task, self.column, self._cases[where], [self._items[source][doc["key"]]], Helpers())
        return str(row["answer"]) if task.kind == "answer" else json.dumps(row)

    def _seen(self, visual: list[Any]) -> Scene:
        """The scene of a video or of pictures, kept while the same is asked again."""
        source = visual[0] if len(visual) == 1 and isinstance(visual[0], str) else visual
        if self._scene is None or not isinstance(source, str) or self._scene[0] != source:
            count = self.frames or self.vidllm.processor.image_processor.num_frames  # as vidllm eval
            self._scene = source, self.vidllm.reconstruct(source, count)
        return self._scene[1]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """None of the tasks asks for it."""
        raise ValueError("vidllm answers generate_until tasks; choose a task of this output type")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """None of the tasks asks for it."""
        raise ValueError("vidllm answers generate_until tasks; choose a task of this output type")


def register() -> None:
    """Tell lmms-eval of the model ``vidllm``."""
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.models.registry_v2 import ModelManifest

    manifest = ModelManifest(model_id="vidllm", simple_class_path="vidllm_model.VidLLMForLmmsEval")
    MODEL_REGISTRY_V2.register_manifest(manifest, overwrite=True)


if __name__ == "__main__":
    from lmms_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()
