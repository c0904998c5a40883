"""The table, a module for each subject."""

from __future__ import annotations

from tests.compat.rows import bodies, errors, headers, names, redirects, responses, sessions, urls, verbs
from tests.compat.sides import Row

ALL: list[Row] = [
    *verbs.ROWS,
    *headers.ROWS,
    *bodies.ROWS,
    *responses.ROWS,
    *redirects.ROWS,
    *errors.ROWS,
    *sessions.ROWS,
    *urls.ROWS,
    *names.ROWS,
]
