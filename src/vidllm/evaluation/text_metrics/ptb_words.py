"""The words that the Penn Treebank conventions treat alike: abbreviations, file endings, old contractions."""

from __future__ import annotations

__all__ = [
    "BEFORE_NUMBERS",
    "ENDING",
    "FILE_TYPES",
    "LEADING",
    "OLD_WORDS",
    "STARTERS",
]


def _words(*lines: str) -> list[str]:
    return " ".join(lines).split()


ENDING = _words(
    "al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb",
    "fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn",
    "plc ppt[e] ppt[e]s ppt[y] ppt[y]s pt[e] pt[e]s pt[y] pt[y]s rd rt sep sept seq sq sr sys tel tenn thu thurs tue",
    "tues univ va vt wed wis wisc wyo ph.d ed.d Ark Az Del Ill La Mass Miss Ore Pa Tex Wash",
)
"""Abbreviations that may end a sentence. Letters match in any case, capitals and letters in brackets as written."""

LEADING = _words(
    "adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen",
    "gov govs hon insp invt jos lieut lt maj messrs m[f]g mlle mme mr mrs ms msgr mt m[t]g natl pfc ph pres prof profs",
    "pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm",
)
"""Abbreviations that something follows."""

BEFORE_NUMBERS = _words("art ca fig figs no nos op pp prop")
"""Abbreviations only where a number follows, over one blank or line break at most."""

STARTERS = _words(
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr. Ms. Now",
    "Once One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You",
)
"""Words that begin a new sentence behind initials."""

FILE_TYPES = _words(
    "bat bmp class cgi cpp c dll docx doc exe gif gz html htm h jar java jpeg jpg mov mp3 pdf php pl png pptx ppt ps",
    "py sql tar txt wav xml x zip",
)
"""Endings of file names."""

OLD_WORDS = _words("'cause 'em 'till 'til c'mon c'est e'er ev'ry li'l nat'l nor'easter s'mores somethin' dunkin' ol'")
"""Words whose apostrophe does not part them."""
