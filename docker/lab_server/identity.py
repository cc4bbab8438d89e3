"""Who may come in: whoever has the token. Guessing it gives nothing away, and costs the server little."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.identity import PasswordIdentityProvider

if TYPE_CHECKING:
    from jupyter_server.auth.identity import User
    from tornado.web import RequestHandler

GUESSES = 200  # a second; more would slow down who has the token


class GuardedIdentityProvider(PasswordIdentityProvider):
    """Jupyter's own compares tokens with `==`, in a time that tells how much is right, and refuses without limit.

    The password is Jupyter's name for the token that is typed into the login form.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._free_at = 0.0  # the event loop's time, in seconds, from which the next wrong token is answered

    async def get_user_token(self, handler: RequestHandler) -> User | None:
        """Admit the token; a wrong one, in the login form too, waits its turn."""
        offered = self.get_token(handler) or handler.get_argument("password", "")
        if not offered:
            return None
        if self._is_token(offered):
            return await super().get_user_token(handler)
        await self._wait_for_turn()
        return None

    def process_login_form(self, handler: RequestHandler) -> User | None:
        """Admit the token."""
        is_token = self._is_token(handler.get_argument("password", ""))
        return self.generate_anonymous_user(handler) if is_token else None

    def _is_token(self, offered: str) -> bool:
        return hmac.compare_digest(offered.encode(errors="replace"), self.token.encode())

    async def _wait_for_turn(self) -> None:
        now = asyncio.get_running_loop().time()
        turn = max(now, self._free_at)
        self._free_at = turn + 1 / GUESSES
        await asyncio.sleep(turn - now)
