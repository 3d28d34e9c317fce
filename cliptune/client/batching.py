"""Calls of many items: in batches, several at once, with callbacks, and no good item lost to a bad.

What is sent next, and what becomes of an answer, is written once, as coroutines. On an event loop
they wait; in threads what they await is there already (see `run_at_once`), and they run through.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
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
from typing import Any, Generic, Protocol, TypedDict, TypeVar

import numpy as np
from docarray import DocList
from numpy.typing import NDArray

from cliptune.client.inputs import Item, abatches_of, batches_of, check_several, plain_mapping
from cliptune.client.messages import Call, doc_list, documents
from cliptune.documents import ClipDoc
from cliptune.errors import BadFilter, BadInput, CliptuneError
from cliptune.protocol.endpoints import Endpoint
from cliptune.protocol.limits import name_of_document

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
D = TypeVar("D", bound=ClipDoc)
Callback = Callable[[DocList[Any]], object]
"""Takes documents of the kind that the call gives."""
OnError = Callable[[CliptuneError, DocList[ClipDoc]], object]


class Ask(Protocol):
    """Makes a call."""

    def __call__(self, call: Call[R], /) -> Coroutine[Any, Any, R]:
        """What it is answered."""


def run_at_once(work: Coroutine[Any, Any, R]) -> R:
    """What a coroutine returns that never has to wait."""
    try:
        work.send(None)
    except StopIteration as end:
        result: R = end.value
        return result
    work.close()
    raise RuntimeError("it had to wait, and there is no event loop")


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
class BatchAnswer(Generic[D]):
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
class BatchedCall(Generic[D, R_co]):
    """A call of many items."""

    endpoint: Endpoint[D]
    given: Iterable[object] | AsyncIterable[object]
    """The items, see `inputs.to_doc`."""
    prepare: Callable[[ClipDoc], ClipDoc]
    """What is sent of a document."""
    sending: Sending
    take: Callable[[BatchAnswer[D]], None]
    """Keeps what is wanted of a batch's answers."""
    result: Callable[[], R_co]
    """What the call returns in the end."""

    def __post_init__(self) -> None:
        """Check what was given."""
        check_several(self.given, self.endpoint.name)

    @property
    def keep_errors(self) -> bool:
        """Whether failures are told of, instead of ending the call."""
        return self.sending.on_error is not None

    def call(self, docs: Sequence[ClipDoc]) -> Call[DocList[D]]:
        """One request."""
        parameters = plain_mapping(self.sending.parameters or {})
        return documents(self.endpoint, docs, parameters)

    def error_callbacks(self, answered: BatchAnswer[D]) -> Iterator[Callable[[], object]]:
        """The callbacks that are due for a batch that has been sent."""
        if (on_error := self.sending.on_error) is not None:
            for error, items in answered.failed:
                yield partial(on_error, error, _docs(items))

    def always_callbacks(self, items: list[Item]) -> Iterator[Callable[[], object]]:
        """Those that are due for a batch, sent or not."""
        if (on_always := self.sending.on_always) is not None:
            yield partial(on_always, _docs(items))

    def take_answer(self, answered: BatchAnswer[D]) -> Iterator[Callable[[], object]]:
        """Keep what is wanted of a batch; gives the callbacks that are due then."""
        self.take(answered)
        if (on_done := self.sending.on_done) is not None and answered.answers:
            yield partial(on_done, doc_list(self.endpoint.gives, answered.in_order()))


def _docs(items: list[Item]) -> DocList[ClipDoc]:
    return DocList[ClipDoc]([item.doc for item in items])


async def send_batch(many: BatchedCall[D, object], items: list[Item], ask: Ask) -> BatchAnswer[D]:
    """Send a batch; where documents are refused and errors are kept, the others without them."""
    answered = BatchAnswer[D](items, {}, [(item.error, [item]) for item in items if item.error])
    await _send(many, answered, [item for item in items if not item.error], ask)
    answered.failed.sort(key=lambda failure: failure[1][0].position)
    return answered


async def _send(
    many: BatchedCall[D, object], answered: BatchAnswer[D], items: list[Item], ask: Ask
) -> None:
    if not items:
        return
    sent = [item.sent for item in items if item.sent is not None]
    try:
        answers = await ask(many.call(sent))
        answered.answers |= {
            item.position: answer for item, answer in zip(items, answers, strict=True)
        }
    except CliptuneError as error:
        at = _at_fault(error, items)
        if at is not None:
            # The server knows its place in the request; the user knows that among the items.
            own, item = name_of_document(at, sent[at]), items[at]
            error.args = (str(error).replace(own, name_of_document(item.position, item.doc), 1),)
            error.position = item.position
        if not many.keep_errors:
            raise
        if at is not None:
            answered.failed.append((error, [items[at]]))
            await _send(many, answered, items[:at] + items[at + 1 :], ask)
        elif isinstance(error, BadInput) and not isinstance(error, BadFilter):
            middle = len(items) // 2
            await _send(many, answered, items[:middle], ask)
            await _send(many, answered, items[middle:], ask)
        else:
            answered.failed.append((error, items))


def _at_fault(error: CliptuneError, items: list[Item]) -> int | None:
    """Which of `items` an error of their request is about; None: of all of them, or unknown."""
    if not isinstance(error, BadInput) or isinstance(error, BadFilter):
        return None
    for at, item in enumerate(items):
        if item.sent is not None and str(error).startswith(name_of_document(at, item.sent)):
            return at
    return 0 if len(items) == 1 else None


class _Begun(Awaitable[R_co], Protocol[R_co]):
    """Work under way: a task of a loop, or a thread's."""

    def cancel(self) -> object:
        """Give it up."""


class _InThread(Generic[R]):
    """A thread's work, of which the result is there once it is awaited: the caller waits."""

    def __init__(self, future: Future[R]) -> None:
        self.future = future

    def __await__(self) -> Generator[None, None, R]:
        yield from ()  # what is awaited is a generator, and this one never waits
        return self.future.result()

    def cancel(self) -> object:
        return self.future.cancel()


class _InCaller(Generic[R]):
    """Work that is done where it is awaited, in the caller's own thread."""

    def __init__(self, work: Callable[[], R]) -> None:
        self.work = work

    def __await__(self) -> Generator[None, None, R]:
        yield from ()
        return self.work()

    def cancel(self) -> None:
        """It has not begun."""


def run_batches(many: BatchedCall[D, R], ask: Ask, max_docs: int) -> R:
    """Send all batches, `prefetch` at once; answers are taken in their order.

    No more is read of what was given than is on its way, so a generator of any length is fine.

    Args:
        many: what is asked.
        ask: makes a call without ever waiting for a loop.
        max_docs: documents in one request.
    """
    given, sending = many.given, many.sending
    if isinstance(given, AsyncIterable):
        raise BadInput(f"{many.endpoint.name} takes an asynchronous iterable in AsyncClient")
    keep = many.keep_errors
    ready = batches_of(given, many.prepare, sending.batch_size, max_docs, keep_errors=keep)

    async def batches() -> AsyncIterator[list[Item]]:
        for batch in ready:
            yield batch

    async def call(callback: Callable[[], object]) -> None:
        callback()

    def send(batch: list[Item]) -> BatchAnswer[D]:
        return run_at_once(send_batch(many, batch, ask))

    if sending.prefetch == 1 or (isinstance(given, Sized) and len(given) == 1):
        # One request at a time: a thread for it would take longer than the wire does.
        return run_at_once(
            _run(many, batches(), lambda batch: _InCaller(partial(send, batch)), call)
        )
    with ThreadPoolExecutor(sending.prefetch, thread_name_prefix="cliptune-client") as threads:
        return run_at_once(
            _run(many, batches(), lambda batch: _InThread(threads.submit(send, batch)), call)
        )


async def arun_batches(many: BatchedCall[D, R], ask: Ask, max_docs: int) -> R:
    """As `run_batches`, on an event loop; cancelled, it cancels the calls under way."""
    keep, size = many.keep_errors, many.sending.batch_size
    tasks: set[asyncio.Task[BatchAnswer[D]]] = set()

    def begin(batch: list[Item]) -> asyncio.Task[BatchAnswer[D]]:
        task = asyncio.create_task(send_batch(many, batch, ask))
        tasks.add(task)
        task.add_done_callback(ended)
        return task

    def ended(task: asyncio.Task[BatchAnswer[D]]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.exception()  # of one that nobody takes any more, it is none of the log's business

    async def call(callback: Callable[[], object]) -> None:
        if inspect.isawaitable(returned := callback()):
            await returned

    async with aclosing(
        abatches_of(many.given, many.prepare, size, max_docs, keep_errors=keep)
    ) as batches:
        try:
            return await _run(many, batches, begin, call)
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)


async def _run(
    many: BatchedCall[D, R],
    batches: AsyncIterable[list[Item]],
    begin: Callable[[list[Item]], _Begun[BatchAnswer[D]]],
    call: Callable[[Callable[[], object]], Awaitable[None]],
) -> R:
    """See `run_batches`; `begin` sends a batch, `call` calls a callback."""
    waiting: deque[tuple[list[Item], _Begun[BatchAnswer[D]]]] = deque()

    async def take_first() -> None:
        items, begun = waiting[0]
        try:
            answered = await begun
            for callback in many.error_callbacks(answered):
                await call(callback)
        finally:
            waiting.popleft()
            for callback in many.always_callbacks(items):
                await call(callback)
        for callback in many.take_answer(answered):
            await call(callback)
        advance(len(items))

    with _progress(many) as advance:
        try:
            async for batch in batches:
                waiting.append((batch, begin(batch)))
                if len(waiting) >= many.sending.prefetch:
                    await take_first()
            while waiting:
                await take_first()
        finally:
            for _, begun in waiting:
                begun.cancel()
    return many.result()


@contextmanager
def _progress(many: BatchedCall[D, object]) -> Iterator[Callable[[int], None]]:
    """A progress bar, if one is wanted, and what moves it on by so many items."""
    if not many.sending.show_progress:
        yield lambda count: None
        return
    from rich.progress import Progress

    total = len(many.given) if isinstance(many.given, Sized) else None
    with Progress() as bar:
        task = bar.add_task(many.endpoint.name, total=total)
        yield lambda count: bar.advance(task, count)


def rows_of(docs: list[ClipDoc]) -> NDArray[Any]:
    """The embeddings [N, D]; NaN where there is none, for which integers become float32."""
    dim = next((len(doc.embedding) for doc in docs if doc.embedding is not None), 0)
    missing = np.full(dim, np.nan, np.float32)
    rows = [missing if doc.embedding is None else np.asarray(doc.embedding) for doc in docs]
    return np.stack(rows) if rows else np.empty((0, 0), np.float32)
