"""What the rules of preparation know of a language: sentence ends, the counting of words, kinds of salient spans.

The rules for dates, numbers, names and rare words are for English. In other languages only links and terms of
categories and infoboxes are masked; `without` says what is left out. Languages that mark no sentence ends are refused.
"""

import re

from masksearch_jax.prep.wiki.site_info import is_english

_NAMES = dict(
    pair.split("=")
    for pair in """
    af=Afrikaans am=Amharic ar=Arabic arz=Egyptian_Arabic ast=Asturian az=Azerbaijani be=Belarusian bg=Bulgarian
    bn=Bengali bo=Tibetan br=Breton bs=Bosnian ca=Catalan ceb=Cebuano cs=Czech cy=Welsh da=Danish de=German
    dz=Dzongkha el=Greek en=English eo=Esperanto es=Spanish et=Estonian eu=Basque fa=Persian fi=Finnish fr=French
    ga=Irish gl=Galician gu=Gujarati he=Hebrew hi=Hindi hr=Croatian hu=Hungarian hy=Armenian id=Indonesian is=Icelandic
    it=Italian ja=Japanese jv=Javanese ka=Georgian kk=Kazakh km=Khmer kn=Kannada ko=Korean ku=Kurdish la=Latin lo=Lao
    lt=Lithuanian lv=Latvian mk=Macedonian ml=Malayalam mn=Mongolian mr=Marathi ms=Malay my=Burmese ne=Nepali nl=Dutch
    nn=Norwegian_Nynorsk no=Norwegian nb=Norwegian pa=Punjabi pl=Polish ps=Pashto pt=Portuguese ro=Romanian ru=Russian
    sa=Sanskrit sh=Serbo-Croatian si=Sinhala sk=Slovak sl=Slovene sq=Albanian sr=Serbian sv=Swedish sw=Swahili
    ta=Tamil te=Telugu th=Thai tl=Tagalog tr=Turkish tt=Tatar uk=Ukrainian ur=Urdu uz=Uzbek vi=Vietnamese war=Waray
    wuu=Wu yue=Cantonese zh=Chinese zh-yue=Cantonese zh-classical=Classical_Chinese gan=Gan hak=Hakka
    """.split()
)
_NO_SENTENCE_ENDS = {"th", "lo"}
# Languages written without spaces between words, and how many of their characters count as one word.
_SPACELESS = {"zh", "ja", "yue", "wuu", "gan", "km", "my", "bo", "dz"}
_CHARACTERS_OF_A_WORD = 2
LINKS_ONLY = ("link", "category")

# SENTENCE_END: marks that a space has to follow, and marks that need none.
CLOSERS = "\"'”’»«“›)]}」』】》〉）"
_CLOSERS, _OPENERS = re.escape(CLOSERS), "\"'“‘«»„‚‹(\\[¿¡「『【《〈（"
SENTENCE_END = re.compile(rf"(?:[.!?…؟۔։][{_CLOSERS}]*+\s+|[。！？｡।॥។።།၊။]++[{_CLOSERS}]*+\s*)(?=[{_OPENERS}]*+\w)")
LAST_MARK = re.compile(rf"[.!?…؟۔։。！？｡।॥។።།။][{_CLOSERS}]*+$")
FIRST_LETTER = re.compile(rf"[{_OPENERS}$€£#*~−-]*(\w)")
PAIRS = ("()", "[]", "（）", "「」", "『』", "《》", "„“")


def name_of(language: str) -> str:
    """Return the English name of a language code, or the code itself if it is not known."""
    return _NAMES.get(language, _NAMES.get(language.partition("-")[0], language)).replace("_", " ")


def check_language(language: str, source: str) -> None:
    """Raise ValueError for a language that cannot be cut into sentences. source: the file, for the message."""
    if language.partition("-")[0] in _NO_SENTENCE_ENDS:
        raise ValueError(
            f"{source} is in {name_of(language)} ({language!r}), which marks no ends of sentences: no passages can be "
            "cut from it. Take a dump of another language, or a corpus (.json)"
        )


def is_spaceless(language: str) -> bool:
    return language.partition("-")[0] in _SPACELESS


def count_words(text: str, language: str) -> int:
    words = len(text.split())
    return max(words, len(text) // _CHARACTERS_OF_A_WORD) if is_spaceless(language) else words


def without(language: str, kinds: tuple[str, ...]) -> list[str]:
    """Return the kinds of spans that no rule finds in a language."""
    return [] if is_english(language) else [kind for kind in kinds if kind not in LINKS_ONLY]
