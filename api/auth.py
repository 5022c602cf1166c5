"""Who may do what: the API key of a request, and the role that a path asks for."""

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from api.problem import Unauthorized
from api.wiring import Services
from core.account import Principal, Role
from core.errors import Forbidden

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer rfx_…`")


def services_of(request: Request) -> Services:
    """The running services."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


class Requires:
    """A dependency: the caller, who has at least this role."""

    def __init__(self, role: Role) -> None:
        self._role = role

    async def __call__(
        self, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> Principal:
        if credentials is None:
            raise Unauthorized("no API key; send the header `Authorization: Bearer <key>`")
        principal = await services_of(request).api_keys.verify(credentials.credentials)
        if principal is None:
            raise Unauthorized("this API key is not valid; it may have been revoked")
        if not principal.role.covers(self._role):
            raise Forbidden(
                f"this needs the role {self._role.value}; the key {principal.name!r} has {principal.role.value}"
            )
        return principal


Viewer = Annotated[Principal, Depends(Requires(Role.VIEWER))]
Editor = Annotated[Principal, Depends(Requires(Role.EDITOR))]
Admin = Annotated[Principal, Depends(Requires(Role.ADMIN))]
