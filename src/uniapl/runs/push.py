"""A finished run's policy on the hub, with its model card: `uniapl push` and `uniapl train --push-to-hub`.

What huggingface_hub raises depends on its version and on the HTTP library below it; here it is one line.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uniapl.errors import InputError, TrainingError, one_line
from uniapl.runs.result import Run

_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def check_push(name: str) -> None:
    """Ask the hub who we are, so that a run whose policy cannot be pushed is refused before it starts.

    Raises:
        InputError: The name is none of a model on the hub, nobody is logged in, or the hub does not answer.
    """
    from huggingface_hub import HfApi

    _check_name(name)
    with _one_line(f"{name}: cannot be pushed", InputError):
        HfApi().whoami()


def push(run: Path, name: str, *, is_public: bool = False) -> str:
    """Upload `RUN/policy`, the model card included, in one commit.

    Args:
        run: A finished run.
        name: `OWNER/NAME`; a repository of this name that exists is written to, and keeps its visibility.
        is_public: A new repository can be read by everybody; else by its owner alone.

    Returns:
        The address of the model.

    Raises:
        InputError: The name is none of a model on the hub, or the run has no policy.
        TrainingError: The hub refused, or did not answer; the run itself is as it was.
    """
    from huggingface_hub import HfApi

    _check_name(name)
    opened = Run(run)
    if not opened.is_finished:
        raise InputError(f"{run}: has no policy to push; the run has not come to its last step")
    policy, api = opened.policy, HfApi()
    assert policy is not None
    with _one_line(f"{name}: cannot be pushed", TrainingError):
        url = api.create_repo(name, private=not is_public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=policy, commit_message="Policy of a uniapl run")
    return str(url)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name}: must be OWNER/NAME, as the hub calls models")


@contextmanager
def _one_line(prefix: str, kind: type[InputError] | type[TrainingError]) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    login = "log in first: `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise kind(f"{prefix}: nobody is logged in; {login}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = f"; {login}, with a token that may write there" if status in (401, 403) else ""
        raise kind(f"{prefix}: the hub answers {status}: {_said(error)}{hint}") from error
    except Exception as error:  # which HTTP library the hub's client uses depends on its version
        raise kind(f"{prefix}: {type(error).__name__}: {one_line(error)}") from error


def _said(error: BaseException) -> str:
    """Return what the server has said: the last line of what huggingface_hub tells, whose first repeats the status."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
