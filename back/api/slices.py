"""Long lists as JSON, made and sent a slice at a time.

A list of all channels takes a second to write down, and the event loop has peers to answer. So a
call may return :class:`Slices` instead of a list: after each slice others have their turn, and
nothing more is made than the caller reads.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SLICE_BYTES", "SLICE_STEPS", "Book", "Slices"]

SLICE_BYTES = 16 * 1024
"""After so much text it is the turn of others: some 2 ms."""
SLICE_ITEMS = 50
"""Or after so many payments."""
SLICE_STEPS = 500
"""Or after so many things looked at: some 2 ms where each takes a look at an announcement."""


@dataclass(frozen=True, slots=True)
class Slices:
    """A list on its way.

    Attributes:
        items: makes what stands in it, one after another; None stands for nothing, and is a step:
            what is looked at and left out takes time too.
    """

    items: Iterator[Any]

    async def encoded(self, encode: Callable[[Any], str]) -> AsyncIterator[bytes]:
        """Write the list down, in pieces of about :data:`SLICE_BYTES`.

        Args:
            encode: makes JSON of an item.
        """
        text, mark, steps = ["["], "", 0
        size = 0
        for item in self.items:
            steps += 1
            if item is not None:
                text.append(mark + encode(item))
                mark = ","
                size += len(text[-1])
            if size >= SLICE_BYTES or steps >= SLICE_STEPS:
                if text:
                    yield "".join(text).encode()
                text, size, steps = [], 0, 0
                await asyncio.sleep(0)
        yield "".join([*text, "]"]).encode()


@dataclass(frozen=True, slots=True)
class Book:
    """An object of long lists that are read a page at a time, as the caller reads them.

    Attributes:
        lists: by name: gives the pages of each.
    """

    lists: Mapping[str, AsyncIterator[list[Any]]]

    async def encoded(self, encode: Callable[[Any], str]) -> AsyncIterator[bytes]:
        """Write the lists down, one after another.

        Args:
            encode: makes JSON of an item.
        """
        mark = "{"
        for name, pages in self.lists.items():
            yield f"{mark}{encode(name)}:[".encode()
            mark, is_first = "],", True
            async for page in pages:
                for start in range(0, len(page), SLICE_ITEMS):
                    text = ",".join(map(encode, page[start : start + SLICE_ITEMS]))
                    yield (text if is_first else f",{text}").encode()
                    is_first = False
                    await asyncio.sleep(0)
        yield b"]}"
