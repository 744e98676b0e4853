"""Pairs of views: which targets a source may have, how one is drawn, and batches of pairs as tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nvs_depth.datasets.options import PairOptions
from nvs_depth.datasets.views import ViewSet
from shared.errors import DataError
from shared.geometry.camera import relative_pose
from shared.runs.seeds import step_generator
from shared.runs.workers import read_ahead

__all__ = ["PairBatch", "PairOrder", "PairSet", "find_pairs", "load_pairs", "pair_batches", "varied"]


class PairBatch(NamedTuple):
    """B pairs of views; images [B, 3, S, S] in [0, 1], depth [B, 1, S, S], matrices per pair."""

    image_source: Tensor
    image_target: Tensor
    depth_source: Tensor
    depth_target: Tensor
    valid_source: Tensor
    valid_target: Tensor
    K_source: Tensor
    K_target: Tensor
    target_from_source: Tensor
    indices: Tensor  # [B, 2] of the views

    def to(self, device: torch.device) -> "PairBatch":
        return PairBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass
class PairSet:
    """Sources with their possible targets: `targets` [n, M] is filled up with -1."""

    views: ViewSet
    sources: Tensor  # int64 [n]
    targets: Tensor  # int64 [n, M]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def used(self) -> list[int]:
        """The views that are source or target of a pair, in their order."""
        return self.all_pairs().unique().tolist()

    def draw(self, generator: torch.Generator) -> Tensor:
        """One target, drawn evenly, for every source: pairs [n, 2]."""
        count = (self.targets >= 0).sum(1)
        place = (
            (torch.rand(len(self), generator=generator) * count).long().clamp(max=self.targets.shape[1] - 1)
        )
        place = torch.minimum(place, count - 1)
        return torch.stack([self.sources, self.targets.gather(1, place[:, None])[:, 0]], 1)

    def all_pairs(self) -> Tensor:
        """Every pair [m, 2], by source."""
        row, column = (self.targets >= 0).nonzero(as_tuple=True)
        return torch.stack([self.sources[row], self.targets[row, column]], 1)


def find_pairs(
    views: ViewSet,
    options: PairOptions,
    sources: Tensor | None = None,
    targets: Tensor | None = None,
) -> PairSet:
    """Pairs within groups by the rule of the layout; `sources` and `targets` are masks [N] of those allowed.

    Grids: azimuth larger by one of the steps (no turn past the last azimuth, as published, unless symmetric).
    Sequences: up to `max_gap` frames later. Unordered sets: the nearest cameras. DataError without a pair.
    """
    count = len(views)
    allowed_source = torch.ones(count, dtype=torch.bool) if sources is None else sources
    allowed_target = torch.ones(count, dtype=torch.bool) if targets is None else targets
    members: dict[str, list[int]] = {}
    for index, group in enumerate(views.groups):
        members.setdefault(group, []).append(index)
    found_sources, found_targets = [], []
    for indices in members.values():
        index = torch.tensor(indices)
        related = _related(views, index, options)
        related &= allowed_source[index][:, None] & allowed_target[index][None]
        for row in related.any(1).nonzero()[:, 0].tolist():
            found_sources.append(indices[row])
            found_targets.append(index[related[row]])
    if not found_sources:
        remedy = (
            "Check the split and data.pairs (azimuth_steps_deg, max_gap) against the views that are there"
        )
        raise DataError(views.path, "no two views form a pair", remedy)
    padded = torch.nn.utils.rnn.pad_sequence(found_targets, batch_first=True, padding_value=-1)
    return PairSet(views, torch.tensor(found_sources), padded)


def _related(views: ViewSet, index: Tensor, options: PairOptions) -> Tensor:
    """Which views of one group may be the target (column) of which source (row)."""
    first, second = views.coordinates[index].unbind(1)
    if views.layout.startswith("shapenet"):
        step = first[None] - first[:, None]
        if options.symmetric:
            step = ((step + 180) % 360 - 180).abs()
        related = torch.isin(step, torch.tensor(options.azimuth_steps_deg))
        if not options.symmetric:  # as published, a source has targets at all steps
            farthest = (step == max(options.azimuth_steps_deg)).any(1, keepdim=True)
            related &= farthest
        if options.elevation == "same":
            related &= second[None] == second[:, None]
        return related
    if views.layout.startswith("kitti"):
        gap = first[None] - first[:, None]
        return (gap != 0) & (gap.abs() <= options.max_gap) & ((gap > 0) | options.symmetric)
    pose = views.world_from_cam[index]
    distance = (pose[None, :, :3, 3] - pose[:, None, :3, 3]).norm(dim=-1)
    distance.fill_diagonal_(torch.inf)
    nearest = distance.argsort(1)[:, : options.nearest]
    related = torch.zeros_like(distance, dtype=torch.bool).scatter(1, nearest, True)
    return related.fill_diagonal_(False)


def load_pairs(views: ViewSet, pairs: Tensor | Sequence[tuple[int, int]]) -> PairBatch:
    """The given pairs [B, 2] as one batch; DataError for a view that cannot be read."""
    rows = []
    for pair in pairs:
        source, target = (views.load(int(index)) for index in pair)
        pose = relative_pose(target.world_from_cam.double(), source.world_from_cam.double()).float()
        images, depths = (source.image, target.image), (source.depth, target.depth)
        valid, Ks = (source.valid, target.valid), (source.K, target.K)
        rows.append((*images, *depths, *valid, *Ks, pose, torch.as_tensor(pair)))
    return PairBatch(*(torch.stack(parts) for parts in zip(*rows, strict=True)))


def varied(batch: PairBatch, draw: torch.Generator) -> PairBatch:
    """The pairs as of other objects: half of them mirrored left to right, colours in another order.

    A mirrored picture shows the mirrored scene, its camera with principal point and motion mirrored.
    """
    half = torch.rand(len(batch.image_source), generator=draw) < 0.5
    orders = torch.stack([torch.randperm(3, generator=draw) for _ in half])  # [B, 3]
    mirror = torch.tensor([-1.0, 1.0, 1.0, 1.0])
    parts = batch._asdict()
    for name, value in parts.items():
        if name.startswith(("image", "depth", "valid")):
            parts[name] = torch.where(half[:, None, None, None], value.flip(-1), value)
        elif name.startswith("K"):
            mirrored = value.clone()
            mirrored[:, 0, 2] = batch.image_source.shape[-1] - 1 - value[:, 0, 2]
            parts[name] = torch.where(half[:, None, None], mirrored, value)
    for name in ("image_source", "image_target"):
        parts[name] = parts[name].gather(1, orders[..., None, None].expand_as(parts[name]))
    pose = batch.target_from_source
    parts["target_from_source"] = torch.where(half[:, None, None], mirror[:, None] * pose * mirror, pose)
    return PairBatch(**parts)


@dataclass(frozen=True)
class PairOrder:
    """The pairs of each step's batch, by nothing but seed and step.

    An epoch is one pass over all sources in random order; a target is drawn per epoch (`redraw`), or once for
    all. Each of `world` processes takes its own part of a step.
    """

    pairs: PairSet
    batch_size: int
    seed: int
    redraw: bool
    rank: int = 0
    world: int = 1

    def batches(self, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
        """The batches of the steps after `start`, up to `stop`."""
        made = None
        for step in range(start, stop):
            batch = []
            for slot in range(self.batch_size):
                place = (step * self.world + self.rank) * self.batch_size + slot
                epoch, row = divmod(place, len(self.pairs))
                if made is None or made[0] != epoch:
                    made = epoch, self._epoch(epoch)
                batch.append(tuple(made[1][row].tolist()))
            yield batch

    def _epoch(self, epoch: int) -> Tensor:
        drawn = self.pairs.draw(step_generator(self.seed, epoch if self.redraw else 0, "targets"))
        order = torch.randperm(len(drawn), generator=step_generator(self.seed, epoch, "order"))
        return drawn[order]


def pair_batches(order: PairOrder, start: int, stop: int, workers: int = 0) -> Iterator[PairBatch]:
    """Batches for the steps after `start`: the same in an interrupted run, and for any number of workers.

    Raises DataError for a view that cannot be read.
    """
    return read_ahead(partial(load_pairs, order.pairs.views), order.batches(start, stop), workers)
