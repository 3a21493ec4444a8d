"""The tags of an episode, the mask, and how texts join at them.

Texts join so that tokenising the parts equals tokenising the whole: a space follows an opening tag, and none precedes a
closing tag (`<search> Karn Velith birthplace</search>`). Word-initial tokens then look the same in a passage, a query
and an answer, which a small model needs in order to copy.
"""

THINK = ("<think>", "</think>")
SEARCH = ("<search>", "</search>")
INFORMATION = ("<information>", "</information>")
ANSWER = ("<answer>", "</answer>")
MASK = "[mask]"

CLOSING = (SEARCH[1], ANSWER[1])  # what ends a turn

ALL = (*THINK, *SEARCH, *INFORMATION, *ANSWER, MASK)

# Filled spans are joined by this inside the answer tags.
SPAN_SEPARATOR = ";"


def neutralise(text: str) -> str:
    """Return text in which none of our tags survives: '<search>' becomes '(search)'.

    Halves of characters (lone surrogates, which JSON can spell and no tokenizer accepts) become U+FFFD.
    """
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    for tag in ALL:
        if tag in text:
            text = text.replace(tag, "(" + tag.strip("<>[]") + ")")
    return text


def neutralise_all_but_masks(text: str) -> str:
    """Return text in which masks are the only tags that survive."""
    return MASK.join(map(neutralise, text.split(MASK)))


def block(tags: tuple[str, str], content: str) -> str:
    """Return `<tag> content</tag>`."""
    return f"{tags[0]} {content}{tags[1]}"
