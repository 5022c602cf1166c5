"""One run, in the hands of its owner."""

from engine.actor.actor import RunActor
from engine.actor.environment import ActorEnvironment

__all__ = ["ActorEnvironment", "RunActor"]
