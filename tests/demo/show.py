"""How the demo looks: a live timeline in a terminal, one line an event anywhere else.

In a terminal the events scroll by above a panel with the present: each container's state, its memory over time as a
strip of bars, what it takes of the node. Both ways show the same events in the same words.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich import box
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from tests.demo.usage import Usage
from tests.demo.watch import Watch, Watched
from tests.demo.words import clock, processes, size

BARS = "▁▂▃▄▅▆▇█"
REFRESH = 8
"""Pictures a second."""

PLAIN_WIDTH = 120

_STYLES = {
    "FAIL": "bold red",
    "STANDBY": "cyan",
    "MEMORY": "cyan",
    "COLD": "blue",
    "WAKE": "bold yellow",
    "HELD": "green",
    "AWAKE": "green",
    "RUNNING": "green",
    "CHECKPOINTING": "magenta",
    "RESTORING": "yellow",
}


class Show:
    def __init__(self, *, plain: bool) -> None:
        self._live = not plain and sys.stdout.isatty()
        self.console = Console(highlight=False) if self._live else Console(highlight=False, width=PLAIN_WIDTH)
        self._began = time.time()

    def event(self, who: str, what: str, text: str, at: float | None = None) -> None:
        """One line of the timeline; `at` is when it happened in Unix seconds, now by default."""
        time_text = clock((time.time() if at is None else at) - self._began)
        if not self._live:
            print(f"{time_text}  {who:<5}  {what:<7}  {text}", flush=True)
            return
        line = Table.grid(padding=(0, 2))
        for width in (9, 5, 7):
            line.add_column(width=width, no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(Text(time_text, "dim"), Text(who, "bold"), Text(what, _STYLES.get(what, "dim")), text)
        self.console.print(line)

    @contextmanager
    def watching(self, watch: Watch) -> Iterator[None]:
        """Keeps the panel below the timeline up to date as long as the block lasts."""
        present = _Present(watch.watched, self._began)
        live = Live(present, console=self.console, refresh_per_second=REFRESH)
        with live if self._live else nullcontext():
            yield


class _Present:
    """The panel; drawn anew at every refresh."""

    def __init__(self, watched: Sequence[Watched], began: float) -> None:
        self._watched = watched
        self._began = began

    def __rich_console__(self, console: Console, _: object) -> Iterator[RenderableType]:
        table = Table.grid(padding=(0, 2), expand=True)
        for width in (7, 14):
            table.add_column(width=width, no_wrap=True)
        table.add_column(ratio=1, no_wrap=True)
        for width in (9, 18):
            table.add_column(width=width, justify="right", no_wrap=True)
        strip = max(console.width - 66, 10)
        for who in self._watched:
            state = who.status.state if who.status else "CREATED"
            count = who.usage.processes
            table.add_row(
                Text(who.name, "bold"),
                Text(f"● {state}", _STYLES.get(state, "dim")),
                _strip(who.history[-strip:], max((usage.memory for usage in who.history), default=1)),
                Text(size(who.usage.memory), "dim" if not count else ""),
                Text(processes(count, "frozen" if who.usage.frozen else ""), "dim" if not count else ""),
            )
        title = f"[bold]zeropod[/bold] [dim]{clock(time.time() - self._began)[:-2]}[/dim]"
        yield Panel(table, title=title, title_align="left", subtitle="[dim]memory over time, its pager included[/dim]",
                    subtitle_align="right", box=box.ROUNDED, border_style="dim", padding=(0, 1))  # fmt: skip


def _strip(history: Sequence[Usage], most: int) -> Text:
    """A bar for each sample, as high as the memory was, cyan while frozen; a dot where there was no process."""
    strip = Text()
    for usage in history:
        if usage.processes:
            bar = BARS[min(usage.memory * len(BARS) // max(most, 1), len(BARS) - 1)]
            strip.append(bar, "cyan" if usage.frozen else "green")
        else:
            strip.append("·", "blue")
    return strip
