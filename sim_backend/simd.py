"""Vectors in the processor's registers, for compiled functions: ``WIDTH`` lanes side by side.

A compiler makes vector instructions of an inner loop, but what one turn of the loop leaves for the
next goes through memory.  Here a lane's state stays in registers over many steps.  Arithmetic and
comparisons are the operators of Python on vectors of the same kind; ``load``, ``store``, ``splat``,
``gather`` and ``select`` bring lanes in and out.  Nothing is contracted or reordered, so each lane
has the bits of the same operations on scalars.  A processor with narrower registers takes several
for one vector; one without gathers loads lane by lane.
"""

# numba declares no types of its own.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import operator
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

#: lanes of a vector
WIDTH = 16
_ALIGNMENT = 64


class Vector(types.Type):  # type: ignore[misc, unused-ignore]
    """``WIDTH`` lanes of a numba type; those of booleans are a mask."""

    def __init__(self, item: Any) -> None:
        self.item = item
        super().__init__(name=f"Vector({item})")


_MASK = Vector(types.boolean)
_SINGLE, _WORD, _LONG = (Vector(t) for t in (types.float32, types.uint32, types.uint64))


@register_model(Vector)  # type: ignore[misc, unused-ignore]
class _Model(models.PrimitiveModel):  # type: ignore[misc, unused-ignore]
    def __init__(self, manager: Any, kind: Vector) -> None:
        bit = kind.item is types.boolean
        item = ir.IntType(1) if bit else manager.lookup(kind.item).get_value_type()
        super().__init__(manager, kind, ir.VectorType(item, WIDTH))


def _compiled(function: Any) -> Any:
    """An intrinsic, whose first argument, the typing context, a caller does not give."""
    return intrinsic(function)


def aligned(size: int, kind: type[np.generic]) -> npt.NDArray[Any]:
    """Zeros whose vectors do not cross lines of the cache."""
    nbytes = size * np.dtype(kind).itemsize
    room = np.zeros(nbytes + _ALIGNMENT, dtype=np.uint8)
    skipped = -room.ctypes.data % _ALIGNMENT
    return room[skipped : skipped + nbytes].view(kind)


def padded(table: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(rows * whole vectors,): a table row by row, each with zeros up to whole vectors."""
    rows, columns = table.shape
    stride = -(-columns // WIDTH) * WIDTH
    flat = aligned(rows * stride, table.dtype.type)
    flat.reshape(rows, stride)[:, :columns] = table
    return flat


def _spread(builder: Any, value: Any) -> Any:
    many = ir.VectorType(value.type, WIDTH)
    nothing = ir.Constant(many, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.IntType(32)(0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(first, nothing, places)


@_compiled
def pointer(context, array):  # type: ignore[no-untyped-def]
    """Where a flat array's items are, for this module's functions and for ``pointer[i]``.

    An array that is handed from function to function in a loop has its references counted, which
    costs more than what is done with a vector; whoever calls keeps the array.
    """
    del context

    def generate(target, builder, _, values):  # type: ignore[no-untyped-def]
        return target.make_array(array)(target, builder, values[0]).data

    return types.CPointer(array.dtype)(array), generate


def _place(builder: Any, data: Any, at: Any) -> Any:
    """Pointer to the vector that begins at an item."""
    many = ir.VectorType(data.type.pointee, WIDTH)
    return builder.bitcast(builder.gep(data, [at]), many.as_pointer())


@_compiled
def load(context, data, at):  # type: ignore[no-untyped-def]
    """The vector that begins at item ``at`` behind a pointer."""
    del context, at

    def generate(_, builder, __, values):  # type: ignore[no-untyped-def]
        found = builder.load(_place(builder, *values))
        found.align = data.dtype.bitwidth // 8
        return found

    return Vector(data.dtype)(data, types.intp), generate


@_compiled
def store(context, data, at, vector):  # type: ignore[no-untyped-def]
    """Writes a vector from item ``at`` behind a pointer on."""
    del context, at

    def generate(target, builder, _, values):  # type: ignore[no-untyped-def]
        done = builder.store(values[2], _place(builder, *values[:2]))
        done.align = data.dtype.bitwidth // 8
        return target.get_dummy_value()

    return types.void(data, types.intp, vector), generate


@_compiled
def splat(context, value):  # type: ignore[no-untyped-def]
    """A vector of one value."""
    del context
    return Vector(value)(value), lambda _, builder, __, values: _spread(builder, values[0])


@_compiled
def gather(context, data, at):  # type: ignore[no-untyped-def]
    """Items behind a pointer, each lane its own: ``at`` has 32 bits a lane, none above 2^31."""
    del context
    name = f"{'f' if isinstance(data.dtype, types.Float) else 'i'}{data.dtype.bitwidth}"

    def generate(_, builder, __, values):  # type: ignore[no-untyped-def]
        item = values[0].type.pointee
        places = builder.gep(_spread(builder, values[0]), [values[1]], True, source_etype=item)
        many, bits = ir.VectorType(item, WIDTH), ir.VectorType(ir.IntType(1), WIDTH)
        kind = ir.FunctionType(many, [places.type, ir.IntType(32), bits, many])
        function = cgutils.get_or_insert_function(
            builder.module, kind, f"llvm.masked.gather.v{WIDTH}{name}.v{WIDTH}p0"
        )
        alignment = ir.IntType(32)(data.dtype.bitwidth // 8)
        nothing, all_ = ir.Constant(many, ir.Undefined), ir.Constant(bits, [1] * WIDTH)
        return builder.call(function, [places, alignment, all_, nothing])

    return Vector(data.dtype)(data, at), generate


@_compiled
def select(context, mask, yes, no):  # type: ignore[no-untyped-def]
    """``yes`` in the lanes of a mask, ``no`` in the others."""
    del context
    return yes(mask, yes, no), lambda _, builder, __, values: builder.select(*values)


@_compiled
def any_of(context, mask):  # type: ignore[no-untyped-def]
    """Whether a mask has a lane."""
    del context
    bits = ir.IntType(WIDTH)

    def generate(_, builder, __, values):  # type: ignore[no-untyped-def]
        return builder.icmp_unsigned("!=", builder.bitcast(values[0], bits), bits(0))

    return types.boolean(mask), generate


@_compiled
def ones_of(context, words):  # type: ignore[no-untyped-def]
    """Bits that are set, lane by lane."""
    del context

    def generate(_, builder, __, values):  # type: ignore[no-untyped-def]
        kind = values[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.ctpop.v{WIDTH}i32"
        )
        return builder.call(function, values)

    return _WORD(words), generate


def _half(builder: Any, longs: Any, odd: int) -> Any:
    words = builder.bitcast(longs, ir.VectorType(ir.IntType(32), 2 * WIDTH))
    places = [2 * lane + odd for lane in range(WIDTH)]
    kind = ir.VectorType(ir.IntType(32), WIDTH)
    nothing = ir.Constant(words.type, ir.Undefined)
    return builder.shuffle_vector(words, nothing, ir.Constant(kind, places))


@_compiled
def low_words(context, longs):  # type: ignore[no-untyped-def]
    """The lower 32 bits of each lane of 64."""
    del context
    return _WORD(longs), lambda _, builder, __, values: _half(builder, values[0], 0)


@_compiled
def high_words(context, longs):  # type: ignore[no-untyped-def]
    """The upper 32 bits of each lane of 64."""
    del context
    return _WORD(longs), lambda _, builder, __, values: _half(builder, values[0], 1)


@_compiled
def longs_of(context, words):  # type: ignore[no-untyped-def]
    """32 bits of each lane as 64."""
    del context

    def generate(_, builder, __, values):  # type: ignore[no-untyped-def]
        return builder.zext(values[0], ir.VectorType(ir.IntType(64), WIDTH))

    return _LONG(words), generate


@_compiled
def singles_of(context, words):  # type: ignore[no-untyped-def]
    """The single-precision numbers that 32 bits of each lane mean."""
    del context

    def generate(_, builder, __, values):  # type: ignore[no-untyped-def]
        return builder.bitcast(values[0], ir.VectorType(ir.FloatType(), WIDTH))

    return _SINGLE(words), generate


@_compiled
def words_of(context, singles):  # type: ignore[no-untyped-def]
    """The 32 bits of each single-precision number."""
    del context

    def generate(_, builder, __, values):  # type: ignore[no-untyped-def]
        return builder.bitcast(values[0], ir.VectorType(ir.IntType(32), WIDTH))

    return _WORD(singles), generate


@_compiled
def roots_of(context, singles):  # type: ignore[no-untyped-def]
    """Square roots, lane by lane."""
    del context

    def generate(_, builder, __, values):  # type: ignore[no-untyped-def]
        kind = values[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.sqrt.v{WIDTH}f32"
        )
        return builder.call(function, values)

    return singles(singles), generate


_ARITHMETIC = {
    operator.add: ("fadd", "add"),
    operator.sub: ("fsub", "sub"),
    operator.mul: ("fmul", "mul"),
    operator.and_: ("", "and_"),
    operator.or_: ("", "or_"),
    operator.xor: ("", "xor"),
    operator.lshift: ("", "shl"),
    operator.rshift: ("", "lshr"),
}
_COMPARISONS = {operator.lt: "<", operator.gt: ">", operator.eq: "==", operator.ne: "!="}


def _register(operation: Any, names: tuple[str, str]) -> None:
    @infer_global(operation)  # type: ignore[misc, unused-ignore]
    class _Typing(AbstractTemplate):  # type: ignore[misc, unused-ignore]
        def generic(self, args, kws):  # type: ignore[no-untyped-def]
            del kws
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(_MASK if operation in _COMPARISONS else args[0], *args)
            return None

    def generate(_, builder, kind, values):  # type: ignore[no-untyped-def]
        real = isinstance(kind.args[0].item, types.Float)
        if operation in _COMPARISONS:
            compare = builder.fcmp_ordered if real else builder.icmp_unsigned
            return compare(_COMPARISONS[operation], *values)
        return getattr(builder, names[0] if real else names[1])(*values)

    lower_builtin(operation, Vector, Vector)(generate)


for _operation in _COMPARISONS:
    _register(_operation, ("", ""))
for _operation, _names in _ARITHMETIC.items():
    _register(_operation, _names)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def least(a, b):  # type: ignore[no-untyped-def]
    """Compiled: the lesser of two vectors, lane by lane, as ``min(a, b)`` has it."""
    return select(b < a, b, a)


@numba.njit(inline="always")  # type: ignore[misc, unused-ignore]
def most(a, b):  # type: ignore[no-untyped-def]
    """Compiled: the greater of two vectors, lane by lane, as ``max(a, b)`` has it."""
    return select(b > a, b, a)
