"""The language of the project: plain technical English, without private idioms."""

import pathlib
import re
from collections.abc import Iterator

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_FILES = (
    "*.md",
    "docs/**/*.md",
    "robustjax/**/*.py",
    "experiments/**/*.py",
    "experiments/flags/*.flags",
    "colabs/*.py",
)
_BANNED = {  # phrase: what to write instead; a space also stands for a line break
    "anew": "again",
    "are none": "say what was expected and what was received",
    "at hand": "available, accessible",
    "beside": "next to, besides, with",
    "dearer": "more expensive",
    "fall otherwise": "go the other way",
    "from there on": "visit every `n`-th element",
    "go on where it": "resume",
    "goes on where it": "resumes",
    "is none": "say what was expected and what was received",
    "lest": "so that ... not",
    "likewise": "also, in the same way",
    "mended": "corrected",
    "no more than one": "at most one",
    "refuse": "raises, is rejected, is not accepted",
    "refused": "raises, is rejected, is not accepted",
    "refuses": "raises, rejects, does not accept",
    "so many": "name the number",
    "the least": "the smallest, the minimum",
    "told apart": "significantly different, distinguished",
}


def _pattern(phrase: str) -> re.Pattern[str]:
    first, *rest = phrase.split()
    first = f"[{first[0].upper()}{first[0]}]{first[1:]}"
    words = r"[\s#*]+".join([first, *rest])
    return re.compile(rf"(?<![\"'`])\b{words}\b")  # not a value in quotes


_PATTERNS = {  # the rarest part of a phrase, which is looked for first; its pattern
    phrase: (max(phrase[1:].split(), key=len), _pattern(phrase)) for phrase in _BANNED
}
_PATTERNS["Of ..."] = ("Of", re.compile(r"\bOf\s+[a-z]"))
_ADVICE = {**_BANNED, "Of ...": "start with the subject, not with 'Of X, ...'"}


def _hits(text: str) -> Iterator[tuple[int, str]]:
    """Line number and advice of each banned phrase of a text."""
    for phrase, (part, pattern) in _PATTERNS.items():
        if part in text:
            for match in pattern.finditer(text):
                line = text.count("\n", 0, match.start()) + 1
                yield line, f"{phrase!r}: {_ADVICE[phrase]}"


def test_no_file_uses_a_banned_phrase():
    offenders = [
        f"{path.relative_to(_ROOT)}:{line}: {advice}"
        for glob in _FILES
        for path in sorted(_ROOT.glob(glob))
        if "_build" not in path.parts
        for line, advice in _hits(path.read_text(encoding="utf-8"))
    ]
    assert not offenders, "\n" + "\n".join(offenders)


@pytest.mark.parametrize(
    "text",
    [
        "Two are equal. Of those the first wins.",
        "The file is read\n# anew at every start.",
        "The run goes on where\nit was.",
    ],
)
def test_banned_phrases_are_found_across_lines(text):
    assert any(_hits(text))


def test_ordinary_words_are_not_hits():
    assert not any(_hits("At least half of the renewed results, the rest of it."))
