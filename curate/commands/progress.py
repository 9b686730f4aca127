"""Shows the progress of a run: bars on a terminal, plain lines elsewhere."""

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from curate.credentials import redacted
from curate.runs.work import UnitResult
from curate.store import key

QUIET = 2.0
"""A work that took fewer seconds than this gets no plain line at its end."""

EVERY = 10.0
"""Seconds between two plain lines of one work."""


@dataclass
class _Task:
    total: int
    before: int
    rows: float
    begun: float = field(default_factory=time.monotonic)
    done: int = 0
    trouble: int = 0
    said: float = field(default_factory=time.monotonic)

    def speed(self) -> str:
        """Pairs per second and time left; empty while they are unknown."""
        spent = time.monotonic() - self.begun
        if not self.done or not self.rows or spent <= 0:
            return ""
        left = (self.total - self.before - self.done) * spent / self.done
        return f"{self.done * self.rows / spent:,.0f} pairs/s, {_clock(left)} left"


class PlainProgress:
    """Prints a line every `EVERY` seconds, at the end of a work, and for failures. See `curate.runs.work.Watcher`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, _Task] = {}

    def begin(self, name: str, total: int, done: int, rows: float) -> None:
        """Remembers the work."""
        self._tasks[name] = _Task(total, done, rows)

    def advance(self, name: str, result: UnitResult) -> None:
        """Counts the unit; prints its failure, or a line if the last one is `EVERY` seconds old."""
        task = self._tasks[name]
        task.done += result.status == "done"
        task.trouble += result.status in ("failed", "died", "lost")
        if result.status in ("failed", "died", "lost"):
            self._say(f"{name}: {key(result.unit)} failed: {_printable(result.error)}")
        elif time.monotonic() - task.said >= EVERY and task.before + task.done < task.total:
            task.said = time.monotonic()
            self._say(f"{name}: {task.before + task.done}/{task.total} {task.speed()}")

    def end(self, name: str) -> None:
        """Prints the number of done units, unless there are none or the work took less than `QUIET` seconds."""
        task = self._tasks[name]
        spent = time.monotonic() - task.begun
        if task.done and spent >= QUIET:
            self._say(f"{name}: {task.before + task.done}/{task.total} done in {_clock(spent)}")

    def tell(self, line: str) -> None:
        """Prints the line."""
        self._say(_printable(line))

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class BarProgress:
    """Shows a bar for every work with units to do. See `curate.runs.work.Watcher`."""

    def __init__(self, console: Console) -> None:
        self._tasks: dict[str, tuple[TaskID, _Task]] = {}
        self._bars = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}", style="dim"),
            console=console,
            refresh_per_second=5,
        )
        self._bars.start()

    def begin(self, name: str, total: int, done: int, rows: float) -> None:
        """Draws a bar, unless all is done."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name)[0])
        if done < total:
            task = self._bars.add_task(name, total=total, completed=done, speed="")
            self._tasks[name] = (task, _Task(total, done, rows))

    def advance(self, name: str, result: UnitResult) -> None:
        """Moves the bar."""
        bar, task = self._tasks[name]
        if result.status == "done":
            task.done += 1
        elif result.status in ("failed", "died", "lost"):
            text = f"{name}: {key(result.unit)} failed: {_printable(result.error)}"
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._bars.update(bar, completed=task.before + task.done, speed=task.speed())

    def end(self, name: str) -> None:
        """Stops the bar's clock."""
        if name in self._tasks:
            bar, task = self._tasks[name]
            spent = time.monotonic() - task.begun
            speed = f"{task.done * task.rows / spent:,.0f} pairs/s" if task.rows and spent > 0 else ""
            self._bars.update(bar, speed=speed)
            self._bars.stop_task(bar)

    def tell(self, line: str) -> None:
        """Prints the line above the bars."""
        self._bars.console.print(_printable(line), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stops updating the bars; they stay visible."""
        self._bars.stop()


def watch(console: Console) -> BarProgress | PlainProgress:
    """Returns bars for a terminal, plain lines for any other console."""
    return BarProgress(console) if console.is_terminal else PlainProgress(console)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _printable(text: str) -> str:
    text = redacted(text)
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)[:300]
