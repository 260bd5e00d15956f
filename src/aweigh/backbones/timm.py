"""Any timm model with features (ResNet, ResNeXt, EfficientNet, DLA, VGG, MobileNet ...) as a backbone.

The timm model lies under `body` with its own parameter names, so that a ResNet's keys (`body.conv1.weight`,
`body.layer1.0.conv1.weight` ...) are those of torchvision's detectors below `backbone.body`. Ours adds to timm's
`features_only`: levels chosen by stride, not by index; normalisation chosen by name; frozen stages that stay frozen.
timm is imported when one of its models is built, since that takes more than a second.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh.arguments import Colour, Deviation, Frozen, NotNegative, checked_class
from aweigh.errors import UsageError, did_you_mean
from aweigh.layers import FrozenBatchNorm2d, InstanceNorm2d, Norm, PackedConv2d, SyncBatchNorm2d, make_norm
from aweigh.structures import IMAGENET_MEAN, IMAGENET_STD
from aweigh.weights.load import load_backbone


@checked_class()
class Normalise(nn.Module):
    """RGB in `[0, 1]`, `[B, 3, H, W]`, less `pixel_mean`, over `pixel_std`: what a backbone was trained to read.

    Both are no weights: they stand in no state-dict. All backbones have it; it is written here so that who follows a
    step through FCOS opens one file less.
    """

    def __init__(self, *, pixel_mean: Colour = IMAGENET_MEAN, pixel_std: Deviation = IMAGENET_STD) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(pixel_mean), persistent=False)
        self.register_buffer("std", torch.tensor(pixel_std), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]


@checked_class(Normalise)
class TimmBackbone(nn.Module):
    """Image in, feature maps out, fine to coarse; nothing is downloaded unless `pretrained` is true.

    name: a timm model. levels: the maps wanted; level l has stride 2^l, unless `output_stride` is less.
    norm: None keeps the model's own kind of normalisation; a name replaces every batch normalisation and carries its
    weights. A batch normalisation is ours in either case: one cell of one image can be trained on.
    norm_eps: of every batch normalisation, where weights were trained with another than the model's own.
    output_stride: of the coarsest map, 8, 16 or 32: further layers are dilated instead of strided, so that level 5 may
    have the stride of level 4.
    stride_in_1x1: a ResNet's bottlenecks halve the map in their first convolution, as MSRA's first ones did, not in
    the 3x3 one.
    frozen_stages: so many stages, from the image on, get no gradient and keep their batch statistics. The stem is
    stage 1, for a ResNet `layer1` is stage 2; other backbones are cut where timm names a feature map.
    pretrained: start from ImageNet weights with a published record (`weights/imagenet.py`).
    Pixels: the arguments of `Normalise`.
    """

    stride_divisor = 32
    activation = None
    options: Mapping[str, Any] = {}  # of timm's feature extractor, beside those here
    stage_ends: Sequence[str] = ()  # the last module of each stage, where timm does not name it

    def __init__(
        self,
        name: str,
        *,
        levels: Sequence[int] = (3, 4, 5),
        norm: Norm | None = None,
        norm_eps: NotNegative | None = None,
        output_stride: int = 32,
        stride_in_1x1: bool = False,
        frozen_stages: Frozen = 0,
        pretrained: bool = False,
        **pixels: Any,
    ) -> None:
        super().__init__()
        self.name = name
        self.normalise = Normalise(**pixels)
        self.body = _features(self.create, name, levels, output_stride, self.options)
        self.channels = tuple(_info(self.body).channels())
        self.strides = tuple(_info(self.body).reduction())
        if pretrained:
            load_backbone(self, "imagenet")
        _replace_batch_norms(self.body, norm, name)
        if norm_eps is not None:
            for module in self.body.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = norm_eps
        if stride_in_1x1:
            _move_strides(self.body, name)
        ends = self.stage_ends or [entry["module"] for entry in _info(self.body).info]
        self._frozen_modules = _modules_of_stages(self.body, ends, frozen_stages, name)
        for module_name in self._frozen_modules:
            self.body.get_submodule(module_name).requires_grad_(False)
        self.train()

    @staticmethod
    def create(name: str, **options: Any) -> nn.Module:
        """timm's model of this name with random weights; `UsageError` where there is none."""
        import timm

        if not timm.is_model(name):
            raise UsageError(f"timm has no model {name!r}.{did_you_mean(name, timm.list_models())}")
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
        return model

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: `[B, 3, H, W]` RGB. Returns `[B, channels[i], ceil(H / strides[i]), ...]`, fine to coarse."""
        maps: list[Tensor] = self.body(self.normalise(x))
        return maps

    def train(self, mode: bool = True) -> "TimmBackbone":
        super().train(mode)
        for module_name in self._frozen_modules:
            self.body.get_submodule(module_name).eval()
        return self


Create = Callable[..., nn.Module]


def _features(
    create: Create, name: str, levels: Sequence[int], output_stride: int, options: Mapping[str, Any]
) -> nn.Module:
    """timm's feature extractor for the levels, without the layers behind the coarsest of them."""
    if not levels or list(levels) != sorted(set(levels)):
        raise UsageError(f"{name}: levels must be distinct and go from fine to coarse, got {list(levels)}.")
    index_of = _maps(create, name)
    missing = [level for level in levels if 2**level not in index_of]
    if missing:
        raise UsageError(
            f"{name}: no map at level {missing[0]} (stride {2 ** missing[0]}); it has strides {sorted(index_of)}."
        )
    indices = [index_of[2**level] for level in levels]
    further = dict(options) if output_stride == 32 else {**options, "output_stride": output_stride}
    try:
        body = create(name, features_only=True, out_indices=indices, **further)
    except (AssertionError, TypeError) as error:
        raise UsageError(f"timm's {name!r} has no form of output_stride {output_stride}; leave it at 32.") from error
    # Most backbones end at their last map; EfficientNet's would run its remaining blocks for nothing.
    blocks, _, last = _info(body).module_name()[-1].rpartition(".")
    sequence = dict(body.named_modules()).get(blocks)
    if isinstance(sequence, nn.Sequential) and last.isdigit():
        del sequence[int(last) + 1 :]
    return body


@cache
def _maps(create: Create, name: str) -> dict[int, int]:
    """Of each stride, which of a timm model's maps has it; the deepest where several do."""
    try:
        with torch.device("meta"):  # shapes and strides only: no memory, no random numbers drawn
            described = create(name, features_only=True)
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        raise UsageError(f"timm's {name!r} gives no feature maps ({error}); choose another backbone.") from error
    config = getattr(described, "pretrained_cfg", None) or {}
    layout = str(getattr(described, "output_fmt", "NCHW")).rsplit(".", 1)[-1]
    if config.get("fixed_input_size") or layout != "NCHW":
        raise UsageError(
            f"timm's {name!r} cannot be a backbone here: it needs a fixed image size or gives maps in the order "
            f"{layout}; choose a convolutional model."
        )
    return {entry["reduction"]: index for index, entry in enumerate(_info(described).info)}


def _info(body: nn.Module) -> Any:
    """timm's description of the feature maps: `info` of all, `channels()` and so on of those asked for."""
    return body.feature_info


def _move_strides(body: nn.Module, name: str) -> None:
    from timm.models.resnet import Bottleneck

    blocks = [module for module in body.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise UsageError(f"{name} has no bottlenecks whose stride could move; leave stride_in_1x1 off.")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _replace_batch_norms(body: nn.Module, norm: Norm | None, name: str) -> None:
    """Put ours in the place of every batch normalisation: of the kind asked for, else batch normalisation again."""
    found = [(key, module) for key, module in body.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if norm is not None and not found:
        raise UsageError(f"{name} has no batch normalisation to replace by {norm!r}; leave norm=None.")
    for key, module in found:
        body.set_submodule(key, _replacement(module, norm or "bn"))


def _replacement(old: nn.BatchNorm2d, norm: Norm) -> nn.Module:
    """A normalisation of the kind asked for, with the affine values and, where it has any, the statistics of `old`.

    timm's `BatchNormAct2d` ends with an activation, which is kept.
    """
    from timm.layers.norm_act import BatchNormAct2d

    new: Any = _BatchNorm2d(old.num_features) if norm == "bn" else make_norm(norm, old.num_features)
    grouped = isinstance(new, nn.GroupNorm)
    if isinstance(old, BatchNormAct2d):
        if grouped:
            kind = _InstanceNormAct if isinstance(new, InstanceNorm2d) else _GroupNormAct
            new = kind(new.num_groups, old.num_features)
        else:
            kinds = {"bn": _BatchNormAct2d, "sync_bn": _SyncBatchNormAct2d, "frozen_bn": _FrozenBatchNormAct2d}
            new = kinds[norm](old.num_features)
        new.drop, new.act = old.drop, old.act
    if grouped:
        new.load_state_dict({key: value for key, value in old.state_dict().items() if key in ("weight", "bias")})
    else:
        new.eps, new.momentum = old.eps, old.momentum
        new.load_state_dict(old.state_dict())
    replaced: nn.Module = new
    return replaced


class _WithActivation(nn.Module):
    """Before a normalisation among the bases: with what follows a batch normalisation in timm's `BatchNormAct2d`."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(super().forward(x)))
        return activated


class _BatchNorm2d(nn.BatchNorm2d):
    """As `aweigh.layers.BatchNorm2d`, written here so that who follows a step through FCOS opens one file less."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class _BatchNormAct2d(_WithActivation, _BatchNorm2d):
    pass


class _SyncBatchNormAct2d(_WithActivation, SyncBatchNorm2d):
    pass


class _FrozenBatchNormAct2d(_WithActivation, FrozenBatchNorm2d):
    pass


class _GroupNormAct(_WithActivation, nn.GroupNorm):
    pass


class _InstanceNormAct(_WithActivation, InstanceNorm2d):
    pass


def _modules_of_stages(body: nn.Module, ends: Sequence[str], stages: int, name: str) -> list[str]:
    """The names of all modules with parameters or mode of their own, from the image to the end of that many stages."""
    if not 0 <= stages <= len(ends):
        raise UsageError(f"{name}: frozen_stages must lie in 0..{len(ends)}, got {stages}.")
    if stages == 0:
        return []
    # timm joins the first two parts of a name by an underscore where it flattens a Sequential.
    spellings = {ends[stages - 1], ends[stages - 1].replace(".", "_", 1)}
    frozen: list[str] = []
    reached = False
    for key, module in body.named_modules():
        inside = any(key == end or key.startswith(f"{end}.") for end in spellings)
        if reached and not inside:
            break
        reached = reached or inside
        if not list(module.children()) or list(module.parameters(recurse=False)):
            frozen.append(key)
    if not reached:
        raise UsageError(f"{name}: stage {stages} lies behind the coarsest level asked for; freeze fewer stages.")
    return frozen


def take_last_stage(backbone: TimmBackbone) -> nn.Module:
    """The layers between the last two maps of a ResNet, which are no part of `backbone` any more.

    They can then be run on parts of the last map but one. Raises `UsageError` where they are frozen.
    """
    assert isinstance(backbone.body, nn.ModuleDict) and len(backbone.channels) > 1
    name = list(backbone.body)[-1]
    if any(frozen.startswith(name) for frozen in backbone._frozen_modules):
        raise UsageError(
            f"{backbone.name}: {name} stands behind the regions and cannot be frozen; freeze fewer stages."
        )
    backbone.channels, backbone.strides = backbone.channels[:-1], backbone.strides[:-1]
    return backbone.body.pop(name)


class WithLayers(nn.Module):
    """A backbone and layers of the same network that a detector holds elsewhere, by timm's names for them, so that
    weights of the network fill both."""

    activation = None

    def __init__(self, backbone: TimmBackbone, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.name = backbone.name
        self.body = nn.ModuleDict({**dict(backbone.body.named_children()), **layers})


class MobileNetV3Ends(nn.Module):
    """The layers of timm's MobileNet V3 under its names, with two maps at stride 32: behind the first block of the last
    stage, and behind the last convolution. `[B, 3, H, W]` to `[B, 160, ...]` and `[B, 960, ...]` for the large one."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.conv_stem, self.bn1, self.act1, self.blocks = body.conv_stem, body.bn1, body.act1, body.blocks

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.act1(self.bn1(self.conv_stem(x)))
        *stages, (first, *rest), last = self.blocks
        for stage in stages:
            x = stage(x)
        finer = x = first(x)
        for block in rest:
            x = block(x)
        return [finer, last(x)]


CONVOLUTIONS = {"BasicBlock": (1, 2), "Bottleneck": (1, 2, 3)}  # of timm's residual blocks, by their numbers


class PackedResidual(nn.Module):
    """A residual block of timm's ResNets for prediction on a CPU, its normalisations folded into its convolutions.

    Each convolution is one pass with what stands behind it: the ReLU, and in the last one the addition too.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            PackedConv2d(getattr(block, f"conv{number}"), getattr(block, f"act{number}"))
            for number in CONVOLUTIONS[type(block).__name__]
        )
        self.downsample = block.downsample

    @staticmethod
    def applies(module: nn.Module) -> bool:
        """Whether `module` is such a block, with nothing in it that this leaves out."""
        kind = type(module)
        if kind.__module__ != "timm.models.resnet" or kind.__name__ not in CONVOLUTIONS:
            return False
        numbers = CONVOLUTIONS[kind.__name__]
        convolutions, norms, activations = (
            [getattr(module, f"{part}{number}") for number in numbers] for part in ("conv", "bn", "act")
        )
        return (
            all(map(PackedConv2d.applies, convolutions))
            and all(type(norm) is nn.Identity for norm in norms)
            and all(type(activation) is nn.ReLU for activation in activations)
            and type(module.aa) is type(module.drop_block) is nn.Identity
            and module.se is module.drop_path is None
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C', H', W']`, as the block."""
        *inner, last = self.convolutions
        result = x
        for convolution in inner:
            result = convolution(result)
        out: Tensor = last(result, x if self.downsample is None else self.downsample(x))
        return out


@torch.no_grad()
def pack_residual_blocks(model: nn.Module) -> nn.Module:
    """Exchange every residual block of `model` for its packed form where there is one, in place."""
    for name, module in list(model.named_modules()):
        if PackedResidual.applies(module):
            model.set_submodule(name, PackedResidual(module))
    return model


def fix_same_padding(model: nn.Module) -> nn.Module:
    """Exchange every convolution of `model` with TensorFlow's "SAME" padding for one whose padding is written down.

    In place. It is that of maps whose sides are multiples of the stride, as they are in images padded to the detector's
    `stride_divisor`; a graph then has no arithmetic on sizes before it.
    """
    from timm.layers.conv2d_same import Conv2dSame

    same: dict[str, Any] = {name: each for name, each in model.named_modules() if isinstance(each, Conv2dSame)}
    for name, module in same.items():
        kinds = zip(module.kernel_size, module.stride, module.dilation, strict=True)
        down, across = (dilation * (kernel - 1) + 1 - stride for kernel, stride, dilation in kinds)
        plain = nn.Conv2d(
            *(module.in_channels, module.out_channels, module.kernel_size, module.stride),
            dilation=module.dilation,
            groups=module.groups,
            bias=module.bias is not None,
        )
        plain.weight, plain.bias = module.weight, module.bias
        edge = nn.ZeroPad2d((across // 2, across - across // 2, down // 2, down - down // 2))
        model.set_submodule(name, nn.Sequential(edge, plain))
    return model
