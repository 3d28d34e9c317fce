"""Sending a folder to a repository of the hub."""

from __future__ import annotations

from pathlib import Path

from cliptune.errors import BadInput, Unavailable
from cliptune.models.names import HUB_PREFIX, HubName, parse_model_name
from cliptune.settings import current


def repository_name(name: str) -> str:
    """`name` if a repository can be called so.

    Raises:
        BadInput: it can't: ORG/NAME is expected.
    """
    prefixed = name if name.startswith(HUB_PREFIX) else f"{HUB_PREFIX}{name}"
    parsed = parse_model_name(prefixed)
    if not isinstance(parsed, HubName) or "/" not in parsed.repository:
        raise BadInput(f"{name!r} is no repository's name: write ORGANISATION/NAME")
    return parsed.repository


def push_folder(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Send all files of `folder` to `repository`, which is made if it isn't there.

    Returns: where it can be seen.

    Raises:
        Unavailable: the hub can't be reached, or doesn't allow it.
    """
    from huggingface_hub import HfApi, errors

    if current().offline:
        raise Unavailable("CLIPTUNE_OFFLINE is set: nothing is sent to a hub")
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message=message)
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, OSError) as error:
        words = " ".join(str(error).split())[:200]
        raise Unavailable(
            f"{repository} can't be written ({words}): set HF_TOKEN to a token that may write "
            "there, and see that the hub (or HF_ENDPOINT) can be reached"
        ) from error
    return str(url)
