"""Weights on their way to vLLM servers: a folder under a name of its own, taken over, and shown to be taken over.

A folder is written whole before anybody talks to a server, so that nobody waits for half of it; it needs no network
of its own, only a place that trainer and servers see under the same path. The first time, every server proves that it
takes over every tensor: checksums of what it loaded, all weights set to 0, loaded again, and no checksum may differ.
"""

import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from uniapl.files import fingerprint
from uniapl.rollout.vllm_server import Connection


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """How the policy's weights get into folders; each function makes the folder that it is given."""

    folder: Path
    """Where they go, absolute."""
    write_model: Callable[[Path], object]
    """The whole model as it learns. With an adapter of its own: the frozen weights under it, written once."""
    write_adapter: Callable[[Path], object] | None = None
    """The adapter, where servers read it apart."""


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """One state of the policy on disk."""

    version: str
    """The name of these weights: of this process and its update, and of nothing else."""
    model: Path | None
    """None where the servers have the frozen weights already."""
    adapter: Path | None


class WeightSync:
    """Brings one state of the policy after the other to all servers."""

    def __init__(self, files: WeightFiles) -> None:
        self._files = files
        self._process = secrets.token_hex(4)
        self._num_written = 0
        self._checksums: dict[str, Mapping[str, str]] = {}
        """By server: of the first weights."""
        self._first: str | None = None
        """What tells the first weights' files from others."""
        self._has_moved: dict[str, bool] = {}
        """By server: whether its weights have been seen to change."""

    @property
    def uses_adapter(self) -> bool:
        """Whether the servers read the policy's adapter beside the frozen weights."""
        return self._files.write_adapter is not None

    def write(self) -> WrittenWeights:
        """Write the policy as it is now.

        Raises:
            TrainingError: It could not be written, the disk being full for example.
        """
        self._num_written += 1
        version = f"{self._process}-{self._num_written:06d}"
        model = adapter = None
        if not self.uses_adapter or self._num_written == 1:
            model = self._files.folder / f"model-{version}"
            self._files.write_model(model)
        if self._files.write_adapter is not None:
            adapter = self._files.folder / f"adapter-{version}"
            self._files.write_adapter(adapter)
        return WrittenWeights(version, model, adapter)

    async def bring(self, written: WrittenWeights, connection: Connection) -> None:
        """Let a server take over written weights, and their name.

        Raises:
            TrainingError: It does not.
        """
        await connection.pause()
        if written.model is not None:
            if connection.server.url in self._checksums:
                await connection.reload(str(written.model))
                await self._check_change(written.model, connection)
            else:
                await self._prove(written.model, connection)
        if written.adapter is not None:
            await connection.load_adapter(str(written.adapter))
        await connection.name_weights(written.version)
        await connection.resume()

    def clean_up(self, written: WrittenWeights) -> None:
        """Remove what no server needs any more: it may read the adapter that acts again, and no model."""
        for folder in self._files.folder.glob("*"):
            if folder != written.adapter:
                shutil.rmtree(folder, ignore_errors=True)
        if written.adapter is None and self._files.folder.is_dir():
            self._files.folder.rmdir()

    async def _prove(self, model: Path, connection: Connection) -> None:
        """Show that the server takes over every tensor: one that it left out would stay 0."""
        server = connection.server
        await connection.reload(str(model))
        checksums = await connection.checksums()
        await connection.zero_weights()
        if not await connection.changed_tensors(checksums):
            raise server.failed(
                "/weight_checker", "its weights do not change when they are set to 0"
            )
        await connection.reload(str(model))
        if missing := await connection.changed_tensors(checksums):
            raise server.failed(
                "/collective_rpc",
                f"{len(missing)} of {len(checksums)} tensors are not taken over from {model}, the first "
                f"is {missing[0]}",
            )
        self._checksums[server.url] = checksums
        self._first = fingerprint(model)

    async def _check_change(self, model: Path, connection: Connection) -> None:
        """Show once that other weights are other weights: a server could load its own again."""
        server = connection.server
        if self._has_moved.get(server.url) or fingerprint(model) == self._first:
            return
        if not await connection.changed_tensors(self._checksums[server.url]):
            raise server.failed(
                "/collective_rpc",
                f"the weights in {model} are new, and those of the server stay as they were",
            )
        self._has_moved[server.url] = True
