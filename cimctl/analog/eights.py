"""Eight numbers at a time, for runs too short for the compiler to take more than one of them.

Its loops take 32 numbers at a time or one: runs of 5 or 20, the rows of a kernel, go one by one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

#: numbers that ``add_scaled`` takes
EIGHT = 8
_NUMBERS = ir.VectorType(ir.FloatType(), EIGHT)
_SAME = ir.Constant(ir.VectorType(ir.IntType(32), EIGHT), None)


def _add_scaled(_: Any, target: Any, at: Any, factor: Any, source: Any, first: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def run(array: int, index: int) -> Any:
            made = context.make_array(signature.args[array])(context, builder, values[array])
            return builder.bitcast(builder.gep(made.data, [values[index]]), _NUMBERS.as_pointer())

        place, empty = run(0, 1), ir.Constant(_NUMBERS, ir.Undefined)
        one = builder.insert_element(empty, values[2], ir.IntType(32)(0))
        factors = builder.shuffle_vector(one, empty, _SAME)
        products = builder.fmul(factors, builder.load(run(3, 4), align=4))
        builder.store(builder.fadd(builder.load(place, align=4), products), place, align=4)
        return context.get_dummy_value()

    return types.void(target, at, factor, source, first), generate


#: ``target[at : at + 8] += factor * source[first : first + 8]`` within compiled functions, of
#: arrays of one dimension in single precision, each in one piece; nothing is checked
add_scaled: Any = intrinsic(_add_scaled)
