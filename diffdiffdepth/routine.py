"""The optimisation routine's two helpers: whose turn it is, and Adam on one group at a time (Sec. 3.5)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffdiffdepth.config import RateConfig, ScheduleConfig
from diffdiffdepth.models.point_depth import Group, PointDepth

__all__ = ["GroupAdam", "Turn", "turns"]


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

    def damping(chosen: RateConfig) -> float:
        return schedule.damping if chosen.damping is None else chosen.damping

    if schedule.preliminary:
        chosen = schedule.smoothness
        last = schedule.preliminary
        plan.append(Turn("smoothness", chosen.rate, 1, last, damping(chosen), schedule.densify))
    for number in range(schedule.passes):
        for group in schedule.groups:
            chosen = getattr(schedule, group)
            first = plan[-1].last + 1 if plan else 1
            rate = chosen.rate * chosen.decay**number
            plan.append(Turn(group, rate, first, first + schedule.iterations - 1, damping(chosen)))
    return plan


class GroupAdam:
    """Adam with PyTorch's default momenta on one group of a `PointDepth`, started afresh for every turn.

    Plain Adam moves every entry by about the learning rate, however small its gradient: also those of points
    on blank walls, whose gradient is noise. With `damping`, its epsilon is that many times the root mean
    square of the first gradient of the turn, so entries whose gradient stays far below that hardly move.
    """

    def __init__(self, model: PointDepth):
        self.model, self.damping = model, 0.0
        self.group: Group | None = None
        self._is_fresh = True
        self._adam: torch.optim.Adam | None = None

    def start(self, group: Group, rate: float, damping: float = 0.0) -> None:
        """Forget the moments and move this group from now on."""
        self.group, self.damping = group, damping
        self._adam = torch.optim.Adam([self.model.choose(group)], lr=rate)
        self._is_fresh = True

    def step(self, loss: Tensor) -> Tensor:
        """Move the group and return its gradient; one with NaN or infinity moves nothing."""
        values = self.model.groups[self.group]
        values.grad = None
        loss.backward()
        if not values.grad.isfinite().all():
            return values.grad
        if self._is_fresh and self.damping > 0:
            typical = values.grad.square().mean().sqrt().item()
            self._adam.param_groups[0]["eps"] = max(self.damping * typical, 1e-12)
        self._is_fresh = False
        self._adam.step()
        return values.grad

    def state_dict(self) -> dict[str, Any]:
        return {"group": self.group, "adam": None if self._adam is None else self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the middle of a turn; the model must be loaded before."""
        if state["group"] is not None:
            self.start(state["group"], 1.0)
            self._adam.load_state_dict(state["adam"])
            self._is_fresh = False
