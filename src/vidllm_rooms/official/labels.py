"""The label map of exported rooms, in the columns of ScanNet's ``scannetv2-labels.combined.tsv``.

NYU40 classes are those that ScanNet gives the same words. Where the same thing has another word there, that one's
class is taken (sofa: couch; ceiling lamp: ceiling light); what ScanNet does not know is otherprop.
"""

from __future__ import annotations

from vidllm_rooms.world.catalogue import CATALOGUE

COLUMNS = (
    "id", "raw_category", "category", "count", "nyu40id", "eigen13id", "nyuClass", "nyu40class", "eigen13class",
    "ModelNet40", "ModelNet10", "ShapeNetCore55", "synsetoffset", "wnsynsetid", "wnsynsetkey", "mpcat40",
    "mpcat40index",
)  # fmt: skip

NYU40 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip

SHELL = ("wall", "floor", "ceiling")

#: Categories whose NYU40 class has another name than they have.
_CLASS_OF: dict[str, str] = {
    "office chair": "chair",
    "armchair": "chair",
    "coffee table": "table",
    "nightstand": "night stand",
    "tv": "television",
    "book": "books",
    "floor lamp": "lamp",
    "table lamp": "lamp",
    "ceiling lamp": "otherstructure",
    "stove": "otherstructure",
    "bench": "otherfurniture",
    "wardrobe": "otherfurniture",
    "washing machine": "otherfurniture",
    "radiator": "otherfurniture",
    "trash can": "otherfurniture",
}


def nyu40_class(category: str) -> str:
    """The NYU40 class of a category of the rooms or of their shell."""
    return _CLASS_OF.get(category, category if category in NYU40 else "otherprop")


def label_map() -> str:
    """The whole table as text, tab separated, one category a line; columns that do not apply are empty."""
    lines = ["\t".join(COLUMNS)]
    for number, category in enumerate((*SHELL, *CATALOGUE), 1):
        name = nyu40_class(category)
        known = {
            "id": str(number),
            "raw_category": category,
            "category": category,
            "count": "0",
            "nyu40id": str(NYU40.index(name) + 1),
            "nyuClass": name,
            "nyu40class": name,
        }
        lines.append("\t".join(known.get(column, "") for column in COLUMNS))
    return "\n".join(lines) + "\n"
