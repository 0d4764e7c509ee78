"""Placeholder text: words from random syllables, characters from a list."""

from __future__ import annotations

import numpy as np

__all__ = ["HANJA", "hangul_words", "latin_words"]

_ONSETS = [*"bcdfghlmnprstv", "qu", "st", "tr", "pr", "pl", "cl", "sc", "sp", "gr", "br"] + [""] * 5
_NUCLEI = [*"aeiouaeio", "ae", "ea", "ie"]
_CODAS = [*"nsrtmlx", "nt", "st", "ns"] + [""] * 14

# Parts of a Hangul syllable by their place in Unicode's order; the frequent ones several times.
_INITIALS = (0, 2, 3, 5, 6, 7, 9, 11, 12, 14, 16, 17, 18, 0, 2, 3, 9, 11, 11, 11, 12, 18)
_MEDIALS = (0, 4, 8, 13, 18, 20, 0, 4, 8, 20, 1, 5, 6, 9, 12, 17, 19)
_FINALS = (0, 0, 0, 0, 0, 0, 1, 4, 4, 8, 16, 17, 21, 21)

# Frequent characters of old prints: numbers, nature, people, offices, verbs and particles.
HANJA = (
    "一二三四五六七八九十百千萬天地日月星山川水火木金土石玉雲雨風雪春夏秋冬年歲時東西南北中上下左右內外前後"
    "大小長短高低古今新舊明白黑赤青黃人民父母子女兄弟夫婦王臣君士師友身心手足目耳口面言語文字書經史詩禮樂"
    "法道德仁義智信忠孝國家城門宮室堂里州郡縣京海江河田野草花竹松馬牛羊魚鳥龍虎生死老少來去行止坐立見聞知"
    "思念愛敬學問教習讀寫作成始終得失用食衣食居安危治亂興亡公私正平和同異多少有無不未非是此其所以而之也者"
    "乃則於于與及自為若如可能當必皆亦又即曰謂名號令命軍兵官吏使節度傳記錄集卷序篇章句本末性理氣陰陽神仙佛"
)


def latin_words(rng: np.random.Generator, count: int) -> list[str]:
    """``count`` words of a language that looks like Latin, some with a capital, a comma or a full stop."""
    syllables = rng.choice([1, 1, 2, 2, 2, 3, 3], count)
    marks = rng.choice(["", ",", ".", ";"], count, p=[0.8, 0.1, 0.08, 0.02])
    capital = rng.random(count) < 0.12
    words = []
    for length, mark, large in zip(syllables, marks, capital, strict=True):
        parts = [_pick(rng, _ONSETS) + _pick(rng, _NUCLEI) for _ in range(length)]
        word = "".join(parts) + _pick(rng, _CODAS)
        words.append((word.capitalize() if large else word) + str(mark))
    return words


def _pick(rng: np.random.Generator, parts: list[str]) -> str:
    return parts[int(rng.integers(len(parts)))]


def hangul_words(rng: np.random.Generator, count: int) -> list[str]:
    """``count`` words of one to four Hangul syllables."""
    words = []
    for length in rng.choice([1, 2, 2, 3, 3, 4], count):
        initials, medials, finals = (rng.choice(parts, length) for parts in (_INITIALS, _MEDIALS, _FINALS))
        words.append("".join(chr(0xAC00 + int(code)) for code in (initials * 21 + medials) * 28 + finals))
    return words
