"""The few modules that backbones, necks, heads and models all use: normalisation by name and its removal, towers.

Names of normalisations, the same everywhere: `"bn"` (batch), `"sync_bn"` (batch, over all processes),
`"frozen_bn"` (batch, with fixed statistics and affine values), `"gn"` (group), `"gn_16"` (of 16 groups, or any number),
`"gn_of_16"` (of 16 channels in a group, or any number), `"ln"` (layer), `"in"` (instance).
"""

import copy
import math
import platform
from collections.abc import Callable
from typing import Literal, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from aweigh import arguments, distributed
from aweigh.errors import UsageError, counted

Norm = arguments.Norm
Activation = Literal["relu", "leaky_relu", "silu", "relu6"]


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that can be trained on a single value of each channel, such as one cell of one image.

    One value has no variance, and torch's own refuses it; here the running statistics serve, and stay as they are.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that stays as it was loaded: fixed statistics, affine values without gradient.

    One fused kernel, where the usual multiply-and-add form needs two passes over the feature map. State-dict keys
    are those of `nn.BatchNorm2d`.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
        self.requires_grad_(False)
        self.training = False

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        return super().train(False)


class SyncBatchNorm2d(BatchNorm2d):
    """Batch normalisation over the batches of all processes, on any device (torch's own works on GPUs only).

    Statistics count every pixel alike, also where the processes hold different numbers of them. With one process it is
    ordinary batch normalisation. State-dict keys are those of `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # not there in a torch built without processes

        values = x.float()
        count = values.new_tensor([x.numel() / x.shape[1]])
        own = torch.cat([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3)), count])  # [2 C + 1]
        sums: Tensor = all_reduce(own)  # type: ignore[no-untyped-call]
        total = sums[-1].clamp(min=1)  # of no value at all, as of regions where there is no object, nothing is learned
        mean, square = (sums[:-1] / total).chunk(2)  # [C] each
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            moved = share * (total > 1)
            self.running_mean.lerp_(mean, moved)
            self.running_var.lerp_(variance * total / (total - 1).clamp(min=1), moved)
        scale: Tensor = self.weight * (variance + self.eps).rsqrt()
        out = values * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
        return out.to(x.dtype)


class InstanceNorm2d(nn.GroupNorm):
    """Group normalisation with one channel a group, also of a map of one cell.

    One value has no variance and is normalised to nothing, so that its shift remains; torch's own refuses it.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(norm: Norm, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> nn.Module:
    """A normalisation layer over `channels`; `UsageError` for an unknown name, and for groups that these cannot form.

    eps: added to the variance. momentum: share of the newest batch in the running statistics of a batch normalisation.

    Layer and instance normalisation are those of one group, and of one channel a group, with a scale and a shift of
    each channel (Wu and He 2018, section 3.1); see `groups_of`.
    """
    if norm == "bn":
        return BatchNorm2d(channels, eps=eps, momentum=momentum)
    if norm == "sync_bn":
        return SyncBatchNorm2d(channels, eps=eps, momentum=momentum)
    if norm == "frozen_bn":
        return FrozenBatchNorm2d(channels, eps=eps)
    groups = groups_of(norm, channels)
    return (InstanceNorm2d if groups == channels else nn.GroupNorm)(groups, channels, eps=eps)


def groups_of(norm: Norm, channels: int) -> int:
    """Into how many groups a normalisation that is none of the batch divides its channels.

    `"gn"`: 32 (Wu and He 2018, section 4), or the next smaller number that divides the channels and leaves at least
    four of them in a group (ours: with one channel a group, the 1 x 1 map of a small image would be normalised to
    nothing). `UsageError` where a number that was asked for does not divide them.
    """
    arguments.check_value("normalisation", norm, Norm)
    if norm in ("ln", "in"):
        return 1 if norm == "ln" else channels
    if norm == "gn":
        return max(g for g in range(1, max(1, min(32, channels // 4)) + 1) if channels % g == 0)
    number = int(norm.rpartition("_")[2])
    if channels % number:
        what = f"groups of {counted(number, 'channel')}" if norm.startswith("gn_of_") else counted(number, "group")
        possible = ", ".join(str(n) for n in range(1, channels + 1) if channels % n == 0)
        raise UsageError(
            f"{norm}: a layer of {counted(channels, 'channel')} cannot be divided into {what}; possible here: "
            f"{possible}. gn takes what is nearest to 32 groups in each layer."
        )
    return channels // number if norm.startswith("gn_of_") else number


def make_activation(name: Activation) -> nn.Module:
    """An activation, in place; `"leaky_relu"` has slope 0.1. `UsageError` for an unknown name."""
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "leaky_relu":
        return nn.LeakyReLU(0.1, inplace=True)
    if name == "silu":
        return nn.SiLU(inplace=True)
    if name == "relu6":
        return nn.ReLU6(inplace=True)
    raise UsageError(f"Unknown activation {name!r}; known: relu, leaky_relu, silu, relu6.")


def pointwise_conv(in_channels: int, channels: int, norm: Norm, activation: Activation) -> nn.Sequential:
    """A 1x1 convolution with normalisation and activation."""
    convolution = nn.Conv2d(in_channels, channels, 1, bias=False)
    return nn.Sequential(convolution, make_norm(norm, channels), make_activation(activation))


class SeparableConv2d(nn.Sequential):
    """A depthwise convolution, then a 1x1 convolution with normalisation and activation (none between the two).

    norm, activation: None for none. bias: of the 1x1 convolution; None: where there is no normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        norm: Norm | None = "bn",
        activation: Activation | None = "leaky_relu",
        bias: bool | None = None,
    ) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels, in_channels, kernel, stride=stride, padding=kernel // 2, groups=in_channels, bias=False
            ),
            nn.Conv2d(in_channels, out_channels, 1, bias=norm is None if bias is None else bias),
            nn.Identity() if norm is None else make_norm(norm, out_channels),
            nn.Identity() if activation is None else make_activation(activation),
        )


class DeformableConv2d(nn.Module):
    """Modulated deformable convolution (Zhu et al. 2019, equation 1): offsets and masks come from a plain convolution.

    The offset convolution starts at zero, so that it begins as an ordinary convolution with all masks at one half.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, padding: int = 0) -> None:
        super().__init__()
        self.conv = torchvision.ops.DeformConv2d(in_channels, out_channels, kernel_size, padding=padding)
        self.offsets = nn.Conv2d(in_channels, 3 * kernel_size**2, kernel_size, padding=padding)
        nn.init.normal_(self.conv.weight, std=0.01)  # as the other convolutions of a detection head
        for value in (self.conv.bias, self.offsets.weight, self.offsets.bias):
            assert value is not None
            nn.init.zeros_(value)

    def forward(self, x: Tensor) -> Tensor:
        places = self.offsets.out_channels // 3  # of the kernel: two offsets and one mask for each
        offsets, mask = self.offsets(x).split([2 * places, places], dim=1)
        kind = self.conv.weight.dtype  # torchvision's operator wants one; autocast leaves it alone, or is for float32
        result: Tensor = self.conv(x.to(kind), offsets.to(kind), mask.sigmoid().to(kind))
        return result


def start_near_zero(*layers: nn.Module | None) -> None:
    """Weights of convolutions and linear layers at a deviation of 0.01, biases at 0 (Lin et al. 2017, RetinaNet,
    section 4.1); other layers are left as they are."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def start_at_prior(logits: nn.Conv2d, probability: float = 0.01) -> None:
    """Every class starts at this probability (Lin et al. 2017, RetinaNet, section 4.1)."""
    nn.init.constant_(cast(Tensor, logits.bias), -math.log((1 - probability) / probability))


def conv_tower(
    channels: int,
    convs: int,
    norm: Norm | None,
    *,
    in_channels: int | None = None,
    deformable: bool = False,
    bias: bool = True,
) -> nn.Sequential:
    """3x3 convolutions of equal width, each with a normalisation (or none) and ReLU: three modules a convolution.

    in_channels: what the first one reads, None for `channels`. deformable: the last one is a modulated deformable
    convolution. Weights start near zero.
    """
    layers: list[nn.Module] = []
    for index in range(convs):
        if deformable and index == convs - 1:
            layers.append(DeformableConv2d(channels, channels, 3, padding=1))
        else:
            read = channels if index or in_channels is None else in_channels
            layers.append(nn.Conv2d(read, channels, 3, padding=1, bias=bias))
            start_near_zero(layers[-1])
        layers += [make_norm(norm, channels) if norm else nn.Identity(), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


@torch.no_grad()
def fold_batch_norm(model: nn.Module, run: Callable[[nn.Module], object]) -> nn.Module:
    """A copy of `model`, in evaluation mode, whose batch normalisations are merged into the convolutions before them.

    The same function up to rounding, with one pass over each feature map less. It cannot be trained any more.
    run: calls the model once on a small example, to see which normalisation reads which convolution's output. A
    convolution that feeds several normalisations, or a normalisation fed by several, stays as it is.
    """
    model = copy.deepcopy(model).eval()
    made_by: dict[int, nn.Conv2d] = {}
    alive: list[object] = []  # keeps outputs alive during the run, so that an id stands for one tensor
    readers: dict[nn.Conv2d, set[nn.BatchNorm2d]] = {}
    sources: dict[nn.BatchNorm2d, set[nn.Conv2d | None]] = {}

    def after_convolution(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made_by[id(output)] = module
        alive.append(output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        convolution = made_by.get(id(inputs[0]))
        sources.setdefault(module, set()).add(convolution)
        if convolution is not None:
            readers.setdefault(convolution, set()).add(module)

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(before_norm))
    run(model)
    for hook in hooks:
        hook.remove()
    for name, norm in list(model.named_modules()):
        if not isinstance(norm, nn.BatchNorm2d) or len(sources.get(norm, ())) != 1:
            continue
        (convolution,) = sources[norm]
        if convolution is None or len(readers[convolution]) != 1:
            continue
        if norm.running_mean is None or norm.running_var is None:
            continue
        convolution.weight, convolution.bias = torch.nn.utils.fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        # timm's BatchNormAct2d is a batch normalisation with an activation behind it, which stays.
        model.set_submodule(name, getattr(norm, "act", nn.Identity()))
    return model


class PackedConv2d(nn.Module):
    """A convolution for prediction on a CPU, in one pass with the addition and the activation behind it.

    An ordinary convolution re-orders its weight at every call, and takes a slow path on maps of a few cells; a wide 3x3
    one keeps its weight in the order oneDNN computes in. (Narrow and 1x1 ones gain nothing by that, some lose.) The
    same function; no gradient. Uses the operators that torch's own CPU compiler emits.

    activation: the module behind it, None or `nn.Identity` for none; `fits` says which can be taken in.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.bias = convolution.bias
        self.geometry = (
            list(map(int, convolution.padding)),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        weight = convolution.weight.detach()
        if self.wide(convolution):
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.geometry)
        self.weight = weight
        self.activation: str = "none"
        self.values: list[float] = []
        if isinstance(activation, nn.ReLU):
            self.activation = "relu"
        elif isinstance(activation, nn.LeakyReLU):
            self.activation, self.values = "leaky_relu", [activation.negative_slope]

    @staticmethod
    def applies(module: nn.Module) -> bool:
        """Whether `module` is a convolution that this can stand for, on the processors where it was measured."""
        return (
            platform.machine().lower() in ("x86_64", "amd64")
            and type(module) is nn.Conv2d
            and module.groups == 1
            and module.weight.device.type == "cpu"
            and module.weight.dtype in (torch.float32, torch.bfloat16)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        )

    @staticmethod
    def wide(convolution: nn.Conv2d) -> bool:
        """Whether it gains by the order of its weight alone."""
        return convolution.kernel_size == (3, 3) and min(convolution.in_channels, convolution.out_channels) >= 256

    @staticmethod
    def fits(activation: nn.Module) -> bool:
        return type(activation) in (nn.Identity, nn.ReLU, nn.LeakyReLU)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """x: `[B, C, H, W]`. added: of the shape of the result, added before the activation, then ReLU or none.

        The result has the number format of the weight, to which both are brought.
        """
        x, added = x.to(self.weight.dtype), None if added is None else added.to(self.weight.dtype)
        if added is None:
            result: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *self.geometry, self.activation, self.values, ""
            )
        else:
            after = None if self.activation == "none" else self.activation
            result = torch.ops.mkldnn._convolution_pointwise.binary(
                x, added, self.weight, self.bias, *self.geometry, "add", 1.0, after, [], ""
            )
        return result


@torch.no_grad()
def pack_convolutions(model: nn.Module) -> nn.Module:
    """Exchange every convolution of `model` that gains by it for its packed form, in place.

    Those gain that are wide, and those in a sequence with an activation behind them (and what folding left between).
    """
    sequences = [module for module in model.modules() if isinstance(module, nn.Sequential)]
    for sequence in [module for module in sequences if type(module).forward is nn.Sequential.forward]:
        for index, module in enumerate(sequence):
            rest = range(index + 1, len(sequence))
            behind = next((later for later in rest if not isinstance(sequence[later], nn.Identity)), None)
            if behind is not None and PackedConv2d.applies(module) and PackedConv2d.fits(sequence[behind]):
                assert isinstance(module, nn.Conv2d)
                sequence[index], sequence[behind] = PackedConv2d(module, sequence[behind]), nn.Identity()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and PackedConv2d.applies(module) and PackedConv2d.wide(module):
            model.set_submodule(name, PackedConv2d(module))
    return model
