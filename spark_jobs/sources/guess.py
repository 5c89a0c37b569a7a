"""A first mapping out of column names and sample values; `shopgraph init` writes it, a person corrects it.

Names are known in English, German and Chinese. Nothing is guessed that the sample contradicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP, EVENT_TYPE, EVENT_TYPES, ITEM_ID, SESSION_ID, USER_ID, VISITOR_ID
from features.tables import RAW_TABLES, Table
from spark_jobs.sources.drift import looks_personal

UNTOLD: dict[str, Any] = {"currency": "USD", "time_zone": "UTC", "calendars": [], "languages": ["en"]}
"""Traits of a shop of which its data say nothing."""
ALWAYS_KNOWN = "2000-01-01T00:00:00+00:00"
"""Event time of states and texts whose source has no time."""

_NAMES: dict[str, tuple[str, ...]] = {
    "order_id": (
        r"(order|invoice|transaction)(id|no|num|number)?",
        r"(bestell|auftrags|rechnungs|beleg)(id|nr|nummer)?",
        r"订单(id|号|编号)",
    ),
    "order_line_id": (
        r"(order)?line(id|no|nr|number)?|order(item|detail)(id|no|nr)",
        r"(bestell)?pos(ition)?(s?(nr|nummer|id))?",
        r"订单行(id|号)|明细(id|号)",
    ),
    "user_id": (
        r"(user|customer|client|member|buyer)(id|no|num|number)?",
        r"(kunden?|nutzer)(id|nr|nummer)?",
        r"(用户|会员|客户|买家)(id|号|编号|名)?",
    ),
    "item_id": (
        r"(item|product|article|sku|stock|asin|clothing|movie)(id|no|num|number|code)?",
        r"(artikel|produkt)(id|nr|nummer|code)?",
        r"(商品|产品|货品|宝贝)(id|号|编号|编码|代码)|货号",
    ),
    "visitor_id": (r"(visitor|device|cookie|browser|anonymous)(id)?", r"访客(id|号)?|设备(id|号)?"),
    "session_id": (r"session(id)?|visit(id)?", r"sitzung(sid)?", r"会话(id|号)?"),
    "event_type": (r"(event|action|behaviou?r|interaction)(type|name)?|type", r"ereignis|aktion", r"(行为|事件|操作)(类型)?"),
    EVENT_TIMESTAMP: (
        r"(event|order(ed)?|invoiced?|transaction|purchased?|review(ed)?|created?|sale|sold|action|placed|paid|happened|occurred)?(on|at)?"
        r"(date|time|timestamp|datetime)(at)?|(event|order(ed)?|invoiced?|purchased?|reviewed|created|sold|placed|paid|happened|occurred)(at|on)|ts",
        r"(bestell|rechnungs|kauf|verkaufs|auftrags)?(datum|zeit|zeitpunkt|zeitstempel)",
        r"(下单|订单|购买|创建|支付|交易|评论|发生|行为)?(时间|日期|时间戳)",
    ),
    "quantity": (r"(order)?(quantity|qty|units|count)", r"menge|anzahl|st(ü|ue)ckzahl", r"(购买|商品)?(数量|件数)"),
    "unit_price": (
        r"(unit|item|sales?|net|gross)?price(perunit|each)?",
        r"(einzel|st(ü|ue)ck|verkaufs)?preis",
        r"(成交|商品)?(单价|价格|售价)",
    ),
    "price": (r"(unit|item|list|sale)?price", r"(listen|einzel)?preis", r"价格|单价|售价"),
    "discount": (r"discount(amount)?", r"rabatt|nachlass", r"折扣(金额)?|优惠(金额)?"),
    "coupon_id": (r"(coupon|voucher)(id|code)?", r"gutschein(code|nr)?", r"优惠券(id|号)?"),
    "channel": (r"channel", r"(vertriebs)?kanal", r"渠道"),
    "status": (r"(order)?status", r"(订单)?状态"),
    "location_id": (r"(location|warehouse|store|shop)(id|no)?", r"(filial|lager)(id|nr)?", r"(门店|仓库)(id|号)?"),
    "title": (
        r"(item|product|article|movie)?(title|name|description)",
        r"(artikel|produkt)?(name|bezeichnung|beschreibung|titel)",
        r"(商品|产品)?(名称|标题|名)",
    ),
    "category": (
        r"(item|product)?(category|categories|cat|department|class|genres?)(name|id)?",
        r"kategorie|warengruppe",
        r"类目|类别|分类|品类",
    ),
    "brand": (r"brand(name)?", r"marke|hersteller", r"品牌"),
    "cost": (r"(unit)?cost(price)?", r"einkaufspreis|kosten", r"成本|进价"),
    "review_id": (r"(review|comment)(id|no)", r"bewertungs(id|nr)", r"(评论|评价)(id|号|编号)"),
    "review_text": (
        r"(review|comment|feedback)(text|body|content)?|text|content",
        r"bewertung(stext)?|kommentar|rezension",
        r"(评论|评价)(内容)?|内容",
    ),
    "rating": (r"(review)?(rating|stars|score)|overall", r"sterne|note", r"评分|星级|打分"),
    "label": (r"label|sentiment|positive|recommended(ind)?", r"标签|情感"),
    "language": (r"lang(uage)?", r"sprache", r"语言"),
    "country": (r"country(code)?", r"land", r"国家"),
    "registered_at": (r"(registered|registration|signup|joined)(at|date|time)?", r"registrierungsdatum", r"注册(时间|日期)"),
    "on_hand": (r"(on)?hand|stock(level|quantity|qty)|inventory", r"(lager)?bestand", r"库存(数量)?"),
    "query": (r"(search)?(query|term|keyword)", r"suchbegriff", r"搜索词|关键词"),
}
_WORDS: dict[str, str] = {
    "view": r"pv|page_?view|detail|detail_?view|product_?view|item_?view|浏览|ansicht",
    "click": r"clk|点击|klick",
    "cart": r"add_?to_?cart|addcart|basket|add_?to_?basket|加购|加入购物车|warenkorb",
    "uncart": r"remove_?from_?cart|remove_?cart",
    "favourite": r"fav|favou?rite|collect|wishlist|like|收藏|merkzettel",
    "purchase": r"buy|bought|order|transaction|pay|sale|购买|下单|支付|kauf",
    "search": r"query|搜索|suche",
    "return": r"refund|returned|退货|retoure",
}
_ACT = "view"
"""Type of events that say none. A rating or a click is one act of interest in an item; as a purchase it would count as money."""
_SALE = ("order_id", "quantity", "unit_price", "discount", "coupon_id")
"""Where one of these is told, an event without a type is no view."""
_ATOMIC = re.compile(r":(token|float)(_seq)?$")
"""Type in a column name of RecBole's atomic files: `user_id:token`."""
_EMPTY_STATES = ("items", "users", "reviews")
"""Tables that can do without times of their own: their rows count as known from ever."""
_FORMATS = (
    (r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?", None),
    (r"\d{4}-\d{2}-\d{2}", None),
    (r"\d{4}/\d{1,2}/\d{1,2} \d{1,2}:\d{2}:\d{2}", "yyyy/M/d H:mm:ss"),
    (r"\d{4}/\d{1,2}/\d{1,2} \d{1,2}:\d{2}", "yyyy/M/d H:mm"),
    (r"\d{4}/\d{1,2}/\d{1,2}", "yyyy/M/d"),
    (r"\d{4}年\d{1,2}月\d{1,2}日", "yyyy'年'M'月'd'日'"),
    (r"\d{4}年\d{1,2}月\d{1,2}日 ?\d{1,2}:\d{2}:\d{2}", "yyyy'年'M'月'd'日' H:mm:ss"),
    (r"\d{1,2}\.\d{1,2}\.\d{4} \d{1,2}:\d{2}:\d{2}", "d.M.yyyy H:mm:ss"),
    (r"\d{1,2}\.\d{1,2}\.\d{4} \d{1,2}:\d{2}", "d.M.yyyy H:mm"),
    (r"\d{1,2}\.\d{1,2}\.\d{4}", "d.M.yyyy"),
    (r"\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2}", "{}/yyyy H:mm:ss"),
    (r"\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}", "{}/yyyy H:mm"),
    (r"\d{1,2}/\d{1,2}/\d{4}", "{}/yyyy"),
    (r"\d{8}", "yyyyMMdd"),
    (r"\d{14}", "yyyyMMddHHmmss"),
)


@dataclass
class Guess:
    """A mapping of one raw table: column -> value as shop.yaml says it, and a comment on it."""

    table: str
    columns: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)


def guess_tables(columns: Sequence[str], samples: Mapping[str, Sequence[Any]]) -> list[Guess]:
    """The raw tables that rows with these columns feed, the best fitting first; empty where none fits.

    Args:
        samples: column -> some of its values, of any type, nulls left out.
    """
    fitting = [(name, found) for name, table in RAW_TABLES.items() if (found := _match(table, columns, samples)) is not None]
    if not fitting:
        return []
    name, found = max(fitting, key=lambda pair: len(pair[1]))
    guesses = [_guess(RAW_TABLES[name], found, columns, samples)]
    if name in ("orders", "events"):
        for state, key in (("items", "item_id"), ("users", "user_id")):
            also = _match(RAW_TABLES[state], columns, samples) or {}
            says = set(also) - {key, EVENT_TIMESTAMP, "price"}
            if says:
                kept = {target: column for target, column in also.items() if target != "price"}
                guesses.append(_guess(RAW_TABLES[state], kept, columns, samples))
    return guesses


def number_signs(columns: Iterable[Sequence[Any]]) -> tuple[str, str]:
    """(decimal sign, thousands sign) of the numbers in text; only columns of nothing but numbers are asked."""
    texts = [
        text.strip()
        for values in columns
        if values and all(isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d.,]*", value.strip()) for value in values)
        for text in values
    ]
    if any(re.fullmatch(r"[-+]?\d{1,3}(\.\d{3})*,\d+", text) and not re.fullmatch(r"\d{1,3},\d{3}", text) for text in texts):
        return ",", "."
    if any(re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text) for text in texts):
        return ".", ","
    return ".", ""


@cache
def _plain(name: str) -> str:
    return re.sub(r"[\s_\-./:]+", "", _ATOMIC.sub("", name.strip().lower()))


def _match(table: Table, columns: Sequence[str], samples: Mapping[str, Sequence[Any]]) -> dict[str, str] | None:
    """Raw column -> source column, None where a required one cannot be filled."""
    found: dict[str, str] = {}
    left = list(columns)
    for exact in (True, False):
        for target in table.names:
            pattern = "|".join(_NAMES.get(target, ())) if not exact else ""
            for column in left:
                is_named = column.lower() == target or _plain(column) == _plain(target)
                if target not in found and (is_named if exact else pattern and re.fullmatch(pattern, _plain(column))):
                    if target == EVENT_TIMESTAMP and guess_time(samples.get(column, ())) is None:
                        continue
                    found[target] = column
                    left.remove(column)
                    break
    own = next((name for name in (*table.identity, table.row_id) if name and name.endswith("_id") and name not in found), None)
    bare = next((column for column in left if column.lower() == "id"), None)
    if own and bare:
        found[own] = bare
    able = set(found) | {CREATED_TIMESTAMP}
    if table.name in _EMPTY_STATES:
        able |= {EVENT_TIMESTAMP, "review_id"}
    if table.name == "events" and _is_act(found, columns):
        able |= {EVENT_TYPE}
    needed = set(table.required) - able
    said = set(found) - {EVENT_TIMESTAMP, CREATED_TIMESTAMP, *table.keys}
    if needed or not said:
        return None
    return found


def _is_act(found: Mapping[str, str], columns: Sequence[str]) -> bool:
    """Whether a row says that somebody did something with an item, and nothing of a sale."""
    sale = "|".join(pattern for target in _SALE for pattern in _NAMES[target])
    by_somebody = found.keys() & {USER_ID, VISITOR_ID, SESSION_ID}
    return ITEM_ID in found and bool(by_somebody) and not any(re.fullmatch(sale, _plain(column)) for column in columns)


def _guess(table: Table, found: Mapping[str, str], columns: Sequence[str], samples: Mapping[str, Sequence[Any]]) -> Guess:
    guess = Guess(table.name)
    for target in table.names:
        if target in found:
            column = found[target]
            values = samples.get(column, ())
            guess.columns[target], comment = _value(target, table, column, values)
            guess.comments[target] = comment or (f"e.g. {_short(values[0])}" if values and not looks_personal(column) else "")
        elif target == EVENT_TIMESTAMP and (born := found.get("registered_at") or found.get("created_at")):
            guess.columns[target], guess.comments[target] = _value(target, table, born, samples.get(born, ()))
        elif target == EVENT_TYPE and target in table.required:
            guess.columns[target] = {"constant": _ACT}
            guess.comments[target] = (
                "no type found: each row, a rating too, is one act; as a purchase it would count as money; CHECK"
            )
        elif target == EVENT_TIMESTAMP and target in table.required:
            guess.columns[target] = {"constant": ALWAYS_KNOWN}
            guess.comments[target] = "no time found: known from ever; CHECK"
        elif target == "review_id" and target in table.required:
            guess.columns[target] = {"digest": list(columns)}
            guess.comments[target] = "no id found: equal rows are one review; CHECK"
    return guess


def _value(target: str, table: Table, column: str, values: Sequence[Any]) -> tuple[Any, str]:
    if table.column(target).type in ("timestamp", "date"):
        how, comment = guess_time(values) or ({}, "CHECK the format")
        return ({"from": column, **how} if how else column), comment
    if target == EVENT_TYPE:
        words = {
            str(value): ours
            for value in dict.fromkeys(map(str, values))
            if value not in EVENT_TYPES
            for ours, pattern in _WORDS.items()
            if re.fullmatch(pattern, value.strip().lower())
        }
        return ({"from": column, "values": words} if words else column), f"ours: {', '.join(EVENT_TYPES)}"
    return column, ""


def guess_time(values: Sequence[Any]) -> tuple[dict[str, str], str] | None:
    """(format or unit of times, comment); None where the values are no times."""
    values = [value for value in values if value is not None]
    if not values:
        return {}, ""
    if isinstance(values[0], (datetime, date)):
        return {}, ""
    texts = [str(value).strip() for value in values]
    for pattern, form in _FORMATS:
        if all(re.fullmatch(pattern, text) for text in texts):
            if form and "yyyyMMdd" in form and not all("19000101" <= text[:8] <= "21001231" for text in texts):
                continue
            if form and "{}" in form:
                return _day_or_month_first(texts, form)
            return ({"format": form} if form else {}), f"e.g. {texts[0]}"
    if all(re.fullmatch(r"\d{9,19}(\.\d+)?", text) for text in texts):
        for unit, size in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
            if all(6e8 <= float(text) / size < 4.2e9 for text in texts):
                return {"unit": unit}, f"e.g. {datetime.fromtimestamp(float(texts[0]) / size, UTC):%Y-%m-%d %H:%M}"
    return None


def _day_or_month_first(texts: Sequence[str], form: str) -> tuple[dict[str, str], str]:
    first = max(int(text.split("/")[0]) for text in texts)
    second = max(int(text.split("/")[1]) for text in texts)
    if first > 12 or second > 12:
        return {"format": form.format("d/M" if first > 12 else "M/d")}, f"e.g. {texts[0]}"
    return {"format": form.format("M/d")}, f"CHECK: {texts[0]} may also be day/month"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else text[:37] + "..."
