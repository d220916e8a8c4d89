"""Before training a report logs what was read and what looks wrong."""

import logging
import re

import pytest

from simpair.training import RetrievalPair, ScoredPair, fine_tune
from simpair.training.data.report import describe, pair_key, report_sources
from simpair.training.data.sources import read_source

PAIRS = [ScoredPair(f"the cat {n}", f"a dog {n % 3}", (n % 4) / 3) for n in range(16)]


def report(records, **options):
    return report_sources([read_source(records, name="mine", skip_empty=True)], **options)[0]


def test_rows_labels_and_repeats_are_counted():
    found = report(
        [*PAIRS, PAIRS[3], ScoredPair(" THE cat 3!", "Ａ dog 0", 1.0), ScoredPair("", "a", 0)], dev=PAIRS[:4]
    )
    assert (found.rows, found.duplicates, found.in_dev, found.left_out) == (18, 2, 6, 1)
    assert found.labels == {"0": 4, "0.3333": 4, "0.6667": 4, "1": 6}
    text = describe(found)
    assert text.startswith("mine: 18 scored pairs (text1, text2, label)\n  labels 0: 4, 0.3333: 4")
    assert "rows repeated: 2" in text
    assert "rows also in the dev data, which makes the dev scores too high: 6" in text
    assert "rows left out, because a text is empty or a negative is missing: 1" in text


def test_pairs_with_several_labels_are_counted():
    found = report([*PAIRS, ScoredPair("a dog 0", "the cat 3", 0.0), ScoredPair("the cat 4", "a dog 1", 0.0)])
    assert (found.duplicates, found.contradictions) == (2, 2), "the first has another label, the second has not"
    assert "rows of pairs with several different labels: 2" in describe(found)


def test_counts_of_zero_are_left_out():
    assert describe(report([RetrievalPair("a", "b", ("c", "d"))])) == (
        "mine: 1 triplets of 2 negatives each (anchor, positive, negatives)"
    )


def test_many_labels_are_reported_by_tenths():
    found = report([ScoredPair("a", f"b{n}", n / 20) for n in range(21)])
    assert list(found.labels) == [f"{n / 10:.1f}–{(n + 1) / 10:.1f}" for n in range(10)]
    assert list(found.labels.values()) == [2] * 9 + [3], "1 belongs to the last tenth"


def test_the_scale_of_the_labels_is_reported():
    source = read_source([{"text1": "a", "text2": "b", "label": label} for label in (1, 5)], label_range=(1, 5))
    (found,) = report_sources([source])
    assert "labels from 1 to 5, read as 0 to 1: 0: 1, 1: 1" in describe(found)


def test_other_column_names_are_reported():
    text = describe(report([{"premise": "a", "hypothesis": "b", "label": "neutral"}]))
    assert text.startswith("mine: 1 inference pairs (text1 ← premise, text2 ← hypothesis, label)")


def test_the_fraction_of_each_of_several_sources_is_reported():
    sources = [read_source(PAIRS, name="one"), read_source(PAIRS[:4], name="two")]
    assert [found.fraction for found in report_sources(sources)] == pytest.approx([0.8, 0.2])
    assert "50% of the batches" in describe(report_sources(sources, fractions=[0.5, 0.5])[1])


@pytest.mark.parametrize("other", [("b", "a"), ("A ", "b!"), ("Ａ", "b"), ("a-", "(b)")])
def test_pairs_are_compared_without_case_width_spaces_and_punctuation(other):
    assert pair_key("a", "b") == pair_key(*other)
    assert pair_key("a", "b") != pair_key("a", "bb")


@pytest.mark.parametrize(("one", "other"), [("कि", "का"), ("กิ่", "กุ"), ("👍", "👎"), ("C++", "C#"), ("!", "?")])
def test_marks_and_symbols_are_part_of_a_text(one, other):
    assert pair_key(one, "b") != pair_key(other, "b")


def test_rows_also_in_the_dev_data_are_a_warning(tiny_encoder, caplog):
    fine_tune(tiny_encoder, PAIRS, dev=PAIRS, max_steps=1, batch_size=4)
    assert "rows also in the dev data" in caplog.text


def test_records_without_negatives_are_reported_without_them():
    assert describe(report([RetrievalPair("a", "b")])) == "mine: 1 pairs of anchor and positive (anchor, positive)"


def test_fine_tune_logs_the_report_and_the_time_left(tiny_encoder, caplog):
    caplog.set_level(logging.INFO, logger="simpair")
    found = fine_tune(tiny_encoder, {"mine": PAIRS}, max_steps=9, batch_size=4)
    assert caplog.messages[0].startswith("mine: 16 scored pairs")
    assert any(re.fullmatch(r"step 6 of 9; about \d+ s left", message) for message in caplog.messages)
    assert found.sources[0].rows == 16
