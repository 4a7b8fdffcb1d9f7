"""A run onto the hub: adapter or whole model, with its card, its prompt and limits, and the base's id and hash."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tomtat.errors import ConfigError, ModelError, RunError
from tomtat.exporting.export import find_trained
from tomtat.exporting.files import require_no_outside_links, write_shared
from tomtat.models.loading import TrainedInfo
from tomtat.models.sources import hub_id
from tomtat.progress import Progress


@dataclass(frozen=True)
class Pushed:
    repo: str
    files: tuple[tuple[str, int], ...]
    """Names and bytes."""
    card: str
    url: str | None
    """None after a dry run."""


def push(
    run: Path | str,
    repo: str,
    private: bool = False,
    dry_run: bool = False,
    base_id: str | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Upload what a run trained to the hub's `repo` (user/name); `dry_run` does all but touch the network.

    `base_id` is the base model's hub id, for runs trained from a local folder.
    """
    progress = progress or Progress()
    _require_repo_name(repo)
    trained, folder = find_trained(run)
    require_no_outside_links(trained)
    base = str(TrainedInfo.load(trained).base["name"])
    if hub_id(base_id or base) is None:
        raise ConfigError(
            f"The base model lies in {base}, which nobody else has. Name its hub id: --base-id user/name."
        )
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        write_shared(trained, folder, staged, base_id)
        card = staged / "README.md"
        if not card.is_file():
            raise RunError(f"{trained} has no model card. Push the run folder it came from, whose card tomtat writes.")
        text = card.read_text(encoding="utf-8")
        if not re.search(r"^license:", text, re.MULTILINE):
            progress.note("The card names no licence: fill it in on the hub, or at the top of the run's README.md.")
        files = tuple((path.name, path.stat().st_size) for path in sorted(staged.iterdir()))
        url = None if dry_run else _upload(staged, repo, private, folder.path.resolve().name if folder else repo)
    return Pushed(repo, files, text, url)


def _require_repo_name(repo: str) -> None:
    # The hub's own rules; its validator takes names without a user too.
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]{0,95}", repo, re.ASCII) or re.search(r"--|\.\.|[.-]$|\.git$", repo):
        raise ConfigError(
            f"{repo!r} is no repository's name. Give user/name, of letters, digits, dots, dashes and underscores."
        )


def _upload(folder: Path, repo: str, private: bool, name: str) -> str:
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise ModelError("You are not logged in to the hub: run `hf auth login`, or set HF_TOKEN to a write token.")
    with _hub_errors(repo):
        api = huggingface_hub.HfApi()
        url = str(api.create_repo(repo, private=private, exist_ok=True))
        # An existing repository keeps its visibility, whatever is asked for.
        if private and not api.repo_info(repo).private:
            raise ModelError(f"{repo} exists already and is public. Choose another name, or make it private first.")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Upload {name} with tomtat")
    return url


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """What a user can do something about, in one line."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise ModelError(
                f"The hub does not let you write to {repo}. Check the name, and that your token may write."
            ) from None
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"The hub refused the upload to {repo}: {reason} Try again later.") from None
    except Exception as error:
        if isinstance(error, ConnectionError) or type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise ModelError(f"The hub can't be reached to upload {repo}. Check the network and try again.") from None
        raise
