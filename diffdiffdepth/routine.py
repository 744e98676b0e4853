"""The optimisation routine (Sec. 3.5): turns of one group of numbers at a time, each with a new Adam."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffdiffdepth.config import RateConfig, ScheduleConfig, TrainConfig
from diffdiffdepth.losses import ReprojectionLoss, confidence, feature_network
from diffdiffdepth.models.edges import median_at_edges
from diffdiffdepth.models.point_depth import Group, LabelScale, PointDepth, image_edges
from diffdiffdepth.scene import Scene
from shared.runs.seeds import step_generator

__all__ = ["GroupAdam", "Optimisation", "Turn", "build_model", "densify", "turns"]


@dataclass(frozen=True)
class Turn:
    """Steps first..last, in which only `group` moves."""

    group: Group
    rate: float
    first: int
    last: int
    damping: float = 0.0
    densify: int = 1  # at the end, add points until there are so many times as many


def turns(schedule: ScheduleConfig) -> list[Turn]:
    """All turns in order; step n is the n-th update, counted from 1."""
    plan: list[Turn] = []

    def add(group: Group, number: int, steps: int, densify: int = 1) -> None:
        chosen: RateConfig = getattr(schedule, group)
        first = plan[-1].last + 1 if plan else 1
        damping = schedule.damping if chosen.damping is None else chosen.damping
        rate = chosen.rate * chosen.decay**number
        plan.append(Turn(group, rate, first, first + steps - 1, damping, densify))

    if schedule.preliminary:
        add("smoothness", 0, schedule.preliminary, schedule.densify)
    for number in range(schedule.passes):
        for group in schedule.groups:
            add(group, number, schedule.iterations)
    return plan


class GroupAdam:
    """Adam with PyTorch's default momenta on one group of a `PointDepth`, a new one for every turn.

    Plain Adam moves every entry by about the learning rate, however small its gradient: also those of points
    on blank walls, whose gradient is noise. With `damping`, its epsilon is that many times the root mean
    square of the first gradient of the turn, so entries whose gradient stays far below that hardly move.
    """

    def __init__(self, model: PointDepth):
        self.model = model
        self.group: Group | None = None
        self._adam: torch.optim.Adam | None = None
        self._damping = 0.0  # until the first step of the turn has used it

    def start(self, group: Group, rate: float, damping: float = 0.0) -> None:
        """Forget the moments and move this group from now on."""
        self.group, self._damping = group, damping
        self._adam = torch.optim.Adam([{"params": [self.model.choose(group)], "name": group}], lr=rate)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self._adam.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._adam.zero_grad(set_to_none)

    def step(self) -> None:
        """Move the group by its gradient."""
        if self._damping > 0:
            typical = self.model.groups[self.group].grad.square().mean().sqrt().item()
            self._adam.param_groups[0]["eps"] = max(self._damping * typical, 1e-12)
            self._damping = 0.0
        self._adam.step()

    def state_dict(self) -> dict[str, Any]:
        return {"group": self.group, "adam": None if self._adam is None else self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the middle of a turn; the model must be loaded before."""
        if state["group"] is not None:
            hiding = self.model.hiding  # by the labels at the start of the turn, not by those of now
            self.start(state["group"], 1.0)
            self.model.hiding = hiding
            self._adam.load_state_dict(state["adam"])


class Optimisation:
    """One scene at work: the model of its map, the loss, Adam, and whose turn it is at a step."""

    def __init__(self, config: TrainConfig, scene: Scene):
        self.config, self.scene = config, scene
        self.model = build_model(config, scene)
        features = None
        if config.features == "vgg":
            features = feature_network(config.vgg_weights).to(scene.centre.device)
        self.loss = ReprojectionLoss(scene, config.loss, features, self.model.scale.unit)
        self.adam = GroupAdam(self.model)
        plan = turns(config.schedule)
        self._turns = {step: turn for turn in plan for step in range(turn.first, turn.last + 1)}

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"model": self.model, "adam": self.adam}

    def begin(self, step: int) -> None:
        """Let only the group move whose turn it is."""
        turn = self._turns[step]
        if step == turn.first:
            self.adam.start(turn.group, turn.rate, turn.damping)

    def draw_views(self, step: int) -> Tensor:
        """The views of a step: a random subset that depends on nothing but the seed and the step."""
        generator = step_generator(self.config.seed, step, "views")
        order = torch.randperm(len(self.scene.views), generator=generator)
        return order[: self.config.views_per_step].sort().values

    def end(self, step: int) -> None:
        """Add points where the schedule says so."""
        turn = self._turns[step]
        if step == turn.last and turn.densify > 1:
            added = (turn.densify - 1) * len(self.scene.points)
            densify(self.model, self.scene.centre, added, self.config.seed)

    @torch.no_grad()
    def result(self) -> dict[str, Any]:
        """The diffused map, the final one and how far it can be trusted (all [H, W]); the points."""
        self.model.choose(None)
        dense = self.model.dense(remember=False)  # or it would differ when a finished run is resumed
        final = median_at_edges(dense, self.scene.centre, self.model.scale.unit)
        given = self.scene.points.positions_px  # points that were added on the border know nothing more
        trust = confidence(self.scene, final, given)
        return {"diffused": dense, "map": final, "confidence": trust, "points": vars(self.model.points())}


def build_model(config: TrainConfig, scene: Scene) -> PointDepth:
    """The model before any step: its map is the plain diffusion of the initial points."""
    scale = LabelScale.of(scene.points, config.label_unit)
    model = PointDepth(scene.points, scene.centre, config.depth, scale)
    if config.depth.extend and scale.kind == "disparity":
        model.extend(scene.centre)
    if config.depth.side_px > 0:
        model.take_sides(scene.centre)
    return model


@torch.no_grad()
def densify(model: PointDepth, image: Tensor, count: int, seed: int) -> None:
    """Add `count` points (as far as there are edge pixels), labelled by the map as it is now."""
    model.choose(None)
    edges = image_edges(image)
    order = torch.randperm(len(edges), generator=torch.Generator().manual_seed(seed))
    model.add_points(edges[order[:count].to(edges.device)], model.dense())
