"""Who may do what: the API key of a request, and the role that a path asks for."""

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from api.problem import Unauthorized
from api.services import Services
from core.account import Principal, Role
from core.errors import Forbidden

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer rfx_…`")


async def services_of(request: Request) -> Services:
    """The running services."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


async def authorized(request: Request, role: Role) -> Principal:
    """The caller of a request, who has at least this role.

    Raises:
        Unauthorized: no API key, or not a valid one.
        Forbidden: the role is not enough.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("no API key; send the header `Authorization: Bearer <key>`")
    services: Services = request.app.state.services
    principal = await services.api_keys.verify(key.strip())
    if principal is None:
        raise Unauthorized("this API key is not valid; it may have been revoked")
    if not principal.role.covers(role):
        raise Forbidden(f"this needs the role {role.value}; the key {principal.name!r} has {principal.role.value}")
    return principal


class Requires:
    """`authorized` as a dependency. The security scheme is there for the OpenAPI document."""

    def __init__(self, role: Role) -> None:
        self._role = role

    async def __call__(
        self, request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Principal:
        """The caller. Raises as `authorized`."""
        return await authorized(request, self._role)


Viewer = Annotated[Principal, Depends(Requires(Role.VIEWER))]
Editor = Annotated[Principal, Depends(Requires(Role.EDITOR))]
Admin = Annotated[Principal, Depends(Requires(Role.ADMIN))]
