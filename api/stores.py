"""What is kept in PostgreSQL, by what it is about."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import Clock
from infra.objects import Objects
from infra.postgres.api_keys import ApiKeys
from infra.postgres.audit import AuditLog
from infra.postgres.breakers import Breakers
from infra.postgres.commands import RunCommands
from infra.postgres.events import Events
from infra.postgres.firings import Firings
from infra.postgres.generations import Generations
from infra.postgres.idempotency import Idempotency
from infra.postgres.limits import Limits
from infra.postgres.node_versions import NodeVersions
from infra.postgres.routes import Routes
from infra.postgres.runs import Runs
from infra.postgres.secrets import SecretKey, Secrets
from infra.postgres.slots import Slots
from infra.postgres.step_cache import StepResults
from infra.postgres.tasks import Tasks
from infra.postgres.triggers import Triggers
from infra.postgres.variables import Variables
from infra.postgres.workers import Workers
from infra.postgres.workflows import Workflows


@dataclass(frozen=True, slots=True)
class Stores:
    """One object for each area of the database."""

    api_keys: ApiKeys
    audit: AuditLog
    breakers: Breakers
    commands: RunCommands
    events: Events
    firings: Firings
    generations: Generations
    idempotency: Idempotency
    limits: Limits
    node_versions: NodeVersions
    routes: Routes
    runs: Runs
    secrets: Secrets
    slots: Slots
    step_results: StepResults
    tasks: Tasks
    triggers: Triggers
    variables: Variables
    workers: Workers
    workflows: Workflows


def open_stores(database: AsyncEngine, clock: Clock, objects: Objects, secret_key: SecretKey) -> Stores:
    """All of them, on one pool of connections."""
    return Stores(
        api_keys=ApiKeys(database, clock),
        audit=AuditLog(database, clock),
        breakers=Breakers(database),
        commands=RunCommands(database, clock),
        events=Events(database),
        firings=Firings(database, clock),
        generations=Generations(database),
        idempotency=Idempotency(database, clock),
        limits=Limits(database, clock),
        node_versions=NodeVersions(database, clock),
        routes=Routes(database, clock),
        runs=Runs(database),
        secrets=Secrets(database, clock, secret_key),
        slots=Slots(database),
        step_results=StepResults(database, objects),
        tasks=Tasks(database, objects),
        triggers=Triggers(database, clock),
        variables=Variables(database, clock),
        workers=Workers(database, objects),
        workflows=Workflows(database, clock),
    )
