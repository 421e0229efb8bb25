"""Pages as Markdown."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyhands.tools.markdown import html_to_markdown


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<h1>A</h1><p>b  \n c</p><p>d</p>", "# A\n\nb c\n\nd"),
        ("<h3>A <em>b</em></h3>", "### A *b*"),
        ("a<br>b<hr>c", "a\nb\n\n---\n\nc"),
        ("<p>a <strong>b</strong> <code>c</code> &amp; d&nbsp;e</p>", "a **b** `c` & d e"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>", "- a\n- b\n  - c"),
        ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b"),
        ("<a href='/x'>a\n b</a>", "[a b](https://example.com/x)"),
        ("<a href='#top'>top</a> <a>b</a> <a href='javascript:x()'>c</a>", "top b c"),
        ("<a href='y'><h2>T</h2></a>", "[## T](https://example.com/dir/y)"),
        ("<img src='p.png' alt='A picture'><img src='q.png'>", "![A picture](https://example.com/dir/p.png)"),
        ("<pre>a\n  b</pre>c", "```\na\n  b\n```\n\nc"),
        ("<blockquote><p>a</p><p>b</p></blockquote>c", "> a\n>\n> b\n\nc"),
        (
            "<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>",
            "| A | B |\n| --- | --- |\n| 1 | 2 |",
        ),
        ("<table><tr><td><p>only</p><p>layout</p></td></tr></table>", "only\n\nlayout"),
        ("<script>x</script><style>y</style><noscript>z</noscript>a<svg><title>b</title></svg>", "a"),
        ("<html><head><title>T</title></head><body>b</body></html>", "T\n\nb"),
        ("", ""),
    ],
)
def test_elements_become_markdown(html: str, markdown: str) -> None:
    assert html_to_markdown(html, "https://example.com/dir/page") == markdown


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<a href='/x'>open", "[open](/x)"),
        ("<table><tr><th>A<th>B<tr><td>a<td>b", "| A | B |\n| --- | --- |\n| a | b |"),
        ("<td>a", "a"),
        ("<table><tr><td><table><tr><td>in<td>ner</table>x<td>y", "| in | ner |"),
        ("</a></td></ul></pre></table>still here", "still here"),
        ("<ul><li>a<li>b", "- a\n- b"),
    ],
)
def test_broken_pages_are_read_as_far_as_they_make_sense(html: str, words: str) -> None:
    assert words in html_to_markdown(html)


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(
            ["<p>", "</p>", "<a href='x'>", "</a>", "<table>", "<tr>", "<td>", "</td>", "</tr>", "</table>"]
            + [
                "<ul>",
                "<li>",
                "</ul>",
                "<pre>",
                "</pre>",
                "<blockquote>",
                "</blockquote>",
                "<b>",
                "word",
                "<",
                "&",
            ]
        )
    )
)
def test_no_mix_of_tags_breaks_it_and_no_word_is_lost(parts: list[str]) -> None:
    assert html_to_markdown(" ".join(parts)).count("word") == parts.count("word")


@pytest.mark.parametrize(
    "part",
    ["<a href=x>", "<blockquote>", "<table><tr><td>", "<ul><li>", "<b>", "<pre>", "<div><p>", "<tr>", "<td>"],
)
def test_depth_costs_no_more_than_length(part: str) -> None:
    def seconds(times: int) -> float:
        start = time.process_time()
        assert "end" in html_to_markdown(part * times + "end")
        return time.process_time() - start

    seconds(100)
    assert seconds(40_000) < 20 * (seconds(4_000) + 0.02)
