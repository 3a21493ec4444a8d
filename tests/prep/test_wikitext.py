"""Wikitext to paragraphs, and paragraphs to passages."""

import random
import re
import time

import mwparserfromhell
import pytest

from masksearch_jax.prep.wiki import dump_reader, passage_cutting, sentence_borders, unit_templates, wikitext
from masksearch_jax.prep.wiki.wikitext import Anchor, Document, Paragraph


def text_of(source, title="Title"):
    return [p.text for p in wikitext.clean(source, title).paragraphs]


def links_of(source, title="Title"):
    document = wikitext.clean(source, title)
    return [(p.text[a.start : a.end], a.target) for p in document.paragraphs for a in p.anchors]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        # quotes
        ("'''Bold''', ''italic'' and '''''both''''' here.", "Bold, italic and both here."),
        ("''Titanic'''s crew and l'''bold'' cut.", "Titanics crew and lbold cut."),
        ("An ''unclosed quote.", "An unclosed quote."),
        # references, comments, tags
        ("A fact.<ref>Book, p. 5.</ref> More<ref name=x /> here.<ref name='x'>{{cite|a=[[b]]}}</ref>",
         "A fact. More here."),
        ("Before<!-- hidden\n\nstill --> after.", "Before after."),
        ("H<sub>2</sub>O and 10<sup>−3</sup> m<sup>2</sup>.", "H₂O and 10⁻³ m²."),
        ("One<br />two<br/><br/>three.", ["One two", "three."]),
        ("<span style='color:red'>Red</span> and <code>x = 1</code>.", "Red and x = 1."),
        ("Sentence one.<gallery>\nFile:a.jpg|b\n</gallery> Sentence two.", ["Sentence one.", "Sentence two."]),
        ("Let <math>n</math> be. Then <math>\\sum_i x</math> is odd. It ends.", "Let n be. It ends."),
        ("Fish &amp; chips&nbsp;cost &lt;5&nbsp;&pound;.", "Fish & chips cost <5 £."),
        ("Literal <nowiki>''</nowiki> quotes. Next.", "Next."),
        # what opens first counts: no comment in a reference, no reference in a comment
        ("A fact.<ref>a<!--->b</ref> The rest stays.", "A fact. The rest stays."),
        ("A fact.<ref>a <!-- b</ref> The rest stays.<!-- c --> So does this.", "A fact. The rest stays. So does this."),
        ("A <nowiki><!--</nowiki> sign. The rest stays.", "The rest stays."),
        ("Code:<pre>a <!-- b</pre>\nThe rest stays.", "The rest stays."),
        ("A fact.<!-- <ref>never closed --> The rest stays.", "A fact. The rest stays."),
        ("A fact.<ref>a<!-- <ref> -->b</ref> The rest stays.", "A fact. The rest stays."),
        ("A fact.<ref name=a<!-- b -->>c</ref> The rest stays.", "A fact. The rest stays."),
        ("A fact.<!--> The rest is gone.", "A fact."),
        ("A fact.<!--> not here --> The rest stays.", "A fact. The rest stays."),
        ("A fact.<ref>open <!-- a\nb --> note\nThe rest stays.", "A fact. The rest stays."),
        # the page itself, not what others include of it
        ("One.<noinclude> Two.</noinclude><includeonly> Never.</includeonly> <onlyinclude>Three.</onlyinclude>",
         "One. Two. Three."),
        ("One.<includeonly>a <!-- b</includeonly> Two.", "One. Two."),
        ("One.<noinclude> Two.", "One. Two."),
        # templates
        ("An area of {{convert|2381741|km2|sqmi|0}} in all.", "An area of 2,381,741 square kilometres in all."),
        ("A {{convert|10|-|20|mi|km|adj=on}} walk, {{convert|6|ft|2|in|abbr=on}} tall.",
         "A 10–20-mile walk, 6 ft 2 in tall."),
        ("The word {{lang|grc|ἀναρχία}} and {{lang-ru|Москва}}.", "The word ἀναρχία and Russian: Москва."),
        ("{{nowrap|One {{small|two}}}} {{circa|1823}} {{as of|2010|4|lc=y}}.", "One two c. 1823 as of April 2010."),
        ("It is {{chem|SO|4|2-}}, {{chem2|H2O}}.", "It is SO₄²⁻, H₂O."),
        ("''[[GQ]]''{{'s}} critic, 5{{nbsp}}km{{ndash}}wide {{sc|bc}} {{linktext|λόγος}}.",
         "GQ's critic, 5 km–wide bc λόγος."),
        ("The {{USS|Alabama|BB-60}} and {{frac|3|1|2}} {{angbr|a}} {{val|6.2|e=18|u=C}}.",
         "The USS Alabama (BB-60) and 3 1/2 ⟨a⟩ 6.2×10¹⁸ C."),
        ("A claim.{{citation needed|date=May 2010}} Another{{sfn|Doe|2000|p=5}} one {{r|a}}.", "A claim. Another one."),
        ("{{nobr|No break}}, as {{harvtxt|Doe|Roe|2000}} says {{coord|1|2|display=title}}.",
         "No break, as Doe & Roe (2000) says."),
        ("He {{'}}scaped to {{flag|Spain}}{{flagicon|ES}} on {{HMS|Osk|1823|6}}.", "He 'scaped to Spain on HMS Osk."),
        ("A [[CSI: Miami]] episode.", "A CSI: Miami episode."),
        # an unknown template in a sentence costs the sentence; at its end, or alone on a line, nothing
        ("It weighs {{mystery|5|x}} in all. It floats. It sinks.{{mystery}}", "It floats. It sinks."),
        ("{{Main|Other}}\nText.", "Text."),
        # parentheses whose content was lost
        ("Foo ({{IPAc-en|f|u}}; {{lang|la|fu}}) bar ({{coord|1|2}}) ( ) baz (in {{mystery|x}}, born 1820).",
         "Foo (fu) bar baz (born 1820)."),
        ("The word adobe {{IPAc-en|a}} is old.", "The word adobe is old."),
        # links and files
        ("[[File:a.jpg|thumb|A [[caption]] with ''[[two|links]]''.]]Text.", "Text."),
        ("[[Category:Things]]Text [[:Category:Things|shown]].", "Text shown."),
        ("See [http://x.org/a?b=c a page] and [http://x.org]. End.", "End."),
        ("A claim.[http://x.org] Another [http://x.org].", "A claim."),
        ("Text [[de:Titel]] here.", "Text here."),
        # blocks
        ("{| class=x\n|-\n| cell {{a|b}} || [[c]]\n{|\n| inner\n|}\n|}\nText.", "Text."),
        ("Text.\n* item\n# item\n: indented\n; term\nMore.", ["Text.", "More."]),
        ("They are:\n* one\n* two\nEnd.", ["End."]),
        ("He is known. He wrote the following:\n: x\nEnd.", ["He is known.", "End."]),
        ("== A ==\nOne.\n=== References ===\nGone.\n== B ==\nTwo\nlines.", ["One.", "Two lines."]),
        ("One (two. Three.", []),
        (" int main() {}\nText.", "Text."),
        ("__TOC__\nText.", "Text."),
    ],
)  # fmt: skip
def test_shown_text(source, shown):
    assert text_of(source) == ([shown] if isinstance(shown, str) else shown)


def test_anchors():
    source = (
        "The [[city]] of [[Paris, Texas|Paris]], its [[bus]]es, [[ space |  spaced ]] and ''[[Foo (film)|]]'' in "
        "[[Foo_bar#Part|part]], [[#here|same page]], [[Title|itself]], [[wikt:word|word]], [[x|''y'' (z)]]."
    )
    assert text_of(source) == ["The city of Paris, its buses, spaced and Foo in part, same page, itself, word, y (z)."]
    assert links_of("A [[CSI: Miami]] [[fr:mot|mot]] [[:de:Wort|Wort]].") == [("CSI: Miami", "CSI: Miami")]
    assert links_of(source) == [
        ("city", "City"), ("Paris", "Paris, Texas"), ("buses", "Bus"), ("spaced", "Space"), ("Foo", "Foo (film)"),
        ("part", "Foo bar"), ("y (z)", "X"),
    ]  # fmt: skip


def test_anchors_move_with_dropped_sentences():
    source = "Lost [[one]] {{mystery|x}} here. Kept [[two]] here. Lost {{mystery|x}} [[three]]. And [[four]]."
    assert text_of(source) == ["Kept two here. And four."]
    assert links_of(source) == [("two", "Two"), ("four", "Four")]
    assert wikitext.clean(source, "T").dropped == 2


def test_link_in_template_and_in_lost_parenthesis():
    source = "A {{nowrap|[[B|b]] c}} ({{IPA-fr|x}}, from [[Latin|L, l]]; {{mystery|y}} [[gone]]) d."
    assert text_of(source) == ["A b c (x, from L, l) d."]
    assert links_of(source) == [("b", "B"), ("L, l", "Latin")]


def test_infobox_and_categories():
    source = """{{Infobox country
| name = '''Foo''' | image_flag = Flag of Foo.svg
| capital = [[Algiers|The Capital]]<ref>{{cite|x}}</ref>
| languages = {{hlist|[[Arabic]]|[[Berber languages|Berber]]}}
| birth_date = {{birth date|1823|3|14|df=yes}}
| leaders = [[A]]<br />[[B]]
| empty =
}}
'''Foo''' is a country.
[[Category:Countries in Africa|Foo]]
[[category:Foo_bar]]"""
    document = wikitext.clean(source, "Foo")
    assert [p.text for p in document.paragraphs] == ["Foo is a country."]
    assert document.categories == ["Countries in Africa", "Foo bar"]
    assert document.infobox == [
        ("name", "Foo"), ("capital", "The Capital"), ("languages", "Arabic, Berber"), ("birth date", "14 March 1823"),
        ("leaders", "A, B"),
    ]  # fmt: skip


def test_sections_are_numbered():
    document = wikitext.clean("Lead.\n\nMore.\n== A ==\nOne.\n== B ==\n=== C ===\nTwo.", "T")
    assert [(p.text, p.section) for p in document.paragraphs] == [("Lead.", 0), ("More.", 0), ("One.", 1), ("Two.", 3)]


@pytest.mark.parametrize(
    "source",
    [
        "Text {{unclosed|a=b\nSecond line stays.",
        "Text [[unclosed\nSecond line stays.",
        "[[File:a.jpg|thumb|{{small|caption]]\nSecond line stays.",
        "Text <ref>unclosed\nSecond line stays.",
        "Text <math>x\nSecond line stays.",
        "{| class=x\n| cell\nSecond line stays.",
        "Text }} ]] </ref> </math>\nSecond line stays.",
        "Text <ref name=a>one <ref>two</ref>\nSecond line stays.",
        "{{Infobox x\n| a = {{b\n| c = d\nSecond line stays.",
    ],
)
def test_unbalanced_markup_costs_its_line_only(source):
    text = " ".join(text_of(source))
    assert text.endswith("Second line stays.")
    assert not re.search(r"\{\{|\}\}|\[\[|\]\]|<|\|", text)


def test_unclosed_comment_ends_the_page():
    assert text_of("One.<!-- two -->\n\nThree. <!-- four") == ["One.", "Three."]


@pytest.mark.parametrize(
    "unit",
    ["<ref>", "<ref name=a ", "<math>", "{{", "{{a|", "[[", "[[File:a|", "{|\n", "}}", "]]", "''", "(", "<!--",
     "[http://a",
     "[[a|b]", "{{nowrap|", "<ref></math>", "{{{", "[[[", "==", "<", "|}\n", "(\x01", "a. (", "&amp", "[//", "<sup>",
     "“"],
)  # fmt: skip
def test_malformed_input_takes_linear_time(unit):
    """Four times the input takes about four times as long (a quadratic pass would take sixteen)."""

    def seconds(repeats):
        best = float("inf")
        for _ in range(3):  # the least of three: other processes only ever add
            start = time.process_time()
            wikitext.clean((unit + " x") * repeats, "T")
            best = min(best, time.process_time() - start)
        return best

    long = seconds(20_000)
    assert long < 0.25 or long < 9 * seconds(5_000), long


def test_deep_nesting_is_bounded():
    start = time.process_time()
    for opening, closing in (("{{nowrap|", "}}"), ("[[a|", "]]"), ("{|\n", "\n|}"), ("(", ")")):
        wikitext.clean(opening * 20_000 + "x" + closing * 20_000, "T")
    assert time.process_time() - start < 5


def test_random_markup_never_raises_and_leaves_no_residue():
    tokens = ["{{", "}}", "[[", "]]", "|", "{|", "|}", "\n", "''", "<ref>", "</ref>", "<!--", "-->", "File:", "a b. ",
              "=", "* ",
              "<math>", "</math>", "(", ")", "{{nowrap|", "[http://x ", "]", "<br/>", "Category:",
              "convert|5|km"]  # fmt: skip
    rng = random.Random(0)
    for _ in range(1500):
        source = "".join(rng.choice(tokens) for _ in range(rng.randrange(1, 60)))
        for paragraph in wikitext.clean(source, "T").paragraphs:
            assert not re.search(r"\{\{|\}\}|\[\[|\]\]|<ref|''|[\x00-\x08]", paragraph.text), (source, paragraph)
            for anchor in paragraph.anchors:
                shown = paragraph.text[anchor.start : anchor.end]
                assert shown == shown.strip() != ""


def test_agrees_with_mwparserfromhell_on_plain_markup():
    """On balanced markup without templates both must show the same words."""
    for source in (
        "'''Karn Velith''' was a [[painter|court painter]] of ''[[Osk]]''.",
        "He [[married]] [[Mira Toln]] in 1823 &ndash; the year of ''The [[Book]]''s fame.",
        "A [http://x.org site] and <small>small</small> [[print]]s.",
        "[[a]][[b|c]] [[d (e)|d]], ''f''.",
        "x [[y|z]]{{cite|b}}, <!-- c -->w.",
    ):
        expected = mwparserfromhell.parse(source).strip_code(normalize=True)
        assert text_of(source) == [re.sub(r"\s+", " ", re.sub("''+", "", expected)).strip()]


def test_units():
    assert unit_templates.convert(["1", "to", "2+1/2", "km", "mi"], {}) == "1 to 2 1/2 kilometres"
    assert unit_templates.convert(["3.5", "e6km2"], {}) == "3.5 million square kilometres"
    assert unit_templates.convert(["-40", "C"], {}) == "−40 °C"
    assert unit_templates.convert(["5", "C-change"], {}) == "5 °C"
    assert unit_templates.convert(["1", "mi"], {}) == "1 mile"
    assert unit_templates.convert(["400000", "oilbbl/d"], {}) == "400,000 barrels per day"
    assert unit_templates.group_digits("12345.678") == "12,345.678"


@pytest.mark.parametrize(
    "expected",
    [
        ["J. R. R. Tolkien met Dr. Smith at 3.5 p.m. in the U.S. Senate.", "He left."],
        ["She was born in the U.S.", "She died in 1823.", "In 1900 it closed."],
        ['He said "Stop. Go on." and left.', "Then (see p. 5. Or not.) he came."],
        ["Is it?", "Yes!", "No. 5 is St. Mary's, vol. 3."],
        ["It cost $3.5 million vs. 4.2 million.", "Nobody paid."],
        ["He painted modern art.", "The museum, est. 1850, is by J. Smith Jr. and Co. of Mt. Osk."],
        ["Karn wrote (in 1823).", "“Quite so.”", "Éva came."],
        ["One sentence without an end"],
    ],
)
def test_sentences(expected):
    text = " ".join(expected)
    assert [text[a:b] for a, b in sentence_borders.split(text)] == expected


def document(*sections):
    """A document of numbered sentences: each section a list of word counts."""
    number = 0
    paragraphs = []
    for section, counts in enumerate(sections):
        parts = []
        for count in counts:
            number += 1
            parts.append(" ".join([f"S{number}", *["word"] * (count - 1)]) + ".")
        paragraphs.append(Paragraph(" ".join(parts), [], section))
    return Document(paragraphs, [], [])


def sizes(doc, **options):
    return [len(p.text.split()) for p in passage_cutting.cut(doc, "T", **options)]


def test_passages_share_a_section_evenly():
    assert sizes(document([20] * 11)) == [100, 120] or sizes(document([20] * 11)) == [120, 100]
    assert sizes(document([10] * 30)) == [100, 100, 100]
    assert sizes(document([140])) == [140]
    assert sizes(document([60, 60], [50, 50])) == [120, 100]


def test_short_sections_join_their_neighbour():
    assert sizes(document([10], [90], [20], [95])) == [120, 95]
    assert sizes(document([10], [12])) == [22]
    assert sizes(document([8])) == [8]
    assert sizes(document([60], [60]), minimum=0) == [60, 60]


def test_sentences_stay_whole_and_in_order():
    rng = random.Random(1)
    for _ in range(50):
        doc = document(*[
            [rng.randrange(3, 60) for _ in range(rng.randrange(1, 12))] for _ in range(rng.randrange(1, 6))
        ])
        joined = " ".join(p.text for p in passage_cutting.cut(doc, "T"))
        assert joined == " ".join(p.text for p in doc.paragraphs)


def test_passages_carry_anchors_and_drop_fragments():
    text = "lower start. Karn Velith met Mira. A caption without an end"
    doc = Document([Paragraph(text, [Anchor(13, 24, "Karn"), Anchor(29, 33, "Mira"), Anchor(37, 44, "C")])], [], [])
    (cut,) = passage_cutting.cut(doc, "T")
    assert cut.text == "Karn Velith met Mira."
    assert [cut.text[a.start : a.end] for a in cut.anchors] == ["Karn Velith", "Mira"]
    iphone = Document([Paragraph("iPhone is a device.", [])], [], [])
    assert len(passage_cutting.cut(iphone, "iPhone")) == 1 and not passage_cutting.cut(iphone, "Phone")


def test_cut_refuses_nonsense():
    with pytest.raises(ValueError, match="words=10, minimum=20"):
        passage_cutting.cut(document([5]), "T", words=10, minimum=20)


def test_real_slice_is_clean(data_dir):
    """Offsets exact, and no residue of markup in any passage of the real slice."""
    count = anchors = empty = 0
    for article in dump_reader.articles(data_dir / "enwiki-shortened.xml.bz2"):
        cleaned = wikitext.clean(article.wikitext, article.title)
        empty += not cleaned.paragraphs
        for passage in passage_cutting.cut(cleaned, article.title):
            count += 1
            anchors += len(passage.anchors)
            assert not re.search(r"\{\{|\}\}|\[\[|\]\]|<ref|</|''|\(\s*\)|\|\||\{\||  |:$|[\x00-\x08]", passage.text)
            assert passage.text[-1] in ".!?\"')”’]…" and not passage.text[0].isspace()
            for anchor in passage.anchors:
                shown = passage.text[anchor.start : anchor.end]
                assert shown == shown.strip() != "" and anchor.target
    assert count > 3500 and anchors > 14_000 and empty <= 3  # lists of meanings
