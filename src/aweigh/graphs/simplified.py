"""What torch's exporter writes, with less in it: constants computed, steps that change nothing left out.

These are the passes of onnxscript that the exporter would run, and of its 46 rules for rewriting those that find
something in a detector. One of the others looks, at each node, through all nodes for two `Slice` that make a `Split`,
which is most of the time: without it the graphs are the same, and these passes take a quarter to two thirds of it.
"""

import onnx_ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

RULES = (
    *(rules.mul_by_1_rule, rules.add_0_rule, rules.sub_0_rule, rules.div_by_1_rule),
    *(rules.no_op_cast_rule, rules.cast_cast_rule, rules.no_op_expand_rule),
    *(rules.no_op_transpose_rule, rules.transpose_transpose_rule),
    *(rules.reshape_reshape_rule, rules.squeeze_reshape_1d_rule, rules.materialize_reshape_shape_rule),
    *(rules.unsqueeze_unsqueeze_rule, rules.collapse_slice_rule, rules.collapse_slice2_rule),
    *(rules.max_min_rule, rules.min_max_rule),
    *(rules.normalize_pad_format_conv_rule, rules.fuse_pad_into_conv_rule),
    *(rules.remove_optional_bias_from_conv_rule, rules.remove_optional_bias_from_conv_transpose_rule),
    rules.remove_optional_bias_from_gemm_rule,
)
ROUNDS = 2  # a shape that one round makes known is a constant for the next; as many as the exporter has


def simplify(model: onnx_ir.Model) -> None:
    """In place. The functions of the exporter's library, of which the graph is made, are written out."""
    passes.InlinePass()(model)
    for _ in range(ROUNDS):
        fold_constants_ir(model, onnx_shape_inference=True)
        RewritePass(RULES)(model)
        passes.RemoveUnusedNodesPass()(model)
    for last in (
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        last(model)
