"""What the AI nodes need from outside."""

from typing import Protocol

from core.llm import ChatRequest, ChatResponse, EmbedRequest, EmbedResponse


class LanguageModels(Protocol):
    """Calls language models. It never repeats a call by itself: the engine does."""

    async def chat(self, request: ChatRequest) -> ChatResponse:
        """The model's answer.

        Raises:
            StepError: see `core.llm`; its message and detail never hold the API key.
        """
        ...

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Vectors of texts. Raises StepError like `chat`."""
        ...

    async def aclose(self) -> None:
        """Close all connections; they are opened again when needed."""
        ...
