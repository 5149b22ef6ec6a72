"""Sections, their verdicts, and the page that is made of them."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Verdict = Literal["PASS", "FAIL", "NOT CHECKED"]


class NotChecked(Exception):
    """Something that is needed isn't there."""


class Failed(Exception):
    """What was checked isn't as it must be."""


@dataclass
class Section:
    """One thing that is checked."""

    title: str
    verdict: Verdict = "NOT CHECKED"
    reason: str = ""
    facts: list[str] = field(default_factory=list)

    def say(self, fact: str) -> None:
        self.facts.append(fact)


@dataclass
class Report:
    """All sections, in their order. The page is there from the first one's end on, should the check be ended."""

    page: Path
    head: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    @contextmanager
    def section(self, title: str) -> Iterator[Section]:
        """A section that passes when its block ends; what the block raises is its verdict, and the next ones go on."""
        section = Section(title)
        self.sections.append(section)
        try:
            yield section
            section.verdict = "PASS"
        except NotChecked as err:
            section.reason = str(err)
        except Failed as err:
            section.verdict, section.reason = "FAIL", str(err)
        except Exception as err:
            traceback.print_exc()
            section.verdict, section.reason = "FAIL", f"{type(err).__name__}: {err}"
        print(f"{section.verdict}: {title}{': ' + section.reason if section.reason else ''}", flush=True)
        self.write()

    def write(self) -> None:
        self.page.parent.mkdir(parents=True, exist_ok=True)
        self.page.write_text(self.markdown(), encoding="utf-8")

    def failed(self) -> bool:
        return any(s.verdict == "FAIL" for s in self.sections)

    def markdown(self) -> str:
        lines = ["# GPU check", "", *(f"- {line}" for line in self.head), "", "| | | |", "| --- | --- | --- |"]
        lines += [f"| {s.title} | **{s.verdict}** | {_cell(s.reason)} |" for s in self.sections]
        for s in self.sections:
            if s.facts:
                lines += ["", f"## {s.title}", "", *(f"- {_line(fact)}" for fact in s.facts)]
        return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
