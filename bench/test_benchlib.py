"""The parts of the benchmarks that need no machine: statistics, verdicts, the order of pairs, charts."""
import unittest
import xml.etree.ElementTree

import plot
from benchlib import Row, figures, geometric_mean, in_turn, pair_ratio


class Statistics(unittest.TestCase):
    def test_ratio_is_the_median_of_the_pairs(self):
        self.assertEqual(pair_ratio([1, 2, 4], [2, 6, 4]), 2)

    def test_geometric_mean(self):
        self.assertAlmostEqual(geometric_mean([1, 4]), 2)

    def test_figures(self):
        self.assertEqual(figures("seq-read size_mb=512 us_per_access=1.5 name=x"), {"size_mb": 512, "us_per_access": 1.5})

    def test_pairs_in_turn(self):
        self.assertEqual(list(in_turn(2, "a", "b")), [(0, "a"), (0, "b"), (1, "b"), (1, "a")])
        self.assertEqual(list(in_turn(2, "a", None)), [(0, "a"), (1, "a")])


class Verdicts(unittest.TestCase):
    def test_a_peer_is_judged_by_the_ratio(self):
        self.assertEqual(Row("b", "r", "us", [1], [2], "kernel", least=1.5).verdict, "met")
        self.assertEqual(Row("b", "r", "us", [2], [2], "kernel", least=1.5).verdict, "MISSED")

    def test_without_a_peer_by_the_median(self):
        self.assertEqual(Row("b", "r", "%", [0.1, 0.2, 9], most=0.5).verdict, "met")
        self.assertEqual(Row("b", "r", "%", [96], least=97, most=100).verdict, "MISSED")

    def test_nothing_is_said_where_nothing_can_be(self):
        self.assertEqual(Row("b", "r", "us", [1], [], "kernel", least=1.5).verdict, "")
        self.assertEqual(Row("b", "r", "us", [1], [1], "kernel", least=1.5, judged=False).verdict, "")
        self.assertEqual(Row("b", "r", "us", [1], [1], "kernel").verdict, "")


class Charts(unittest.TestCase):
    def elements(self, text, name):
        return list(xml.etree.ElementTree.fromstring(text).iter(f"{{http://www.w3.org/2000/svg}}{name}"))

    def test_bars(self):
        text = plot.ratio_bars("a < b", [("x & y", 2.0, 1.5, "met"), ("z", 0.3, None, "")])
        self.assertEqual(len(self.elements(text, "rect")), 1 + 2 + 1)  # background, bars, one mark

    def test_a_bar_ends_at_its_ratio(self):
        bar = self.elements(plot.ratio_bars("", [("x", 2.0, None, "")]), "rect")[1]
        x = plot.scale(0.5 / 1.1, 2.2, plot.LEFT, plot.WIDTH - plot.RIGHT)
        self.assertAlmostEqual(float(bar.get("x")), x(1), 0)
        self.assertAlmostEqual(float(bar.get("x")) + float(bar.get("width")), x(2), 0)

    def test_lines(self):
        text = plot.lines_over("t", "x", "y", {"a": [(1, 3), (16, 5)], "b": [(1, 4)]})
        self.assertEqual(len(self.elements(text, "polyline")), 2)
        self.assertEqual(len(self.elements(text, "circle")), 3)

    def test_ticks(self):
        self.assertEqual(plot.ticks(0.5, 5), [0.5, 1, 2, 5])


unittest.main()
