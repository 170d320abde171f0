"""The Penn Treebank tokeniser of the caption metrics in plain Python: no Java is needed for BLEU, ROUGE-L or CIDEr.

All texts are read in one run with a line each, as the caption evaluation kit does, because an abbreviation at the end
of a line looks at how the next line begins. Unlike the kit, no line break inside a text can shift the texts behind it.

What a token is stands in a table of rules: a pattern with a group ``token`` and, where what follows matters, more
characters behind it. At each place the rule whose match is longest wins, the characters behind the token included, and
the earlier of equals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_Made = Callable[[str], list[str]]  # what becomes of a token: none, one or several tokens of the output
_Rule = tuple[re.Pattern[str], _Made]


def _list(*lines: str) -> list[str]:
    return " ".join(lines).split()


ENDING = _list(
    "al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb",
    "fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn",
    "plc ppt[e] ppt[e]s ppt[y] ppt[y]s pt[e] pt[e]s pt[y] pt[y]s rd rt sep sept seq sq sr sys tel tenn thu thurs tue",
    "tues univ va vt wed wis wisc wyo ph.d ed.d Ark Az Del Ill La Mass Miss Ore Pa Tex Wash",
)
"""Abbreviations that may end a sentence. Letters match in any case, capitals and letters in brackets as written."""

LEADING = _list(
    "adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen",
    "gov govs hon insp invt jos lieut lt maj messrs m[f]g mlle mme mr mrs ms msgr mt m[t]g natl pfc ph pres prof profs",
    "pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm",
)
"""Abbreviations that something follows."""

BEFORE_NUMBERS = _list("art ca fig figs no nos op pp prop")
"""Abbreviations only where a number follows, over one blank or line break at most."""

STARTERS = _list(
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr. Ms. Now",
    "Once One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You",
)
"""Words that begin a new sentence behind initials."""

FILE_TYPES = _list(
    "bat bmp class cgi cpp c dll docx doc exe gif gz html htm h jar java jpeg jpg mov mp3 pdf php pl png pptx ppt ps",
    "py sql tar txt wav xml x zip",
)
"""Endings of file names."""

OLD_WORDS = _list("'cause 'em 'till 'til c'mon c'est e'er ev'ry li'l nat'l nor'easter s'mores somethin' dunkin' ol'")
"""Words whose apostrophe does not part them."""

_SPACE = r"[ \t\u00a0\u2000-\u200a\u3000]"
_GAP = rf"(?:{_SPACE}|\n)"
_NUMERIC = (  # what \\w takes for a letter and the tokeniser does not
    "\U00010000-\U0010ffff\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215f\u2189\u2460-\u24ff\u2776-\u2793\u3192-\u3195"
)
_PLAIN = rf"[^\W\d_{_NUMERIC}]"  # a letter
_ENTITY = r"&[aeiouAEIOU](?:acute|grave|uml);"
_LETTER = (
    rf"(?:{_PLAIN}|[\u00ad\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02ff\u0300-\u036f\u0483-\u0487\u0591-\u05bd]|"
    rf"{_ENTITY})"
)
_SIGN = rf"(?:{_LETTER}|\d)"
_WORD = rf"{_LETTER}{_SIGN}*(?:[.!?]{_LETTER}{_SIGN}*)*"
_APOSTROPHE = r"['\u0092\u2019]"
_ANY_MARK = r"['`\u0091\u0092\u2018\u2019\u201b]"  # taken for an apostrophe inside a word
_AUXILIARY = rf"{_APOSTROPHE}(?i:[msd]|re|ve|ll)"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])+"
_NUMBER = r"(?:\d*(?:[.:,\u00ad]\d+)+|\d+)"
_ATTRIBUTE = r"""[A-Za-z][A-Za-z0-9:._-]*(?: *= *(?:'[^'\n]*'|"[^"\n]*"|[A-Za-z0-9_-]+))?"""
_TAG = rf"(?:<[!?][A-Za-z-][^>\n]*>|</?[A-Za-z][A-Za-z0-9:._-]*(?: +{_ATTRIBUTE})* */?>)"

_RENAMED = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
    **{"£": "#", "¢": "cents", **dict.fromkeys("€¤\u0080\u20a0", "$")},
    **{"&lt;": "<", "&gt;": ">", "&amp;": "&"},
}


def _renamed(token: str) -> list[str]:
    return [_RENAMED.get(token, token)]


def _dropped(token: str) -> list[str]:
    """Punctuation of the list that the metrics take out."""
    return []


def _text(token: str) -> list[str]:
    kept = token.replace("\u00ad", "").replace("&amp;", "&")
    return [kept] if kept else []  # nothing but soft hyphens is a hyphen, which is dropped


def _unbroken(token: str) -> list[str]:
    """Several words as one token: its blanks do not break, its round brackets are named."""
    return [re.sub(_SPACE, "\u00a0", token).replace("(", "-lrb-").replace(")", "-rrb-")]


def _quotes(token: str) -> list[str]:
    """One or two curly or angular quotes; an odd pair is no punctuation of the list."""
    plain = re.sub(r"[\u0091\u2018\u201b\u2039]", "`", re.sub(r"[\u0092\u2019\u203a]", "'", token))
    plain = re.sub(r"[\u0093\u201c\u00ab]", "``", re.sub(r"[\u0094\u201d\u00bb]", "''", plain))
    return [] if plain in ("`", "'", "``", "''") else [plain]


def _plain_apostrophe(token: str) -> list[str]:
    return [re.sub(r"[\u0091\u2018\u201b]", "`", re.sub(_APOSTROPHE, "'", token))]


def _rule(pattern: str, make: _Made = _text, behind: str = "", ignore_case: bool = False) -> _Rule:
    return re.compile(rf"(?P<token>{pattern}){behind}", re.IGNORECASE if ignore_case else 0), make


def _any_of(words: list[str]) -> str:
    return rf"(?:{'|'.join(re.escape(word) for word in sorted(words, key=len, reverse=True))})"


def _abbreviation_of(words: list[str]) -> str:
    """In any case of letters, except for capitals and letters in brackets."""
    any_case = _any_of(words).replace(r"\[", "[").replace(r"\]", "]")
    return "(?i:" + re.sub(r"[A-Z]|\[[a-z]\]", lambda exact: f"(?-i:{exact[0]})", any_case) + ")"


_HYPHEN = r"[-_\u058a\u2010\u2011]"
_PART = rf"(?:[dDoOlL]{_ANY_MARK}(?={_SIGN}{_SIGN}))?(?:{_PLAIN}|\d)+"
_THING = rf"{_PART}(?:{_HYPHEN}{_PART})*"
_JOINED = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_INITIALS}\.|[A-Za-z0-9\u00ad]+))+"
_ENDING_ABBREVIATION = rf"{_abbreviation_of(ENDING)}\."
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_EMAIL_SIGN = r"[^ \t\n\"<>|(){}\u00a0]"
_EMAIL_WORD = r"[^ \t\n\"<|(){}.\u00a0]+"
_URL_SIGN = r"[^ \t\n\"<>|(){}\u00a0]"
_URL_END = r"[^ \t\n\"<>|(){}\u00a0.!?,;:&`'-]"


_BETWEEN = r"[- \u00a0]"
_AREA_CODE = rf"(?:\([0-9]{{2,3}}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{{2,4}}{_BETWEEN})?[0-9]{{2,4}}{_BETWEEN})"
_STARTER = rf"{_GAP}+(?:{_any_of(STARTERS)}{_GAP}|{_TAG})"
_FACES = r"[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)"
_SPLIT_WORDS = _list("cannot gonna gotta lemme gimme wanna")

_RULES = (  # in the order in which equals are decided
    # markup
    _rule(_TAG, _unbroken),
    _rule(r"&(?:MD|mdash|ndash|quot|apos|nbsp);", _dropped),
    _rule(r"&(?:lt|gt|amp);", _renamed),
    _rule(r"&(?:#[0-9]+|HT|TL|UR|LR|QC|QL|QR|odq|cdq);"),
    # contractions
    _rule(_any_of(_SPLIT_WORDS), lambda word: [word[:3], word[3:]], ignore_case=True),
    _rule("'t", _text, "(?:is|was)", ignore_case=True),
    _rule(r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*(?=[nN])", _text, rf"[nN]{_ANY_MARK}[tT]"),
    _rule(rf"[nN]{_ANY_MARK}[tT]", _plain_apostrophe),
    _rule(_WORD, _text, _AUXILIARY),
    _rule(_AUXILIARY, _plain_apostrophe, r"[^A-Za-z]"),
    _rule(rf"{_APOSTROPHE}[msdMSD]\Z", _plain_apostrophe),  # 'll, 're and 've are none at the end of all texts
    _rule(r"[\u0092\u2019](?:[msd]|re|ve|ll)", _plain_apostrophe, ignore_case=True),
    _rule(_any_of(OLD_WORDS).replace("'", _APOSTROPHE), ignore_case=True),
    _rule(rf"[\u0092\u2019][nN]|{_APOSTROPHE}n(?:{_APOSTROPHE}|(?=[ \t\n]|\Z))"),
    _rule(rf"[lLdDjJ]{_APOSTROPHE}|[yY]{_APOSTROPHE}(?={_PLAIN})|[A-HJ-XZn]{_ANY_MARK}{_PLAIN}{{2,}}"),
    _rule(rf"{_APOSTROPHE}[2-9]0s|{_APOSTROPHE}\d\d(?=[ \t\n])"),
    _rule(rf"{_PLAIN}+[aeiouyAEIOUY]{_ANY_MARK}[aeiouA-Z]{_PLAIN}*"),
    # names and numbers
    _rule(rf"https?://{_URL_SIGN}+{_URL_END}"),
    _rule(rf"www\.(?:{_URL_END}+\.)+[a-zA-Z]{{2,4}}(?:/{_URL_SIGN}+{_URL_END})?"),
    _rule(rf"(?:[^ \t\n\"`'|!(){{}}$,-_]+\.)+(?:com|net|org|edu)(?:/(?:{_URL_SIGN}*{_URL_END})?)?"),
    _rule(rf"(?:<|&lt;)?(?:mailto:)?[a-zA-Z0-9]{_EMAIL_SIGN}*@(?:{_EMAIL_WORD}\.)*{_EMAIL_WORD}(?:>|&gt;)?"),
    _rule(r"@[A-Za-z_][A-Za-z0-9_]*|@+"),
    _rule(rf"#{_LETTER}+|#+"),
    _rule(rf"(?:\d{{1,4}}{_BETWEEN})?\d{{1,4}}(?:\\?/|\u2044)\d{{1,4}}", _unbroken),
    _rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
    _rule(rf"{_AREA_CODE}[0-9]{{3,4}}{_BETWEEN}?[0-9]{{3,5}}", _unbroken),
    _rule(r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"),
    _rule(rf"[-+]?{_NUMBER}"),
    _rule(r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"),
    _rule(r"[A-Z]*\$"),
    _rule(r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+|[cC]\+\+|[cCfF]#"),
    # abbreviations; a full stop that also ends the sentence is dropped with the others
    _rule(_ENDING_ABBREVIATION, _text, rf"{_GAP}(?:{_GAP}|[A-Z]|{_TAG})"),
    _rule(_ENDING_ABBREVIATION),
    _rule(rf"{_abbreviation_of(LEADING)}\."),
    _rule(r"pt[ey]\.", _text, " ltd", ignore_case=True),
    _rule(rf"{_abbreviation_of(BEFORE_NUMBERS)}\.", _text, rf"{_GAP}?\d"),
    _rule(rf"{_INITIALS}\.", _text, _STARTER),
    _rule(r"[A-Za-z](?=\.)", _text, rf"\.{_STARTER}"),
    _rule(rf"(?:{_INITIALS}|[A-Za-z])\."),
    # words
    _rule(_WORD),
    _rule(_ENDING_ABBREVIATION, _text, r"[\s\S]{2}"),
    _rule(rf"{_SIGN}+(?:\.{_SIGN}+)*\.{_any_of(FILE_TYPES)}", _text, r"[ \t\n.,?!;:]", ignore_case=True),
    _rule(_THING),
    _rule(rf"(?:{_WORD}|{_THING})\.", _text, "[,;:\u3001]"),
    _rule(rf"{_JOINED}\.", _text, "[,;:\u3001]"),
    _rule(_JOINED),
    _rule(rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}"),
    # signs
    _rule(r"[<>]?[:;=][-o*']?[()DPdpO\\@|\[\]]", _unbroken, r"[^A-Za-z0-9]"),
    _rule(r"[<>]?[:;=][-o*']?\{", lambda face: [face], r"[^A-Za-z0-9]"),
    _rule(_FACES, _unbroken),
    _rule(r"-{1,4}", _dropped),  # dashes
    _rule(r"-{5,}"),
    _rule(r"[?!]", _dropped),
    _rule(r"[?!]{2,}"),
    _rule(r"\.{3,5}|''|``|[.,;:'\"\u0096\u0097\u2013-\u2015\u2026]", _dropped),
    _rule(r"[`\u0091-\u0094\u00ab\u00bb\u2018-\u201f\u2039\u203a]{1,2}", _quotes),
    _rule(r"\*+|(?:\\\*)+|_+|<<|>>"),
    _rule(r"[\u00bc-\u00be\u2153\u2154()\[\]{}\u00a2\u00a3\u00a4\u0080\u20a0\u20ac]", _renamed),
    _rule(r"[%&+/<=>\\^|~\u00a1\u00a5-\u00a9\u00ac\u00ae-\u00b1\u00b4\u00b6-\u00b8\u00bf\u00d7\u00f7\u0e3f]"),
    _rule(r"[\u2016\u2017\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u207a-\u207e\u208a-\u208e\u20a4]"),
    _rule(r"[\u2100-\u214f\u2155-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20]"),
    _rule(r"[\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6]"),
)


_BREAKS = re.compile("[\n\r\x0b\x0c\x85\u2028\u2029]")
_PLAIN_WORD = re.compile(r"[A-Za-z]+(?=[,;:?!.]?(?:[ \n]|\Z))")
_NOTHING = re.compile(r" +|[,;.](?=[ \n]|\Z)")
_ABBREVIATIONS = frozenset(re.sub(r"[][]", "", word).lower() for word in (*ENDING, *LEADING, *BEFORE_NUMBERS))


def tokenize(texts: Sequence[str]) -> list[str]:
    """The tokens of every text, in lower case, joined by single blanks, the list of punctuation left out.

    Brackets stay under their names (``-lrb-``); a mixed fraction keeps an unbreakable blank (``3\u00a01/2``).
    Characters the tokeniser does not know part words and vanish.
    """
    if isinstance(texts, str):
        raise ValueError("tokenize takes a sequence of texts, got one string; wrap it in a list")
    if not texts:
        return []
    text = "\n".join(_BREAKS.sub(" ", text) for text in texts)
    lines: list[list[str]] = [[]]
    place = 0
    while place < len(text):
        if text[place] == "\n":
            lines.append([])
            place += 1
        elif nothing := _NOTHING.match(text, place):
            place = nothing.end()
        elif (plain := _PLAIN_WORD.match(text, place)) and _is_plain(plain[0].lower(), text, plain.end()):
            lines[-1].append(plain[0].lower())
            place = plain.end()
        else:
            place = _step(text, place, lines[-1])
    return [" ".join(line) for line in lines]


def _is_plain(word: str, text: str, end: int) -> bool:
    """Whether no rule can take more, or less, than this word of letters."""
    stop = text.startswith(".", end)
    return word not in _SPLIT_WORDS and not (stop and (len(word) == 1 or word in _ABBREVIATIONS))


def _step(text: str, place: int, line: list[str]) -> int:
    best, end = None, place
    for pattern, make in _RULES:
        found = pattern.match(text, place)
        if found and found.end() > end:
            best, end = (make, found["token"]), found.end()
    if best is None:
        return place + 1
    make, token = best
    line += [part.lower() for part in make(token)]
    return place + len(token)
