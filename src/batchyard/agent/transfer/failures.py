"""Why an attempt failed, in the words of the contract (8.6). URLs lose their query first: it carries the signature."""

from __future__ import annotations

from typing import Literal

from batchyard.model.common import NameValuePair
from batchyard.model.states import ErrorCategory
from batchyard.model.sync import FAILURE_EXIT_CODE
from batchyard.model.task import TaskFailureInformation

Stage = Literal["preprocessing", "run", "upload"]

USER, SERVER = ErrorCategory.USER_ERROR, ErrorCategory.SERVER_ERROR


class Failed(Exception):
    """The attempt failed; `info` is what clients see."""

    def __init__(self, stage: Stage, info: TaskFailureInformation) -> None:
        super().__init__(info.message)
        self.stage, self.info = stage, info


def failure(code: str, message: str, category: ErrorCategory = USER, **details: str) -> TaskFailureInformation:
    """What clients see; details are name and value."""
    pairs = [NameValuePair(name=name, value=value) for name, value in details.items()]
    return TaskFailureInformation(category=category, code=code, message=message, details=pairs or None)


def exit_code_failure() -> TaskFailureInformation:
    """The command line exited with another code than 0."""
    return failure(
        FAILURE_EXIT_CODE,
        "The task exited with an exit code representing a failure",
        Message="The task process exited with an unexpected exit code",
        AdditionalErrorCode=FAILURE_EXIT_CODE,
    )


def plain(url: str) -> str:
    """A URL without user, query and fragment, fit to be shown."""
    head = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
