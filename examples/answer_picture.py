"""Draw the frames of a video with the boxes that are found, and below them a question with its answer.

python examples/answer_picture.py "How many chairs are there?" "the table" "the door" -o docs/room.jpg
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import vidllm
from vidllm.export.pictures import frames_picture

LINE = 30  # pixels

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("question")
parser.add_argument("expressions", nargs="*", metavar="expression")
parser.add_argument("--video", default=Path(__file__).parent / "room.mp4")
parser.add_argument("-o", "--output", required=True)
options = parser.parse_args()

scene = vidllm.load(refine=True).reconstruct(options.video)
lines = [f"{options.question}  {scene.ask(options.question)}"]
boxes = []
for expression in options.expressions:
    for box in scene.ground(expression, several=False):
        boxes.append(box.as_dict())
        size = " x ".join(f"{side:.2f}" for side in box.size)
        distance = sum(value**2 for value in box.center) ** 0.5
        lines.append(f"{len(boxes)}  {expression}: {size} m, {distance:.2f} m from the first camera")

frames = frames_picture(scene.data, boxes)
picture = Image.new("RGB", (frames.width, frames.height + LINE * len(lines) + 12), "white")
picture.paste(frames)
pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=20)
for number, line in enumerate(lines):
    pen.text((8, frames.height + 10 + LINE * number), line, fill="black", font=font)
picture.save(options.output, quality=88)
print("\n".join(lines))
