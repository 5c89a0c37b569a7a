from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from infra.errors import IngestError
from spark_jobs.sources.text import check_encoding, guess_encoding, open_text, undecodable

CHINESE = "订单编号,商品名称\n1,红色连衣裙夏季新款\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("a,b\n1,2\n", "utf-8"),
        (CHINESE, "utf-8"),
        (CHINESE, "utf-8-sig"),
        (CHINESE, "gb18030"),
        ("Menge;Straße;Größe\n1;Köln;für ältere Öfen\n", "cp1252"),
        (CHINESE, "utf-16"),
    ],
)
def test_the_encoding_is_guessed_and_reads_back(text: str, encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(text.encode(encoding))
    guessed = guess_encoding(file)
    assert guessed == encoding.removesuffix("-sig")
    with open_text(file, guessed) as opened:
        assert opened.read() == text


def test_a_guess_on_the_head_of_a_file_may_cut_a_character(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("ab\n" + "语" * 100, encoding="utf-8")
    assert guess_encoding(file, num_bytes=10) == "utf-8"


def test_compressed_text_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "a.csv.gz"
    file.write_bytes(gzip.compress(CHINESE.encode()))
    with open_text(file, "utf-8") as opened:
        assert opened.read() == CHINESE


def test_mixed_encodings_are_found(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(CHINESE.encode("gb18030") + "2,红色连衣裙夏季新款\n".encode())
    with pytest.raises(IngestError, match=r"line 3: mixed encodings, this line is UTF-8 and the mapping says gb18030"):
        check_encoding(file, "gb18030")
    file.write_bytes("1;Köln\n".encode("cp1252") + "2;Köln\n".encode())
    with pytest.raises(IngestError, match="line 2: mixed encodings"):
        check_encoding(file, "cp1252")


def test_short_chinese_text_that_is_utf8_by_chance_is_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes("性别\n女\n".encode("gb18030"))
    assert "女".encode("gb18030").decode("utf-8") == "Ů"
    check_encoding(file, "gb18030")


def test_the_first_line_that_does_not_decode_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(CHINESE.encode("gb18030"))
    assert "line 1: expected utf-8, got other bytes; it reads as gb18030" in undecodable(file, "utf-8")
