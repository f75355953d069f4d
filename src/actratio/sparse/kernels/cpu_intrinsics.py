# mypy: ignore-errors
"""What the CPU kernel needs and Numba doesn't offer: pointers, the bits of a float, an atomic counter, a call of OpenMP."""

from __future__ import annotations

from functools import wraps

from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic, overload

from actratio.sparse.kernels.cpu_call import Call

_NEXT_PART = Call.next_part.offset
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def by_type(**options):
    """Decorate a function from Numba types to an implementation, so that compiled code can call it like any other function.

    The options are those of ``numba.extending.overload``.
    """

    def decorate(implementation):
        @wraps(implementation)
        def name(*arguments):
            raise NotImplementedError("only compiled code can call this function")  # Numba uses it as a name

        overload(name, **options)(implementation)
        return name

    return decorate


@intrinsic
def as_float(context, bits):
    """Return the float32 with these 32 bits."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), code


@intrinsic
def as_bits(context, number):
    """Return the 32 bits of a float32."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], _INT32)

    return types.uint32(types.float32), code


@intrinsic
def _pointer(context, address, like):
    """Return an address as a pointer to numbers of the type of ``like``."""

    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(like)))

    return types.CPointer(like)(types.int64, like), code


@njit(nogil=True, inline="always")
def array_at(address, shape, like):
    """Return the array of this shape, with the type of ``like``, at an address."""
    return carray(_pointer(address, like), shape)


@njit(nogil=True)
def clear(numbers):
    """Set a matrix to zero. Assigning to a slice takes half a second longer to compile."""
    for row in range(numbers.shape[0]):
        for column in range(numbers.shape[1]):
            numbers[row, column] = 0


@intrinsic
def take_part(context, call):
    """Return ``call.next_part`` and add 1 to it, in one atomic step."""

    def code(context, builder, signature, arguments):
        address = builder.add(builder.ptrtoint(arguments[0], _INT64), ir.Constant(_INT64, _NEXT_PART))
        counter = builder.inttoptr(address, _INT64.as_pointer())
        return builder.atomic_rmw("add", counter, ir.Constant(_INT64, 1), "seq_cst")

    return types.int64(call), code


@intrinsic
def run_body(context, openmp, body, call, threads):
    """Run a compiled function of a call in OpenMP's threads, or in this one.

    Its code isn't part of the caller's, so it's compiled once.

    Args:
        openmp: address of ``GOMP_parallel``; 0 runs the function in this thread.
        body: address of the function.
        call: pointer to its argument.
        threads: how many threads OpenMP is asked for.
    """

    def code(context, builder, signature, arguments):
        openmp, body, call, threads = arguments
        argument = builder.ptrtoint(call, _INT64)
        with builder.if_else(builder.icmp_unsigned("!=", openmp, ir.Constant(_INT64, 0))) as (with_threads, alone):
            with with_threads:
                kind = ir.FunctionType(ir.VoidType(), [_INT64, _INT64, _INT32, _INT32])
                gomp_parallel = builder.inttoptr(openmp, kind.as_pointer())
                count = builder.trunc(threads, _INT32)
                builder.call(gomp_parallel, [body, argument, count, ir.Constant(_INT32, 0)])
            with alone:
                kind = ir.FunctionType(ir.VoidType(), [_INT64])
                builder.call(builder.inttoptr(body, kind.as_pointer()), [argument])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, call, types.int64), code
