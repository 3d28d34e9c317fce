"""From the HTTP side of the gateway into the Flow, and what comes back."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from docarray import BaseDoc, DocList

from cliptune.documents import ClipDoc
from cliptune.protocol import tags
from cliptune.protocol.jina_compat import DataRequest, send_health_check_async
from cliptune.protocol.limits import check_parameters
from cliptune.protocol.status import Report, by_source

D = TypeVar("D", bound=BaseDoc)


class Calls:
    """The executors of a Flow, behind one gateway."""

    def __init__(self, handler: Any) -> None:
        """Take the gateway's `RequestHandler`."""
        self.handler = handler

    async def post(
        self,
        endpoint: str,
        docs: DocList,
        parameters: dict[str, Any] | None,
        kind: type[D],
    ) -> DocList[D]:
        """Send `docs` to `endpoint`; returns its documents as `kind`.

        Raises:
            CliptuneError: what a client is told.
        """
        return (await self.send(endpoint, docs, parameters, kind))[0]

    async def send(
        self,
        endpoint: str,
        docs: DocList,
        parameters: dict[str, Any] | None,
        kind: type[D],
    ) -> tuple[DocList[D], list[Any]]:
        """As `post`; returns Jina's routes too: when each executor began and ended."""
        request = DataRequest()
        request.header.exec_endpoint = endpoint
        request.document_array_cls = DocList[docs.doc_type or ClipDoc]  # type: ignore[misc]

        def fill() -> None:
            tags.pack(docs)
            request.data.docs = docs
            if parameters:
                check_parameters(parameters)
                request.parameters = parameters

        def read() -> DocList[D]:
            response.document_array_cls = DocList[kind]  # type: ignore[valid-type]
            found = response.docs
            tags.unpack(found)
            return found

        # Beside the event loop: a request may hold many documents, and an answer many matches.
        await asyncio.to_thread(fill)
        response = await self.handler.ask(request)
        return await asyncio.to_thread(read), list(response.routes)

    async def report(
        self, endpoint: str, docs: DocList | None = None, parameters: dict[str, Any] | None = None
    ) -> dict[str, dict[str, Any]]:
        """The reports of an endpoint, by executor."""
        given = DocList[ClipDoc]() if docs is None else docs
        reports = await self.post(endpoint, given, parameters, Report)
        return by_source(reports)

    async def ready(self, timeout: float = 2.0) -> dict[str, bool]:
        """Which executors' servers answer; a busy one does too."""
        addresses = json.loads(self.handler.runtime_args.deployments_addresses)

        async def alive(address: str) -> bool:
            try:
                await send_health_check_async(address.split("//")[-1], timeout=timeout)
            except Exception:
                return False
            return True

        async def any_alive(found: Any) -> bool:
            given = found.get("GRPC", found.get("grpc")) if isinstance(found, dict) else found
            return any(await asyncio.gather(*(alive(address) for address in given or [])))

        names = list(addresses)
        answers = await asyncio.gather(*(any_alive(addresses[name]) for name in names))
        return dict(zip(names, answers, strict=True))
