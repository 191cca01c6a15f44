"""URLs without their secrets, servers' answers, and network errors in words for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

from pipeline.errors import UserError

# The beginning of a web page, where a file of text or weights was asked for.
HTML = re.compile(
    rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE | re.DOTALL
)


def public(url: str) -> str:
    """The URL without user, password, query and fragment, which may hold secrets.

    Raises:
        UserError: it is no URL.
    """
    parts = split_url(url)
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}{parts.path}"


def split_url(url: str) -> SplitResult:
    """The URL in its parts.

    Raises:
        UserError: it is no URL.
    """
    try:
        return urlsplit(url)
    except ValueError:
        raise UserError(f"{url!r} is not a valid URL") from None


def retry_after(value: str) -> float | None:
    """The seconds that a `Retry-After` header asks for, as a number or as a date."""
    try:
        if value.strip().isdigit():
            return float(value)
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, OverflowError):
        return None


def reason_of(error: BaseException) -> str:
    """The system's own words, found at the bottom of what wraps them."""
    reason = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return reason
