"""Worked examples of questions, for few-shot prompts: each has two searches, one after the other, and an answer.

The toy encyclopedia's question writer (toywiki/bridge_questions.py) and the rule-based teacher
(teachers/question_teacher.py, with thoughts in sentences) wrote them; tests/prep/test_question_examples.py makes them
again. All names are invented, so no example comes from a benchmark. Left out: masked passages, whose examples are
demonstrations on training tasks.
"""

# Each is a question, a line end, and the turns and observations of its episode.
EXAMPLES = (
    (
        "What is the book written by the spouse of Zimre Jiporv?\n"
        "<think> First I need to know about Zimre Jiporv.</think><search> Zimre Jiporv</search><information> Zimre "
        "Jiporv: Zimre Jiporv founded Tomre Widith on 2 March 1150. She is named as spouse of Milza Dizayd. On 24 "
        'January 1815 Zimre Jiporv explored Torzo Goborv.</information><think> I read: "She is named as spouse of '
        'Milza Dizayd." Now I look up Milza Dizayd.</think><search> Milza Dizayd</search><information> Milza '
        "Dizayd: Milza Dizayd was born in Domre Widith on 31 May 1508. He wrote Zimre Wokith, dated 30 January "
        '1326. He married Zimre Jiporv.</information><think> The text says: "He wrote Zimre Wokith, dated 30 '
        'January 1326." That gives the answer: Zimre Wokith.</think><answer> Zimre Wokith</answer>'
    ),
    (
        "When did the spouse of Zamro Hodond found a company?\n"
        "<think> I begin with Zamro Hodond.</think><search> Zamro Hodond</search><information> Zamro Hodond: Zamro "
        "Hodond is named as spouse of Tomre Wetael. Zamro Hodond was born on 14 November 1617 in Torzo Wokith. He "
        'wrote Vonzo Wokith, finished on 30 August 1672.</information><think> The text says: "Zamro Hodond is named'
        ' as spouse of Tomre Wetael." So I search for Tomre Wetael next.</think><search> Tomre '
        "Wetael</search><information> Tomre Wetael: Tomre Wetael founded the house of Torzo Giketh on 11 July 1787."
        " She later married Zamro Hodond. Tomre Wetael wrote Yelvu Widith, dated 10 June 1266.</information><think>"
        ' The text says: "Tomre Wetael founded the house of Torzo Giketh on 11 July 1787." That gives the answer: '
        "11 July 1787.</think><answer> 11 July 1787</answer>"
    ),
    (
        "Who is the author of the book set in Torzo Wokith?\n"
        "<think> The question needs more than one step. I first look up Torzo Wokith.</think><search> Torzo "
        "Wokith</search><information> Torzo Wokith: Torzo Wokith is known as birthplace of Zamro Hodond, 14 "
        "November 1617. Torzo Wokith serves as backdrop for Walv Kodond. Torzo Wokith gives room to the offices of "
        'Kolvu Dizayd.</information><think> The text says: "Torzo Wokith serves as backdrop for Walv Kodond." So '
        "next I look up Walv Kodond.</think><search> Walv Kodond</search><information> Walv Kodond: Walv Kodond has"
        " a plot laid in Torzo Wokith. It dates from 7 July 1175, its author being Yorv Wetael. The book was "
        'printed by Kolvu Goborv.</information><think> The text says: "It dates from 7 July 1175, its author being '
        'Yorv Wetael." So the answer is Yorv Wetael.</think><answer> Yorv Wetael</answer>'
    ),
    (
        "What is the home city of the company founded by Yorv Wetael?\n"
        "<think> The question needs more than one step. I first look up Yorv Wetael.</think><search> Yorv "
        "Wetael</search><information> Yorv Wetael: Yorv Wetael wrote Walv Kodond, dated 7 July 1175. He is named as"
        ' spouse of Sumro Wibayd. He founded Domre Piporv on 13 October 1501.</information><think> I read: "He '
        'founded Domre Piporv on 13 October 1501." Now I look up Domre Piporv.</think><search> Domre '
        "Piporv</search><information> Domre Piporv: Domre Piporv was established on 13 October 1501 by Yorv Wetael."
        " Domre Piporv has Milza Widith in the catalogue. Domre Piporv keeps its headquarters at Firv Bodeth, a "
        'city with a population of 135,700.</information><think> I read: "Domre Piporv keeps its headquarters at '
        'Firv Bodeth, a city with a population of 135,700." So the answer is Firv Bodeth.</think><answer> Firv '
        "Bodeth</answer>"
    ),
)
