"""What a network does, operator by operator: each call with its shapes, its arithmetic and the values it moves.

A module runs once under a dispatch mode of torch, which sees what is computed whatever it is written as: a layer, a
function (`F.conv2d`), a matrix product of attention, an operator of torchvision. On the meta device shapes go through
it and no numbers. Views are left out: they compute nothing and move nothing.

Multiply-adds are those of convolutions and matrix products, a multiplication and an addition being one ("ShuffleNet
V2", Ma et al., 2018, section 1, calls them FLOPs). Values are numbers, not bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal, get_args

import torch
import torchvision.ops  # noqa: F401  (torchvision's operators are known to torch then)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Arithmetic = Literal[
    "convolution",
    "grouped convolution",
    "depthwise convolution",
    "transposed convolution",
    "deformable convolution",
    "matrix product",
]
Kind = Literal[
    Arithmetic,
    "normalisation",
    "element-wise",
    "reduction",
    "pooling",
    "resize",
    "data movement",
    "regions",
    "selection",
    "unknown",
]
WITH_ARITHMETIC: frozenset[Kind] = frozenset(get_args(Arithmetic))

# Operators by their names; those that torch itself tags as pointwise are known by the tag.
_KINDS: dict[Kind, str] = {
    "normalisation": (
        "aten::native_batch_norm aten::_native_batch_norm_legit aten::_native_batch_norm_legit_no_training "
        "aten::cudnn_batch_norm aten::miopen_batch_norm aten::_batch_norm_no_update aten::_batch_norm_with_update "
        "aten::native_group_norm aten::native_layer_norm aten::_fused_rms_norm"
    ),
    "pooling": (
        "aten::max_pool2d_with_indices aten::avg_pool2d aten::_adaptive_avg_pool2d aten::adaptive_max_pool2d "
        "aten::max_pool2d aten::mean"
    ),
    "resize": (
        "aten::upsample_nearest2d aten::_upsample_nearest_exact2d aten::upsample_bilinear2d aten::upsample_bicubic2d "
        "aten::_upsample_bilinear2d_aa aten::_upsample_bicubic2d_aa aten::grid_sampler_2d"
    ),
    "element-wise": (
        "aten::_softmax aten::_log_softmax aten::glu aten::cumsum aten::cummax aten::_prelu_kernel aten::hardsigmoid "
        "aten::_safe_softmax aten::hardswish aten::_weight_norm_interface aten::native_dropout"
    ),
    "reduction": (
        "aten::max aten::min aten::sum aten::amax aten::amin aten::argmax aten::argmin aten::any aten::all aten::prod "
        "aten::norm aten::linalg_vector_norm aten::var aten::var_mean aten::std"
    ),
    "data movement": (
        "aten::cat aten::stack aten::clone aten::copy_ aten::_to_copy aten::index aten::index_put_ aten::index_put "
        "aten::index_select aten::gather aten::scatter aten::scatter_ aten::constant_pad_nd "
        "aten::reflection_pad2d aten::replication_pad2d aten::roll aten::flip aten::repeat aten::repeat_interleave "
        "aten::channel_shuffle aten::pixel_shuffle aten::pixel_unshuffle aten::im2col aten::arange aten::zeros "
        "aten::ones aten::full aten::zeros_like aten::ones_like aten::full_like aten::new_zeros aten::new_ones "
        "aten::new_full aten::fill aten::fill_ aten::zero_ aten::scalar_tensor aten::linspace "
        "aten::_local_scalar_dense aten::lift_fresh_copy "
        "aten::slice_scatter aten::select_scatter aten::tril aten::triu aten::embedding aten::eye aten::meshgrid"
    ),
    "regions": "torchvision::roi_align torchvision::roi_pool torchvision::ps_roi_align torchvision::ps_roi_pool",
    "selection": "torchvision::nms aten::topk aten::sort aten::nonzero aten::masked_select aten::unique aten::_unique2",
}
KIND_OF: Mapping[str, Kind] = {name: kind for kind, names in _KINDS.items() for name in names.split()}
# What computes nothing and moves nothing: memory without values, and views besides those that their schemas tell.
_FRESH = "aten::empty aten::empty_like aten::new_empty aten::empty_strided aten::new_empty_strided"
_VIEWS = "aten::detach aten::alias aten::lift_fresh aten::_unsafe_view aten::as_strided_ aten::resize_"
FRESH = frozenset(_FRESH.split())
NOTHING = FRESH | frozenset(_VIEWS.split())
CONVOLUTIONS = frozenset({"aten::convolution", "aten::_convolution", "aten::convolution_overrideable"})
DEFORMABLE = "torchvision::deform_conv2d"


@dataclass(frozen=True)
class Operator:
    """One call of one operator.

    name: as torch calls it, `aten::convolution`. kind: what it is; "unknown" for one that no table here lists.
    module: dotted name, within the network, of the innermost module that calls it ("" is the network itself).
    inputs: shapes of the tensors that come in, without weights; outputs: of those that come out.
    sources: which operators wrote the inputs last, by their places in the list; -1 is what the network was given.
    kernel, stride, groups: of a convolution. multiply_adds: of convolutions and matrix products.
    read, written: values of inputs and outputs; weights: of the parameters and buffers it reads (without the bias of a
    convolution or a matrix product, which the paper leaves out). seconds: how long it took, where a clock ran.
    """

    name: str
    kind: Kind
    module: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    multiply_adds: int
    read: int
    written: int
    weights: int
    sources: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    groups: int = 1
    seconds: float | None = None

    @property
    def memory_access(self) -> int:
        """Memory access cost in values, as the paper counts it: input, output and weights."""
        return self.read + self.written + self.weights


def record(
    module: nn.Module,
    call: Callable[[], object],
    *,
    clock: Callable[[], float] | None = None,
    replays: list[Callable[[], object]] | None = None,
) -> list[Operator]:
    """What `call` makes the module compute, in order. The module is left as it is.

    call: runs the module, `lambda: module(image)`; without gradients. clock: as `time.perf_counter`, for the seconds of
    each operator; on a CPU alone, where an operator has ended when its call returns. replays: a list to fill with what
    computes each operator again, on what it was given, which is kept for it.
    """
    recorder, hooks = _Recorder(module, clock, replays), []
    for name, each in module.named_modules():
        hooks += [
            each.register_forward_pre_hook(lambda *_, name=name: recorder.where.append(name)),
            each.register_forward_hook(lambda *_: recorder.leave(), always_call=True),
        ]
    try:
        with torch.no_grad(), recorder:
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return recorder.operators


class _Recorder(TorchDispatchMode):
    """Writes down what is computed. where: the names of the modules under way, the innermost one last."""

    def __init__(
        self,
        module: nn.Module,
        clock: Callable[[], float] | None,
        replays: list[Callable[[], object]] | None,
    ) -> None:
        TorchDispatchMode.__init__(self)
        self.operators: list[Operator] = []
        self._clock, self._replays = clock, replays
        self._made: dict[int, int] = {}  # which operator wrote a storage last; one that is gone is written anew first
        self.where = [""]
        self._weights = {_storage(each) for each in chain(module.parameters(), module.buffers())}

    def leave(self) -> None:
        self.where.pop()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        start = self._clock() if self._clock else 0.0
        result = function(*args, **kwargs)
        seconds = self._clock() - start if self._clock else None
        if _does_nothing(function):
            if function._schema.name in FRESH:
                self._made.pop(_storage(result), None)
            return result
        self.operators.append(self._operator(function, args, kwargs, result, seconds))
        for output in _tensors((result,)):
            self._made[_storage(output)] = len(self.operators) - 1
        if self._replays is not None:
            self._replays.append(partial(function, *args, **kwargs))
        return result

    def _operator(self, function: Any, args: Any, kwargs: Any, result: Any, seconds: float | None) -> Operator:
        name, outputs = function._schema.name, list(_tensors((result,)))
        given = list(_tensors((args, kwargs)))
        weights = [each for each in given if _storage(each) in self._weights]
        inputs = [each for each in given if _storage(each) not in self._weights]
        kind, multiply_adds = _kind(function), 0
        shape: dict[str, Any] = {}
        if name in CONVOLUTIONS or name == DEFORMABLE:
            kind, multiply_adds, shape = _convolution(name, args, outputs[0])
            weights = [each for each in weights if each.ndim > 1]
        elif function._overloadpacket in flop_registry:
            kind = "matrix product"
            multiply_adds = flop_registry[function._overloadpacket](*args, **kwargs, out_val=result) // 2
            weights = [each for each in weights if each.ndim > 1]
        return Operator(
            name,
            kind,
            self.where[-1],
            tuple(tuple(each.shape) for each in inputs),
            tuple(tuple(each.shape) for each in outputs),
            multiply_adds,
            sum(each.numel() for each in inputs),
            sum(each.numel() for each in outputs),
            sum(each.numel() for each in weights),
            tuple(self._made.get(_storage(each), -1) for each in inputs),
            seconds=seconds,
            **shape,
        )


def _convolution(name: str, args: Any, output: Tensor) -> tuple[Kind, int, dict[str, Any]]:
    """Every value of the output (of a transposed convolution: of the input) meets one row of the weight."""
    input, weight = args[0], args[1]
    if name == DEFORMABLE:  # input, weight, offset, mask, bias, strides, paddings, dilations, groups ...
        shape = {"kernel": tuple(weight.shape[2:]), "stride": (args[5], args[6]), "groups": args[11]}
        return "deformable convolution", output.numel() * weight[0].numel(), shape
    transposed, groups = args[6], args[8]  # input, weight, bias, stride, padding, dilation, transposed, padding, groups
    shape = {"kernel": tuple(weight.shape[2:]), "stride": tuple(args[3]), "groups": groups}
    if transposed:
        return "transposed convolution", input.numel() * weight[0].numel(), shape
    kind: Kind = "convolution"
    if groups > 1:
        kind = "depthwise convolution" if groups == input.shape[1] else "grouped convolution"
    return kind, output.numel() * weight[0].numel(), shape


def _kind(function: Any) -> Kind:
    name = function._schema.name
    if name in KIND_OF:
        return KIND_OF[name]
    if name.endswith("_") and name[:-1] in KIND_OF:
        return KIND_OF[name[:-1]]
    return "element-wise" if torch.Tag.pointwise in function.tags else "unknown"


def _does_nothing(function: Any) -> bool:
    """Whether all it returns is what it was given, seen in another way, or memory without values."""
    returns = function._schema.returns
    if function._schema.name in NOTHING:
        return True
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _storage(tensor: Tensor) -> int:
    cdata: int = tensor.untyped_storage()._cdata
    return cdata
