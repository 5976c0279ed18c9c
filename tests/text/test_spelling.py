"""How texts are spelled."""

import unicodedata

import pytest

from speechbrain_diffasr.text import normalize_text

SENTENCES = {
    "en": "“It's 10:30,” she said — the DOGS' bowl (3,500) cost $4.50 at the U.S. e-shop; ½ off!",
    "de": "„Straße“: Wie geht’s dir, GROẞE Welt? Übrigens – z.B. Nord-Süd-Gefälle…",
    "fr": "« L’été », dit-il ; qu'est-ce que c’est ? Œuvre n° 5 : aujourd’hui !",
    "es": "¿Cómo estás, señor Núñez? ¡Muy bien! 1.000 €",
    "hi": "पढ़ाई, ज़्यादा और क़लम — “श्रद्धा” ने कहा: हाँ। १२ बजे॥",
    "zh": "他 说：“Ｈｅｌｌｏ，world！” ２０２６ 年，Ａ 股 上 涨 3.5%。",
    "it": "È l’ora dell'aperitivo: un po' d’acqua, perché no?",
    "nl": "'s Ochtends zo'n 5-jarige",
    "ja": "これは テスト です。ＡＩ モデル！",
    "xx": "ÎLE d’X — çà et là",
}


@pytest.mark.parametrize(
    ("lang", "expected"),
    [
        ("en", "it's 10 30 she said the dogs bowl 3,500 cost 4.50 at the us e shop ½ off"),
        ("de", "straße wie gehts dir große welt übrigens zb nord süd gefälle"),
        ("fr", "l'été dit il qu'est ce que c'est œuvre n 5 aujourd'hui"),
        ("es", "cómo estás señor núñez muy bien 1.000"),
        ("zh", "他说 hello world 2026 年 a 股上涨 3.5"),
        ("it", "è l'ora dell'aperitivo un po d'acqua perché no"),
        ("nl", "s ochtends zo'n 5 jarige"),
        ("ja", "これはテストです ai モデル"),
        ("xx", "île d'x çà et là"),
    ],
)
def test_sentences(lang, expected):
    assert normalize_text(SENTENCES[lang], lang) == expected


def test_hindi_keeps_every_mark():
    text = normalize_text(SENTENCES["hi"], "hi")
    assert text == unicodedata.normalize("NFC", "पढ़ाई ज़्यादा और क़लम श्रद्धा ने कहा हाँ १२ बजे")

    def marks(words):
        return [char for char in unicodedata.normalize("NFC", words) if unicodedata.combining(char)]

    assert marks(text) == marks(SENTENCES["hi"])
    # Both spellings of a letter with nukta, and a joiner that changes the look alone.
    assert normalize_text("\u0958\u0932\u092e", "hi") == normalize_text("क\u093cलम", "hi")
    assert normalize_text("श्\u200dरद्धा", "hi") == normalize_text("श्रद्धा", "hi")


@pytest.mark.parametrize("lang", SENTENCES)
def test_what_is_normalized_stays_as_it_is(lang):
    text = normalize_text(SENTENCES[lang], lang)
    assert normalize_text(text, lang) == text
    assert text == " ".join(text.split())
    assert unicodedata.is_normalized("NFC", text)
    # Composed or not, a text gets one spelling.
    assert normalize_text(unicodedata.normalize("NFD", SENTENCES[lang]), lang) == text


@pytest.mark.parametrize(("region", "lang"), [("de-DE", "de"), ("zh_CN", "zh"), ("EN-us", "en")])
def test_a_region_changes_nothing(region, lang):
    assert normalize_text(SENTENCES[lang], region) == normalize_text(SENTENCES[lang], lang)


@pytest.mark.parametrize("text", ["", " \n", "?!…", "' - '", "。", "।"])
def test_nothing_is_left_of_no_words(text):
    assert normalize_text(text, "en") == normalize_text(text, "zh") == ""


def test_digits_are_split_from_letters_only_where_the_corpus_does():
    assert normalize_text("B2B 3 D 4K", "en") == "b2b 3 d 4k"


@pytest.mark.parametrize(
    ("lang", "text", "expected"),
    [
        ("tr", "İstanbul'da IŞIK, I\u0307yi", "istanbul'da ışık iyi"),
        ("tr-TR", "DIŞ İÇ", "dış iç"),
        ("az", "İNDİ QIZ", "indi qız"),
        ("en", "İstanbul ISSUE", "istanbul issue"),
        ("ca", "EL COL·LEGI, coŀlegi i a•b", "el col·legi col·legi i a·b"),
        ("ca", "· punt · i l·", "punt i l"),
        ("oc", "in·hèrn", "in·hèrn"),
        ("en", "one·two • three", "one two three"),
        ("he", 'צה״ל צה"ל ג׳ירפה ג\'ירפה, "שלום"', "צה״ל צה״ל ג׳ירפה ג׳ירפה שלום"),
        ("ar", "٣٫٥ و ١٬٠٠٠، قال: نعم؟", "٣٫٥ و ١٬٠٠٠ قال نعم"),
        ("ar", "كتـــاب كَتَبَ ﻻ ﷲ", "كتاب كَتَبَ لا الله"),
        ("hy", "Ինչպե՞ս ես, բարի՛ օր։", "ինչպես ես բարի օր"),
        ("sv", "EU:s regler: nej", "eu:s regler nej"),
        ("fi", "USA:n: klo 12:30", "usa:n klo 12 30"),
        ("en", "note:this", "note this"),
        ("en", "the ﬁne ﬂow, eﬃcient ﬅ", "the fine flow efficient st"),
        ("nl", "\u0132sselmeer en \u0133s", "ijsselmeer en ijs"),
        ("en", "Ｆｕｌｌ　width", "full width"),
        ("ja", "ｶﾀｶﾅ", "カタカナ"),
        ("en", "hello\u200bworld soft\u00adhyphen", "hello world softhyphen"),
        ("km", "ខ្ញុំ\u200bស្រឡាញ់", "ខ្ញុំស្រឡាញ់"),
        ("en", "don‛t don′t donʼt don`t don’t", "don't don't don't don't don't"),
        ("fr", "1ʼétat l‛été", "1'état l'été"),
    ],
)
def test_each_script_has_its_own_marks(lang, text, expected):
    assert normalize_text(text, lang) == expected
    assert normalize_text(expected, lang) == expected
