"""What customers of the sample shop write: a grammar of clauses about aspects, in Chinese and English.

Beside plain clauses there are negated ones ("not nearly as good as advertised"), reversals ("expected it to be awful, turned out
great" against the same words the other way round) and comparisons ("the one from elsewhere was better"), so the words alone do
not say the sentiment. A review is about one to four aspects; its rating follows their sentiments, a later "but" weighing more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spark_jobs.sample.catalogue import ASPECTS

WEIGHTS = {"quality": 1.0, "delivery": 0.6, "price": 0.7, "service": 0.7}
BUT_WEIGHT = 1.6


@dataclass(frozen=True)
class Words:
    """The words of one aspect: what is judged, praise and blame (either fits every subject)."""

    subjects: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]


@dataclass(frozen=True)
class Grammar:
    """One language. Each pattern takes {s} subject, {good}, {bad}, {n} noun; `{word}` of a plain or negated clause is filled by
    praise or blame; reversals and comparisons come as (positive, negative) pairs made of the same words."""

    aspects: dict[str, Words]
    plain: tuple[str, ...]
    negated: tuple[str, ...]
    reversals: tuple[tuple[str, str], ...]
    comparisons: tuple[tuple[str, str], ...]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    link: str
    but: str
    stop: str


CHINESE = Grammar(
    aspects={
        "quality": Words(
            ("质量", "做工", "用料", "品质", "细节"),
            ("好", "扎实", "让人满意", "精致", "靠谱", "到位"),
            ("差", "粗糙", "让人失望", "马虎", "劣质", "毛糙"),
        ),
        "delivery": Words(
            ("物流", "快递", "发货", "配送", "送货"),
            ("快", "及时", "神速", "准时", "让人省心"),
            ("慢", "拖拉", "磨蹭", "让人着急", "混乱"),
        ),
        "price": Words(
            ("价格", "价钱", "性价比", "活动价", "这个价位"),
            ("划算", "实惠", "值", "合适", "公道"),
            ("离谱", "虚高", "夸张", "坑人", "偏贵"),
        ),
        "service": Words(
            ("客服", "售后", "店家", "服务态度", "服务"),
            ("热情", "耐心", "周到", "负责", "专业"),
            ("敷衍", "冷淡", "糊弄", "恶劣", "急躁"),
        ),
    },
    plain=("{s}很{word}", "{s}真的{word}", "{s}挺{word}的", "{s}非常{word}", "{s}{word}", "{s}比较{word}", "个人感觉{s}{word}"),
    negated=(
        "{s}一点也不{word}", "{s}并没有传说中那么{word}", "说不上{s}有多{word}", "谁说{s}{word}了，我看不是",
        "{s}完全谈不上{word}", "没觉得{s}{word}",
    ),
    reversals=(
        ("本以为{s}会{bad}，结果{good}", "本以为{s}会{good}，结果{bad}"),
        ("以前买的{s}{bad}，这次{good}", "以前买的{s}{good}，这次{bad}"),
        ("刚开始觉得{s}{bad}，用下来才知道{good}", "刚开始觉得{s}{good}，用下来才知道{bad}"),
        ("朋友都说{s}{bad}，其实{good}", "朋友都说{s}{good}，其实{bad}"),
    ),
    comparisons=(
        ("{s}比别家的{good}", "别家的{s}比这里{good}"),
        ("别家的{s}才叫{bad}", "别家的{s}才叫{good}"),
        ("要说{s}{bad}，那是别家", "要说{s}{good}，那是别家"),
    ),
    openers=(
        "给家里人买的{n}", "第二次买这款{n}了", "{n}收到了", "用了一个星期的{n}", "活动的时候下单的{n}", "替同事买的{n}", "这个{n}等了几天",
        "看了很久才决定买这个{n}", "",
    ),
    closers=("就这样吧", "供大家参考", "写给后来的人看", "照片就不发了", "下次再说", "会继续观察", "", "", ""),
    link="，",
    but="，但是",
    stop="。",
)  # fmt: skip

ENGLISH = Grammar(
    aspects={
        "quality": Words(
            ("the quality", "the workmanship", "the finish", "the material", "the build"),
            ("good", "solid", "excellent", "reliable", "flawless"),
            ("bad", "shoddy", "disappointing", "flimsy", "faulty"),
        ),
        "delivery": Words(
            ("the delivery", "the shipping", "the courier", "the dispatch"),
            ("fast", "prompt", "punctual", "smooth", "quick"),
            ("slow", "late", "chaotic", "unreliable", "sluggish"),
        ),
        "price": Words(
            ("the price", "the cost", "the deal", "what I paid"),
            ("fair", "reasonable", "low", "sensible", "attractive"),
            ("excessive", "steep", "unjustified", "inflated", "outrageous"),
        ),
        "service": Words(
            ("the service", "customer support", "the seller", "the after-sales team"),
            ("friendly", "helpful", "patient", "professional", "attentive"),
            ("rude", "careless", "dismissive", "unhelpful", "cold"),
        ),
    },
    plain=(
        "{s} is {word}", "{s} was really {word}", "{s} is quite {word}", "I find {s} {word}", "{s} is simply {word}", "{s} seems {word}",
    ),
    negated=(
        "{s} is not {word} at all", "I would never call {s} {word}", "nobody can say {s} was {word}", "{s} is anything but {word}",
        "{s} was not nearly as {word} as people claim", "hard to call {s} {word}",
    ),
    reversals=(
        ("I expected {s} to be {bad}, it turned out {good}", "I expected {s} to be {good}, it turned out {bad}"),
        ("last time {s} was {bad}, now it is {good}", "last time {s} was {good}, now it is {bad}"),
        ("at first {s} looked {bad}, after a week I know it is {good}", "at first {s} looked {good}, after a week I know it is {bad}"),
        ("others call {s} {bad}, I found it {good}", "others call {s} {good}, I found it {bad}"),
    ),
    comparisons=(
        ("compared with other shops {s} is {good}", "compared with this, other shops know what {good} means when it comes to {s}"),
        ("if you want to see {bad}, try {s} elsewhere", "if you want to see {good}, try {s} elsewhere"),
    ),
    openers=(
        "bought this {n} for my family", "second time I order this {n}", "the {n} arrived", "used the {n} for a week",
        "got the {n} during the sale", "ordered the {n} for a colleague", "thought long about this {n}", "",
    ),
    closers=("that is all", "make of it what you will", "no photos this time", "we will see", "just my opinion", "", "", ""),
    link=", ",
    but=", but ",
    stop=". ",
)  # fmt: skip

GRAMMARS = {"zh": CHINESE, "en": ENGLISH}


@dataclass(frozen=True)
class Review:
    """A written review and the truth behind it: sentiment -1 or 1 of each aspect it speaks of, and their weighted mean."""

    text: str
    rating: int
    sentiments: dict[str, int]
    score: float


def write_review(language: str, noun: str, leanings: np.ndarray, draws: np.ndarray) -> Review:
    """Write one review.

    Args:
        language: key of `GRAMMARS`.
        noun: what was bought, in that language.
        leanings: (4) log-odds that each of `ASPECTS` pleased.
        draws: (40) uniform draws, everything random about the review.
    """
    grammar = GRAMMARS[language]
    draw = iter(draws.tolist())

    def one(options: tuple[str, ...]) -> str:
        return options[int(next(draw) * len(options))]

    count = 1 + int(np.searchsorted((0.25, 0.65, 0.9), next(draw)))
    ranked = sorted(ASPECTS, key=lambda _: next(draw))
    chosen = [aspect for aspect in ranked if aspect == "quality" or next(draw) < 0.8][:count] or ["quality"]
    sentiments = {a: 1 if next(draw) < 1 / (1 + np.exp(-leanings[ASPECTS.index(a)])) else -1 for a in chosen}

    clauses, weights = [], []
    for place, aspect in enumerate(chosen):
        clauses.append(_clause(grammar, aspect, sentiments[aspect] > 0, noun, draw))
        weights.append(WEIGHTS[aspect])
        if place and sentiments[aspect] != sentiments[chosen[place - 1]]:
            weights[-1] *= BUT_WEIGHT
    score = float(np.dot(weights, [sentiments[a] for a in chosen]) / np.sum(weights))

    text = one(grammar.openers).format(n=noun)
    text += (grammar.link if text and next(draw) < 0.7 else grammar.stop if text else "") + clauses[0]
    for before, aspect, clause in zip(chosen, chosen[1:], clauses[1:], strict=False):
        turn = sentiments[before] != sentiments[aspect]
        text += (grammar.but if turn else grammar.link if next(draw) < 0.6 else grammar.stop) + clause
    closer = one(grammar.closers)
    text += (grammar.link + closer if closer else "") + grammar.stop.strip()
    felt = score + 0.15 * float(np.clip(np.log(1 / next(draw) - 1) / 1.7, -3, 3))
    rating = 1 + int(np.searchsorted((-0.6, -0.15, 0.15, 0.6), felt))
    return Review(text, rating, sentiments, score)


def write_complaint(language: str, aspect: int, noun: str, draws: np.ndarray) -> str:
    """A ticket: one or two clauses of blame about an aspect."""
    grammar = GRAMMARS[language]
    draw = iter(draws.tolist())
    clause = _clause(grammar, ASPECTS[aspect], False, noun, draw)
    opener = grammar.openers[int(next(draw) * len(grammar.openers))].format(n=noun)
    return (opener + grammar.link if opener else "") + clause + grammar.stop.strip()


def _clause(grammar: Grammar, aspect: str, pleased: bool, noun: str, draw: object) -> str:
    """One clause that says of an aspect whether it pleased."""
    words = grammar.aspects[aspect]

    def one(options: tuple[str, ...]) -> str:
        return options[int(next(draw) * len(options))]  # type: ignore[call-overload]

    subject, good, bad = one(words.subjects), one(words.praise), one(words.blame)
    form = next(draw)  # type: ignore[call-overload]
    if form < 0.76:
        return one(grammar.plain).format(s=subject, word=good if pleased else bad)
    if form < 0.89:
        return one(grammar.negated).format(s=subject, word=bad if pleased else good)
    pairs = grammar.reversals if form < 0.95 else grammar.comparisons
    pair = pairs[int(next(draw) * len(pairs))]  # type: ignore[call-overload]
    return pair[0 if pleased else 1].format(s=subject, good=good, bad=bad, n=noun)
