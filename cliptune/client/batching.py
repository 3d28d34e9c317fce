"""Calls of many items: in batches, several at once, with callbacks, and no good item lost to a bad.

What is sent next, and what becomes of an answer, is decided once (`Many`, `deliver`): `run_many`
waits for it in threads, `arun_many` on an event loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypedDict, TypeVar, cast

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.client.inputs import Item, abatches_of, batches_of, check_several, plain_mapping
from cliptune.client.messages import Call, doc_list, documents
from cliptune.documents import ClipDoc
from cliptune.errors import BadFilter, BadInput, CliptuneError
from cliptune.protocol.limits import name

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
D = TypeVar("D", bound=ClipDoc)
Steps = Generator[Call[object], object, R]
"""Calls one after the other, each made when the last one's answer, or error, is known."""
Callback = Callable[[DocList[Any]], object]
"""Takes documents of the kind that the call gives."""
OnError = Callable[[CliptuneError, DocList[ClipDoc]], object]


class SendingOptions(TypedDict, total=False):
    """How the batches of one call are sent: options of all calls that take many items.

    `AsyncClient` awaits what callbacks return, if it can be awaited.
    """

    prefetch: int
    """Requests on their way at once; 4, and 1 for `index`."""
    show_progress: bool
    """Whether to draw a progress bar."""
    parameters: Mapping[str, object] | None
    """Further parameters of the endpoint."""
    on_done: Callback | None
    """Called with each batch's documents that came back; they aren't kept then."""
    on_error: OnError | None
    """Called with what failed: an error and its documents; the others go on then.

    For an item that is at fault, that is the one document and `error.position`, its place among
    what was given. Where the server can't be reached, or refuses for another reason, it is a whole
    batch.
    """
    on_always: Callback | None
    """Called with each batch's documents, whatever became of them."""


@dataclass(frozen=True)
class Sending:
    """`SendingOptions` with their defaults, checked."""

    batch_size: int = 64
    prefetch: int = 4
    show_progress: bool = False
    parameters: Mapping[str, object] | None = None
    on_done: Callback | None = None
    on_error: OnError | None = None
    on_always: Callback | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.prefetch <= 100:
            raise BadInput(f"prefetch is {self.prefetch}: expected 1 to 100")


@dataclass
class Answered(Generic[D]):
    """What came of one batch."""

    items: list[Item]
    answers: dict[int, D]
    """By the items' positions."""
    failed: list[tuple[CliptuneError, list[Item]]]
    """The errors, and whose they are."""

    def in_order(self) -> list[D]:
        """The answers, in the order of the items."""
        return [self.answers[i.position] for i in self.items if i.position in self.answers]


@dataclass(frozen=True)
class Many(Generic[D, R_co]):
    """A call of many items."""

    endpoint: str
    given: Iterable[object] | AsyncIterable[object]
    """The items, see `inputs.to_doc`."""
    prepare: Callable[[ClipDoc], ClipDoc]
    """What is sent of a document."""
    kind: type[D]
    """What comes back for it."""
    sending: Sending
    take: Callable[[Answered[D]], None]
    """Keeps what is wanted of a batch's answers."""
    result: Callable[[], R_co]
    """What the call returns in the end."""

    def __post_init__(self) -> None:
        """Check what was given."""
        check_several(self.given, self.endpoint.strip("/"))

    @property
    def keep_errors(self) -> bool:
        """Whether failures are told of, instead of ending the call."""
        return self.sending.on_error is not None

    def call(self, docs: Sequence[ClipDoc]) -> Call[DocList[D]]:
        """One request."""
        parameters = plain_mapping(self.sending.parameters or {})
        return documents(self.endpoint, docs, self.kind, parameters)

    def told(self, answered: Answered[D]) -> Iterator[Callable[[], object]]:
        """The callbacks that are due for a batch that has been sent."""
        if (on_error := self.sending.on_error) is not None:
            for error, items in answered.failed:
                yield partial(on_error, error, _docs(items))

    def told_always(self, items: list[Item]) -> Iterator[Callable[[], object]]:
        """Those that are due for a batch, sent or not."""
        if (on_always := self.sending.on_always) is not None:
            yield partial(on_always, _docs(items))

    def taken(self, answered: Answered[D]) -> Iterator[Callable[[], object]]:
        """Keep what is wanted of a batch; gives the callbacks that are due then."""
        self.take(answered)
        if (on_done := self.sending.on_done) is not None and answered.answers:
            yield partial(on_done, doc_list(self.kind, answered.in_order()))


def _docs(items: list[Item]) -> DocList[ClipDoc]:
    return DocList[ClipDoc]([item.doc for item in items])


def answer_to(call: Call[R]) -> Steps[R]:
    """One of the `Steps`: the call's answer."""
    # Whoever makes the calls sends back what each is answered; the type of a generator knows no
    # more than that this is some object.
    return cast(R, (yield call))


def deliver(many: Many[D, object], items: list[Item]) -> Steps[Answered[D]]:
    """Send a batch; where documents are refused and errors are kept, the others without them."""
    answered = Answered[D](items, {}, [(item.error, [item]) for item in items if item.error])
    yield from _send(many, answered, [item for item in items if not item.error])
    answered.failed.sort(key=lambda failure: failure[1][0].position)
    return answered


def _send(many: Many[D, object], answered: Answered[D], items: list[Item]) -> Steps[None]:
    if not items:
        return
    sent = [item.sent for item in items if item.sent is not None]
    try:
        answers = yield from answer_to(many.call(sent))
        answered.answers |= {
            item.position: answer for item, answer in zip(items, answers, strict=True)
        }
    except CliptuneError as error:
        at = _at_fault(error, items)
        if at is not None:
            # The server knows its place in the request; the user knows that among the items.
            own, item = name(at, sent[at]), items[at]
            error.args = (str(error).replace(own, name(item.position, item.doc), 1),)
            error.position = item.position
        if not many.keep_errors:
            raise
        if at is not None:
            answered.failed.append((error, [items[at]]))
            yield from _send(many, answered, items[:at] + items[at + 1 :])
        elif isinstance(error, BadInput) and not isinstance(error, BadFilter):
            middle = len(items) // 2
            yield from _send(many, answered, items[:middle])
            yield from _send(many, answered, items[middle:])
        else:
            answered.failed.append((error, items))


def _at_fault(error: CliptuneError, items: list[Item]) -> int | None:
    """Which of `items` an error of their request is about; None: of all of them, or unknown."""
    if not isinstance(error, BadInput) or isinstance(error, BadFilter):
        return None
    for at, item in enumerate(items):
        if item.sent is not None and str(error).startswith(name(at, item.sent)):
            return at
    return 0 if len(items) == 1 else None


def run_steps(steps: Steps[R], ask: Callable[[Call[object]], object]) -> R:
    """Make the calls of `steps` by `ask`; returns what they come to."""
    try:
        call = next(steps)
        while True:
            try:
                answer = ask(call)
            except CliptuneError as error:
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


async def arun_steps(steps: Steps[R], ask: Callable[[Call[object]], Awaitable[object]]) -> R:
    """As `run_steps`, on an event loop."""
    try:
        call = next(steps)
        while True:
            try:
                answer = await ask(call)
            except CliptuneError as error:
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result


def run_many(many: Many[D, R], ask: Callable[[Call[object]], object]) -> R:
    """Send all batches, `prefetch` at once; answers are taken in their order.

    No more is read of what was given than is on its way, so a generator of any length is fine.
    """
    if isinstance(many.given, AsyncIterable):
        raise BadInput(f"{many.endpoint.strip('/')} takes an asynchronous iterable in AsyncClient")
    sending = many.sending
    waiting: deque[tuple[list[Item], Future[Answered[D]]]] = deque()
    batches = batches_of(many.given, many.prepare, sending.batch_size, keep_errors=many.keep_errors)

    def take_first() -> None:
        items, future = waiting.popleft()
        try:
            answered = future.result()
            for tell in many.told(answered):
                tell()
        finally:
            for tell in many.told_always(items):
                tell()
        for tell in many.taken(answered):
            tell()
        advance(len(items))

    with (
        _progress(many) as advance,
        ThreadPoolExecutor(sending.prefetch, thread_name_prefix="cliptune-client") as pool,
    ):
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(run_steps, deliver(many, batch), ask)))
                if len(waiting) >= sending.prefetch:
                    take_first()
            while waiting:
                take_first()
        finally:
            for _, future in waiting:
                future.cancel()
    return many.result()


async def arun_many(many: Many[D, R], ask: Callable[[Call[object]], Awaitable[object]]) -> R:
    """As `run_many`, on an event loop; cancelled, it cancels the calls under way."""
    sending = many.sending
    waiting: deque[tuple[list[Item], asyncio.Task[Answered[D]]]] = deque()
    batches = abatches_of(
        many.given, many.prepare, sending.batch_size, keep_errors=many.keep_errors
    )

    async def take_first() -> None:
        items, task = waiting[0]
        try:
            answered = await task
            for tell in many.told(answered):
                await _awaited(tell())
        finally:
            waiting.popleft()
            for tell in many.told_always(items):
                await _awaited(tell())
        for tell in many.taken(answered):
            await _awaited(tell())
        advance(len(items))

    with _progress(many) as advance:
        async with aclosing(batches):
            try:
                async for batch in batches:
                    steps = arun_steps(deliver(many, batch), ask)
                    waiting.append((batch, asyncio.create_task(steps)))
                    if len(waiting) >= sending.prefetch:
                        await take_first()
                while waiting:
                    await take_first()
            finally:
                for _, task in waiting:
                    task.cancel()
                await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
    return many.result()


async def _awaited(returned: object) -> None:
    if inspect.isawaitable(returned):
        await returned


@contextmanager
def _progress(many: Many[D, object]) -> Iterator[Callable[[int], None]]:
    """A progress bar, if one is wanted, and what moves it on by so many items."""
    if not many.sending.show_progress:
        yield lambda count: None
        return
    from rich.progress import Progress

    total = len(many.given) if isinstance(many.given, Sized) else None
    with Progress() as bar:
        task = bar.add_task(many.endpoint.strip("/"), total=total)
        yield lambda count: bar.advance(task, count)


def rows_of(docs: list[ClipDoc]) -> NDArray[np.float32]:
    """The embeddings [N, D]; NaN where there is none."""
    dim = next((len(doc.embedding) for doc in docs if doc.embedding is not None), 0)
    missing = np.full(dim, np.nan, np.float32)
    rows = [missing if doc.embedding is None else np.asarray(doc.embedding) for doc in docs]
    return np.stack(rows).astype(np.float32, copy=False) if rows else np.empty((0, 0), np.float32)
