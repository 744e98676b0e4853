"""`ViewSynthesizer`: a trained network that makes new views and depth from one picture."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nvs_depth.config import TrainConfig
from nvs_depth.datasets.pairs import PairBatch
from nvs_depth.datasets.views import BLACK, Framing
from nvs_depth.models.synthesis import SourceView, SynthesisNetwork, View
from shared.errors import CheckpointError
from shared.files.images import as_image
from shared.geometry.camera import check_pose, invert_pose
from shared.geometry.warp import backward_warp, forward_warp
from shared.results import DepthMap, Views
from shared.runs.checkpoint import load_trained
from shared.runs.command import progress_bar, select_device
from shared.runs.config import config_from_dict

__all__ = ["EncodedImage", "PairPrediction", "ViewSynthesizer"]

AT_ONCE = 8  # new views per pass
DEPTH_SCALE = "that of the training poses; right only for pictures like the training images"
DEPTH_INVALID = "none marked; the black background of objects has no meaningful depth"


class PairPrediction(NamedTuple):
    """B pairs whose target is known: images [B, 3, S, S], depths [B, 1, S, S] in the training poses' unit."""

    image: Tensor  # the synthesised target
    depth_new: Tensor  # D_t: of the target view, from the source image
    depth_read: Tensor  # D_b: of the target view, from the target image
    depth_source: Tensor  # D_s
    direct_warp: Tensor  # the source image splatted with D_s
    inverse_warp: Tensor  # the source image fetched with D_t


class ViewSynthesizer:
    """A trained network with all that it needs to be used; data sets and the working folder do not matter.

    Attributes: `network`, `config`, `K` [3, 3] of the training images at the network's side, `unit_m` (metres
    per unit of the training poses; None: scene units), `side` S of its square images, `device`.

        >>> synthesizer = ViewSynthesizer.load("runs/nvs_depth-quick")  # doctest: +SKIP
        >>> views = synthesizer.views("chair.png", None, target_from_source)  # doctest: +SKIP
        >>> views.images.shape, views.depth.unit  # doctest: +SKIP
        (torch.Size([5, 3, 64, 64]), 'scene units')
    """

    def __init__(
        self,
        network: SynthesisNetwork,
        config: TrainConfig,
        K: Tensor,
        unit_m: float | None = None,
        about: str = "",
    ) -> None:
        """about: what shipped weights were trained on."""
        self.network, self.config, self.K, self.unit_m, self.about = network, config, K, unit_m, about
        self.side = config.model.image_side

    @classmethod
    def load(
        cls, source: str | Path, device: str | torch.device = "auto", checkpoint: str = "best"
    ) -> "ViewSynthesizer":
        """Load a run folder (best or last checkpoint), a checkpoint file, or shipped weights by name.

        device: auto, cpu, cuda or a torch.device. Raises RunError or CheckpointError for what cannot be used.
        """
        found = load_trained(source, "nvs_depth", checkpoint)
        if "K" not in found.facts:
            remedy = "Go on with train.py --resume for a step or more: it writes a checkpoint that does"
            raise CheckpointError(found.path, "it does not hold the camera of its training images", remedy)
        config = config_from_dict(TrainConfig, found.config, str(found.path))
        options = replace(config.model, encoder_init="default")  # every weight is loaded
        network = found.network(lambda: SynthesisNetwork(options))
        network.to(select_device(device) if isinstance(device, str) else device).eval()
        with found.using("facts"):
            return cls(network, config, torch.tensor(found.facts["K"]), found.facts["unit_m"], found.about)

    @property
    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps next to weights and config."""
        return {"K": self.K.tolist(), "unit_m": self.unit_m}

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def unit(self) -> str:
        """Of depths and of the translations of poses; in scene units objects are 2 away in training."""
        return "m" if self.unit_m else "scene units"

    def views(self, image: Any, K: Any, target_from_source: Any) -> Views:
        """New views [N, 3, S, S] and their z-depth from cameras [N, 4, 4] or [4, 4] relative to one picture.

        image: path, tensor [3, H, W] in [0, 1] or array [H, W, 3]; its central square is used. K: [3, 3] in
        pixels of that picture; None: its square has the training images' field of view. Translations are in
        `unit`. The views have the intrinsics `depth.K`. Raises ValueError for other shapes and ranges.
        """
        return self.encode(image, K).views(target_from_source)

    def depth(self, image: Any, K: Any = None) -> DepthMap:
        """Z-depth [S, S] of the central square of one picture; arguments as those of `views`."""
        return self.encode(image, K).depth

    @torch.no_grad()
    def encode(self, image: Any, K: Any = None) -> "EncodedImage":
        """One picture, encoded once for any number of views; arguments as those of `views`."""
        image = as_image(image, background=BLACK).cpu()
        height, width = image.shape[-2:]
        framing = Framing(self.side)
        notes = (
            [f"the network knows {self.about}; of other things its answer means little"] if self.about else []
        )
        if K is None:
            K = self.K
            notes.append("no K: the picture's square is taken to have the training images' field of view")
        else:
            K = framing.K(_intrinsics(K), (height, width))
        if min(height, width) < self.side:
            notes.append(f"the picture is smaller than the network's {self.side} px and was enlarged")
        if height != width:
            notes.append(f"only the square in the middle of {width} x {height} pixels is used")
        image = framing.image(image)
        view = View(image[None].to(self.device), K[None].to(self.device))
        return EncodedImage(self, image, K, self.network.encode(view), tuple(notes))

    @torch.no_grad()
    def predict_pairs(self, batch: PairBatch) -> PairPrediction:
        """Predictions for pairs on this device; the target image is used for `depth_read` alone."""
        image, K_source, K_target = batch.image_source, batch.K_source, batch.K_target
        pose = batch.target_from_source
        source = self.network.encode(View(image, K_source))
        rendered = self.network.render(source, K_target, pose)
        depth_read = self.network.encode(View(batch.image_target, K_target)).depth.full
        depth_source, depth_new = source.depth.full, rendered.depth.full
        direct, _, _ = forward_warp(image, depth_source, K_source, K_target, pose)
        inverse, _ = backward_warp(image, depth_new, K_source, K_target, invert_pose(pose))
        return PairPrediction(rendered.images[0], depth_new, depth_read, depth_source, direct, inverse)


class EncodedImage:
    """One picture, ready for views of it; made by `ViewSynthesizer.encode`.

    Attributes: `image` [3, S, S] and `K` [3, 3] as the network takes them, `depth` (DepthMap [S, S]) of the
    picture itself, `notes` on what was assumed about it.
    """

    def __init__(
        self, owner: ViewSynthesizer, image: Tensor, K: Tensor, source: SourceView, notes: tuple[str, ...]
    ) -> None:
        self.image, self.K, self.notes = image, K, notes
        self._owner, self._source = owner, source
        self.depth = self._depth_map(source.depth.full[0, 0])

    @torch.no_grad()
    def views(self, target_from_source: Any, progress: bool = False) -> Views:
        """Views and depth, on the CPU, from cameras [N, 4, 4] or [4, 4] relative to the picture's.

        progress: show a bar.
        """
        owner = self._owner
        poses = torch.as_tensor(target_from_source).detach().float()
        poses = poses[None] if poses.ndim == 2 else poses
        if poses.ndim != 3 or len(poses) == 0:
            raise ValueError(f"target_from_source must be poses [N, 4, 4] or [4, 4], got {list(poses.shape)}")
        check_pose(poses, "target_from_source")
        poses = poses.to(owner.device, copy=True)
        poses[:, :3, 3] /= owner.unit_m or 1.0
        images, depths = [], []
        with progress_bar(0, len(poses), progress, "view") as bar:
            for part in poses.split(AT_ONCE):
                rendered = owner.network.views(self._source, self._source.K.expand(len(part), 3, 3), part)
                images.append(rendered.images[0].float().cpu())
                depths.append(rendered.depth.full[:, 0].cpu())
                bar.update(len(part))
        return Views(torch.cat(images), self._depth_map(torch.cat(depths)))

    def _depth_map(self, values: Tensor) -> DepthMap:
        values = (self._owner.unit_m or 1.0) * values.float().cpu()
        facts = {"quantity": "z-depth, along the optical axis", "notes": list(self.notes)}
        return DepthMap(
            values, "z_depth", self._owner.unit, DEPTH_SCALE, invalid=DEPTH_INVALID, K=self.K, facts=facts
        )


def _intrinsics(K: Any) -> Tensor:
    K = torch.as_tensor(K).detach().float().cpu()
    if K.shape != (3, 3) or not bool(K.isfinite().all()) or not min(K[0, 0], K[1, 1]) > 0:
        raise ValueError(f"K must be a finite matrix [3, 3] with positive focal lengths, got {K.tolist()}")
    return K
