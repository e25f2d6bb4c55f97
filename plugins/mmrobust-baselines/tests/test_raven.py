"""Promise: RAVEN's words read what is uttered with them, and are shifted no further than the paper lets them."""

from __future__ import annotations

from dataclasses import replace

import torch
from mmrobust.contracts import Shape, Stream
from small import context, streams

from mmrobust_baselines.raven import WordShift, windows

SHAPES = {"a": Shape(4, 3), "b": Shape(2, 7)}


def stream(count: int, steps: int) -> Stream:
    return Stream(torch.zeros(1, steps, 1), torch.arange(steps).unsqueeze(0) < count)


def uttered_with(words: Stream, other: Stream, most: int = 9) -> list[list[int]]:
    place, real = windows(words, other, most)
    return [p[r].tolist() for p, r in zip(place[0], real[0], strict=True)]


def test_without_times_words_are_spread_over_the_other_modality() -> None:
    assert uttered_with(stream(3, 4), stream(6, 8)) == [[0, 1], [2, 3], [4, 5], []]
    assert uttered_with(stream(2, 2), stream(3, 5)) == [[0, 1], [1, 2]]
    assert uttered_with(stream(5, 5), stream(5, 5)) == [[0], [1], [2], [3], [4]]
    assert uttered_with(stream(2, 2), stream(0, 4)) == [[], []]


def test_many_steps_are_thinned_out() -> None:
    assert uttered_with(stream(1, 1), stream(8, 8), most=4) == [[0, 2, 4, 6]]


def test_with_times_a_word_takes_the_steps_that_overlap_it() -> None:
    words = replace(stream(2, 2), times=torch.tensor([[[0.0, 1.0], [3.0, 4.0]]]))
    other = replace(stream(4, 4), times=torch.tensor([[[0.0, 0.6], [0.6, 1.4], [1.4, 3.0], [3.0, 5.0]]]))
    assert uttered_with(words, other) == [[0, 1], [3]]


def test_a_shift_is_at_most_beta_times_the_word() -> None:
    given = streams(SHAPES)
    for beta in (0.0, 0.3):
        fusion = WordShift(context(SHAPES), beta=beta)
        with torch.no_grad():
            fusion.mix["b"].weight.mul_(100)  # type: ignore[operator]
        moved = torch.linalg.vector_norm(fusion.shift(given).x - given["a"].x, dim=-1)
        torch.testing.assert_close(moved, beta * torch.linalg.vector_norm(given["a"].x, dim=-1))


def test_a_change_reaches_only_the_words_it_belongs_to() -> None:
    fusion = WordShift(context(SHAPES))
    given = streams(SHAPES, full=True)
    later = given["b"].x.clone()
    later[:, -1] += 1  # the last of seven steps belongs to the last of three words
    changed = (fusion.shift(given).x - fusion.shift({**given, "b": replace(given["b"], x=later)}).x).abs().amax((0, 2))
    assert changed[:2].max() == 0 and changed[2] > 0
