"""Language models of all providers behind one door.

The providers' libraries are loaded by the first call that needs them, in a thread: together they take a second and
75 MB, which most processes never need.
"""

import asyncio
import gc
import ssl
from typing import TYPE_CHECKING

from core.clock import Clock
from core.llm import ChatRequest, ChatResponse, EmbedRequest, EmbedResponse, Provider

if TYPE_CHECKING:
    import httpx2

    from infra.llm.anthropic import AnthropicModels
    from infra.llm.openai import OpenAIModels
    from infra.llm.transport import Egress


class Models:
    """See the module.

    Args:
        egress: which addresses may be reached.
        tls: how certificates are verified; default: the system's authorities.
    """

    def __init__(self, egress: "Egress", clock: Clock, tls: ssl.SSLContext | None = None) -> None:
        self._egress = egress
        self._clock = clock
        self._tls = tls
        self._loading = asyncio.Lock()
        self._http: httpx2.AsyncClient | None = None
        self._openai: OpenAIModels | None = None
        self._anthropic: AnthropicModels | None = None

    async def chat(self, request: ChatRequest) -> ChatResponse:
        """The model's answer. Raises StepError, see `core.llm`."""
        if request.provider is Provider.ANTHROPIC:
            return await (await self._of_anthropic()).chat(request)
        return await (await self._of_openai()).chat(request)

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Vectors of texts, from a server that speaks OpenAI's protocol. Raises StepError, see `core.llm`."""
        return await (await self._of_openai()).embed(request)

    async def aclose(self) -> None:
        """Close all connections; they are opened again when needed."""
        http, self._http, self._openai, self._anthropic = self._http, None, None, None
        if http is not None:
            await http.aclose()

    async def _of_openai(self) -> "OpenAIModels":
        if self._openai is None:
            async with self._loading:
                if self._openai is None:
                    self._openai = await asyncio.to_thread(self._load_openai)
        return self._openai

    async def _of_anthropic(self) -> "AnthropicModels":
        if self._anthropic is None:
            async with self._loading:
                if self._anthropic is None:
                    self._anthropic = await asyncio.to_thread(self._load_anthropic)
        return self._anthropic

    def _load_openai(self) -> "OpenAIModels":
        from infra.llm.openai import OpenAIModels

        _keep_out_of_collections()
        return OpenAIModels(self._client(), self._clock)

    def _load_anthropic(self) -> "AnthropicModels":
        from infra.llm.anthropic import AnthropicModels

        _keep_out_of_collections()
        return AnthropicModels(self._client(), self._clock)

    def _client(self) -> "httpx2.AsyncClient":
        """One pool for all providers. Only called under the lock."""
        from infra.llm.transport import http_client

        if self._http is None:
            self._http = http_client(self._egress, self._tls)
        return self._http


def _keep_out_of_collections() -> None:
    """A library that has just been loaded stays: each full collection would walk over all of it, and hold the loop."""
    gc.collect(1)
    gc.freeze()
